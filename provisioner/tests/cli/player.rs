//! The real components on an engine that runs no programs: what they declare, plan and tell is their own, what they
//! would do to running programs is noted as done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use provisioner_components::postgres::Cluster;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady, Situation, Task, Tasks, Variable};
use provisioner_core::failure::Failure;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::record;
use provisioner_core::stack::{External, Resource, Stack};
use provisioner_core::trial::{Client, Expendable, Journey, Trial};
use provisioner_core::wait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// What programs would remember, and what tests ask of them.
#[derive(Default)]
pub(crate) struct Script {
    /// Member and its instance to what it says about itself; another instance has forgotten it.
    facts: Mutex<BTreeMap<(Member, String), BTreeMap<String, String>>>,
    /// A task or member that fails, by the text that it prints as.
    pub(crate) broken: Mutex<Option<&'static str>>,
    /// A task that waits until the test lets it go.
    pub(crate) held: Mutex<Option<(&'static str, Arc<Hold>)>>,
    /// Tasks and members that take their time.
    pub(crate) slow: Mutex<Vec<(&'static str, Duration)>>,
    /// How a component's check ends.
    pub(crate) verdicts: Mutex<BTreeMap<&'static str, Broken>>,
}

pub(crate) struct Hold {
    /// Gets a permit when the task is reached.
    pub(crate) reached: Semaphore,
    pub(crate) go: Semaphore,
}

pub(crate) struct Player {
    pub(crate) component: Box<dyn Component>,
    pub(crate) script: Arc<Script>,
}

impl Script {
    async fn reach(&self, what: &str) -> Result<(), Failure> {
        let held = self.held.lock().unwrap().clone();
        if let Some((name, hold)) = held
            && what.contains(name)
        {
            hold.reached.add_permits(1);
            hold.go.acquire().await.unwrap().forget();
        }
        let slow = self.slow.lock().unwrap().iter().find(|(name, _)| what.contains(name)).copied();
        if let Some((_, duration)) = slow {
            wait::pause(duration).await;
        }
        match *self.broken.lock().unwrap() {
            Some(name) if what.contains(name) => {
                let failure = Failure::because(format!("do {what}"), "connection refused");
                Err(failure.output("FATAL: out of luck").hint("provisioner logs"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn say(&self, observed: &Observed, member: &Member, key: &str, value: &str) {
        let Some(found) = observed.workload(member) else { return };
        let mut facts = self.facts.lock().unwrap();
        let of_member = facts.entry((member.clone(), found.instance.clone())).or_default();
        of_member.insert(format!("{member}.{key}"), value.to_owned());
    }
}

#[async_trait]
impl Component for Player {
    fn name(&self) -> &'static str {
        self.component.name()
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        self.component.declare(manifest)
    }

    fn external(&self, manifest: &Manifest) -> Option<External> {
        self.component.external(manifest)
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        self.component.tasks(situation)
    }

    fn role(&self, member: &Member, observed: &Observed) -> Option<String> {
        self.component.role(member, observed)
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        self.component.variables(stack)
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        self.component.entrypoints(stack)
    }

    async fn observe(&self, access: &Access<'_>) -> BTreeMap<String, String> {
        let facts = self.script.facts.lock().unwrap();
        let mut told = BTreeMap::new();
        for workload in
            access.stack.members(self.name()).filter(|workload| access.observed.is_running(&workload.member))
        {
            let instance = &access.observed.workloads[&workload.member].instance;
            told.extend(facts.get(&(workload.member.clone(), instance.clone())).cloned().unwrap_or_default());
        }
        if let Ok(Some(cluster)) = Cluster::read(&access.observed.records)
            && self.name() == "postgres"
            && access.observed.is_running(&cluster.primary)
        {
            let streaming = cluster.replicas.iter().filter(|replica| access.observed.is_running(replica));
            let names: Vec<&str> = streaming.map(Member::as_str).collect();
            told.insert(format!("{}.streaming", cluster.primary), names.join(" "));
        }
        told
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        self.script.reach(&format!("await {member}")).await.map_err(|failure| NotReady(failure.chain()))?;
        let observed = access.engine.observe().await.map_err(|error| NotReady(error.to_string()))?;
        if observed.is_running(member) { Ok(()) } else { Err(NotReady("connection refused".to_owned())) }
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        self.script.reach(&task.to_string()).await?;
        let observed = access.engine.observe().await?;
        let with = |key: &str| task.with.get(key).cloned().unwrap_or_default();
        let note = |key: &'static str, value: Value| async move {
            record::update(access.engine.records(), key, |_: Option<Value>| Some(value.clone())).await
        };
        match (task.component.as_str(), task.name.as_str(), &task.member) {
            ("postgres", "bootstrap", Some(member)) => {
                let cluster = json!({"system_id": "1", "primary": member, "replicas": [], "epoch": 1, "timeline": 1});
                note("postgres.cluster", cluster).await?;
            }
            ("postgres", "roles", _) => note("postgres.roles", json!({"fingerprint": with("fingerprint")})).await?,
            ("postgres", "clone" | "rejoin", Some(member)) => {
                access.output.line("a detail");
                if task.name == "rejoin" {
                    access.output.tell(&format!("{member} was copied anew"));
                }
                record::update(access.engine.records(), "postgres.cluster", |cluster: Option<Cluster>| {
                    let mut cluster = cluster?;
                    cluster.replicas.insert(member.clone());
                    Some(cluster)
                })
                .await?;
            }
            ("postgres", "prepare" | "rejoined", _) => {}
            ("postgres", "retire", Some(member)) => {
                record::update(access.engine.records(), "postgres.cluster", |cluster: Option<Cluster>| {
                    let mut cluster = cluster?;
                    cluster.replicas.remove(member).then_some(cluster)
                })
                .await?;
            }
            ("postgres", _, Some(member)) => {
                self.script.say(&observed, member, "synchronous_standby_names", &with("names"));
            }
            ("route", ..) => {
                for workload in access.stack.members("route") {
                    for (key, value) in [("rw", with("rw")), ("ro", with("ro")), ("hidden", String::new())] {
                        self.script.say(&observed, &workload.member, key, &value);
                    }
                }
            }
            ("nginx", ..) | ("app", "enlist", _) => {
                let backends = observed.workloads.iter().filter(|(_, found)| found.component == "app");
                let used: BTreeMap<&Member, _> = backends.map(|(member, found)| (member, found.internal_ip)).collect();
                note("nginx.upstreams", json!(used)).await?;
            }
            _ => self.component.run(task, access).await?,
        }
        Ok(())
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        if access.stack.members(self.name()).next().is_none() {
            return Vec::new();
        }
        let running = access.stack.members(self.name()).filter(|workload| access.observed.is_running(&workload.member));
        let evidence = format!("{} members answer", running.count());
        let verdict = self.script.verdicts.lock().unwrap().get(self.name()).cloned();
        let body = async { verdict.map_or(Ok(evidence), Err) };
        vec![check(self.name(), "answers", Level::L1, body).await]
    }

    fn trial(&self) -> Option<&dyn Trial> {
        self.component.trial().map(|_| self as &dyn Trial)
    }
}

/// Its customers are content, unless the script says otherwise of `order`.
#[async_trait]
impl Trial for Player {
    async fn journey(&self, access: &Access<'_>) -> Journey {
        self.script.reach("order").await.ok();
        if !is_shop(access.stack) {
            return self.component.trial().unwrap().journey(access).await;
        }
        let verdict = self.script.verdicts.lock().unwrap().get("order").cloned();
        let body = async { verdict.map_or(Ok("an order was placed".to_owned()), Err) };
        let not_run = vec!["search: the stack has no elasticsearch".to_owned()];
        Journey { findings: vec![check(self.name(), "order-placed", Level::L2, body).await], not_run }
    }

    fn expendable(&self, stack: &Stack) -> Option<Expendable> {
        self.component.trial()?.expendable(stack)
    }

    async fn client(&self, _access: &Access<'_>) -> Result<Box<dyn Client>, Broken> {
        Ok(Box::new(Customer(Arc::clone(&self.script))))
    }
}

fn is_shop(stack: &Stack) -> bool {
    stack.workloads().any(|workload| workload.command.iter().any(|word| word.ends_with("/app")))
}

struct Customer(Arc<Script>);

#[async_trait]
impl Client for Customer {
    async fn ask(&self) -> Result<(), Broken> {
        self.0.verdicts.lock().unwrap().get("ask").cloned().map_or(Ok(()), Err)
    }
}
