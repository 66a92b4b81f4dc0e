//! `status`: members, roles, states and addresses, as the engine and the records tell them.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::component::Entrypoint;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::Observed;
use serde::Serialize;

use super::Call;
use super::exit::Exit;
use crate::context::Context;
use crate::table::{Table, Tone};

#[derive(Serialize)]
pub(super) struct Status {
    stack: StackName,
    members: Vec<MemberStatus>,
    pub(super) entrypoints: Vec<Entrypoint>,
}

#[derive(Serialize)]
struct MemberStatus {
    component: String,
    member: Member,
    role: Option<String>,
    state: String,
    image: String,
    /// Name of a port to where it is reached from the operator's machine.
    addresses: BTreeMap<String, String>,
}

pub(super) async fn status(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.snapshot().await?;
    let status = Status::of(&context, &observed);
    call.printer.data(&status, || status.human(call.printer.is_colored()))?;
    Ok(Exit::Done)
}

impl Status {
    pub(super) fn of(context: &Context, observed: &Observed) -> Self {
        let declared = context.stack.workloads().map(|workload| &workload.member);
        let names: BTreeSet<&Member> = declared.chain(observed.workloads.keys()).collect();
        let place = |status: &MemberStatus| {
            context.components.iter().position(|component| component.name() == status.component).unwrap_or(usize::MAX)
        };
        let mut members: Vec<MemberStatus> = names.into_iter().map(|name| member(context, observed, name)).collect();
        members.sort_by_key(place);
        let entrypoints = context.components.iter().flat_map(|component| component.entrypoints(&context.stack));
        Self { stack: context.name().clone(), entrypoints: entrypoints.collect(), members }
    }

    fn human(&self, color: bool) -> String {
        let mut table = Table::with_header(&["MEMBER", "ROLE", "STATE", "ADDRESSES", "IMAGE"]);
        for MemberStatus { member, role, state, image, addresses, .. } in &self.members {
            let tone = if state == "running" { Tone::Good } else { Tone::Bad };
            let addresses: Vec<String> = addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
            table.row(vec![
                (member.to_string(), None),
                (role.clone().unwrap_or_else(|| "-".to_owned()), None),
                (state.clone(), Some(tone)),
                (addresses.join(" "), None),
                (image.clone(), None),
            ]);
        }
        let mut text = table.render(color);
        if !self.entrypoints.is_empty() {
            text.push('\n');
        }
        for Entrypoint { name, url } in &self.entrypoints {
            text.push_str(&format!("{name}: {url}\n"));
        }
        text
    }
}

fn member(context: &Context, observed: &Observed, name: &Member) -> MemberStatus {
    let wanted = context.stack.workload(name);
    let found = observed.workload(name);
    let component = wanted.map(|workload| workload.component.clone()).or(found.map(|found| found.component.clone()));
    let component = component.unwrap_or_default();
    let role = context.component(&component).and_then(|component| component.role(name, observed));
    let wanted_image = wanted.and_then(|workload| context.images.get(&workload.image).cloned());
    let port_name = |port: u16| {
        let known = wanted.and_then(|workload| workload.ports.iter().find(|known| known.port == port));
        known.map_or_else(|| port.to_string(), |known| known.name.clone())
    };
    let published = found.into_iter().flat_map(|found| &found.published);
    MemberStatus {
        component,
        member: name.clone(),
        role,
        state: found.map_or("absent", |found| found.state.word()).to_owned(),
        image: found.map(|found| found.image.clone()).or(wanted_image).unwrap_or_default(),
        addresses: published.map(|(port, address)| (port_name(*port), address.to_string())).collect(),
    }
}
