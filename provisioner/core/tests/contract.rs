//! The contract of state on the engine in memory, so that what is tested against it holds on a real one.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::sync::Arc;

use async_trait::async_trait;
use provisioner_core::engine::Engine;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Making, ObservedWorkload, State};
use provisioner_core::stack::{Image, ImageId};
use provisioner_core::testing::contract::Ground;
use provisioner_core::testing::memory::MemoryEngine;

struct InMemory {
    engine: Arc<MemoryEngine>,
    neighbour: Arc<MemoryEngine>,
}

async fn in_memory(_case: &str) -> InMemory {
    let engine = |name: &str| Arc::new(MemoryEngine::new(StackName::new(name).unwrap()));
    InMemory { engine: engine("contract"), neighbour: engine("neighbour") }
}

#[async_trait]
impl Ground for InMemory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn neighbour(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.neighbour) as Arc<dyn Engine>
    }

    fn image(&self) -> Image {
        Image::Base { id: ImageId("base".to_owned()), suite: "trixie".to_owned() }
    }

    async fn intrude(&self, member: &Member) {
        let foreign = ObservedWorkload {
            instance: "foreign".to_owned(),
            component: String::new(),
            image: "somebody/else:1".to_owned(),
            state: State::Running,
            spec: None,
            files: Default::default(),
            internal_ip: None,
            published: Default::default(),
            public: None,
            making: Making::default(),
        };
        self.engine.tamper(|observed| {
            observed.workloads.insert(member.clone(), foreign);
        });
    }

    async fn lose(&self, member: &Member) {
        self.engine.tamper(|observed| {
            observed.workloads.remove(member);
        });
    }

    async fn clean(&self) {}
}

provisioner_core::engine_contract_of_state!(in_memory);
