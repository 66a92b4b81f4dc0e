//! Manifest, stack, engine and components of one run, put together once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use provisioner_core::component::{Access, Component};
use provisioner_core::drift;
use provisioner_core::engine::{Condition, Engine, ImageReferences, Output, Quiet};
use provisioner_core::execute::observe_facts;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Making, Observed};
use provisioner_core::plan::{Plan, Policy, plan};
use provisioner_core::stack::{Expose, Resource, Stack};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::cli::Call;
use crate::cli::exit::{Exit, Stop};
use crate::cli::manifests::{self, Program};
use crate::cli::secret_files;
use crate::cli::settings::HttpPort;

pub(crate) struct Context {
    pub(crate) manifest: Manifest,
    pub(crate) stack: Stack,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) components: Vec<Box<dyn Component>>,
    pub(crate) images: ImageReferences,
    /// The snapshot that the choice of a port needed, for whoever observes next.
    seen: Mutex<Option<Observed>>,
    /// What was chosen instead of what the manifest says.
    pub(crate) adapted: Vec<String>,
    /// The entrance's ports are not the manifest's.
    is_port_chosen: bool,
    /// What the preflight says of the pair that somebody keeps in the cluster, where the manifest names one.
    pub(crate) certificate: Option<Condition>,
    /// `None`: on Docker.
    pub(crate) place: Option<Place>,
}

/// Where a stack is in which cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    context: String,
    namespace: String,
}

impl Place {
    /// For a command of the cluster's own.
    pub(crate) fn flags(&self) -> String {
        format!(" --context {} --namespace {}", self.context, self.namespace)
    }

    pub(crate) fn of(manifest: &Manifest) -> Option<Self> {
        let kubernetes = manifest.kubernetes.as_ref()?;
        let namespace = kubernetes.namespace.clone().unwrap_or_else(|| manifest.name.to_string());
        Some(Self { context: kubernetes.context.clone()?, namespace })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context {}, namespace {}", self.context, self.namespace)
    }
}

/// What is known without an engine.
pub(crate) struct Offline {
    pub(crate) manifest: Manifest,
    pub(crate) stack: Stack,
}

/// Record of the ports on which people reach the stack, where these are not the manifest's.
const ENTRANCE: &str = "entrance";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entrance {
    http_port: u16,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    https_port: Option<u16>,
}

impl Entrance {
    fn of(manifest: &Manifest) -> Self {
        let https_port = manifest.nginx.tls.as_ref().map(|tls| tls.https_port);
        Self { http_port: manifest.nginx.http_port, https_port }
    }

    fn put_into(&self, manifest: &mut Manifest) {
        manifest.nginx.http_port = self.http_port;
        if let (Some(tls), Some(port)) = (&mut manifest.nginx.tls, self.https_port) {
            tls.https_port = port;
        }
    }

    /// Ports that nobody holds, as many as the manifest has.
    fn free(manifest: &Manifest) -> anyhow::Result<Self> {
        // Both are held until both are known, so that they differ.
        let (http, https) = (free_port(manifest.expose)?, free_port(manifest.expose)?);
        let port =
            |listener: &TcpListener| Ok::<_, anyhow::Error>(listener.local_addr().context("pick a free port")?.port());
        let https_port = manifest.nginx.tls.as_ref().map(|_| port(&https)).transpose()?;
        Ok(Self { http_port: port(&http)?, https_port })
    }

    fn told(&self, is_http_picked: bool) -> Vec<String> {
        let http = format!("nginx.http_port: {} is free and was picked", self.http_port);
        let mut told: Vec<String> = is_http_picked.then_some(http).into_iter().collect();
        told.extend(self.https_port.map(|port| format!("nginx.tls.port: {port} is free and was picked")));
        told
    }
}

/// How a verb treats the port of the HTTP entrance when no flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The manifest decides.
    Wanted,
    /// What the stack is published on counts; the verb only looks at what is there.
    InUse,
}

/// Whether the cluster is asked for what somebody else keeps in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Asked,
    Left,
}

