//! One snapshot by twelve reads side by side, however large the stack is.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use provisioner_core::clock;
use provisioner_core::engine::EngineError;
use provisioner_core::observed::{Network, Observed};

use crate::access::Exposure;
use crate::connect::KubernetesEngine;
use crate::controllers::{Controller, Surroundings};
use crate::image::{self, PushedImages};
use crate::labels::{self, Kind};
use crate::namespace::Whose;
use crate::{secrets, workload};

impl KubernetesEngine {
    pub(crate) async fn snapshot(&self) -> Result<Observed, EngineError> {
        let names = &self.names;
        let ours = format!("{}={}", labels::STACK, names.stack);
        let workloads = future::try_join4(
            self.list::<StatefulSet>(""),
            self.list::<Deployment>(""),
            self.list::<Pod>(&ours),
            self.list::<Service>(&ours),
        );
        let volume = names.selector(Kind::Volume);
        let data = future::try_join3(
            self.list::<PersistentVolumeClaim>(&volume),
            self.list_meta::<Secret>(&ours),
            self.records_present(),
        );
        let (whose, (sets, deployments, pods, services), (claims, secrets, mut records), guards) =
            future::try_join4(self.whose_namespace(), workloads, data, self.guards()).await?;
        let controllers: Vec<Controller> =
            sets.into_iter().map(Controller::from).chain(deployments.into_iter().map(Controller::from)).collect();
        let network = match whose {
            Whose::Ours(standing) if standing.is_network => {
                // Whoever applies what is rendered by other means notes nothing.
                let is_noted = |denial: String| standing.guards.is_none_or(|noted| noted == denial);
                if guards.denial().is_some_and(is_noted) { Network::Present } else { Network::Edited }
            }
            Whose::Ours(_) | Whose::Absent | Whose::Leaving => Network::Absent,
            Whose::Stacks(other) => return Err(self.occupied(&format!("it belongs to stack {other}"))),
            Whose::Nobodys => {
                self.refuse_occupied().await?;
                Network::Absent
            }
        };
        let around = Surroundings {
            names,
            pods: &pods,
            files: &secrets,
            services: &services,
            guards: &guards,
            is_exposed: self.kubernetes.options.expose != Exposure::Cluster,
            forwards: &self.kubernetes.forwards,
        };
        let mut found = BTreeMap::new();
        for controller in &controllers {
            let observed = controller.observed(&around)?;
            // Of two in one place the rightful one is shown; the other is removed when the member is next made anew.
            if observed.spec.is_some() || !found.contains_key(&controller.member()) {
                found.insert(controller.member(), observed);
            }
        }
        // What was pushed says nothing about the stack itself.
        let images = records.read::<PushedImages>(image::RECORD).map_err(image::read)?.unwrap_or_default();
        records.0.remove(image::RECORD);
        Ok(Observed {
            images: images.0.into_keys().collect(),
            network,
            secrets: secrets::known(names, &secrets),
            volumes: volumes(&claims),
            workloads: found,
            records,
            at: clock::unix_seconds(),
            volume_bytes: volume_bytes(&claims),
            makings: BTreeMap::new(),
            facts: BTreeMap::new(),
            deep: Vec::new(),
        })
    }
}

fn volume_bytes(claims: &[PersistentVolumeClaim]) -> BTreeMap<String, u64> {
    let sized = claims.iter().filter_map(|claim| {
        let name = labels::annotation(&claim.metadata, labels::VOLUME)?;
        Some((name.to_owned(), workload::asked_bytes(claim)?))
    });
    sized.collect()
}

fn volumes(claims: &[PersistentVolumeClaim]) -> BTreeSet<String> {
    let named = claims.iter().filter_map(|claim| labels::annotation(&claim.metadata, labels::VOLUME));
    named.map(str::to_owned).collect()
}
