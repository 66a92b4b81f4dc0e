//! What keeps a former primary from serving.

use provisioner_core::component::Access;
use provisioner_core::engine::EngineError;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::stack::{File, OnChange, Text};

use super::super::cluster::Cluster;
use super::super::declare;

/// `member` refuses to start while it is there.
const FENCED: &str = "fenced";

/// What the mark says to whoever finds it.
pub(super) fn words(cluster: &Cluster, member: &Member) -> String {
    format!("since epoch {} another member is primary: provisioner rejoin {member}", cluster.epoch)
}

/// Has a member that is none of the cluster's refuse to serve, whoever starts it, by hand or by a policy. The job of a rejoin
/// does so before anything else; this is for a change that ends without one, under its lock: on Kubernetes it takes a pod.
///
/// # Errors
/// If the record cannot be read, or nothing can be put on the member's volume.
pub async fn mark(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let cluster = Cluster::current(access).await?;
    if cluster.role(member).is_some() {
        return Ok(());
    }
    let file = File {
        path: format!("{}/{FENCED}", declare::DATA_ROOT),
        mode: 0o644,
        owner: (0, 0),
        content: Text::new(format!("{}\n", words(&cluster, member))),
        on_change: OnChange::Nothing,
    };
    match access.engine.put_files(member, std::slice::from_ref(&file), &OnChange::Nothing).await {
        // Nothing to start either.
        Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
        Err(error) => {
            // On a full disk there is room for the name of a file, which says it all.
            access.output.line(&error.to_string());
            let file = File { content: Text::new(String::new()), ..file };
            Ok(access.engine.put_files(member, &[file], &OnChange::Nothing).await?)
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
    async fn who_is_none_of_the_cluster_is_marked_and_nobody_else() {
        let mut manifest = manifest();
        manifest.postgres.replicas = 2;
        let stack = Stack::new(manifest.name.clone(), declare(&manifest));
        let observed = settled(&stack);
        let engine = MemoryEngine::with(stack.name.clone(), observed.clone());
        let [former, winner, replica] = [1, 2, 3].map(|nth| Member::nth("postgres", nth));
        let cluster = Cluster {
            system_id: "1".to_owned(),
            primary: winner.clone(),
            replicas: [replica.clone()].into(),
            epoch: 2,
            timeline: 2,
            synchronous: BTreeSet::new(),
            change: None,
        };
        engine.records().put_if(RECORD, 0, serde_json::to_value(&cluster).unwrap()).await.unwrap();
        let images = ImageReferences::default();
        let access = Access { engine: &engine, stack: &stack, observed: &observed, images: &images, output: &Quiet };
        let path = format!("{}/{FENCED}", declare::DATA_ROOT);
        let words = "since epoch 2 another member is primary: provisioner rejoin postgres-1\n".to_owned();
        for (member, expected) in [(&former, Some(words)), (&winner, None), (&replica, None)] {
            mark(&access, member).await.unwrap();
            assert_eq!(engine.file(member, &path), expected);
        }
    }
}
