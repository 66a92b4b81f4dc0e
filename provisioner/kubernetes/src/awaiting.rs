//! Waiting for pods, by watch; what will never come is an error within seconds, in the cluster's own words.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::wait;
use tokio::time::Instant;

use crate::access::AccessMode;
use crate::connect::KubernetesEngine;
use crate::pods::{self, Progress};

/// An image may have to be pulled first.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(300);
/// Beyond a pod's own grace period, for the node to report its end.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How often things are looked at that pods do not tell.
const TICK: Duration = Duration::from_secs(2);
/// A node may be found once a volume is made or another pod is gone.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(6);
/// A node that answers takes a pod within a second of its being given one, and has ended one that soon after its grace.
const UNTAKEN_LIMIT: Duration = Duration::from_secs(10);
/// One that ended once is up when it has stayed up for as long.
const STEADY: Duration = Duration::from_secs(5);
const LAST_WORDS: i64 = 10;

/// What a look at all pods showed.
pub(crate) enum Seen<T> {
    Done(T),
    Pending(String),
}

impl KubernetesEngine {
    /// Follows the pods that `selector` finds. `look` is shown all of them after each change, and every other second.
    async fn follow<T, F>(
        &self,
        selector: &str,
        operation: &str,
        limit: Duration,
        mut look: impl FnMut(Vec<Pod>) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<Seen<T>, EngineError>>,
    {
        let begin = Instant::now();
        let events = watcher(self.api::<Pod>(), watcher::Config::default().labels(selector)).default_backoff();
        let mut events = pin!(events);
        let mut known: BTreeMap<String, Pod> = BTreeMap::new();
        let mut is_known = false;
        let mut last = "no answer yet".to_owned();
        while let Some(left) = limit.checked_sub(begin.elapsed()) {
            tokio::select! {
                event = events.next() => is_known = self.take(event, &mut known, operation)?.unwrap_or(is_known),
                () = wait::pause(TICK.min(left)) => {}
            }
            if !is_known {
                continue;
            }
            match look(known.values().cloned().collect()).await? {
                Seen::Done(value) => return Ok(value),
                Seen::Pending(why) => last = why,
            }
        }
        Err(EngineError::failed(operation, format!("not within {} s: {last}", limit.as_secs())))
    }

    /// Whether every pod that is there is known by now; `None`: as before.
    fn take(
        &self,
        event: Option<Result<watcher::Event<Pod>, watcher::Error>>,
        known: &mut BTreeMap<String, Pod>,
        operation: &str,
    ) -> Result<Option<bool>, EngineError> {
        let key = |pod: &Pod| pods::name(&pod.metadata).to_owned();
        match event {
            Some(Ok(watcher::Event::Init)) => {
                known.clear();
                Ok(Some(false))
            }
            Some(Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                known.insert(key(&pod), pod);
                Ok(None)
            }
            Some(Ok(watcher::Event::Delete(pod))) => {
                known.remove(&key(&pod));
                Ok(None)
            }
            Some(Ok(watcher::Event::InitDone)) => Ok(Some(true)),
            // The watch begins again by itself; the server may be on its way back. A refusal will not pass.
            Some(Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)))
                if matches!(crate::error::code(&error), Some(401 | 403)) =>
            {
                Err(self.failed(operation)(error))
            }
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Until the process of this instance runs. `up` is the pod that it runs in.
    pub(crate) async fn await_running(&self, member: &Member, instance: &str) -> Result<Pod, EngineError> {
        let operation = format!("start {member}");
        let is_this = |pod: &Pod| pods::instance(pod) == Some(instance);
        let trouble = Trouble::new(self, &operation, member.as_str());
        self.follow(&self.names.member_selector(member), &operation, START_LIMIT, |all| {
            let this = all.into_iter().find(|pod| is_this(pod) && !pods::is_leaving(pod));
            trouble.judge(this, Ending::IsTrouble)
        })
        .await
    }

    /// Until the pod of a job runs or has ended.
    pub(crate) async fn await_started(&self, selector: &str, operation: &str, job: &str) -> Result<Pod, EngineError> {
        let trouble = Trouble::new(self, operation, job);
        self.follow(selector, operation, START_LIMIT, |mut all| trouble.judge(all.pop(), Ending::IsDone)).await
    }

    /// Until the pod has ended by itself, with its code.
    pub(crate) async fn await_ended(&self, selector: &str, operation: &str) -> Result<i32, EngineError> {
        self.follow(selector, operation, END_LIMIT, async |mut all: Vec<Pod>| {
            let Some(pod) = all.pop() else {
                return Err(EngineError::failed(operation, "its pod is gone, nobody knows how it ended"));
            };
            match pods::progress(&pod) {
                Progress::Ended(code) => Ok(Seen::Done(code)),
                Progress::Failed { why, .. } => Err(EngineError::failed(operation, why)),
                _ => Ok(Seen::Pending("its pod still runs".to_owned())),
            }
        })
        .await
    }

    /// Until no pod is found any more, which the node has confirmed of each.
    pub(crate) async fn await_no_pods(&self, selector: &str, operation: &str, grace: u64) -> Result<(), EngineError> {
        self.await_no_pods_for(END_LIMIT + Duration::from_secs(grace), selector, operation).await
    }

    pub(crate) async fn await_no_pods_for(
        &self,
        limit: Duration,
        selector: &str,
        operation: &str,
    ) -> Result<(), EngineError> {
        self.follow(selector, operation, limit, async |all: Vec<Pod>| match all.first() {
            None => Ok(Seen::Done(())),
            Some(pod) => {
                let node = pods::node(pod).unwrap_or("no node");
                let name = pods::name(&pod.metadata);
                Ok(Seen::Pending(format!("pod {name} on {node} is still there, {}", pods::phase(pod))))
            }
        })
        .await
    }

    /// Warnings of the namespace about things whose names begin so, since `begin`, newest last.
    async fn warnings(&self, reasons: &[&str], about: &str, begin: u64) -> Result<Vec<String>, EngineError> {
        let params = ListParams::default().fields("type=Warning");
        let listed = self.ask("list events", self.api::<Event>().list(&params)).await?;
        let told = listed.items.into_iter().filter_map(|event| {
            let reason = event.reason.unwrap_or_default();
            let is_it = reasons.contains(&reason.as_str())
                && event.involved_object.name.as_deref().is_some_and(|name| is_of(name, about));
            let at = event
                .last_timestamp
                .map(|time| time.0.as_second())
                .or_else(|| event.event_time.map(|time| time.0.as_second()));
            let is_new = at.is_none_or(|at| u64::try_from(at).unwrap_or_default() + 2 >= begin);
            (is_it && is_new).then(|| format!("{reason}: {}", event.message.unwrap_or_default()))
        });
        Ok(told.collect())
    }

    /// The last lines of a container, of its last run where it is between two.
    async fn last_words(&self, pod: &Pod, container: &str) -> String {
        let api = self.api::<Pod>();
        let name = pods::name(&pod.metadata);
        for previous in [false, true] {
            let params = LogParams {
                container: Some(container.to_owned()),
                previous,
                tail_lines: Some(LAST_WORDS),
                ..LogParams::default()
            };
            if let Ok(text) = self.ask("read the last words", api.logs(name, &params)).await
                && !text.trim().is_empty()
            {
                return format!("; its last words:\n{}", text.trim_end());
            }
        }
        String::new()
    }
}

/// Classes whose driver has not learnt it say so in words of their own, or in none.
fn mode_hint(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::ReadWriteOncePod => {
            "; where its storage class does not know ReadWriteOncePod, set kubernetes.access_mode: read_write_once"
        }
        AccessMode::ReadWriteOnce => "",
    }
}

