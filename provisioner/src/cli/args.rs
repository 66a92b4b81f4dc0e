//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::bundle::BundleArgs;
use super::completion::CompletionArgs;
use super::config::ConfigArgs;
use super::down::DownArgs;
use super::exec::ExecArgs;
use super::failover::{DrillVerb, FailoverArgs};
use super::history::HistoryArgs;
use super::images::ImagesArgs;
use super::init::InitArgs;
use super::lock::LockArgs;
use super::logs::LogsArgs;
use super::man::ManArgs;
use super::open::OpenArgs;
use super::plan::PlanArgs;
use super::prune::PruneArgs;
use super::rejoin::RejoinArgs;
use super::scale::ScaleArgs;
use super::settings::{ColorMode, Format, HttpPort, ProgressMode, parse_duration, parse_http_port, parse_timeout};
use super::smoke::SmokeArgs;
use super::start::StartArgs;
use super::status::StatusArgs;
use super::stop::StopArgs;
use super::switchover::SwitchoverArgs;
use super::top::TopArgs;
use super::up::UpArgs;

const EXAMPLES: &str = "\
Examples:
  provisioner init --app-image IMAGE --serve \"COMMAND\"   write manifests/dev.yaml for an app of your own
  provisioner up --env dev                    stand the stack of manifests/dev.yaml up and verify it
  provisioner plan --env dev                  what `up` would do, and why
  provisioner status --env dev -o json        members, roles, addresses, memory and disk
  provisioner open http --env dev             the shop in a browser, or its address
  provisioner logs --env dev -f app           what the app's members print, as it comes
  provisioner up --env dev app                replace what differs of the app, and nothing else
  provisioner up --env dev --name second      the same stack a second time, at a port of its own
  eval \"$(provisioner env --env dev)\"         addresses and logins for programs of this machine
  provisioner down --env dev                  take it down; data stays

Exit codes: 0 done, 1 error, 2 changes (with --detailed-exitcode), 64 usage, 65 manifest,
66 preflight, 67 verify failed, 68 verdict unknown, 69 lock held, 70 timeout, 71 refused,
130 interrupted.";

