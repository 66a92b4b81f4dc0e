//! The kinds of thing that an engine can make sure of.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Fingerprint, Probes, Text};
use crate::component::Dependency;
use crate::manifest::{HostFiles, OwnPair};
use crate::name::Member;

/// One thing that exists or not. Cut at the resource, not at the API call: an engine may need one request or six.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Resource {
    Image(Image),
    Network,
    Secret(Secret),
    Volume(Volume),
    /// Shared with the steps of a plan, which name many of them.
    Workload(Arc<Workload>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum ResourceId {
    Image(ImageId),
    /// The stack's one network, on which every member finds every other by name.
    Network,
    Secret(String),
    Volume(String),
    Workload(Member),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub String);

/// An image, either built here or named by its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Image {
    /// The Debian base that every recipe starts from: pulled where a registry answers, else bootstrapped from packages.
    Base {
        id: ImageId,
        suite: String,
    },
    Recipe(Recipe),
    /// Somebody's own image, by the reference that the manifest gives.
    Reference {
        id: ImageId,
        reference: String,
    },
}

/// A Dockerfile with its context, built on another image of the stack (passed as build argument `BASE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipe {
    pub id: ImageId,
    pub base: ImageId,
    pub dockerfile: String,
    pub inputs: Vec<ImageInput>,
}

/// A file of a build context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum ImageInput {
    /// A file of the network, fetched once by the provisioner and kept on the operator's machine.
    Download {
        path: String,
        mode: u32,
        url: String,
        /// Of the content, in hexadecimal; anything else is refused.
        sha256: String,
        size_bytes: u64,
    },
    Inline {
        path: String,
        mode: u32,
        content: String,
    },
    /// A file of the operator's machine, streamed and never held in memory; `digest` stands for its content.
    HostFile {
        path: String,
        mode: u32,
        /// Left out of the image's hash: the same content elsewhere is the same image.
        #[serde(skip)]
        file: PathBuf,
        digest: Fingerprint,
    },
}

/// Something that only the engine keeps, once. Texts name it as `NAME`, the key and the certificates of a pair as
/// `NAME.key` and `NAME.crt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    pub name: String,
    pub source: SecretSource,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum SecretSource {
    Password {
        /// In characters of `[A-Za-z0-9]`, so that a value needs no quoting in URLs, SQL or configuration files.
        length: usize,
    },
    /// Key and certificate of an authority of the stack's own.
    Authority { subject: String, days: u32 },
    /// Key and certificate for these names and addresses, signed by the authority that is the secret `issuer`.
    Certificate { issuer: String, names: Vec<String>, days: u32 },
    /// Somebody's own, from files of the operator's machine, one after the other.
    Files {
        /// Left out of the hash: the same content elsewhere is the same secret.
        #[serde(skip)]
        files: Vec<PathBuf>,
        digest: Fingerprint,
    },
    /// Somebody's own, which the engine keeps for them under this name of theirs. Without a digest what was taken over stays.
    Kept { name: String, digest: Option<Fingerprint> },
}

impl From<&HostFiles> for SecretSource {
    fn from(HostFiles { files, digest }: &HostFiles) -> Self {
        Self::Files { files: files.clone(), digest: digest.clone() }
    }
}

