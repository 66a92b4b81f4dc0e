//! Ctrl-C and SIGTERM: the first asks, the second forces.

use tokio::sync::watch;

/// How often somebody asked a run to stop.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<u8>);

impl Interrupt {
    /// Listens to the process's signals from now on.
    pub fn listen() -> Self {
        let (ask, asked) = watch::channel(0_u8);
        tokio::spawn(async move {
            // Without handlers the first signal ends the process, which is what a second one would do.
            let Some(mut signals) = Signals::open() else { return };
            loop {
                signals.next().await;
                ask.send_modify(|times| *times = times.saturating_add(1));
            }
        });
        Self(asked)
    }

    /// For runs that nobody can interrupt.
    pub fn never() -> Self {
        Self(watch::channel(0).1)
    }

    /// An interrupt that whoever holds the sender can ask for.
    pub fn by_hand() -> (watch::Sender<u8>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }

    /// Somebody asks to stop once the running steps have ended.
    pub async fn requested(&self) {
        self.asked(1).await;
    }

    /// Somebody wants it to stop at once.
    pub async fn insisted(&self) {
        self.asked(2).await;
    }

    async fn asked(&self, times: u8) {
        // An error means that nobody is left who could ask.
        if self.0.clone().wait_for(|asked| *asked >= times).await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn open() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Some(Self {
            interrupt: signal(SignalKind::interrupt()).ok()?,
            terminate: signal(SignalKind::terminate()).ok()?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn open() -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
