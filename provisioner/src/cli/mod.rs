//! The command line: what can be said, and which verb it reaches.

mod apply;
mod args;
mod bundle;
mod completion;
mod config;
mod doctor;
mod down;
mod drift;
mod env;
mod exec;
pub mod exit;
mod external;
mod failover;
mod history;
mod images;
mod init;
mod lock;
mod logs;
mod man;
pub(crate) mod manifests;
mod open;
mod plan;
mod prune;
mod reference;
mod rejoin;
mod render;
mod scale;
pub(crate) mod secret_files;
pub mod settings;
mod smoke;
mod start;
mod status;
mod stop;
mod switchover;
mod top;
mod up;
mod verify;
mod watch;
mod written;

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use args::Global;
use args::{Cli, Verb};
use exit::{Exit, Stop};
use settings::{Environment, Settings};

use crate::context::Context;
use crate::engines::Engines;
use crate::interrupt::Interrupt;
use crate::report::Printer;
use crate::streams::Streams;

const ANSWER_MAX: usize = 1024;

/// Everything that a verb may use.
pub(crate) struct Call<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) printer: &'a Printer,
    pub(crate) engines: &'a dyn Engines,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) stdin: Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>,
    /// How long the verb may take, counted from `begun`.
    pub(crate) timeout: Option<Duration>,
    pub(crate) begun: Instant,
}

/// Everything that can be said, for what is made from it and for what is held against it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs one command line and says how the process should end.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    engines: &dyn Engines,
    environment: &Environment,
    streams: Streams,
    interrupt: Interrupt,
) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let Streams { stdin, mut stdout, mut stderr, terminals } = streams;
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(asked) if asked.exit_code() == 0 => {
            // Whoever asked for help and closed the pipe has got what they wanted.
            let _ = stdout.write_all(asked.to_string().as_bytes()).and_then(|()| stdout.flush());
            return Exit::Done;
        }
        Err(error) => {
            let _ = stderr.write_all(error.to_string().as_bytes());
            return Exit::Usage;
        }
    };
    let command = arguments.iter().skip(1).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let settings = match Settings::resolve(&cli.global, format!("provisioner {command}"), environment, terminals) {
        Ok(settings) => settings,
        Err(error) => {
            let _ = writeln!(stderr, "error: {error}");
            return error.exit;
        }
    };
    let printer = Printer::new(&settings, stdout, stderr);
    let timeout = settings.timeout.or_else(|| cli.verb.default_timeout());
    let stdin = Mutex::new(Some(stdin));
    let call = Call {
        settings: &settings,
        printer: &printer,
        engines,
        interrupt: &interrupt,
        stdin,
        timeout,
        begun: Instant::now(),
    };
    let ended = tokio::select! {
        ended = call.bounded(&cli.verb) => ended,
        () = interrupt.insisted() => Err(call.stopped_at_once().into()),
    };
    let exit = ended.unwrap_or_else(|error| {
        printer.error(&chain(&error), &exit::hints(&error));
        exit::of(&error)
    });
    printer.event(&serde_json::json!({"type": "end", "exit": exit.code()}));
    exit
}

/// The whole error on one line, and below it what a manifest's problems are.
fn chain(error: &anyhow::Error) -> String {
    let mut text = format!("{error:#}");
    if let Some(invalid) =
        error.chain().find_map(|cause| cause.downcast_ref::<provisioner_core::manifest::InvalidManifest>())
    {
        for problem in &invalid.0 {
            text.push_str(&format!("\n  {problem}"));
        }
    }
    text
}

