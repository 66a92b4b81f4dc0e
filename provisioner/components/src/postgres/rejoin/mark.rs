//! What keeps a former primary from serving.

use provisioner_core::component::Access;
use provisioner_core::engine::EngineError;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::stack::{File, OnChange, Text};

use super::super::cluster::Cluster;
use super::super::{NAME, declare};

/// `member` refuses to start while it is there.
const FENCED: &str = "fenced";

/// Members that are none of the cluster's: a former primary that no rejoin has made a replica, for one.
///
/// # Errors
/// If the record cannot be read.
pub async fn outsiders(access: &Access<'_>) -> Result<Vec<Member>, Failure> {
    let cluster = Cluster::current(access).await?;
    let members = access.stack.members(NAME).map(|workload| &workload.member);
    Ok(members.filter(|member| cluster.role(member).is_none()).cloned().collect())
}

/// Has a member refuse to serve, whoever starts it, by hand or by a policy. The job of a rejoin does so before anything else;
/// this is for a change that ends without one, under its lock: on Kubernetes it takes a pod.
///
/// # Errors
/// If nothing can be put on the member's volume.
pub async fn mark(access: &Access<'_>, member: &Member) -> Result<(), EngineError> {
    let file = File {
        path: format!("{}/{FENCED}", declare::DATA_ROOT),
        mode: 0o644,
        owner: (0, 0),
        content: Text::new(format!("another member is primary: provisioner rejoin {member}\n")),
        on_change: OnChange::Nothing,
    };
    match access.engine.put_files(member, std::slice::from_ref(&file), &OnChange::Nothing).await {
        // Nothing to start either.
        Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
        Err(error) => {
            // On a full disk there is room for the name of a file, which says it all.
            let file = File { content: Text::new(String::new()), ..file };
            access.engine.put_files(member, &[file], &OnChange::Nothing).await.map_err(|_| error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use provisioner_core::engine::{Engine as _, ImageReferences, Quiet};
    use provisioner_core::stack::Stack;
    use provisioner_core::testing::memory::MemoryEngine;

    use super::super::super::cluster::RECORD;
    use super::super::super::declare::declare;
    use super::*;
    use crate::testing::{manifest, settled};

    #[tokio::test]
    async fn who_is_none_of_the_cluster_is_marked() {
        let mut manifest = manifest();
        manifest.postgres.replicas = 2;
        let stack = Stack::new(manifest.name.clone(), declare(&manifest));
        let observed = settled(&stack);
        let engine = MemoryEngine::with(stack.name.clone(), observed.clone());
        let [former, winner, replica] = [1, 2, 3].map(|nth| Member::nth("postgres", nth));
        let cluster = Cluster {
            system_id: "1".to_owned(),
            primary: winner,
            replicas: [replica].into(),
            epoch: 2,
            timeline: 2,
            synchronous: BTreeSet::new(),
            change: None,
        };
        engine.records().put_if(RECORD, 0, serde_json::to_value(&cluster).unwrap()).await.unwrap();
        let images = ImageReferences::default();
        let access = Access { engine: &engine, stack: &stack, observed: &observed, images: &images, output: &Quiet };
        let path = format!("{}/{FENCED}", declare::DATA_ROOT);
        assert_eq!(outsiders(&access).await.unwrap().as_slice(), std::slice::from_ref(&former));
        mark(&access, &former).await.unwrap();
        let expected = "another member is primary: provisioner rejoin postgres-1\n";
        assert_eq!(engine.file(&former, &path).as_deref(), Some(expected));
        mark(&access, &Member::nth("postgres", 4)).await.unwrap();
    }
}
