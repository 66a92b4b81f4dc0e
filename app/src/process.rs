//! What every long-running command shares: the signal to stop, and the private listener.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{interval, timeout},
};

/// What was observed is kept one by one until then.
const METRICS_UPKEEP: Duration = Duration::from_secs(1);

/// Serves to the very end of the process: the last scrape should see the drain.
pub(crate) async fn listen_privately(
    address: SocketAddr,
    routes: Router,
    metrics: PrometheusHandle,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address} for metrics"))?;
    let bound = listener.local_addr().context("learn the address of the private listener")?;
    tokio::spawn(async move {
        let mut ticks = interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(bound)
}

pub(crate) async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Known to everything that waits, so that no pause outlives the wish to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) fn on_signal() -> Self {
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            match stop_signal().await {
                Ok(signal) => tracing::info!(signal, "stopping"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "stop: signals cannot be heard"),
            }
            asked.send_replace(true);
        });
        Self(stop)
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn asked(&mut self) {
        // An error means that nobody can ask any more, which is the end too.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    pub(crate) async fn pause(&mut self, pause: Duration) {
        // Running out is what usually happens.
        let _ = timeout(pause, self.asked()).await;
    }
}