impl From<&OwnPair> for SecretSource {
    fn from(own: &OwnPair) -> Self {
        match own {
            OwnPair::Files(files) => files.into(),
            OwnPair::Kept { secret, digest } => Self::Kept { name: secret.clone(), digest: digest.clone() },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    pub name: String,
    pub component: String,
    /// `None`: what the engine takes for enough. Docker gives a volume all the room that its disk has, whatever is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// One member: a long-running container with its files, volumes and addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    pub member: Member,
    pub component: String,
    pub image: ImageId,
    /// The whole command line; empty: what the image says.
    pub command: Vec<String>,
    /// Variables that may be seen by anyone who can inspect the container.
    pub env: BTreeMap<String, String>,
    /// Variables that hold secrets. They reach the process through a file that its own shell reads, so they appear
    /// neither in the container's description nor in an argument list; needs `/bin/sh` and a `command`.
    pub secret_env: BTreeMap<String, Text>,
    pub files: Vec<File>,
    pub mounts: Vec<Mount>,
    /// Stable addresses on the stack's network besides the member's own name; several members may share one.
    pub names: Vec<String>,
    pub ports: Vec<Port>,
    /// Numeric user and group of the process; `None`: what the image says.
    pub user: Option<(u32, u32)>,
    /// Directories that it writes to beside its volumes. An engine may keep everything else read-only.
    pub scratch: Vec<String>,
    pub limits: Limits,
    pub stop: Stop,
    pub restart: Restart,
    /// Of a member without, that its process runs is all that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// What must be done before this member is created or started.
    pub after: Vec<Dependency>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    pub path: String,
    pub mode: u32,
    /// Numeric owner and group inside the image; a name would have to be looked up there.
    pub owner: (u32, u32),
    pub content: Text,
    pub on_change: OnChange,
}

/// What a running member needs in order to take over a changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "then", rename_all = "snake_case")]
pub enum OnChange {
    Restart,
    /// The software's own checker first (empty: it has none), then the signal.
    Reload {
        check: Vec<String>,
        signal: String,
    },
    /// Read at the next use by somebody.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    pub volume: String,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub name: String,
    pub port: u16,
    pub expose: Expose,
    /// Components whose members and jobs reach it, those of its own too; what is exposed by an address everybody reaches. A
    /// cluster is told and refuses others, where its network can; a network of Docker's leads to all of its members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

impl Port {
    pub fn new(name: impl Into<String>, port: u16, expose: Expose) -> Self {
        Self { name: name.into(), port, expose, from: Vec::new() }
    }

    #[must_use]
    pub fn reached_by(self, components: &[&str]) -> Self {
        Self { from: components.iter().map(|name| (*name).to_owned()).collect(), ..self }
    }

    /// Somebody reaches it from outside the stack's network.
    pub fn is_exposed(&self) -> bool {
        self.expose != Expose::Nobody
    }

    pub fn lets_in(&self, component: &str) -> bool {
        self.expose.address().is_some() || self.from.iter().any(|name| name == component)
    }
}

/// Who reaches a port from outside the stack's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Expose {
    /// Only the operator's own checks, on loopback at a port that the engine picks.
    Checks,
    /// People and programs, at this address and port.
    Address { ip: IpAddr, port: u16 },
    /// Nobody: it is for other members.
    Nobody,
}

impl Expose {
    /// Where people expect it; the port that the engine picks for checks is not known before.
    pub fn address(&self) -> Option<SocketAddr> {
        match *self {
            Self::Address { ip, port } => Some(SocketAddr::new(ip, port)),
            Self::Checks | Self::Nobody => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Thousandths of one core.
    pub cpu_millis: Option<u32>,
    /// Size of `/dev/shm`; PostgreSQL's parallel queries need more than an engine's 64 MiB.
    pub shm_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    pub signal: String,
    pub grace_secs: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Comes back after a crash and after a reboot of the engine, not after a stop by an operator.
    UnlessStopped,
    /// Stays down until somebody decides: a database member that was killed must not return as a second primary.
    Never,
}

/// A container that runs to its end: a migration, a clone, a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Unique inside the stack; a leftover of the same name from a killed run is removed first.
    pub name: String,
    pub component: String,
    pub image: ImageId,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub secret_env: BTreeMap<String, Text>,
    pub files: Vec<File>,
    pub mounts: Vec<Mount>,
    /// Numeric user and group of the process; `None`: what the image says.
    pub user: Option<(u32, u32)>,
    /// Directories that it writes to beside its volumes. An engine may keep everything else read-only.
    pub scratch: Vec<String>,
    pub limits: Limits,
    pub timeout_secs: u64,
}

impl Resource {
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Image(image) => ResourceId::Image(image.id().clone()),
            Self::Network => ResourceId::Network,
            Self::Secret(secret) => ResourceId::Secret(secret.name.clone()),
            Self::Volume(volume) => ResourceId::Volume(volume.name.clone()),
            Self::Workload(workload) => ResourceId::Workload(workload.member.clone()),
        }
    }

    pub(super) fn needs(&self) -> Vec<Dependency> {
        match self {
            Self::Image(Image::Recipe(recipe)) => vec![Dependency::Resource(ResourceId::Image(recipe.base.clone()))],
            Self::Secret(secret) => {
                let issuer = secret.issuer().map(|name| Dependency::Resource(ResourceId::Secret(name.to_owned())));
                issuer.into_iter().collect()
            }
            Self::Image(_) | Self::Network | Self::Volume(_) => Vec::new(),
            Self::Workload(workload) => workload.needs(),
        }
    }
}

impl Secret {
    pub fn password(name: impl Into<String>, length: usize) -> Self {
        Self { name: name.into(), source: SecretSource::Password { length } }
    }

