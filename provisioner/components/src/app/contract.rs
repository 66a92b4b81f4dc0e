//! What the manifest says about the app that its containers need not know: tasks, probes and checks see only the stack,
//! so it travels there, as a file of every backend. A change of it restarts nothing.

use provisioner_core::manifest::{AppChecks, Manifest};
use provisioner_core::stack::{File, OnChange, Stack, Text};
use serde::{Deserialize, Serialize};

const PATH: &str = "/run/provisioner/app.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contract {
    pub(crate) port: u16,
    /// Path that answers 200 when the app can serve.
    pub(crate) health: String,
    /// It is the shop of this repository.
    pub(crate) is_shop: bool,
    /// Path of an app of one's own that a smoke asks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) smoke: Option<String>,
    pub(crate) migrate: Option<Vec<String>>,
    pub(crate) seed: Option<Vec<String>>,
}

impl Contract {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let app = &manifest.app;
        Self {
            port: app.port,
            health: app.health.clone(),
            is_shop: app.checks == AppChecks::Shop,
            smoke: app.smoke.clone(),
            migrate: app.migrate.clone(),
            seed: app.seed.clone(),
        }
    }

    pub(super) fn file(&self) -> File {
        let content = Text::new(serde_json::json!(self).to_string());
        File { path: PATH.to_owned(), mode: 0o444, owner: (0, 0), content, on_change: OnChange::Nothing }
    }

    /// As the stack's backends hold it.
    pub(crate) fn read(stack: &Stack) -> Result<Self, String> {
        let backend = super::backends(stack).next().ok_or("the stack has no backend, expected at least 1")?;
        let file = backend.files.iter().find(|file| file.path == PATH);
        let file = file.ok_or_else(|| format!("{} has no file {PATH}", backend.member))?;
        serde_json::from_str(file.content.masked())
            .map_err(|error| format!("read {PATH} of {}: {error}", backend.member))
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;

    use super::*;

    #[test]
    fn it_arrives_as_it_was_sent() {
        let manifest = crate::testing::manifest();
        let stack = Stack::new(manifest.name.clone(), super::super::App.declare(&manifest));
        assert_eq!(Contract::read(&stack).unwrap(), Contract::of(&manifest));
    }

    #[test]
    fn a_stack_without_backends_has_none() {
        let stack = Stack::new(crate::testing::manifest().name, Vec::new());
        assert_eq!(Contract::read(&stack).unwrap_err(), "the stack has no backend, expected at least 1");
    }
}
