//! The Docker engine, on bollard: 20.10 (API 1.41) and everything newer, by the classic endpoints only.

mod archive;
mod base;
mod build;
mod connect;
mod container;
mod containers;
mod credentials;
mod deep;
mod download;
mod endpoint;
mod engine;
mod error;
mod estate;
mod evidence;
mod exec;
mod faults;
mod files;
mod host;
mod image;
mod job;
mod labels;
mod network;
mod observe;
mod power;
mod push;
mod records;
mod secrets;
mod usage;
mod workload;

pub use connect::{Docker, DockerEngine};
pub use download::Downloads;
pub use endpoint::{Endpoint, EndpointError, EndpointInputs, TlsFiles};
pub use push::DockerImages;
