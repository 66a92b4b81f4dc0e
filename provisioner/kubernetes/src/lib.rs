//! The engine on Kubernetes, on kube: 1.30 and newer, one namespace a stack, by server-side apply.

mod access;
mod api;
mod awaiting;
mod connect;
mod controllers;
mod deep;
mod engine;
mod error;
mod evidence;
mod exec;
mod faults;
mod files;
mod forward;
mod host;
mod image;
mod inside;
mod job;
mod labels;
mod manifests;
mod namespace;
mod observe;
mod pods;
mod power;
mod quantity;
mod records;
mod render;
mod secrets;
mod usage;
mod workload;

pub use access::{Access, AccessError, AccessMode, Cluster, Exposure, Options};
pub use connect::{ConnectError, Kubernetes, KubernetesEngine};
pub use image::PushedImages;
