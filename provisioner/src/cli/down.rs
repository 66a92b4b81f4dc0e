//! `down`: removes members and network. Data goes only when that was asked for.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use provisioner_core::component::{Dependency, Situation};
use provisioner_core::engine::Engine;
use provisioner_core::lease::{self, Lease};
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Plan, Step, StepId};
use provisioner_core::record::RecordError;
use provisioner_core::stack::{Resource, ResourceId, Stack};
use serde_json::json;

use super::Call;
use super::apply::{under_lease, walk};
use super::exit::{Exit, Stop};
use super::plan as plan_verb;
use crate::context::Context;

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    /// Remove data, secrets and records too, for good
    #[arg(short = 'v', long)]
    volumes: bool,

    /// Say what would be removed; reads only
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn down(call: &Call<'_>, arguments: &DownArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_look(call)).await??;
    let observed = call.cut(context.snapshot()).await??;
    let first = removals(&context, &observed, arguments.volumes);
    if arguments.dry_run {
        plan_verb::show(call, &context, &first)?;
        return Ok(Exit::Done);
    }
    let records = observed.records.0.len();
    let name = context.name();
    for member in observed.workloads.iter().filter(|(_, workload)| workload.spec.is_none()).map(|(member, _)| member) {
        call.printer.note(&format!("left alone: what stands under the name of {member} is not of this stack"));
    }
    if first.is_empty() && (records == 0 || !arguments.volumes) {
        call.printer.note(&format!("nothing to do: stack {name} is down"));
    } else {
        let what = match arguments.volumes {
            true => format!("remove stack {name} with all its data, for good"),
            false => format!("remove the members of stack {name}; its data stays"),
        };
        call.confirm(&context, &what).await?;
        under_lease(call, &context, async |lease| take_down(call, &context, lease, arguments.volumes).await).await?;
    }
    let left: Vec<&String> = if arguments.volumes { Vec::new() } else { observed.volumes.iter().collect() };
    let value = json!({"stack": name, "removed": first.steps.len(), "volumes_kept": left});
    call.printer.data(&value, || {
        let mut text = format!("stack {name} is down\n");
        if !left.is_empty() {
            let names: Vec<&str> = left.iter().map(|name| name.as_str()).collect();
            text.push_str(&format!("  kept     volumes {}\n", names.join(", ")));
            text.push_str(&format!("  next     {}\n", call.settings.again("up")));
            text.push_str(&format!("  next     {} (removes the data too)\n", call.settings.again("down --volumes")));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Looks again now that nobody else can change anything, and removes what is there.
pub(super) async fn take_down(
    call: &Call<'_>,
    context: &Context,
    lease: &Lease,
    with_data: bool,
) -> anyhow::Result<()> {
    let observed = call.cut(context.snapshot()).await??;
    let plan = removals(context, &observed, with_data);
    let walk = walk(call, context, plan, &observed, lease).await;
    walk.conclude(call, context, if with_data { "down --volumes" } else { "down" }).await?;
    if with_data {
        forget(&*context.engine).await?;
    }
    Ok(())
}

/// Whoever uses another member goes before it, so that nobody meets a service that is gone; data goes last.
fn removals(context: &Context, observed: &Observed, with_data: bool) -> Plan {
    let mut steps: Vec<Step> = Vec::new();
    let mut add = |id: ResourceId, after: Vec<StepId>, because: &str| {
        let step = StepId(steps.len() + 1);
        steps.push(Step { id: step, action: Action::Remove { id }, because: because.to_owned(), after });
        step
    };
    let is_there = observed.network.is_there() || !observed.is_empty() || !observed.secrets.is_empty();
    let mut earlier: Vec<StepId> = Vec::new();
    for rank in ranks(context, observed) {
        let these: Vec<StepId> = rank
            .into_iter()
            .map(|member| add(ResourceId::Workload(member), earlier.clone(), "the stack goes down"))
            .collect();
        earlier = these;
    }
    // Jobs that a killed run left go with the network, and they may hold volumes.
    if observed.network.is_there() || !observed.workloads.is_empty() || (with_data && is_there) {
        earlier = vec![add(ResourceId::Network, earlier.clone(), "the stack goes down")];
    }
    if with_data {
        for volume in &observed.volumes {
            add(ResourceId::Volume(volume.clone()), earlier.clone(), "--volumes asks for it");
        }
        let is_secret = |resource: &&Resource| matches!(resource, Resource::Secret(_));
        let declared = context.stack.resources().filter(is_secret).map(Resource::id);
        let found = observed.secrets.keys().cloned().map(ResourceId::Secret);
        // After a `down` that kept them their values cannot be read, so they are not observed, but they are there.
        let secrets: BTreeSet<ResourceId> = found.chain(declared.filter(|_| !observed.records.0.is_empty())).collect();
        for id in secrets {
            add(id, earlier.clone(), "--volumes asks for it");
        }
    }
    Plan { steps, withheld: Vec::new() }
}

/// The members that exist, in groups: no group is used by a later one.
pub(super) fn ranks(context: &Context, observed: &Observed) -> Vec<Vec<Member>> {
    let uses = uses(context, observed);
    let mut left: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    // What somebody else put under a member's name is neither stopped nor removed.
    for (member, workload) in observed.workloads.iter().filter(|(_, workload)| workload.spec.is_some()) {
        left.entry(workload.component.clone()).or_default().push(member.clone());
    }
    let mut ranks = Vec::new();
    while !left.is_empty() {
        let is_used = |name: &String| {
            left.keys().any(|other| other != name && uses.get(other).is_some_and(|used| used.contains(name)))
        };
        let free: Vec<String> = left.keys().filter(|name| !is_used(name)).cloned().collect();
        // A circle of components is refused by the plan of `up`; here the rest simply goes together.
        let free = if free.is_empty() { left.keys().cloned().collect() } else { free };
        ranks.push(free.iter().filter_map(|name| left.remove(name)).flatten().collect());
    }
    ranks
}

/// Component to the components that must be there before it, as members and tasks say.
fn uses(context: &Context, observed: &Observed) -> BTreeMap<String, BTreeSet<String>> {
    let stack = &context.stack;
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |user: &str, dependencies: &[Dependency]| {
        let used = dependencies.iter().filter_map(|dependency| component_of(stack, dependency));
        uses.entry(user.to_owned()).or_default().extend(used);
    };
    for workload in stack.workloads() {
        note(&workload.component, &workload.after);
    }
    let situation = Situation { stack, observed, changing: &BTreeSet::new() };
    for component in &context.components {
        for planned in component.tasks(&situation).tasks {
            note(&planned.task.component, &planned.after);
        }
    }
    uses
}

fn component_of(stack: &Stack, dependency: &Dependency) -> Option<String> {
    match dependency {
        Dependency::Ready(member) | Dependency::Resource(ResourceId::Workload(member)) => {
            stack.workload(member).map(|workload| workload.component.clone())
        }
        Dependency::Task { component, .. } => Some(component.clone()),
        Dependency::Resource(_) => None,
    }
}

/// Records live exactly as long as the data. The lock is given back by whoever holds it.
pub(super) async fn forget(engine: &dyn Engine) -> anyhow::Result<()> {
    let records = engine.observe().await?.records;
    for (key, record) in records.0.iter().filter(|(key, _)| *key != lease::KEY) {
        match engine.records().remove_if(key, record.version).await {
            Ok(()) => {}
            Err(RecordError::Conflict { .. }) => {
                let message = format!("remove record {key}: somebody writes it although the stack is down");
                return Err(Stop::new(Exit::Error, message).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
