//! Points the route: old targets off on every route member, proven; then the new ones on. A change of the primary does the
//! first beside the promotion.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use provisioner_core::component::{Access, Task};
use provisioner_core::engine::Power;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;

use super::state::{Administered, RO, RW, administered};
use super::{CLOSE, CLOSED, NAME, POINT, SCRIPT};

/// Where the route shall lead.
struct Target {
    writes: BTreeSet<Member>,
    reads: BTreeSet<Member>,
}

impl Target {
    fn of(task: &Task) -> Result<Self, Failure> {
        let members = |key: &str| {
            let value = task.with.get(key).ok_or_else(|| Failure::new(format!("run {task}: it does not say {key}")))?;
            Ok::<_, Failure>(value.split(' ').map(Member::named).collect::<BTreeSet<_>>())
        };
        Ok(Self { writes: members(RW)?, reads: members(RO)? })
    }

    fn names(&self, server: &Administered) -> bool {
        let members = if server.backend == RW { &self.writes } else { &self.reads };
        members.contains(&Member::named(server.server.as_str()))
    }

    /// As haproxy.cfg names them.
    fn servers(&self) -> impl Iterator<Item = String> {
        let named = |backend: &'static str| move |member: &Member| format!("{backend}/{member}");
        self.writes.iter().map(named(RW)).chain(self.reads.iter().map(named(RO)))
    }
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let target = Target::of(task)?;
    let route: Vec<&Member> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    match task.name.as_str() {
        POINT => point(task, access, &route, &target).await,
        // Whoever could not be told is stopped, and that is as good here: opening it is what fails.
        CLOSE => close_all(access, &route, &target).await.map(drop),
        _ => Err(Failure::new(format!("run {task}: component {NAME} has no such task"))),
    }
}

async fn point(task: &Task, access: &Access<'_>, route: &[&Member], target: &Target) -> Result<(), Failure> {
    // Where there is one member, its own order is everybody's. An exec costs 0.1 s while the engine is busy, so there is
    // one; what does not come through is told again, in two.
    let verb = match route {
        _ if task.with.contains_key(CLOSED) => Some("open"),
        [_] => Some("lead"),
        _ => None,
    };
    if let Some(verb) = verb {
        let led = join_all(route.iter().map(|member| lead(access, member, verb, target))).await;
        if led.iter().all(Result::is_ok) {
            return Ok(());
        }
    }
    let Closed { told, untold } = close_all(access, route, target).await?;
    for opened in join_all(told.into_iter().map(|member| open(access, member, target))).await {
        opened?;
    }
    // The others lead where they should by now; that one is missing is still no success.
    untold.map_or(Ok(()), |failure| Err(failure.hint("provisioner up")))
}

/// Who has closed its old targets, and why another one has not and was stopped.
struct Closed<'a> {
    told: Vec<&'a Member>,
    untold: Option<Failure>,
}

/// Nothing is opened anywhere while any route member may still lead to an old target.
async fn close_all<'a>(access: &Access<'_>, route: &[&'a Member], target: &Target) -> Result<Closed<'a>, Failure> {
    let results = join_all(route.iter().map(|member| close(access, member, target))).await;
    let mut closed = Closed { told: Vec::new(), untold: None };
    for (member, result) in route.iter().zip(results) {
        match result {
            Ok(()) => closed.told.push(member),
            Err(failure) => {
                stop(access, member, &failure).await?;
                closed.untold = Some(failure);
            }
        }
    }
    Ok(closed)
}

async fn lead(access: &Access<'_>, member: &Member, verb: &str, target: &Target) -> Result<(), Failure> {
    let servers = tell(access, member, verb, target).await?;
    check_closed(member, target, &servers)?;
    check_open(member, target, &servers)
}

/// A route member that cannot be told leads to nobody once it is down.
async fn stop(access: &Access<'_>, member: &Member, failure: &Failure) -> Result<(), Failure> {
    access.output.line(&format!("{member} cannot be told where to lead, so it is stopped: {}", failure.chain()));
    access.engine.set(member, Power::Killed).await?;
    access.engine.stopped(member).await?;
    Ok(())
}

async fn close(access: &Access<'_>, member: &Member, target: &Target) -> Result<(), Failure> {
    check_closed(member, target, &tell(access, member, "only", target).await?)
}

fn check_closed(member: &Member, target: &Target, servers: &[Administered]) -> Result<(), Failure> {
    match servers.iter().find(|server| server.is_open && !target.names(server)) {
        None => Ok(()),
        Some(Administered { backend, server, .. }) => {
            Err(Failure::new(format!("close the old targets of {member}: {backend}/{server} is open, expected closed")))
        }
    }
}

async fn open(access: &Access<'_>, member: &Member, target: &Target) -> Result<(), Failure> {
    check_open(member, target, &tell(access, member, "open", target).await?)
}

fn check_open(member: &Member, target: &Target, servers: &[Administered]) -> Result<(), Failure> {
    let open: BTreeSet<String> = servers
        .iter()
        .filter(|server| server.is_open)
        .map(|Administered { backend, server, .. }| format!("{backend}/{server}"))
        .collect();
    match target.servers().find(|server| !open.contains(server)) {
        None => Ok(()),
        Some(server) => Err(Failure::new(format!("open {member}: {server} is closed or missing, expected open"))),
    }
}

/// One exec a verb: each costs more than everything that the script does inside.
async fn tell(access: &Access<'_>, member: &Member, verb: &str, target: &Target) -> Result<Vec<Administered>, Failure> {
    let mut argv = ["/bin/sh", SCRIPT, verb].map(str::to_owned).to_vec();
    argv.extend(target.servers());
    read(access, member, &argv).await
}

/// What HAProxy says about its servers.
pub(super) async fn servers(access: &Access<'_>, member: &Member) -> Result<Vec<Administered>, Failure> {
    let command = "echo show servers state | socat -t5 - UNIX-CONNECT:/run/haproxy/admin.sock";
    read(access, member, &["/bin/sh", "-c", command].map(str::to_owned)).await
}

async fn read(access: &Access<'_>, member: &Member, argv: &[String]) -> Result<Vec<Administered>, Failure> {
    let executed = access.engine.exec(member, argv, None).await?.finish().await?;
    if executed.exit_code != 0 {
        let failure = Failure::new(format!("tell {member}: exit code {}, expected 0", executed.exit_code));
        return Err(failure.output(executed.stderr));
    }
    let servers = administered(&executed.stdout);
    if servers.is_empty() {
        return Err(Failure::new(format!("tell {member}: its answer names no server")).output(executed.stdout));
    }
    Ok(servers)
}
