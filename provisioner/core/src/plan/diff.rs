//! Resource by resource: what is missing, what differs, what should not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::deep;
use super::{Action, Impact, Withheld};
use crate::engine::ImageReferences;
use crate::lease;
use crate::name::Member;
use crate::observed::{Network, Observed, ObservedWorkload, Outdated, State};
use crate::secret;
use crate::stack::{
    File, Image, ImageId, OnChange, Resource, ResourceId, SECRET_VARIABLES, Secret, SecretVersions, Stack, Text,
    Volume, Workload,
};

/// What must be done to single resources, before anything is put in order.
#[derive(Debug, Default)]
pub(super) struct Differences {
    pub(super) actions: BTreeMap<ResourceId, Needed>,
    pub(super) withheld: Vec<Withheld>,
}

#[derive(Debug)]
pub(super) struct Needed {
    pub(super) action: Action,
    pub(super) because: String,
}

impl Differences {
    /// Members whose process will be another one afterwards.
    pub(super) fn changing(&self) -> BTreeSet<Member> {
        let touched = self.actions.iter().filter_map(|(id, needed)| match (id, &needed.action) {
            (ResourceId::Workload(member), Action::Create { .. }) => Some(member),
            (
                ResourceId::Workload(member),
                Action::Change { impact: Impact::Restart | Impact::Anew | Impact::Start, .. },
            ) => Some(member),
            _ => None,
        });
        touched.cloned().collect()
    }

    fn add(&mut self, id: ResourceId, action: Action, because: impl Into<String>) {
        self.actions.insert(id, Needed { action, because: because.into() });
    }
}

pub(super) fn differences(stack: &Stack, observed: &Observed) -> Differences {
    let mut differences = Differences::default();
    let wanted = Wanted::new(stack, observed);
    for resource in stack.resources() {
        if let Some((action, because)) = difference(resource, observed, &wanted) {
            differences.add(resource.id(), action, because);
        }
    }
    skip_images_nobody_starts(stack, &mut differences);
    leftovers(stack, observed, &mut differences);
    shrunk(stack, observed, &mut differences);
    differences
}

/// Members stand, but no record of them and no secret is left: somebody pruned the engine's volumes. Generating secrets
/// or bootstrapping anew would lock everybody out of data that is still there.
pub(super) fn lost_records(stack: &Stack, observed: &Observed) -> Option<Withheld> {
    let keeps_secrets = stack.resources().any(|resource| matches!(resource, Resource::Secret(_)));
    let stands = observed.workloads.values().any(|workload| workload.spec.is_some());
    // The lock is taken before the plan that counts is made.
    let no_records = observed.records.0.keys().all(|key| key == lease::KEY);
    let is_lost = keeps_secrets && stands && observed.secrets.is_empty() && no_records;
    is_lost.then(|| Withheld {
        what: "everything".to_owned(),
        reason: "members stand whose records and secrets are gone from the engine (were its volumes pruned?)"
            .to_owned(),
        unlock: "save their data, then provisioner down --volumes".to_owned(),
        blocks: true,
    })
}

/// What every workload is compared with.
struct Wanted<'a> {
    references: ImageReferences,
    versions: SecretVersions,
    /// Secrets that get another value.
    renewed: BTreeSet<&'a str>,
}

impl<'a> Wanted<'a> {
    fn new(stack: &'a Stack, observed: &Observed) -> Self {
        let mut renewed = BTreeSet::new();
        for resource in stack.resources() {
            let Resource::Secret(secret) = resource else { continue };
            let is_readable = observed.secrets.get(&secret.name).is_some_and(|found| found.is_readable);
            if is_readable && secret::due(secret, observed).is_some() {
                renewed.insert(secret.name.as_str());
            }
        }
        // What an authority signed goes with it.
        let signed = stack.resources().filter_map(|resource| match resource {
            Resource::Secret(secret) => Some((secret.issuer()?, secret.name.as_str())),
            _ => None,
        });
        let signed: Vec<&str> =
            signed.filter(|(issuer, _)| renewed.contains(issuer)).map(|(_, signed)| signed).collect();
        renewed.extend(signed);
        Self { references: stack.image_references(), versions: observed.secret_versions(), renewed }
    }

    fn is_in_place(&self, file: &File, found: &ObservedWorkload) -> bool {
        found.files.get(&file.path) == Some(&file.fingerprint(&self.versions)) && self.keeps(&file.content)
    }

    /// A program reads its variables once. What was made before they were noted is not restarted for that.
    fn has_variables(&self, workload: &Workload, found: &ObservedWorkload) -> bool {
        let noted = found.files.get(SECRET_VARIABLES);
        noted.is_none_or(|noted| *noted == workload.secret_env_fingerprint(&self.versions))
            && workload.secret_env.values().all(|text| self.keeps(text))
    }

    fn keeps(&self, text: &Text) -> bool {
        self.renewed.is_empty() || text.secrets().is_disjoint(&self.renewed)
    }
}

