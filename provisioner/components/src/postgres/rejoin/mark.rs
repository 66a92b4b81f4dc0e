//! What keeps a former primary from serving.

use std::fmt;

use provisioner_core::component::Access;
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::stack::{File, OnChange, Text};

use super::super::declare;

/// `member` refuses to start while it is there.
const FENCED: &str = "fenced";

/// What stands on the volume of one that is not of the cluster and may have been its primary, for whoever starts it by hand or
/// by a policy: it refuses. The job puts it there before anything else; where the job fails or none came to it, it is put
/// without one, for which a cluster needs another pod.
pub(super) struct Mark<'a> {
    pub(super) member: &'a Member,
    pub(super) epoch: u64,
}

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, epoch } = self;
        write!(f, "since epoch {epoch} another member is primary: provisioner rejoin {member}")
    }
}

impl Mark<'_> {
    pub(super) async fn put(&self, access: &Access<'_>) {
        if let Err(error) = self.put_as_told(access).await {
            access.output.tell(&format!(
                "{} has no mark on its volume, so nothing keeps it from serving if somebody starts it: {error}",
                self.member
            ));
        }
    }

    async fn put_as_told(&self, access: &Access<'_>) -> Result<(), EngineError> {
        let file = File {
            path: format!("{}/{FENCED}", declare::DATA_ROOT),
            mode: 0o644,
            owner: (0, 0),
            content: Text::new(format!("{self}\n")),
            on_change: OnChange::Nothing,
        };
        match access.engine.put_files(self.member, std::slice::from_ref(&file), &OnChange::Nothing).await {
            // Nothing to start either.
            Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
            Err(error) => {
                // On a full disk there is room for the name of a file, which says it all.
                access.output.line(&error.to_string());
                let file = File { content: Text::new(String::new()), ..file };
                access.engine.put_files(self.member, &[file], &OnChange::Nothing).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use provisioner_core::engine::{Engine as _, ImageReferences, Quiet};
    use provisioner_core::stack::Stack;
    use provisioner_core::testing::memory::MemoryEngine;

    use super::super::super::cluster::{Cluster, RECORD};
    use super::super::super::declare::declare;
    use super::super::run;
    use super::*;
    use crate::testing::{manifest, settled};

    #[tokio::test]
    async fn a_former_primary_that_no_job_made_a_replica_is_marked_and_a_replica_is_not() {
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
        for (member, expected) in [
            (&former, Some("since epoch 2 another member is primary: provisioner rejoin postgres-1\n".to_owned())),
            (&replica, None),
        ] {
            // Nobody answers at the primary's address.
            run(&access, member, &winner, "auto").await.unwrap_err();
            assert_eq!(engine.file(member, &path), expected);
        }
    }
}
