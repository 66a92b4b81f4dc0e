//! Ctrl-C and SIGTERM: the first asks, the second forces.

use tokio::sync::{oneshot, watch};

#[derive(Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on. The receiver resolves when somebody insists.
    pub fn listen() -> (Self, oneshot::Receiver<()>) {
        let (ask, asked) = watch::channel(false);
        let (force, forced) = oneshot::channel();
        tokio::spawn(async move {
            let Some(mut signals) = Signals::open() else {
                // Without handlers the first signal ends the process, which is what a second one would do.
                return std::future::pending().await;
            };
            signals.next().await;
            ask.send_replace(true);
            signals.next().await;
            let _ = force.send(());
            // Dropping `ask` would read as "nobody will ever ask".
            std::future::pending::<()>().await;
        });
        (Self(asked), forced)
    }

    /// For runs that nobody can interrupt.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// An interrupt that whoever holds the sender can ask for.
    pub fn by_hand() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|is_asked| *is_asked).await.is_err() {
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