    /// The secret that signs this one.
    pub fn issuer(&self) -> Option<&str> {
        match &self.source {
            SecretSource::Certificate { issuer, .. } => Some(issuer),
            _ => None,
        }
    }

    /// What it is taken over from.
    pub fn kept(&self) -> Option<&str> {
        match &self.source {
            SecretSource::Kept { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl Image {
    pub fn id(&self) -> &ImageId {
        match self {
            Self::Base { id, .. } | Self::Reference { id, .. } => id,
            Self::Recipe(recipe) => &recipe.id,
        }
    }

    /// The reference under which engines keep it; for images made here it carries the hash of their content, so that
    /// an unchanged recipe is found again and a changed one is another image.
    pub fn reference(&self) -> String {
        match self {
            Self::Base { id, suite } => format!("provisioner/{}:{suite}", id.0),
            Self::Recipe(recipe) => format!("provisioner/{}:{}", recipe.id.0, Fingerprint::of(recipe)),
            Self::Reference { reference, .. } => reference.clone(),
        }
    }
}

impl Workload {
    fn needs(&self) -> Vec<Dependency> {
        let mut needs = vec![
            Dependency::Resource(ResourceId::Network),
            Dependency::Resource(ResourceId::Image(self.image.clone())),
        ];
        needs.extend(self.mounts.iter().map(|mount| Dependency::Resource(ResourceId::Volume(mount.volume.clone()))));
        needs.extend(self.secrets().map(|name| Dependency::Resource(ResourceId::Secret(name.to_owned()))));
        needs.extend(self.after.iter().cloned());
        needs
    }

    /// The secrets that its files and variables name.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let texts = self.files.iter().map(|file| &file.content).chain(self.secret_env.values());
        texts.flat_map(Text::secrets)
    }

    /// The hash of everything that can only be changed by making the container anew: all but the files, which are
    /// compared one by one, and the order of creation. `image` is the image's reference.
    pub fn spec_fingerprint(&self, image: &str) -> Fingerprint {
        let Self {
            member,
            component,
            image: _,
            command,
            env,
            secret_env,
            files: _,
            mounts,
            names,
            ports,
            user,
            scratch,
            limits,
            stop,
            restart,
            probes,
            after: _,
        } = self;
        let described = (
            (member, component, image, command, env, secret_env),
            (mounts, names, ports, user, scratch, limits, stop, restart),
        );
        match probes {
            None => Fingerprint::of(&described),
            Some(probes) => Fingerprint::of(&(described, probes)),
        }
    }

    /// Path to content hash of every file, and that of [`SECRET_VARIABLES`].
    pub fn file_fingerprints(&self, versions: &SecretVersions) -> BTreeMap<String, Fingerprint> {
        let files = self.files.iter().map(|file| (file.path.clone(), file.fingerprint(versions)));
        let variables =
            (!self.secret_env.is_empty()).then(|| (SECRET_VARIABLES.to_owned(), self.secret_env_fingerprint(versions)));
        files.chain(variables).collect()
    }

    /// Another one where a secret in the variables has another value.
    pub fn secret_env_fingerprint(&self, versions: &SecretVersions) -> Fingerprint {
        let versions: Vec<Option<&String>> =
            self.secret_env.values().flat_map(Text::secrets).map(|name| versions.get(name)).collect();
        Fingerprint::of(&(&self.secret_env, versions))
    }

    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// Stands for the secret variables among the files of a workload: engines hand them over by a file of their own.
pub const SECRET_VARIABLES: &str = "secret variables";

/// Name of each secret to the version of its value.
pub type SecretVersions = BTreeMap<String, String>;

impl File {
    /// A file with a secret in it is another one when the secret is.
    pub fn fingerprint(&self, versions: &SecretVersions) -> Fingerprint {
        let secrets = self.content.secrets();
        if secrets.is_empty() {
            return Fingerprint::of(self);
        }
        let versions: Vec<Option<&String>> = secrets.iter().map(|name| versions.get(*name)).collect();
        Fingerprint::of(&(self, versions))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(id) => write!(f, "image {}", id.0),
            Self::Network => f.write_str("network"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Workload(member) => write!(f, "workload {member}"),
        }
    }
}
