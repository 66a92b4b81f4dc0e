//! What every engine promises, as test bodies. [`state`] and [`records`] hold for any engine, [`process`] only for those
//! that really run programs.
//!
//! An engine's own test brings a [`Ground`] and expands [`engine_contract_of_state!`](crate::engine_contract_of_state)
//! and, if it runs programs, [`engine_contract_of_processes!`](crate::engine_contract_of_processes).

pub mod faults;
pub mod hurting;
pub mod process;
pub mod records;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::{Engine, ImageReferences, Quiet};
use crate::fault::Fault;
use crate::name::Member;
use crate::observed::ObservedWorkload;
use crate::stack::{
    File, Image, Limits, Mount, OnChange, Resource, ResourceId, Restart, Secret, Stop, Text, Volume, Workload,
};

/// How a case ends: an error of the engine fails it like an assertion does.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What an engine can and another one cannot. The cases ask for no less than this says, and have it say no for the rest.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// What its members can suffer beside a kill, a killed server and a full disk.
    pub faults: Vec<Fault>,
    /// A log tells standard output from what a program complained about.
    pub tells_streams_apart: bool,
    /// As whom members must run; `None`: as whom the image says.
    pub user: Option<(u32, u32)>,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { faults: vec![Fault::Pause, Fault::Partition], tells_streams_apart: true, user: None }
    }
}

/// What an engine brings to its contract. Its stacks are empty when a case begins.
#[async_trait]
pub trait Ground: Send + Sync {
    fn engine(&self) -> Arc<dyn Engine>;

    /// The same engine, bound to another stack.
    fn neighbour(&self) -> Arc<dyn Engine>;

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// An image with `/bin/sh`, `cat`, `stat` and `sleep`.
    fn image(&self) -> Image;

    /// Puts something that no provisioner made into the member's place.
    async fn intrude(&self, member: &Member);

    /// Removes the member's container behind the provisioner's back.
    async fn lose(&self, member: &Member);

    /// Removes everything that the two stacks hold.
    async fn clean(&self);
}

/// A shell that ends at once when it is told to, tells what is in its file when it is told to reload, and waits.
pub const PROGRAM: &str = "trap 'exit 0' TERM; trap 'cat /etc/probe.conf' HUP; \
     echo started; echo warned >&2; while :; do sleep 0.1; done";

pub fn secret(name: &str) -> Resource {
    Resource::Secret(Secret::password(name, 24))
}

pub fn volume(name: &str) -> Resource {
    Resource::Volume(Volume { name: name.to_owned(), component: "probe".to_owned(), size_bytes: None })
}

pub fn file(content: &str) -> File {
    File {
        path: "/etc/probe.conf".to_owned(),
        mode: 0o644,
        owner: (1000, 2000),
        content: Text::new(content),
        on_change: OnChange::Nothing,
    }
}

/// The images of a case, made sure of.
pub async fn images(ground: &dyn Ground) -> Result<ImageReferences, crate::engine::EngineError> {
    let image = ground.image();
    ground.engine().ensure(&Resource::Image(image.clone()), &BTreeMap::new(), &Quiet).await?;
    Ok(BTreeMap::from([(image.id().clone(), image.reference())]))
}

pub fn workload(ground: &dyn Ground, member: &str) -> Workload {
    Workload {
        member: Member::named(member),
        component: "probe".to_owned(),
        image: ground.image().id().clone(),
        command: ["/bin/sh", "-c", PROGRAM].map(str::to_owned).into(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: vec![file("one\n")],
        mounts: Vec::new(),
        names: Vec::new(),
        ports: Vec::new(),
        user: ground.abilities().user,
        scratch: Vec::new(),
        limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() },
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 5 },
        restart: Restart::UnlessStopped,
        probes: None,
        after: Vec::new(),
    }
}

pub fn with_volume(mut workload: Workload, volume: &str) -> Workload {
    workload.mounts.push(Mount { volume: volume.to_owned(), path: "/data".to_owned() });
    workload
}

/// Makes sure of a workload and of the network that it needs, and shows what the engine then observes.
pub async fn ensured(
    ground: &dyn Ground,
    workload: &Workload,
) -> Result<ObservedWorkload, Box<dyn std::error::Error + Send + Sync>> {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&Resource::Network, &images, &Quiet).await?;
    engine.ensure(&Resource::Workload(Arc::new(workload.clone())), &images, &Quiet).await?;
    observed(&*engine, &workload.member).await
}

