//! The cluster that a manifest or a command line names, and the way to it.

use std::path::{Path, PathBuf};

use provisioner_core::manifest::{AccessMode as ClaimMode, Entrance, Kubernetes as Section};
use provisioner_kubernetes::{Access, AccessMode, ConnectError, Exposure, Kubernetes, Options};

use crate::cli::exit::{Exit, Stop};
use crate::cli::settings::Environment;

pub(super) async fn connect(environment: &Environment, section: &Section) -> anyhow::Result<Kubernetes> {
    let access = access(environment, section);
    // Never the current one by accident: it may be somebody's production.
    if section.context.is_none() {
        let known = access.contexts()?;
        let stop =
            Stop::new(Exit::Usage, "no context is named, expected kubernetes.context in the manifest or --context");
        return Err(stop.hint(format!("contexts of the kubeconfig: {}", known.join(", "))).into());
    }
    Kubernetes::connect(&access).await.map_err(|error| match error {
        ConnectError::Engine(error) => error.into(),
        other => other.into(),
    })
}

fn access(environment: &Environment, section: &Section) -> Access {
    Access {
        kubeconfig: kubeconfig(environment),
        context: section.context.clone(),
        namespace: section.namespace.clone(),
        options: options(section),
    }
}

/// How things of the stack are made in its cluster.
pub(crate) fn options(section: &Section) -> Options {
    Options {
        storage_class: section.storage_class.clone(),
        access_mode: match section.access_mode {
            ClaimMode::OncePod => AccessMode::ReadWriteOncePod,
            ClaimMode::Once => AccessMode::ReadWriteOnce,
        },
        expose: match section.service {
            Entrance::ClusterIp => Exposure::Cluster,
            Entrance::NodePort => Exposure::NodePort,
            Entrance::LoadBalancer => Exposure::LoadBalancer,
        },
        pull_secrets: section.pull_secret.iter().cloned().collect(),
        ..Options::default()
    }
}

/// Where kubectl looks: a list of files in `KUBECONFIG`, else the user's own.
fn kubeconfig(environment: &Environment) -> Vec<PathBuf> {
    match environment.get("KUBECONFIG") {
        Some(list) => {
            list.split(':').filter(|path| !path.is_empty()).map(|path| environment.directory.join(path)).collect()
        }
        None => environment.get("HOME").map(|home| Path::new(home).join(".kube/config")).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn looked(variables: &[(&str, &str)]) -> Vec<String> {
        let variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment = Environment { variables, directory: PathBuf::from("/srv/shop") };
        kubeconfig(&environment).into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_volume_is_held_as_the_manifest_says() {
        let mode = |access_mode| options(&Section { access_mode, ..Section::default() }).access_mode;
        assert_eq!(mode(ClaimMode::default()), AccessMode::ReadWriteOncePod);
        assert_eq!(mode(ClaimMode::Once), AccessMode::ReadWriteOnce);
    }

    #[test]
    fn the_kubeconfig_is_the_one_that_kubectl_takes() {
        assert_eq!(looked(&[("HOME", "/home/ada")]), ["/home/ada/.kube/config"]);
        assert_eq!(looked(&[("HOME", "/home/ada"), ("KUBECONFIG", "")]), ["/home/ada/.kube/config"]);
        assert_eq!(looked(&[("KUBECONFIG", "/etc/a::b.yaml")]), ["/etc/a", "/srv/shop/b.yaml"]);
        assert!(looked(&[]).is_empty());
    }
}