fn difference(resource: &Resource, observed: &Observed, wanted: &Wanted<'_>) -> Option<(Action, String)> {
    let missing = match resource {
        Resource::Image(image) => {
            let reference = image.reference();
            (!observed.images.contains(&reference)).then(|| format!("no image {reference} is there"))
        }
        Resource::Network => match observed.network {
            Network::Absent => Some("no network is there".to_owned()),
            Network::Edited => {
                let change = Action::Change { to: Resource::Network, impact: Impact::None { files: Vec::new() } };
                return Some((change, "who gets into it was changed by hand".to_owned()));
            }
            Network::Present => None,
        },
        Resource::Secret(secret) => return secret_difference(secret, observed, wanted),
        Resource::Volume(volume) => return volume_difference(volume, observed),
        Resource::Workload(workload) => return workload_difference(workload, observed, wanted),
    };
    missing.map(|because| (Action::Create { resource: resource.clone() }, because))
}

/// Where the engine keeps volumes to a size, one may grow.
fn volume_difference(volume: &Volume, observed: &Observed) -> Option<(Action, String)> {
    let resource = Resource::Volume(volume.clone());
    if !observed.volumes.contains(&volume.name) {
        return Some((Action::Create { resource }, "no such volume is there".to_owned()));
    }
    let (asked, wanted) = sizes(volume, observed)?;
    let change = Action::Change { to: resource, impact: Impact::None { files: Vec::new() } };
    (wanted > asked).then(|| (change, format!("it has {}, expected {}", size(asked), size(wanted))))
}

/// Data would have to be taken away.
fn shrunk(stack: &Stack, observed: &Observed, differences: &mut Differences) {
    for resource in stack.resources() {
        let Resource::Volume(volume) = resource else { continue };
        let Some((asked, wanted)) = sizes(volume, observed).filter(|(asked, wanted)| wanted < asked) else { continue };
        differences.withheld.push(Withheld {
            what: format!("resize {}", resource.id()),
            reason: format!("it has {}, expected {}, and a volume never shrinks", size(asked), size(wanted)),
            unlock: format!("disk: {} in section {} of the manifest", size(asked), volume.component),
            blocks: true,
        });
    }
}

/// What a volume was asked to be, and what it should be.
fn sizes(volume: &Volume, observed: &Observed) -> Option<(u64, u64)> {
    observed.volume_bytes.get(&volume.name).copied().zip(volume.size_bytes)
}

/// As a manifest takes it, and no larger than it is.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 30) { format!("{}GiB", bytes >> 30) } else { format!("{}MiB", bytes >> 20) }
}

fn secret_difference(secret: &Secret, observed: &Observed, wanted: &Wanted<'_>) -> Option<(Action, String)> {
    let resource = Resource::Secret(secret.clone());
    let issuer = secret.issuer().filter(|issuer| wanted.renewed.contains(issuer));
    let because = secret::due(secret, observed)
        .or_else(|| issuer.map(|issuer| format!("{issuer}, which signs it, will be another one")))?;
    match observed.secrets.get(&secret.name) {
        Some(found) if found.is_readable => {
            Some((Action::Change { to: resource, impact: Impact::None { files: Vec::new() } }, because))
        }
        _ => Some((Action::Create { resource }, because)),
    }
}

fn workload_difference(workload: &Arc<Workload>, observed: &Observed, wanted: &Wanted<'_>) -> Option<(Action, String)> {
    let resource = || Resource::Workload(Arc::clone(workload));
    let Some(found) = observed.workload(&workload.member) else {
        return Some((Action::Create { resource: resource() }, "no such member is there".to_owned()));
    };
    let change = |impact, because: String| Some((Action::Change { to: resource(), impact }, because));
    let reference = wanted.references.get(&workload.image).map_or(workload.image.0.as_str(), String::as_str);
    let Some(spec) = &found.spec else {
        return change(Impact::Restart, "something else stands under its name".to_owned());
    };
    if *spec != workload.spec_fingerprint(reference) {
        let because = if found.image == reference {
            "its description changed".to_owned()
        } else {
            format!("its image is {}, expected {reference}", found.image)
        };
        return change(Impact::Restart, because);
    }
    let is_made = found.state != State::Created;
    let looked = is_made.then(|| deep::member(workload, observed, found.state == State::Running)).flatten();
    let reasons = [files_difference(workload, found, wanted), looked, engine_difference(workload, found, observed)];
    let all = reasons
        .into_iter()
        .flatten()
        .reduce(|(impact, because), (other, besides)| (stronger(impact, other), format!("{because}; {besides}")));
    if let Some((impact, because)) = all {
        return change(impact, because);
    }
    match found.state {
        State::Running => None,
        State::Created => change(Impact::Restart, "it was made but never started".to_owned()),
        State::Paused | State::Exited | State::Restarting => {
            change(Impact::Start, format!("it is {}", found.state.word()))
        }
    }
}

