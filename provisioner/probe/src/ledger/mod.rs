//! The ledger: what a client of the database was promised, written down by the client itself.
//!
//! Every row has an id that is made here and used once. What became of it goes into a journal (see [`journal`]) that is
//! compared with the members' rows afterwards.

mod journal;
#[cfg(test)]
mod live;
mod prober;
mod session;
mod stop;
mod writer;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::settings::Settings;
use journal::{Clock, Journal, Tally};
use session::Connector;
use stop::Stop;

const TELL_EVERY: Duration = Duration::from_secs(1);

/// Writes until SIGTERM, or until SIGUSR1: then the journal ends, and the process stays so that it can be read.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut ended = signal(SignalKind::user_defined1()).context("listen for SIGUSR1")?;

    let clock = Clock::start();
    let connector = Arc::new(Connector::new(&settings, clock.run())?);
    let names: Vec<&str> = settings.members.iter().map(|member| member.host.as_str()).collect();
    let tally = Arc::new(Tally::default());
    let (journal, mut written) = Journal::open(&settings.journal, clock, settings.writers, &names, &tally)?;

    let (stopper, stop) = Stop::new();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..settings.writers {
        tasks.spawn(writer::run(writer, settings.every, Arc::clone(&connector), journal.clone(), stop.clone()));
    }
    for (member, place) in (0..).zip(&settings.members) {
        for lane in prober::Lane::ALL {
            let probe = prober::Prober { member, lane, place: place.clone(), connector: Arc::clone(&connector) };
            tasks.spawn(probe.run(journal.clone(), stop.clone()));
        }
    }
    // The journal ends once nobody can write into it any more.
    drop(journal);

    let mut telling = interval(TELL_EVERY);
    telling.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let stays = loop {
        tokio::select! {
            _ = telling.tick() => tell(&tally),
            _ = terminated.recv() => break false,
            _ = ended.recv() => break true,
            outcome = &mut written => return outcome.context("wait for the journal")?,
        }
    };
    stopper.stop();
    tasks.join_all().await;
    written.await.context("wait for the journal")??;
    tell(&tally);
    if stays {
        terminated.recv().await;
    }
    Ok(())
}

fn tell(tally: &Tally) {
    // Whoever listened may have gone.
    let _ = writeln!(std::io::stdout(), "{tally}");
}