pub async fn observed(
    engine: &dyn Engine,
    member: &Member,
) -> Result<ObservedWorkload, Box<dyn std::error::Error + Send + Sync>> {
    let found = engine.observe().await?.workloads.remove(member);
    found.ok_or_else(|| format!("{member} is not observed").into())
}

pub fn id(member: &str) -> ResourceId {
    ResourceId::Workload(Member::named(member))
}

/// Expands to one test a case. `$ground` makes the [`Ground`] for a case of the given name: an async function of
/// `&str`.
#[macro_export]
macro_rules! engine_contract_of_state {
    ($ground:path) => {
        $crate::engine_contract_cases!($ground, state:
            everything_ensured_is_observed,
            ensuring_again_keeps_the_instance,
            a_changed_description_or_file_makes_a_new_instance,
            files_put_in_are_observed_without_a_new_instance,
            a_new_instance_has_the_files_it_was_described_with,
            a_stopped_a_killed_and_a_lost_member_are_observed_as_such,
            a_stopped_member_starts_again_as_the_same_instance,
            a_running_member_is_not_proven_stopped,
            removing_what_is_gone_is_no_error,
            something_foreign_in_a_members_place_has_no_spec_and_is_replaced,
            two_stacks_do_not_see_each_other,
            a_certificate_is_made_again_only_for_a_reason,
            another_value_of_a_secret_variable_makes_the_member_anew,
            secrets_are_generated_once_and_never_change,
            a_missing_secret_is_named_and_leaves_the_member_alone,
            ports_for_checks_are_published_on_loopback,
            a_port_for_members_is_published_nowhere,
            a_stack_whose_parts_are_removed_is_empty,
            a_member_is_in_every_aspect_as_it_was_described,
            another_description_differs_in_the_aspects_that_it_names,
            files_are_read_with_content_mode_and_owner,
        );
        $crate::engine_contract_cases!($ground, faults:
            a_killed_member_stays_dead_whatever_its_restart_policy,
            a_frozen_member_is_the_same_instance_once_it_is_healed,
            a_member_that_was_cut_off_has_its_published_port_back_when_healed,
            what_cannot_be_done_is_told_and_changes_nothing,
        );
        $crate::engine_contract_cases!($ground, records:
            an_absent_record_is_written_by_who_expects_none,
            a_conflict_names_the_version_that_was_found,
            of_twenty_writers_one_wins,
            a_removed_record_is_absent_and_its_version_is_not_used_again,
            records_are_part_of_the_snapshot,
            twenty_increments_are_all_counted,
        );
    };
}

#[macro_export]
macro_rules! engine_contract_of_processes {
    ($ground:path) => {
        $crate::engine_contract_cases!($ground, process:
            files_arrive_with_owner_mode_content_and_secrets,
            a_reload_delivers_the_file_to_the_running_process,
            a_refused_file_is_put_back,
            a_new_file_that_is_refused_is_taken_away,
            exec_passes_both_streams_the_exit_code_and_stdin,
            logs_show_both_streams_and_can_be_cut_to_the_last_lines,
            a_logs_lines_have_their_times_and_older_ones_can_be_left_out,
            a_running_member_tells_what_it_uses,
            a_job_reports_its_exit_code_and_last_lines,
            a_jobs_leftover_does_not_stand_in_its_way,
            a_job_that_nobody_waits_for_lets_go_of_its_volume,
            a_job_that_does_not_end_is_ended,
            data_in_a_volume_outlives_its_member,
            secret_variables_reach_the_process,
            members_find_each_other_by_name_and_alias,
            a_member_is_stopped_by_its_own_signal,
            a_file_reaches_the_volume_of_a_member_that_is_down_or_frozen,
        );
        $crate::engine_contract_cases!($ground, hurting:
            a_killed_server_ends_by_the_signal_while_its_member_goes_on,
            a_server_that_is_the_first_process_cannot_be_killed_from_inside,
            a_frozen_member_does_nothing_until_it_is_healed,
            a_member_that_was_cut_off_runs_on_and_is_found_again_when_healed,
            a_member_that_was_cut_off_and_killed_is_found_again_when_started,
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! engine_contract_cases {
    ($ground:path, $module:ident: $($case:ident,)+) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            use ::futures_util::FutureExt;
            let ground = $ground(stringify!($case)).await;
            let case = $crate::testing::contract::$module::$case(&ground);
            let ended = ::std::panic::AssertUnwindSafe(case).catch_unwind().await;
            $crate::testing::contract::Ground::clean(&ground).await;
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => panic!("{error}"),
                Err(panic) => ::std::panic::resume_unwind(panic),
            }
        }
    )+ };
}