/// Stands up a whole production architecture from one manifest, and proves that it works.
#[derive(Debug, Parser)]
#[command(name = "provisioner", version, after_help = EXAMPLES, max_term_width = 120, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Manifest `manifests/NAME.yaml`, looked for in this directory and upwards [env: PROVISIONER_ENV]
    #[arg(short = 'e', long = "env", value_name = "NAME", global = true)]
    pub environment: Option<String>,

    /// Manifest by its path
    #[arg(short, long, value_name = "FILE", global = true, conflicts_with = "environment")]
    pub file: Option<PathBuf>,

    /// Name of the stack instead of the manifest's, for two of them side by side
    #[arg(long, value_name = "STACK", global = true)]
    pub name: Option<String>,

    /// Context of the kubeconfig instead of the manifest's, for a stack on Kubernetes
    #[arg(long, value_name = "CONTEXT", global = true)]
    pub context: Option<String>,

    /// Namespace instead of the manifest's, for a stack on Kubernetes
    #[arg(long, value_name = "NAMESPACE", global = true)]
    pub namespace: Option<String>,

    /// Port of the HTTP entrance instead of the manifest's; `auto` keeps the one in use or picks a free one, and is the
    /// default beside --name
    #[arg(long, value_name = "PORT", global = true, value_parser = parse_http_port)]
    pub http_port: Option<HttpPort>,

    /// Form of the result on stdout
    #[arg(short, long, value_name = "FORMAT", global = true, value_enum, default_value = "human")]
    pub output: Format,

    /// Write the result as JSON into a file besides
    #[arg(long, value_name = "FILE", global = true)]
    pub json_into: Option<PathBuf>,

    /// Form of progress on stderr; `json` is one event a line, the first names the schema's version
    #[arg(long, value_name = "MODE", global = true, value_enum, default_value = "auto", hide_possible_values = false)]
    pub progress: ProgressMode,

    /// Give up after this long, such as 90s or 5m [default: by verb; none for what goes on until somebody ends it]
    #[arg(long, value_name = "DURATION", global = true, value_parser = parse_timeout)]
    pub timeout: Option<Duration>,

    /// Wait this long for somebody else's run on the same stack
    #[arg(long, value_name = "DURATION", global = true, value_parser = parse_duration, default_value = "60s")]
    pub lock_timeout: Duration,

    /// Colours on stdout and stderr; `auto`: on a terminal, and not where NO_COLOR is set
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value = "auto")]
    pub color: ColorMode,

    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub yes: bool,

    /// Show what builds and jobs print
    #[arg(long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write a commented manifest for a new project
    Init(Box<InitArgs>),
    /// Look at this machine and its engine: what fits, what was adapted, what stands against it
    Doctor,
    /// Say what `up` would do and why; reads only
    Plan(PlanArgs),
    /// Look deep into containers, files and server settings: what is not as it should be, and what nobody could tell
    Drift,
    /// Print the objects that `up` applies to a cluster, for those who apply them by other means; reads only
    Render,
    /// Stand the stack up, or change what differs, and verify it
    Up(UpArgs),
    /// Prove that everything works, safely on a live stack
    Verify,
    /// Stand a stack of its own up, prove it, order, kill and recover, and remove it again; for CI
    Smoke(SmokeArgs),
    /// Show members, roles, states, addresses and what they use
    Status(StatusArgs),
    /// Watch members and vital signs live on a terminal
    Top(TopArgs),
    /// Show what members log
    Logs(LogsArgs),
    /// Show where people reach the stack's pages, with logins, and open one in a browser; shows passwords
    Open(OpenArgs),
    /// Run a command inside a member and pass its exit code on
    Exec(ExecArgs),
    /// Print addresses and logins as variables; like `open`, it shows passwords
    Env,
    /// Collect what somebody who helps needs to see into one archive, without secrets
    Bundle(BundleArgs),
    /// Remove members and network; data stays unless told otherwise
    Down(DownArgs),
    /// Remove what dead runs left: stacks of killed smokes, containers of ended jobs, images with --images
    Prune(PruneArgs),
    /// Stop members
    Stop(StopArgs),
    /// Start members that are stopped
    Start(StartArgs),
    /// Make another member primary where the primary is lost, without losing what was acknowledged
    Failover(FailoverArgs),
    /// Practise a failure on purpose, and measure it by a ledger of acknowledged writes
    Drill(DrillVerb),
    /// Make another member primary as planned; the old one comes back as its replica
    Switchover(SwitchoverArgs),
    /// Watch the primary and fail over without asking where it is lost; goes on until somebody ends it
    Watch,
    /// Make a former primary, or a replica that lost its way, follow the primary again
    Rejoin(RejoinArgs),
    /// Change the number of replicas in the manifest and in the stack
    Scale(ScaleArgs),
    /// Show the manifest with every default, or a member's files
    Config(ConfigArgs),
    /// List the images of the stack, or push them to a registry for a cluster
    Images(ImagesArgs),
    /// Show the last runs that changed the stack
    History(HistoryArgs),
    /// Show or release the lock of the stack
    Lock(LockArgs),
    /// Print a manual page, or write all of them
    Man(ManArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

impl Verb {
    /// No run goes on for ever by itself. What streams to a person ends when the person wants.
    pub(super) fn default_timeout(&self) -> Option<Duration> {
        let minutes = match self {
            // A large database is copied.
            Self::Rejoin(_) => 6 * 60,
            Self::Up(_) | Self::Scale(_) => 30,
            Self::Images(arguments) if arguments.is_push() => 60,
            // A drill takes about a quarter of a minute.
            Self::Failover(arguments) => 10 + u64::from(arguments.runs()),
            Self::Drill(arguments) => 10 + u64::from(arguments.runs()),
            Self::Switchover(_)
            | Self::Smoke(_)
            | Self::Prune(_)
            | Self::Start(_)
            | Self::Down(_)
            | Self::Stop(_)
            | Self::Verify => 10,
            Self::Status(arguments) if arguments.is_endless() => return None,
            Self::Logs(_) | Self::Exec(_) | Self::Init(_) | Self::Watch | Self::Top(_) => return None,
            _ => 2,
        };
        Some(Duration::from_secs(minutes * 60))
    }

    /// Handles interrupts and its time limit itself, because it holds a lock and has something half done.
    pub(super) fn ends_gracefully(&self) -> bool {
        matches!(
            self,
            Self::Watch
                | Self::Failover(_)
                | Self::Drill(_)
                | Self::Switchover(_)
                | Self::Rejoin(_)
                | Self::Scale(_)
                | Self::Up(_)
                | Self::Down(_)
                | Self::Start(_)
                | Self::Stop(_)
                | Self::Smoke(_)
                | Self::Prune(_)
        )
    }
}
