//! `top`: members and vital signs on a terminal, live.

mod draw;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use provisioner_components::monitoring::vitals::{Vitals, vitals};
use provisioner_core::clock;
use provisioner_core::engine::Quiet;
use ratatui::DefaultTerminal;

use super::Call;
use super::exit::{Exit, Stop};
use super::settings::parse_duration;
use super::status::{MemberStatus, Status};
use crate::context::Context;

/// Values of the line of requests; more than the widest terminal shows.
const REMEMBERED: usize = 300;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Look again after this long
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    every: Duration,
}

/// What one look showed.
struct Look {
    members: Vec<MemberStatus>,
    /// `None`: the stack has no monitoring.
    vitals: Option<Result<Vitals, String>>,
}

/// What is on the screen.
#[derive(Default)]
struct View {
    stack: String,
    /// Seconds since 1970 of the last look.
    at: u64,
    look: Option<Look>,
    /// Why the last look failed; the one before is still shown.
    failed: Option<String>,
    /// Requests a second, the oldest first.
    requests: VecDeque<f64>,
    is_paused: bool,
    /// Members above the first that is shown.
    scrolled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Pause,
    Up,
    Down,
}

pub(super) async fn top(call: &Call<'_>, arguments: &TopArgs) -> anyhow::Result<Exit> {
    if !(call.settings.stdin_is_terminal && call.settings.stdout_is_terminal) {
        let stop = Stop::new(Exit::Usage, "top: found no terminal on stdin and stdout, expected one");
        return Err(stop.hint(format!("without a terminal: {}", call.settings.again("status --watch"))).into());
    }
    let context = Context::to_look(call).await?;
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let ended = show(&context, arguments.every, &mut terminal).await;
    ratatui::try_restore().context("give the terminal back")?;
    ended.map(|()| Exit::Done)
}

async fn show(context: &Context, every: Duration, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    let mut view = View { stack: context.name().to_string(), ..View::default() };
    let mut events = EventStream::new();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looking = OptionFuture::default();
    let mut is_looking = false;
    loop {
        terminal.draw(|frame| draw::draw(frame, &view)).context("draw on the terminal")?;
        tokio::select! {
            _ = ticks.tick(), if !is_looking && !view.is_paused => {
                looking = Some(Box::pin(Look::now(context))).into();
                is_looking = true;
            }
            Some(look) = &mut looking => {
                looking = None.into();
                is_looking = false;
                view.take(look);
            }
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => match key(&event.context("read from the terminal")?) {
                    Some(Key::Quit) => return Ok(()),
                    Some(key) => view.press(key),
                    None => {}
                },
            },
        }
    }
}

impl Look {
    async fn now(context: &Context) -> anyhow::Result<Self> {
        let observed = context.snapshot().await?;
        let access = context.access(&observed, &Quiet);
        let measured = async {
            let mut status = Status::of(context, &observed);
            status.measure(context).await;
            status.members
        };
        let (members, vitals) = tokio::join!(measured, vitals(&access));
        Ok(Self { members, vitals })
    }
}

impl View {
    fn take(&mut self, look: anyhow::Result<Look>) {
        match look {
            Ok(look) => {
                let requests = look.vitals.iter().flatten().find_map(|vitals| vitals.requests_per_second);
                self.requests.push_back(requests.unwrap_or_default());
                while self.requests.len() > REMEMBERED {
                    self.requests.pop_front();
                }
                self.at = clock::unix_seconds();
                self.look = Some(look);
                self.failed = None;
            }
            Err(error) => self.failed = Some(format!("{error:#}")),
        }
    }

    fn press(&mut self, key: Key) {
        let members = self.look.as_ref().map_or(0, |look| look.members.len());
        match key {
            Key::Pause => self.is_paused = !self.is_paused,
            Key::Up => self.scrolled = self.scrolled.saturating_sub(1),
            Key::Down => self.scrolled = (self.scrolled + 1).min(members.saturating_sub(1)),
            Key::Quit => {}
        }
    }
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return None };
    Some(match code {
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        // In raw mode the terminal makes no signal of it.
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('p' | ' ') => Key::Pause,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        _ => return None,
    })
}
