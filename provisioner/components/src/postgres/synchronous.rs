//! What a commit waits for: the manifest's policy applied to the replicas that are there.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::component::Situation;
use provisioner_core::manifest::Synchronous;
use provisioner_core::name::Member;
use provisioner_core::stack::Stack;

use super::cluster::Layout;
use super::{NAME, candidate, declare};

/// Facts of a member, by the setting or view that they come from.
pub(super) fn names_key(member: &Member) -> String {
    format!("{member}.synchronous_standby_names")
}

pub(super) fn streaming_key(member: &Member) -> String {
    format!("{member}.streaming")
}

/// The policy as the members' own configuration states it.
pub(super) fn policy(stack: &Stack) -> Synchronous {
    let stated = stack.members(NAME).find_map(|workload| candidate::stated(workload, "synchronous"));
    let known = [Synchronous::Off, Synchronous::Preferred, Synchronous::Required];
    known.into_iter().find(|policy| stated == Some(declare::policy_word(*policy))).unwrap_or(Synchronous::Off)
}

/// The value of `synchronous_standby_names` for these replicas: any one of them.
pub(super) fn names(replicas: &BTreeSet<Member>) -> String {
    if replicas.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = replicas.iter().map(|member| format!("\"{member}\"")).collect();
    format!("ANY 1 ({})", quoted.join(", "))
}

/// The replicas that such a value names.
pub(super) fn members(names: &str) -> BTreeSet<Member> {
    names.split('"').skip(1).step_by(2).map(Member::named).collect()
}

/// What is certain while one set gives way to another: a commit may be acknowledged by any member of either, and by
/// nobody at all where one of them is empty.
pub(super) fn between(found: &BTreeSet<Member>, wanted: &BTreeSet<Member>) -> BTreeSet<Member> {
    if found.is_empty() || wanted.is_empty() { BTreeSet::new() } else { found | wanted }
}

/// The replicas that commits shall be able to wait for once this plan is done.
pub(super) fn wanted(policy: Synchronous, layout: &Layout, situation: &Situation<'_>) -> BTreeSet<Member> {
    match policy {
        Synchronous::Off => BTreeSet::new(),
        Synchronous::Required => counted(situation.stack, &layout.replicas),
        Synchronous::Preferred => {
            let seen = situation.observed.fact(NAME, &streaming_key(&layout.primary));
            let is_there = |replica: &&Member| match seen {
                _ if situation.changing.contains(*replica) => true,
                Some(streaming) => streaming.split(' ').any(|name| name == replica.as_str()),
                None => situation.observed.is_running(replica),
            };
            counted(situation.stack, &layout.replicas.iter().filter(is_there).cloned().collect())
        }
    }
}

/// Those of the replicas whose word counts: what only a `nofailover` member has would be lost with the primary, for nobody
/// may be promoted who has it. Where there is nobody else its word is better than none.
pub(super) fn counted(stack: &Stack, replicas: &BTreeSet<Member>) -> BTreeSet<Member> {
    let may_lead = |member: &&Member| !candidate::attributes(stack, member).nofailover;
    let counted: BTreeSet<Member> = replicas.iter().filter(may_lead).cloned().collect();
    if counted.is_empty() { replicas.clone() } else { counted }
}

/// Why writes stand still although the policy says that they shall go on.
pub(super) fn stuck(layout: &Layout, situation: &Situation<'_>) -> Option<String> {
    let primary = &layout.primary;
    if policy(situation.stack) != Synchronous::Preferred || layout.is_new || situation.changing.contains(primary) {
        return None;
    }
    let found = situation.observed.fact(NAME, &names_key(primary))?;
    let streaming = situation.observed.fact(NAME, &streaming_key(primary))?;
    let is_heard = |replica: &Member| streaming.split(' ').any(|name| name == replica.as_str());
    (!found.is_empty() && !layout.replicas.iter().any(is_heard))
        .then(|| format!("writes wait for {found}, and no replica streams"))
}

/// Why the setting must be changed; `None`: it is as it should be, or nothing can be said and nothing is done.
pub(super) fn because(wanted: &BTreeSet<Member>, layout: &Layout, situation: &Situation<'_>) -> Option<String> {
    let wanted_names = names(wanted);
    if layout.is_new {
        return (!wanted.is_empty()).then(|| "a new cluster waits for nobody".to_owned());
    }
    if situation.changing.contains(&layout.primary) {
        return Some(format!("what {} waits for is seen once it runs", layout.primary));
    }
    if stuck(layout, situation).is_some() {
        return (!wanted.is_empty()).then(|| "replicas come back".to_owned());
    }
    let found = situation.observed.fact(NAME, &names_key(&layout.primary))?;
    if found == wanted_names {
        return None;
    }
    let who = |names: &str| if names.is_empty() { "nobody".to_owned() } else { names.to_owned() };
    Some(format!("{} waits for {}, expected {}", layout.primary, who(found), who(&wanted_names)))
}

/// The facts of one primary, for tests and for whoever reads them.
pub(super) fn facts(member: &Member, names: &str, streaming: &[String]) -> BTreeMap<String, String> {
    BTreeMap::from([(names_key(member), names.to_owned()), (streaming_key(member), streaming.join(" "))])
}
