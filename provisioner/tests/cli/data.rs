//! Small questions that tests ask of the world.

use provisioner_core::engine::Engine;
use provisioner_core::name::Member;

use crate::player::Script;
use crate::world::World;

impl World {
    pub(crate) async fn engine_volumes(&self) -> Vec<String> {
        self.engine.observe().await.unwrap().volumes.into_iter().collect()
    }

    pub(crate) async fn engine_is_empty(&self) -> bool {
        self.engine.observe().await.unwrap().is_empty()
    }

    pub(crate) async fn engine_has_record(&self, key: &str) -> bool {
        self.engine.observe().await.unwrap().records.0.contains_key(key)
    }
}

impl Script {
    /// Has a member say this about itself from now on.
    pub(crate) async fn tell(&self, world: &World, member: &str, facts: &[(&str, &str)]) {
        let observed = world.engine.observe().await.unwrap();
        for (key, value) in facts {
            self.say(&observed, &Member::named(member), key, value);
        }
    }
}
