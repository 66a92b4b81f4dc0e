//! The engine on Kubernetes, on kube: 1.30 and newer, one namespace a stack, by server-side apply.

mod access;
mod connect;
mod engine;
mod error;
mod forward;
mod labels;

pub use access::{Access, AccessError, AccessMode, Cluster, Exposure, Options};
pub use connect::{ConnectError, Kubernetes, KubernetesEngine};
