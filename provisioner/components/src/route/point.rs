//! Points the route: old targets off on every route member, proven; then the new ones on. A change of the primary does the
//! first beside the promotion.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use provisioner_core::component::{Access, Task};
use provisioner_core::engine::{Executed, Power};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;

use super::held::Held;
use super::state::{Administered, RO, RW, administered};
use super::{CLOSE, CLOSED, FENCED, HOLD, NAME, POINT, SCRIPT};
use crate::order::Order;

/// What an order prints after its account once the old targets are closed.
const HAS_CLOSED: &[u8] = b"closed\n";

/// Where the route shall lead.
struct Target {
    writes: BTreeSet<Member>,
    reads: BTreeSet<Member>,
    /// The old primary can acknowledge nothing any more.
    is_fenced: bool,
}

impl Target {
    fn of(task: &Task) -> Result<Self, Failure> {
        let members = |key: &str| {
            let value = task.with.get(key).ok_or_else(|| Failure::new(format!("run {task}: it does not say {key}")))?;
            Ok::<_, Failure>(value.split(' ').map(Member::named).collect::<BTreeSet<_>>())
        };
        Ok(Self { writes: members(RW)?, reads: members(RO)?, is_fenced: task.with.contains_key(FENCED) })
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

pub(super) async fn run(task: &Task, access: &Access<'_>, held: &Held) -> Result<(), Failure> {
    let target = Target::of(task)?;
    let route: Vec<&Member> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    match task.name.as_str() {
        POINT => point(task, access, &route, &target, held).await,
        HOLD => hold_all(access, &route, &target, held).await,
        CLOSE => close_held(access, &route, &target, held).await,
        _ => Err(Failure::new(format!("run {task}: component {NAME} has no such task"))),
    }
}

async fn point(
    task: &Task,
    access: &Access<'_>,
    route: &[&Member],
    target: &Target,
    held: &Held,
) -> Result<(), Failure> {
    let is_closed = task.with.contains_key(CLOSED);
    // Where there is one member, its own order is everybody's. What does not come through is told again, in two orders.
    let at_once = match route {
        _ if is_closed => join_all(route.iter().map(|member| reopen(access, member, target, held))).await,
        [member] => vec![lead(access, member, target).await],
        _ => Vec::new(),
    };
    let mut at_once = at_once.iter().map(Result::is_ok);
    let again: Vec<&Member> = route.iter().copied().filter(|_| at_once.next() != Some(true)).collect();
    let Closed { told, untold } = close_all(access, &again, target).await?;
    let leads = again.len() < route.len() || !told.is_empty();
    for opened in join_all(told.into_iter().map(|member| open(access, member, target))).await {
        opened?;
    }
    // The others lead where they should by now. That one is missing is still no success, but the rest of a change of the
    // primary must not wait for it.
    match untold {
        Some(failure) if leads && is_closed => {
            access.output.tell(&format!("the route leads there by fewer members than it has: {}", failure.chain()));
            Ok(())
        }
        Some(failure) => Err(failure.hint("provisioner up")),
        None => Ok(()),
    }
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
                stop(access, member, target, &failure).await?;
                closed.untold = Some(failure);
            }
        }
    }
    Ok(closed)
}

async fn lead(access: &Access<'_>, member: &Member, target: &Target) -> Result<(), Failure> {
    check_led(member, target, &tell(access, member, "lead", target).await?)
}

/// Has an order ready in every member that can be told; with none there would be no way to the new primary.
async fn hold_all(access: &Access<'_>, route: &[&Member], target: &Target, held: &Held) -> Result<(), Failure> {
    let given = join_all(route.iter().map(|member| give(access, member, target))).await;
    let mut untold = None;
    let mut count = 0;
    for (member, given) in route.iter().zip(given) {
        match given {
            Ok(order) => {
                held.keep(member, order);
                count += 1;
            }
            // Stopped when it is to close.
            Err(failure) => untold = Some(failure),
        }
    }
    untold.filter(|_| count == 0).map_or(Ok(()), Err)
}

async fn give(access: &Access<'_>, member: &Member, target: &Target) -> Result<Order, Failure> {
    Order::give(access, member, &argv("hold", target)).await
}

/// Closes the old targets everywhere; each order waits for the word to open. Whoever cannot be told is stopped, which is as good
/// here: opening it is what fails.
async fn close_held(access: &Access<'_>, route: &[&Member], target: &Target, held: &Held) -> Result<(), Failure> {
    let results = join_all(route.iter().map(|member| close_one(access, member, target, held))).await;
    for (member, result) in route.iter().zip(results) {
        if let Err(failure) = result {
            stop(access, member, target, &failure).await?;
        }
    }
    Ok(())
}

async fn close_one(access: &Access<'_>, member: &Member, target: &Target, held: &Held) -> Result<(), Failure> {
    let mut order = match held.take(member) {
        Some(order) => order,
        None => give(access, member, target).await?,
    };
    let said = order.tell("close", |stdout| stdout.ends_with(HAS_CLOSED)).await?;
    check_closed(member, target, &servers_in(member, &String::from_utf8_lossy(&said.stdout))?)?;
    held.keep(member, order);
    Ok(())
}