impl Call<'_> {
    /// Runs the verb within its time, and cuts it off when somebody interrupts, unless it handles both itself.
    async fn bounded(&self, verb: &Verb) -> anyhow::Result<Exit> {
        // On the heap: it is as large as what the largest verb keeps while it waits.
        let dispatched = Box::pin(self.dispatch(verb));
        if verb.ends_gracefully() {
            return dispatched.await;
        }
        self.cut(dispatched).await?
    }

    /// Drops `work` when its time is over or somebody interrupts.
    pub(crate) async fn cut<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            done = work => Ok(done),
            () = self.time_is_over() => Err(self.timed_out()),
            () = self.interrupt.requested() => Err(Stop::new(Exit::Interrupted, "interrupted")),
        }
    }

    pub(crate) async fn time_is_over(&self) {
        match self.timeout {
            Some(limit) => provisioner_core::wait::pause(limit.saturating_sub(self.begun.elapsed())).await,
            None => std::future::pending().await,
        }
    }

    fn stopped_at_once(&self) -> Stop {
        let stop = Stop::new(Exit::Interrupted, "stopped at once: the steps that were running may be half done");
        let seconds = provisioner_core::lease::TTL.as_secs();
        stop.hint(format!(
            "the same command goes on where it stopped; a lock that was held frees itself within {seconds} s"
        ))
    }

    pub(crate) fn timed_out(&self) -> Stop {
        let seconds = self.timeout.unwrap_or_default().as_secs();
        Stop::new(Exit::Timeout, format!("no end within {seconds} s")).hint("give it longer with --timeout")
    }

    /// Asks before anything that can lose data or interrupt service, where the environment is one that matters.
    pub(crate) async fn confirm(&self, context: &Context, what: &str) -> Result<(), Stop> {
        let environment = context.manifest.environment;
        if self.settings.yes || environment.is_disposable() {
            return Ok(());
        }
        let environment = environment.word();
        if !self.settings.interactive {
            let message = format!("{what}: {environment} asks first, and there is nobody to ask");
            return Err(Stop::new(Exit::Refused, message).hint("say yes beforehand with --yes"));
        }
        match self.agrees(&format!("{what}? This is {environment}")).await {
            true => Ok(()),
            false => Err(Stop::new(Exit::Refused, format!("{what}: not confirmed"))),
        }
    }

    /// Whether somebody at the terminal types `yes`; one who cannot read the question will not.
    pub(crate) async fn agrees(&self, question: &str) -> bool {
        let _ = self.printer.stderr(format!("{question}. Type yes: ").as_bytes());
        self.answer().await.as_deref() == Some("yes")
    }

    /// One line of what somebody types, without what surrounds it; `None`: nobody types anything any more.
    async fn answer(&self) -> Option<String> {
        let mut stdin = self.stdin.lock().await;
        let stdin = stdin.as_mut()?;
        let mut line = Vec::new();
        // Byte by byte: what a buffer reads ahead would be lost for the next question.
        while !line.ends_with(b"\n") && line.len() < ANSWER_MAX {
            match stdin.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) if line.is_empty() => return None,
                Err(_) => break,
            }
        }
        Some(String::from_utf8_lossy(&line).trim().to_owned())
    }

    async fn dispatch(&self, verb: &Verb) -> anyhow::Result<Exit> {
        match verb {
            Verb::Init(arguments) => init::init(self, arguments).await,
            Verb::Doctor => doctor::doctor(self).await,
            Verb::Plan(arguments) => plan::plan(self, arguments).await,
            Verb::Drift => drift::drift(self).await,
            Verb::Render => render::render(self).await,
            Verb::Up(arguments) => up::up(self, arguments).await,
            Verb::Verify => verify::verify(self).await,
            Verb::Smoke(arguments) => smoke::smoke(self, arguments).await,
            Verb::Status(arguments) => status::status(self, arguments).await,
            Verb::Top(arguments) => top::top(self, arguments).await,
            Verb::Logs(arguments) => logs::logs(self, arguments).await,
            Verb::Open(arguments) => open::open(self, arguments).await,
            Verb::Exec(arguments) => exec::exec(self, arguments).await,
            Verb::Env => env::env(self).await,
            Verb::Bundle(arguments) => bundle::bundle(self, arguments).await,
            Verb::Down(arguments) => down::down(self, arguments).await,
            Verb::Prune(arguments) => prune::prune(self, arguments).await,
            Verb::Stop(arguments) => stop::stop(self, arguments).await,
            Verb::Start(arguments) => start::start(self, arguments).await,
            Verb::Failover(arguments) => failover::failover(self, arguments).await,
            Verb::Watch => watch::watch(self).await,
            Verb::Drill(arguments) => failover::drill_verb(self, arguments).await,
            Verb::Switchover(arguments) => switchover::switchover(self, arguments).await,
            Verb::Rejoin(arguments) => rejoin::rejoin(self, arguments).await,
            Verb::Scale(arguments) => scale::scale(self, arguments).await,
            Verb::Config(arguments) => config::config(self, arguments).await,
            Verb::Images(arguments) => images::images(self, arguments).await,
            Verb::History(arguments) => history::history(self, arguments).await,
            Verb::Lock(arguments) => lock::lock(self, arguments).await,
            Verb::Man(arguments) => man::man(self, arguments),
            Verb::Completion(arguments) => completion::completion(self, arguments),
        }
    }
}
