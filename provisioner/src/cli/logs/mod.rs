//! `logs`: what members print, in the order of its times or, with `-f`, as it comes.

mod follow;
mod shown;
mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, value_parser};
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use provisioner_core::engine::{Engine, EngineError, LogOptions, OutputStream};
use provisioner_core::name::Member;

use super::Call;
use super::exit::Exit;
use super::settings::parse_duration;
use crate::context::Context;
use crate::report::Reader;
use follow::Follower;
use shown::Form;
use source::Source;

/// `-f` means "follow" here, as in every other tool that shows logs, so the manifest's flag keeps its long form only.
#[derive(Debug, Args)]
#[command(arg = file_without_short())]
pub(super) struct LogsArgs {
    /// Members or whole components; none: all
    #[arg(value_name = "MEMBER|COMPONENT")]
    what: Vec<String>,

    /// Go on with what comes, also after a member was started again
    #[arg(short = 'f', long)]
    follow: bool,

    /// Only the last lines of each member
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,

    /// Only what was printed within this time, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Do not put the member's name before each line
    #[arg(long)]
    no_prefix: bool,
}

fn file_without_short() -> Arg {
    // The same id as the global flag, which therefore is not given to this verb and yet receives the value.
    Arg::new("file")
        .long("file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Manifest by its path")
        .help_heading("Global options")
}

/// Members are asked side by side, but no member may hold up the others.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn logs(call: &Call<'_>, arguments: &LogsArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.snapshot().await?;
    let mut members = context.members(&arguments.what, &observed)?;
    if arguments.what.is_empty() {
        members.retain(|member| observed.workloads.contains_key(member));
    }
    let mut named = BTreeSet::new();
    members.retain(|member| named.insert(member.clone()));
    let options = LogOptions {
        follow: arguments.follow,
        tail: arguments.tail,
        since: arguments.since.map(|ago| observed.at.saturating_sub(ago.as_secs())),
        times: true,
    };
    let all: Vec<&Member> = context.stack.workloads().map(|workload| &workload.member).collect();
    let form = Form::new(call.printer, &members, &all, !arguments.no_prefix);
    if !arguments.follow {
        one_after_the_other(&*context.engine, &members, options, &form).await?;
        return Ok(Exit::Done);
    }
    let follow = |member| {
        let follower = Follower::new(&*context.engine, &form, call.printer, member, observed.at);
        follower.follow(options)
    };
    let mut following: FuturesUnordered<_> = members.iter().map(follow).collect();
    // Each goes on until nobody reads any more, or the engine is gone.
    while let Some(ended) = following.next().await {
        if ended? == Reader::Gone {
            break;
        }
    }
    Ok(Exit::Done)
}

/// All of it, by the times at which it was printed. At most one chunk a member is held.
async fn one_after_the_other(
    engine: &dyn Engine,
    members: &[Member],
    options: LogOptions,
    form: &Form<'_>,
) -> anyhow::Result<()> {
    let opened = members.iter().map(|member| async move {
        let mut source = Source::new(member, open(engine, member, options).await?);
        source.fill().await?;
        Ok::<_, EngineError>(source)
    });
    let mut sources = try_join_all(opened).await?;
    loop {
        // The first of several with the same time: the order in which the members were named.
        let earliest = sources.iter_mut().filter(|source| source.time().is_some()).min_by_key(|source| source.time());
        let Some(source) = earliest else { return Ok(()) };
        if let Some(line) = source.next()
            && form.print(source.member(), &line)? == Reader::Gone
        {
            return Ok(());
        }
        source.fill().await?;
        // A log may hold millions of lines, and somebody may want to stop in between.
        tokio::task::coop::consume_budget().await;
    }
}

async fn open(engine: &dyn Engine, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError> {
    let opened = tokio::time::timeout(OPEN_LIMIT, engine.logs(member, options)).await;
    opened.unwrap_or_else(|_| {
        Err(EngineError::TimedOut { operation: format!("read the log of {member}"), after: OPEN_LIMIT })
    })
}