/// By the order that waits in the member, or by another one where it has none: it was closed by a run that was killed.
async fn reopen(access: &Access<'_>, member: &Member, target: &Target, held: &Held) -> Result<(), Failure> {
    let servers = match held.take(member) {
        Some(order) => account(member, order.conclude("open").await?)?,
        None => tell(access, member, "open", target).await?,
    };
    check_led(member, target, &servers)
}

fn check_led(member: &Member, target: &Target, servers: &[Administered]) -> Result<(), Failure> {
    check_closed(member, target, servers)?;
    check_open(member, target, servers)
}

/// A route member that cannot be told leads to nobody once it is down. Where its old target is fenced, whoever it still leads
/// there is acknowledged nothing, and its end need not be proven: its machine may be cut off together with the primary.
async fn stop(access: &Access<'_>, member: &Member, target: &Target, failure: &Failure) -> Result<(), Failure> {
    access.output.line(&format!("{member} cannot be told where to lead, so it is stopped: {}", failure.chain()));
    let stopped = async {
        access.engine.set(member, Power::Killed).await?;
        access.engine.stopped(member).await
    };
    match stopped.await {
        Err(error) if target.is_fenced => {
            access.output.tell(&format!("{member} leads to what is fenced, if it still leads anywhere: {error}"));
            Ok(())
        }
        stopped => Ok(stopped.map(|_| ())?),
    }
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
    read(access, member, &argv(verb, target)).await
}

fn argv(verb: &str, target: &Target) -> Vec<String> {
    ["/bin/sh", SCRIPT, verb].map(str::to_owned).into_iter().chain(target.servers()).collect()
}

/// What HAProxy says about its servers.
pub(super) async fn servers(access: &Access<'_>, member: &Member) -> Result<Vec<Administered>, Failure> {
    let command = "echo show servers state | socat -t5 - UNIX-CONNECT:/run/haproxy/admin.sock";
    read(access, member, &["/bin/sh", "-c", command].map(str::to_owned)).await
}

async fn read(access: &Access<'_>, member: &Member, argv: &[String]) -> Result<Vec<Administered>, Failure> {
    account(member, access.engine.exec(member, argv, None).await?.finish().await?)
}

fn account(member: &Member, executed: Executed) -> Result<Vec<Administered>, Failure> {
    if executed.exit_code != 0 {
        let failure = Failure::new(format!("tell {member}: exit code {}, expected 0", executed.exit_code));
        return Err(failure.output(executed.stderr));
    }
    servers_in(member, &executed.stdout)
}

/// HAProxy's own account of its servers, which is the last that every order prints.
fn servers_in(member: &Member, printed: &str) -> Result<Vec<Administered>, Failure> {
    let servers = administered(printed);
    if servers.is_empty() {
        return Err(Failure::new(format!("tell {member}: its answer names no server")).output(printed.to_owned()));
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use provisioner_core::component::Component as _;
    use provisioner_core::engine::{ImageReferences, Output};
    use provisioner_core::stack::Stack;
    use provisioner_core::testing::memory::MemoryEngine;

    use super::*;
    use crate::route::{Route, close_task, fenced};
    use crate::testing::{manifest, settled};

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Output for Told {
        fn line(&self, _line: &str) {}

        fn tell(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    /// In a world where nothing comes of ending it, and nothing proves that it ended by itself.
    async fn stop_cut_off(task: &Task) -> (Result<(), Failure>, Vec<String>) {
        let manifest = manifest();
        let stack = Stack::new(manifest.name.clone(), Route::default().declare(&manifest));
        let observed = settled(&stack);
        let engine = MemoryEngine::with(stack.name.clone(), observed.clone());
        engine.fail_after(Some(0));
        let (told, images) = (Told::default(), ImageReferences::default());
        let access = Access { engine: &engine, stack: &stack, observed: &observed, images: &images, output: &told };
        let target = Target::of(task).unwrap();
        let result = stop(&access, &Member::nth(NAME, 1), &target, &Failure::new("no answer")).await;
        (result, told.0.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_member_that_may_lead_to_an_old_primary_that_serves_stops_the_change() {
        let (primary, none) = (Member::nth("postgres", 2), BTreeSet::new());
        let (result, _) = stop_cut_off(&close_task(&primary, &none)).await;
        assert_eq!(result.unwrap_err().chain(), "set route-1 Killed: the engine is gone");
    }

    #[tokio::test]
    async fn a_member_that_may_lead_to_a_fenced_primary_is_told_and_no_obstacle() {
        let (primary, none) = (Member::nth("postgres", 2), BTreeSet::new());
        let (result, told) = stop_cut_off(&fenced(close_task(&primary, &none))).await;
        result.unwrap();
        let failed = "set route-1 Killed: the engine is gone";
        assert_eq!(told, [format!("route-1 leads to what is fenced, if it still leads anywhere: {failed}")]);
    }
}