impl Context {
    /// For verbs that make the stack what the manifest says, or tell what that would take.
    pub(crate) async fn to_plan(call: &Call<'_>) -> anyhow::Result<Self> {
        Self::to_plan_for(call, manifests::load(call.settings, Program::Needed)?).await
    }

    /// The same for a manifest that is not written yet.
    pub(crate) async fn to_plan_for(call: &Call<'_>, manifest: Manifest) -> anyhow::Result<Self> {
        Self::open(call, manifest, Port::Wanted, Kept::Asked).await
    }

    /// For verbs that change one thing, or bring back what was there.
    pub(crate) async fn to_change(call: &Call<'_>) -> anyhow::Result<Self> {
        Self::open(call, manifests::load(call.settings, Program::Needed)?, Port::Wanted, Kept::Left).await
    }

    /// For verbs that look at, stop or remove what is there.
    pub(crate) async fn to_look(call: &Call<'_>) -> anyhow::Result<Self> {
        Self::open(call, manifests::load(call.settings, Program::Unneeded)?, Port::InUse, Kept::Left).await
    }

    /// For verbs that need no engine.
    pub(crate) fn offline(call: &Call<'_>) -> anyhow::Result<Offline> {
        let mut manifest = manifests::load(call.settings, Program::Unneeded)?;
        if let Some(HttpPort::Fixed(fixed)) = call.settings.http_port {
            manifest.nginx.http_port = fixed;
        }
        let stack = stack_of(&manifest, &call.engines.components());
        Ok(Offline { manifest, stack })
    }

    /// The manifest's own wishes, though nothing will be changed. Whether the app's image was pushed can be told with its program
    /// alone, which need not be built yet.
    pub(crate) async fn for_doctor(call: &Call<'_>) -> anyhow::Result<Self> {
        let manifest = manifests::load(call.settings, Program::Needed);
        let manifest = manifest.or_else(|_| manifests::load(call.settings, Program::Unneeded))?;
        Self::to_plan_for(call, manifest).await
    }

    async fn open(call: &Call<'_>, mut manifest: Manifest, port: Port, kept: Kept) -> anyhow::Result<Self> {
        let cluster = manifest.kubernetes.as_ref();
        let engine = call.engines.open(&call.settings.environment, &manifest.name, cluster).await?;
        let components = call.engines.components();
        let certificate = match kept {
            Kept::Asked => secret_files::ask(&mut manifest, &*engine).await,
            Kept::Left => None,
        };
        let mut adapted = Vec::new();
        let mut seen = None;
        let written = Entrance::of(&manifest);
        let is_second = call.settings.name.is_some();
        let fixed = match call.settings.http_port {
            Some(HttpPort::Fixed(fixed)) => Some(fixed),
            Some(HttpPort::Auto) | None => None,
        };
        let is_auto = matches!(call.settings.http_port, Some(HttpPort::Auto));
        // A second stack may not have the first one's ports, and a verb that looks needs those that are in use.
        // In a cluster the entrance has an address of its own, on which nobody else's ports are.
        let is_shared = manifest.kubernetes.is_none();
        if is_shared && (is_second || is_auto || (fixed.is_none() && port == Port::InUse)) {
            let observed = engine.observe().await?;
            if let Some(known) = ports_in_use(&manifest, &components, &observed)? {
                known.put_into(&mut manifest);
            } else if port == Port::Wanted || is_auto {
                let free = Entrance::free(&manifest)?;
                free.put_into(&mut manifest);
                adapted.extend(free.told(fixed.is_none()));
            }
            seen = Some(observed);
        }
        if let Some(fixed) = fixed {
            manifest.nginx.http_port = fixed;
        }
        let is_port_chosen = Entrance::of(&manifest) != written;
        let stack = stack_of(&manifest, &components);
        let images = stack.image_references();
        let place = Place::of(&manifest);
        Ok(Self {
            manifest,
            stack,
            engine,
            components,
            images,
            seen: Mutex::new(seen),
            adapted,
            is_port_chosen,
            certificate,
            place,
        })
    }