/// What serves both.
fn stronger(one: Impact, other: Impact) -> Impact {
    if one == Impact::Anew || other == Impact::Anew {
        return Impact::Anew;
    }
    let (mut all, is_reload) = match one {
        Impact::Reload { files } => (files, true),
        Impact::None { files } => (files, false),
        Impact::Restart | Impact::Anew | Impact::Start => return one,
    };
    let (more, is_more) = match other {
        Impact::Reload { files } => (files, true),
        Impact::None { files } => (files, false),
        Impact::Restart | Impact::Anew | Impact::Start => return other,
    };
    for path in more {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    if is_reload || is_more { Impact::Reload { files: all } } else { Impact::None { files: all } }
}

/// The same description, of which the engine makes something else today.
fn engine_difference(workload: &Workload, found: &ObservedWorkload, observed: &Observed) -> Option<(Impact, String)> {
    match observed.outdated(&workload.member)? {
        Outdated::Process => Some((Impact::Restart, "it is not as the engine makes it now".to_owned())),
        // What is down is surrounded before it is started.
        Outdated::Around if found.state != State::Running => None,
        Outdated::Around => {
            let because = "what leads to it or guards it is not as the engine makes it now";
            Some((Impact::None { files: Vec::new() }, because.to_owned()))
        }
    }
}

/// The strongest of what the changed files need: a restart outweighs a reload outweighs nothing.
fn files_difference(workload: &Workload, found: &ObservedWorkload, wanted: &Wanted<'_>) -> Option<(Impact, String)> {
    let mut changed = Vec::new();
    let (mut restart, mut reload) = (false, false);
    for file in &workload.files {
        if wanted.is_in_place(file, found) {
            continue;
        }
        changed.push(file.path.clone());
        restart |= file.on_change == OnChange::Restart;
        reload |= matches!(file.on_change, OnChange::Reload { .. });
    }
    if !wanted.has_variables(workload, found) {
        changed.push(SECRET_VARIABLES.to_owned());
        restart = true;
    }
    let mut named: BTreeSet<&str> = workload.files.iter().map(|file| file.path.as_str()).collect();
    named.insert(SECRET_VARIABLES);
    if let Some(path) = found.files.keys().find(|path| !named.contains(path.as_str())) {
        return Some((Impact::Restart, format!("{path} should no longer be in it")));
    }
    if changed.is_empty() {
        return None;
    }
    let because = format!("{} changed", changed.join(", "));
    let is_running = found.state == State::Running;
    let impact = match (restart || !is_running, reload) {
        (true, _) => Impact::Restart,
        (false, true) => Impact::Reload { files: changed },
        (false, false) => Impact::None { files: changed },
    };
    Some((impact, because))
}

/// An image is only worth building when a member that is made anew needs it, itself or as the base of its own. One that
/// was pruned under running members is no reason to act.
fn skip_images_nobody_starts(stack: &Stack, differences: &mut Differences) {
    let starts = |id: &ResourceId| {
        let needed = differences.actions.get(id);
        needed.is_some_and(|needed| {
            matches!(
                needed.action,
                Action::Create { .. } | Action::Change { impact: Impact::Restart | Impact::Anew, .. }
            )
        })
    };
    let mut used: BTreeSet<ImageId> =
        stack.workloads().filter(|workload| starts(&workload_id(workload))).map(|w| w.image.clone()).collect();
    let mut queue: Vec<ImageId> = used.iter().cloned().collect();
    while let Some(id) = queue.pop() {
        let is_missing = differences.actions.contains_key(&ResourceId::Image(id.clone()));
        if let (true, Some(Image::Recipe(recipe))) = (is_missing, stack.image(&id))
            && used.insert(recipe.base.clone())
        {
            queue.push(recipe.base.clone());
        }
    }
    differences.actions.retain(|id, _| match id {
        ResourceId::Image(image) => used.contains(image),
        _ => true,
    });
}

fn workload_id(workload: &Workload) -> ResourceId {
    ResourceId::Workload(workload.member.clone())
}

/// Members that the manifest no longer names go; what holds data stays and is named.
fn leftovers(stack: &Stack, observed: &Observed, differences: &mut Differences) {
    for (member, found) in &observed.workloads {
        let id = ResourceId::Workload(member.clone());
        // What has no spec only shares the stack's prefix: it is somebody else's.
        if found.spec.is_some() && stack.resource(&id).is_none() {
            differences.add(id.clone(), Action::Remove { id }, "the manifest no longer names it");
        }
    }
    for volume in &observed.volumes {
        let id = ResourceId::Volume(volume.clone());
        if stack.resource(&id).is_none() {
            differences.withheld.push(Withheld {
                what: format!("remove {id}"),
                reason: "the manifest no longer names it, and data is never removed to make progress".to_owned(),
                unlock: "provisioner down --volumes".to_owned(),
                blocks: false,
            });
        }
    }
}
