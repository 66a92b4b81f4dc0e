//! What is said where nothing can be failed over. What failovers do is shown on real stacks.

use crate::world::{World, snapshot};

#[tokio::test(start_paused = true)]
async fn without_a_cluster_there_is_nothing_to_fail_over() {
    let world = World::new();
    snapshot!("failover_without_cluster", world.shown("failover -e dev").await);
    snapshot!("switchover_without_cluster", world.shown("switchover --to postgres-2 -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_drill_is_refused_without_one() {
    let world = World::up().await;
    world.engine.take_calls();
    snapshot!("failover_fault_without_drill", world.shown("failover --fault pause -e dev").await);
    snapshot!("failover_no_such_fault", world.shown("drill failover --fault flood -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}