    pub(crate) fn name(&self) -> &StackName {
        &self.stack.name
    }

    pub(crate) fn engine_name(&self) -> &'static str {
        if self.place.is_some() { "kubernetes" } else { "docker" }
    }

    /// The stack for people, with where it is if that is not here.
    pub(crate) fn told(&self) -> String {
        match &self.place {
            Some(place) => format!("stack {} ({place})", self.name()),
            None => format!("stack {}", self.name()),
        }
    }

    /// What is, as the engine tells it.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<Observed> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        match seen {
            Some(observed) => Ok(observed),
            None => Ok(self.engine.observe().await?),
        }
    }

    fn makings(&self) -> BTreeMap<Member, Making> {
        let made = self.stack.workloads().filter_map(|workload| {
            let image = self.images.get(&workload.image)?;
            Some((workload.member.clone(), self.engine.making(workload, image)))
        });
        made.collect()
    }

    /// What is, with what the components read from running members.
    pub(crate) async fn observe(&self) -> anyhow::Result<Observed> {
        let mut observed = self.snapshot().await.with_context(|| format!("observe stack {}", self.name()))?;
        observed.facts = observe_facts(&*self.engine, &self.components, &self.stack, &observed).await;
        Ok(observed)
    }

    /// The same, with all that a plan of the whole stack is made from: how the engine would make it today, and what deep
    /// comparisons find if they are asked for. Who only brings a service back has no use for either.
    pub(crate) async fn observe_to(&self, policy: &Policy) -> anyhow::Result<Observed> {
        let mut observed = self.observe().await?;
        observed.makings = self.makings();
        if policy.deep {
            observed.deep = drift::look(&self.access(&observed, &Quiet), &self.components).await;
        }
        Ok(observed)
    }

    /// Notes a port that the manifest does not name, so that the next run finds it even while the entrance is down.
    pub(crate) async fn keep_port(&self, observed: &Observed) -> anyhow::Result<()> {
        let chosen = Entrance::of(&self.manifest);
        let noted: Option<Entrance> = observed.records.read(ENTRANCE)?;
        if !self.is_port_chosen || noted.as_ref() == Some(&chosen) {
            return Ok(());
        }
        let records = self.engine.records();
        records.put_if(ENTRANCE, observed.records.version(ENTRANCE), serde_json::to_value(chosen)?).await?;
        Ok(())
    }

    pub(crate) fn plan(&self, observed: &Observed, policy: &Policy) -> anyhow::Result<Plan> {
        Ok(plan(&self.stack, observed, &self.components, policy)?)
    }

    pub(crate) fn access<'a>(&'a self, observed: &'a Observed, output: &'a dyn Output) -> Access<'a> {
        Access { engine: &*self.engine, stack: &self.stack, observed, images: &self.images, output }
    }

    pub(crate) fn component(&self, name: &str) -> Option<&dyn Component> {
        self.components.iter().find(|component| component.name() == name).map(AsRef::as_ref)
    }

    /// The member of that name, or a refusal that lists the members there are.
    pub(crate) fn member(&self, name: &str, observed: &Observed) -> Result<Member, Stop> {
        let member = Member::named(name);
        let is_known = self.stack.workload(&member).is_some() || observed.workloads.contains_key(&member);
        if is_known { Ok(member) } else { Err(no_such_member(&self.stack, name)) }
    }

    /// The members that the words name, as members or whole components; no words: all.
    pub(crate) fn members(&self, words: &[String], observed: &Observed) -> Result<Vec<Member>, Stop> {
        if words.is_empty() {
            let declared = self.stack.workloads().map(|workload| workload.member.clone());
            let found = observed.workloads.keys().cloned();
            let all: std::collections::BTreeSet<Member> = declared.chain(found).collect();
            return Ok(all.into_iter().collect());
        }
        let mut members = Vec::new();
        for word in words {
            match self.component(word) {
                Some(component) => {
                    members.extend(self.stack.members(component.name()).map(|workload| workload.member.clone()));
                }
                None => members.push(self.member(word, observed)?),
            }
        }
        Ok(members)
    }

    /// The components that the words name, directly or by one of their members, with those that run their image.
    pub(crate) fn targets(&self, words: &[String]) -> Result<Policy, Stop> {
        let mut policy = Policy::default();
        for word in words {
            let by_member = self.stack.workload(&Member::named(word.as_str())).map(|workload| &workload.component);
            let known = self.component(word).map(|component| component.name().to_owned());
            let Some(target) = known.or_else(|| by_member.cloned()) else {
                let names: Vec<&str> = self.components.iter().map(|component| component.name()).collect();
                let stop = Stop::new(Exit::Usage, format!("stack {} has no component {word}", self.name()));
                return Err(stop.hint(format!("components: {}", names.join(", "))));
            };
            policy.targets.extend(self.runners(&target).map(str::to_owned));
            policy.targets.insert(target);
        }
        Ok(policy)
    }

    /// The components that run the image of this one: workers are made anew together with the app whose binary they
    /// run.
    fn runners<'a>(&'a self, component: &'a str) -> impl Iterator<Item = &'a str> {
        self.stack.workloads().filter(move |found| found.image.0 == component).map(|found| found.component.as_str())
    }
}

