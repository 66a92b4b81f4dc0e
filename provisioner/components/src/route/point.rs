//! Points the route: old targets off on every route member, proven; then the new ones on.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use provisioner_core::component::{Access, Task};
use provisioner_core::engine::Power;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look, WaitError};

use super::state::{Administered, RO, RW, Shown, administered, shown};
use super::{NAME, POINT};

/// Closing cuts sessions at once; this bounds a socket that answers slowly on a busy machine.
const CLOSED_LIMIT: Duration = Duration::from_secs(5);
/// The target was usable a moment ago; what is left is the route's DNS (500 ms) and its own first check (250 ms).
const OPEN_LIMIT: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(50);

/// Where the route shall lead.
struct Target {
    writes: BTreeSet<Member>,
    reads: BTreeSet<Member>,
}

impl Target {
    fn of(&self, backend: &str) -> &BTreeSet<Member> {
        if backend == RW { &self.writes } else { &self.reads }
    }

    fn names(&self, server: &Administered) -> bool {
        self.of(&server.backend).contains(&Member::named(server.server.as_str()))
    }
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    if task.name != POINT {
        return Err(Failure::new(format!("run {task}: component {NAME} has no such task")));
    }
    let members = |key: &str| {
        let value = task.with.get(key).ok_or_else(|| Failure::new(format!("run {task}: it does not say {key}")))?;
        Ok::<_, Failure>(value.split(' ').map(Member::named).collect::<BTreeSet<_>>())
    };
    let target = Target { writes: members(RW)?, reads: members(RO)? };
    let route: Vec<&Member> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    // Nothing is opened anywhere while any route member may still lead to an old target.
    let told = join_all(route.iter().map(|member| close(access, member, &target))).await;
    let (mut open, mut untold) = (Vec::new(), None);
    for (member, told) in route.into_iter().zip(told) {
        match told {
            Ok(()) => open.push(member),
            Err(failure) => {
                stop(access, member, &failure).await?;
                untold = Some(failure);
            }
        }
    }
    for opened in join_all(open.into_iter().map(|member| lead(access, member, &target))).await {
        opened?;
    }
    // The others lead where they should by now; that one is missing is still no success.
    untold.map_or(Ok(()), |failure| Err(failure.hint("provisioner up")))
}

/// A route member that cannot be told leads to nobody once it is down.
async fn stop(access: &Access<'_>, member: &Member, failure: &Failure) -> Result<(), Failure> {
    access.output.line(&format!("{member} cannot be told where to lead, so it is stopped: {}", failure.chain()));
    access.engine.set(member, Power::Killed).await?;
    access.engine.stopped(member).await?;
    Ok(())
}

async fn close(access: &Access<'_>, member: &Member, target: &Target) -> Result<(), Failure> {
    let servers = administered(&command(access, member, "show servers state").await?);
    if servers.is_empty() {
        return Err(Failure::new(format!("ask {member}: its answer names no server")));
    }
    let commands: Vec<String> = servers
        .iter()
        .filter(|server| !target.names(server))
        .map(|Administered { backend, server, .. }| {
            format!("set server {backend}/{server} state maint; shutdown sessions server {backend}/{server}")
        })
        .collect();
    if !commands.is_empty() {
        command(access, member, &commands.join("; ")).await?;
    }
    let waited = wait::until(CLOSED_LIMIT, EVERY, async || match still_open(access, member, target).await {
        Ok(None) => Look::Done(()),
        Ok(Some(why)) => Look::Pending(why),
        Err(failure) => Look::Broken(failure),
    });
    waited.await.map_err(|error| flat(format!("close the old targets of {member}"), error))
}

/// Read back: every old target is closed and has no session left.
async fn still_open(access: &Access<'_>, member: &Member, target: &Target) -> Result<Option<String>, Failure> {
    let state = administered(&command(access, member, "show servers state").await?);
    if let Some(server) = state.iter().find(|server| server.is_open && !target.names(server)) {
        return Ok(Some(format!("{}/{} is open", server.backend, server.server)));
    }
    let counted = shown(&command(access, member, "show stat").await?);
    let is_old = |row: &&Shown| !target.of(&row.backend).contains(&Member::named(row.server.as_str()));
    let busy = counted.iter().filter(|row| row.backend == RW || row.backend == RO).filter(is_old);
    Ok(busy
        .filter(|row| row.sessions > 0)
        .map(|row| format!("{}/{} has {} sessions", row.backend, row.server, row.sessions))
        .next())
}

async fn lead(access: &Access<'_>, member: &Member, target: &Target) -> Result<(), Failure> {
    let commands: Vec<String> = [RW, RO]
        .iter()
        .flat_map(|backend| target.of(backend).iter().map(move |server| format!("set server {backend}/{server} state ready")))
        .collect();
    let answer = command(access, member, &commands.join("; ")).await?;
    // Accepted commands are answered by nothing.
    if !answer.trim().is_empty() {
        return Err(Failure::new(format!("open {member}: it answers {:?}", answer.trim())));
    }
    let waited = wait::until(OPEN_LIMIT, EVERY, async || {
        match command(access, member, "show servers state").await {
            Ok(text) => match not_leading(&administered(&text), target) {
                None => Look::Done(()),
                Some(why) => Look::Pending(why),
            },
            Err(failure) => Look::Broken(failure),
        }
    });
    waited.await.map_err(|error| flat(format!("open {member}"), error))
}

/// Writes must work when this is over. Replicas may still be on their way: the route's checks let them in.
fn not_leading(state: &[Administered], target: &Target) -> Option<String> {
    let closed = state.iter().find(|server| target.names(server) && !server.is_open);
    if let Some(server) = closed {
        return Some(format!("{}/{} is closed", server.backend, server.server));
    }
    let down = state.iter().find(|server| server.backend == RW && target.names(server) && !server.is_up);
    down.map(|server| format!("{}/{} is down by the route's own check", server.backend, server.server))
}

fn flat(context: String, error: WaitError<Failure>) -> Failure {
    match error {
        WaitError::Broken(failure) => Failure::because(context, failure),
        WaitError::TimedOut { .. } => Failure::new(format!("{context}: {error}")),
    }
}

/// Several commands with `;` between them are answered one after the other.
pub(super) async fn command(access: &Access<'_>, member: &Member, commands: &str) -> Result<String, Failure> {
    let argv = ["socat", "-t10", "-", "UNIX-CONNECT:/run/haproxy/admin.sock"].map(str::to_owned);
    let stdin = Bytes::from(format!("{commands}\n"));
    let executed = access.engine.exec(member, &argv, Some(stdin)).await?.finish().await?;
    if executed.exit_code != 0 {
        let failure = Failure::new(format!("tell {member}: exit code {}, expected 0", executed.exit_code));
        return Err(failure.output(executed.stderr));
    }
    Ok(executed.stdout)
}
