//! What a system (PostgreSQL, NGINX, ...) brings along: what to declare, what to do once it runs, how to prove it works.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::drift::Comparisons;
use crate::engine::{Engine, EngineError, ImageReferences, Output};
use crate::failure::Failure;
use crate::finding::Finding;
use crate::manifest::Manifest;
use crate::name::Member;
use crate::observed::Observed;
use crate::plan::Withheld;
use crate::stack::{External, Resource, ResourceId, Stack, Text};
use crate::trial::Trial;

/// One system. `declare`, `tasks`, `role` and `variables` are pure; the rest talks to running members.
#[async_trait]
pub trait Component: Send + Sync {
    fn name(&self) -> &'static str;

    /// What should exist. Everything is chosen here: images, ports, rendered files, secrets by name.
    fn declare(&self, manifest: &Manifest) -> Vec<Resource>;

    /// The service that exists already and that the stack uses instead of members of its own.
    fn external(&self, _manifest: &Manifest) -> Option<External> {
        None
    }

    /// What should be done besides making resources exist, decided from the snapshot alone.
    fn tasks(&self, _situation: &Situation<'_>) -> Tasks {
        Tasks::default()
    }

    /// The member's part as the records tell it: `primary`, `replica`.
    fn role(&self, _member: &Member, _observed: &Observed) -> Option<String> {
        None
    }

    /// Variables by which programs reach this system.
    fn variables(&self, _stack: &Stack) -> Vec<Variable> {
        Vec::new()
    }

    /// Addresses that people open, `http` first.
    fn entrypoints(&self, _stack: &Stack) -> Vec<Entrypoint> {
        Vec::new()
    }

    /// Reads (never writes) run-time truth from running members over their own protocol, for [`Observed::facts`].
    async fn observe(&self, _access: &Access<'_>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Settings of running servers held against what should be, over their own protocols and by reads only. A server
    /// that cannot be asked is a comparison whose answer is unknown.
    async fn drift(&self, _access: &Access<'_>) -> Comparisons {
        Vec::new()
    }

    /// One attempt, bounded to about a second, at using the member as its clients would.
    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady>;

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        let _ = access;
        Err(Failure::new(format!("run {task}: component {} has no such task", self.name())))
    }

    /// Checks L0 to L3, all safe on a live stack.
    async fn verify(&self, access: &Access<'_>) -> Vec<Finding>;

    /// How clients use it and what it must survive, for stacks that are thrown away; `None`: it has no clients of its own.
    fn trial(&self) -> Option<&dyn Trial> {
        None
    }
}

/// What a component may look at when it decides on its tasks.
pub struct Situation<'a> {
    pub stack: &'a Stack,
    pub observed: &'a Observed,
    /// Members that this plan creates, starts or restarts.
    pub changing: &'a BTreeSet<Member>,
}

/// What tasks, probes and checks may use.
pub struct Access<'a> {
    pub engine: &'a dyn Engine,
    pub stack: &'a Stack,
    pub observed: &'a Observed,
    pub images: &'a ImageReferences,
    pub output: &'a dyn Output,
}

/// A piece of work as data: it prints, is compared and is looked up by component and name when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    pub component: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub member: Option<Member>,
    /// What the plan decided; the task itself chooses nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub with: BTreeMap<String, String>,
}

/// Something that must be so before something else may be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    Resource(ResourceId),
    /// The member answers as its clients need it to.
    Ready(Member),
    /// Component and name: whichever member or argument the task has.
    Task {
        component: String,
        name: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tasks {
    pub tasks: Vec<Planned>,
    pub withheld: Vec<Withheld>,
    /// Left exactly as they are by this plan: a database member that must not come up, or must not go, before somebody
    /// has decided. A held member's data is held with it.
    pub held: BTreeSet<ResourceId>,
}

/// A task with its place in the order. A component names a task even when there is no need for it, so that what
/// depends on it still waits for what the task itself would wait for.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub task: Task,
    /// Why it must be done now; `None`: nothing to do.
    pub because: Option<String>,
    pub after: Vec<Dependency>,
    pub before: Vec<Dependency>,
}

/// A variable whose value differs only by where it is read: inside the stack or on the operator's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// Up to the host: `postgres://app:@{secret:postgres-app}@`.
    pub prefix: Text,
    /// The stable name on the stack's network and the port there.
    pub host: String,
    pub port: u16,
    /// The member whose published port leads there from outside; `None`: the same address does, for it is external.
    pub member: Option<Member>,
    /// After the port: `/app`.
    pub suffix: String,
    /// The same for programs on the operator's machine, where it differs: the stack's files are not there.
    pub suffix_outside: Option<String>,
}