/// A thing itself, or one that was made for it: `redis-1-0` of `redis-1`.
fn is_of(name: &str, about: &str) -> bool {
    name.strip_prefix(about).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// What an end means for whom is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    IsDone,
    IsTrouble,
}

/// Judges a pod that should come up, and the lack of one.
struct Trouble<'a> {
    engine: &'a KubernetesEngine,
    operation: &'a str,
    /// Events about this name explain why there is no pod.
    about: &'a str,
    begin: u64,
    started: Instant,
    unschedulable_since: std::sync::Mutex<Option<Instant>>,
    untaken_since: std::sync::Mutex<Option<Instant>>,
    unended_since: std::sync::Mutex<Option<Instant>>,
    /// How often it was restarted, and when it was first seen up since.
    up_since: std::sync::Mutex<Option<(i32, Instant)>>,
}

/// How long something has been so without a break.
fn lasting(since: &std::sync::Mutex<Option<Instant>>, is_now: bool) -> Duration {
    let mut since = since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !is_now {
        *since = None;
        return Duration::ZERO;
    }
    since.get_or_insert_with(Instant::now).elapsed()
}

impl<'a> Trouble<'a> {
    fn new(engine: &'a KubernetesEngine, operation: &'a str, about: &'a str) -> Self {
        let begin = provisioner_core::clock::unix_seconds();
        Self {
            engine,
            operation,
            about,
            begin,
            started: Instant::now(),
            unschedulable_since: std::sync::Mutex::default(),
            untaken_since: std::sync::Mutex::default(),
            unended_since: std::sync::Mutex::default(),
            up_since: std::sync::Mutex::default(),
        }
    }