pub(crate) fn no_such_member(stack: &Stack, name: &str) -> Stop {
    let members: Vec<&str> = stack.workloads().map(|workload| workload.member.as_str()).collect();
    let stop = Stop::new(Exit::Usage, format!("stack {} has no member {name}", stack.name));
    stop.hint(format!("members: {}", members.join(", ")))
}

fn stack_of(manifest: &Manifest, components: &[Box<dyn Component>]) -> Stack {
    let stack = Stack::of(manifest, components.iter().map(AsRef::as_ref)).and([Resource::Network]);
    if manifest.kubernetes.is_some() { stack } else { stack.without_cluster_parts() }
}

/// The ports that the entrance is published on, else those that were noted for it.
fn ports_in_use(
    manifest: &Manifest,
    components: &[Box<dyn Component>],
    observed: &Observed,
) -> anyhow::Result<Option<Entrance>> {
    let stack = stack_of(manifest, components);
    let published = |wanted: u16| {
        let is_entrance = |expose: &Expose| matches!(expose, Expose::Address { port, .. } if *port == wanted);
        stack.workloads().find_map(|workload| {
            let inside = workload.ports.iter().find(|port| is_entrance(&port.expose))?.port;
            observed.workload(&workload.member)?.published.get(&inside).map(SocketAddr::port)
        })
    };
    let wanted = Entrance::of(manifest);
    let noted: Option<Entrance> = observed.records.read(ENTRANCE)?;
    let Some(http_port) = published(wanted.http_port).or(noted.as_ref().map(|noted| noted.http_port)) else {
        return Ok(None);
    };
    let https_port = match wanted.https_port {
        Some(port) => match published(port).or(noted.and_then(|noted| noted.https_port)) {
            Some(known) => Some(known),
            // It was switched on since: the manifest's own may belong to another stack.
            None => Some(free_port(manifest.expose)?.local_addr().context("pick a free port")?.port()),
        },
        None => None,
    };
    Ok(Some(Entrance { http_port, https_port }))
}

/// Below the range from which the kernel and engines give ports out by themselves (Linux: from 32768), so that none of the
/// ports that this very stack gets while it is made is the one picked here.
const PICKED: std::ops::Range<u16> = 20_000..32_768;
const PICKS: usize = 50;

/// A port that nobody holds right now; somebody else may take it before the engine does, which then says so.
fn free_port(ip: IpAddr) -> anyhow::Result<TcpListener> {
    let picked = (0..PICKS).find_map(|_| TcpListener::bind((ip, rand::rng().random_range(PICKED))).ok());
    match picked {
        Some(listener) => Ok(listener),
        None => TcpListener::bind((ip, 0)).with_context(|| format!("pick a free port on {ip}")),
    }
}