/// An address that people open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    pub name: &'static str,
    pub scheme: &'static str,
    pub at: At,
    pub login: Option<Login>,
}

/// Who answers at an address that people open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The port is that inside the stack.
    Member { member: Member, port: u16 },
    /// Host and port of a service that exists already.
    External { address: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// Name of the secret that is the password.
    pub secret: String,
}

/// A member is not usable yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

impl Variable {
    /// The value for programs inside the stack, with markers for secrets.
    pub fn inside(&self) -> Text {
        Text::new(format!("{}{}:{}{}", self.prefix.masked(), self.host, self.port, self.suffix))
    }

    /// The value for programs on the operator's machine, with markers for secrets; `address` is where the member is
    /// published.
    pub fn outside(&self, address: Option<SocketAddr>) -> Text {
        let suffix = self.suffix_outside.as_ref().unwrap_or(&self.suffix);
        let address = address.map_or_else(|| format!("{}:{}", self.host, self.port), |address| address.to_string());
        Text::new(format!("{}{address}{suffix}", self.prefix.masked()))
    }
}

impl Entrypoint {
    pub fn new(name: &'static str, scheme: &'static str, member: &Member, port: u16) -> Self {
        Self { name, scheme, at: At::Member { member: member.clone(), port }, login: None }
    }

    /// Of a service that exists already.
    pub fn external(name: &'static str, scheme: &'static str, address: String) -> Self {
        Self { name, scheme, at: At::External { address }, login: None }
    }

    /// `None`: it is external.
    pub fn member(&self) -> Option<&Member> {
        match &self.at {
            At::Member { member, .. } => Some(member),
            At::External { .. } => None,
        }
    }

    pub fn login(mut self, user: &str, secret: &str) -> Self {
        self.login = Some(Login { user: user.to_owned(), secret: secret.to_owned() });
        self
    }

    /// Where it is reached from the operator's machine; `None`: its port is the engine's choice, and the member does
    /// not run.
    pub fn url(&self, stack: &Stack, observed: &Observed) -> Option<String> {
        let (member, port) = match &self.at {
            At::External { address } => return Some(format!("{}://{address}/", self.scheme)),
            At::Member { member, port } => (member, *port),
        };
        let found = observed.workload(member);
        let address = match found.and_then(|found| found.public.as_ref()) {
            Some(public) => public.get(&port)?.clone(),
            None => {
                let published = found.and_then(|found| found.published.get(&port)).copied();
                let mut address = published.or_else(|| declared(stack, member, port))?;
                if address.ip().is_unspecified() {
                    // Nobody can open the address that stands for all of them.
                    address.set_ip(Ipv4Addr::LOCALHOST.into());
                }
                address.to_string()
            }
        };
        Some(format!("{}://{address}/", self.scheme))
    }
}

fn declared(stack: &Stack, member: &Member, port: u16) -> Option<SocketAddr> {
    stack.workload(member)?.ports.iter().find(|declared| declared.port == port)?.expose.address()
}

impl Task {
    pub fn new(component: &str, name: &str) -> Self {
        Self { component: component.to_owned(), name: name.to_owned(), member: None, with: BTreeMap::new() }
    }

    pub fn on(mut self, member: &Member) -> Self {
        self.member = Some(member.clone());
        self
    }

    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.with.insert(key.to_owned(), value.into());
        self
    }

    pub fn dependency(&self) -> Dependency {
        Dependency::task(&self.component, &self.name)
    }
}

impl Dependency {
    pub fn task(component: &str, name: &str) -> Self {
        Self::Task { component: component.to_owned(), name: name.to_owned() }
    }

    pub fn workload(member: &Member) -> Self {
        Self::Resource(ResourceId::Workload(member.clone()))
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.component, self.name)?;
        if let Some(member) = &self.member {
            write!(f, " {member}")?;
        }
        for (key, value) in &self.with {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl Access<'_> {
    /// Where a member's port is reached from here according to the snapshot, without asking the engine again. Only for
    /// reads that belong to the snapshot: a member that was replaced since is reached elsewhere.
    pub fn published(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        let address = self.observed.workload(member).and_then(|found| found.published.get(&port));
        address.copied().ok_or_else(|| EngineError::NotFound { what: format!("published port {port} of {member}") })
    }

    /// The value of one secret; an error names it.
    pub async fn secret(&self, name: &str) -> Result<String, Failure> {
        let names = BTreeSet::from([name.to_owned()]);
        let mut values = self.engine.secrets(&names).await?;
        values.remove(name).ok_or_else(|| Failure::new(format!("read secret {name}: the engine does not hold it")))
    }
}
