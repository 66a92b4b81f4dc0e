//! The objects of a whole stack for those who apply them by their own means: pure, ordered, the same for the same input.
//!
//! They are those that `up` applies, field by field, but for three things. A member's instance is a nonce in `up`, which
//! tells one making of a member from the next, and the fingerprint of its description here. What the server counted of budgets
//! and policies, `up` alone notes. And Secrets are not among them: their values exist in the cluster alone, where `up` makes them.

use std::collections::BTreeSet;

use provisioner_core::engine::EngineError;
use provisioner_core::stack::{Resource, Stack};
use serde_json::Value;

use crate::access::Options;
use crate::image::{PushedImages, not_pushed};
use crate::labels::Names;
use crate::namespace::{Standing, default_deny, object};
use crate::render::{self, Described};

/// What is rendered of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests {
    /// In an order in which they may be applied.
    pub objects: Vec<Value>,
    /// Names of the Secrets that the objects mean and that `up` makes.
    pub secrets: BTreeSet<String>,
}

/// `namespace`: another one than that of the stack's name.
pub fn manifests(
    stack: &Stack,
    namespace: Option<&str>,
    options: &Options,
    pushed: &PushedImages,
) -> Result<Manifests, EngineError> {
    let names = Names {
        stack: stack.name.clone(),
        is_given: namespace.is_some(),
        namespace: namespace.map_or_else(|| stack.name.to_string(), str::to_owned),
    };
    // One that somebody named is theirs: it is marked as the stack's, and stays when the stack goes.
    let standing = Standing { is_made: namespace.is_none(), is_network: true, ..Standing::default() };
    let mut objects = vec![object(&names, &standing), default_deny(&names)];
    let mut secrets = BTreeSet::new();
    let references = stack.image_references();
    for resource in stack.resources() {
        match resource {
            Resource::Volume(volume) => objects.push(render::volume(&names, options, volume)),
            Resource::Secret(secret) => {
                secrets.insert(Names::secret(&secret.name));
            }
            Resource::Workload(_) | Resource::Image(_) | Resource::Network => {}
        }
    }
    for workload in stack.workloads() {
        let image = references.get(&workload.image).map(String::as_str).unwrap_or_default();
        let in_cluster = match pushed.0.get(image) {
            Some(known) => known.as_str(),
            // Somebody's own is pulled by its own name.
            None if !image.starts_with("provisioner/") => image,
            None => return Err(not_pushed(image)),
        };
        let instance = workload.spec_fingerprint(image);
        let described = Described { names: &names, options, workload, image, in_cluster, instance: instance.as_str() };
        secrets.insert(Names::files(&workload.member));
        for object in render::workload(&described).all() {
            // What the members of a component have in common comes with each of them.
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
    }
    Ok(Manifests { objects: objects.into_iter().map(|object| within(object, &names.namespace)).collect(), secrets })
}

/// `up` names the namespace in the request; a file has it in the object.
fn within(mut object: Value, namespace: &str) -> Value {
    if object["kind"] != "Namespace" {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}