    /// One that was started again counts once it stays up: between two ends it is up as well.
    fn is_steady(&self, pod: &Pod) -> bool {
        let restarts = pods::main_status(pod).map_or(0, |status| status.restart_count);
        let mut up = self.up_since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let since = up.filter(|(counted, _)| *counted == restarts).map_or_else(Instant::now, |(_, since)| since);
        *up = Some((restarts, since));
        restarts == 0 || since.elapsed() >= STEADY
    }

    async fn judge(&self, pod: Option<Pod>, ending: Ending) -> Result<Seen<Pod>, EngineError> {
        let failed = |why: String| Err(EngineError::failed(self.operation, why));
        let Some(pod) = pod else {
            lasting(&self.unschedulable_since, false);
            lasting(&self.untaken_since, false);
            lasting(&self.unended_since, false);
            if self.started.elapsed() < TICK {
                return Ok(Seen::Pending("there is no pod yet".to_owned()));
            }
            let refused = self.engine.warnings(&["FailedCreate"], self.about, self.begin).await?;
            return match refused.into_iter().next_back() {
                Some(why) => failed(why),
                None => Ok(Seen::Pending("there is no pod yet".to_owned())),
            };
        };
        let progress = pods::progress(&pod);
        let untaken_by = pods::untaken_by(&pod);
        let untaken = lasting(&self.untaken_since, untaken_by.is_some());
        if let Some(node) = untaken_by.filter(|_| untaken > UNTAKEN_LIMIT) {
            return failed(format!("node {node} does not answer: it has not taken pod {}", pods::name(&pod.metadata)));
        }
        let stuck = lasting(&self.unschedulable_since, matches!(progress, Progress::Unschedulable(_)));
        match progress {
            Progress::Up if ending == Ending::IsTrouble && !self.is_steady(&pod) => {
                Ok(Seen::Pending("it ended and was started again".to_owned()))
            }
            Progress::Ended(code) if ending == Ending::IsTrouble => {
                Ok(Seen::Pending(format!("it ended with {code} and is started again")))
            }
            Progress::Up | Progress::Ended(_) => Ok(Seen::Done(pod)),
            Progress::Pending(why) => match self.pending_claim(&pod).await? {
                Some(claim) => failed(claim),
                None => Ok(Seen::Pending(why)),
            },
            Progress::Unschedulable(why) => {
                let claim = self.pending_claim(&pod).await?;
                let is_volume = why.contains("PersistentVolumeClaim") && !why.contains("not found");
                match claim {
                    Some(claim) => failed(format!("{why}; {claim}")),
                    None if stuck > UNSCHEDULABLE_LIMIT && !is_volume => failed(why),
                    None if is_volume => match self.unended_holder(&pod).await? {
                        Some(holder) => failed(holder),
                        None => Ok(Seen::Pending(why)),
                    },
                    None => Ok(Seen::Pending(why)),
                }
            }
            Progress::Failed { container, why } => {
                let words = match &container {
                    Some(container) => self.engine.last_words(&pod, container).await,
                    None => String::new(),
                };
                failed(format!("{why}{words}"))
            }
        }
    }

    /// Another pod has the volume and was told to go, and its node lets the time for that pass.
    async fn unended_holder(&self, pod: &Pod) -> Result<Option<String>, EngineError> {
        let claims: Vec<&str> = pod.spec.iter().flat_map(pods::claims).collect();
        let all = self.engine.list::<Pod>("").await?;
        let leaving = all.iter().filter(|other| pods::is_leaving(other) && !pods::is_done(other));
        let found = leaving.filter_map(|other| {
            let claim = other.spec.iter().flat_map(pods::claims).find(|claim| claims.contains(claim))?;
            Some((other, claim))
        });
        let found = found.min_by_key(|(other, _)| pods::grace(other));
        let waited = lasting(&self.unended_since, found.is_some());
        Ok(found.filter(|(other, _)| waited > pods::grace(other) + UNTAKEN_LIMIT).map(|(other, claim)| {
            let (node, holder) = (pods::node(other).unwrap_or("no node"), pods::name(&other.metadata));
            format!("node {node} does not answer: it has not ended pod {holder}, which has claim {claim}")
        }))
    }

    /// Why a volume that the pod needs cannot be made or attached.
    async fn pending_claim(&self, pod: &Pod) -> Result<Option<String>, EngineError> {
        let is_placed = pod.status.as_ref().is_some_and(|status| status.container_statuses.is_some());
        if is_placed || self.started.elapsed() < TICK {
            return Ok(None);
        }
        let claims: Vec<&str> = pod.spec.iter().flat_map(pods::claims).collect();
        for claim in claims {
            let told = self.engine.warnings(&["ProvisioningFailed", "FailedBinding"], claim, self.begin).await?;
            if let Some(why) = told.into_iter().next_back() {
                let helps = mode_hint(self.engine.kubernetes.options.access_mode);
                return Ok(Some(format!("volume {claim} is pending, {why}{helps}")));
            }
        }
        Ok(None)
    }
}
