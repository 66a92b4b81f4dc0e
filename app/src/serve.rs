//! The life of the server: check the schema, listen, drain.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{interval, sleep, timeout},
};

use crate::{
    config, http,
    state::{AppState, Shared},
    store::schema::{self, SchemaError},
    telemetry,
};

const METRICS_UPKEEP: Duration = Duration::from_secs(5);

pub(crate) async fn run(config: config::Serve) -> anyhow::Result<()> {
    let metrics = telemetry::metrics()?;
    let state = Arc::new(AppState::new(&config)?);
    match schema::check(&state.databases.primary).await {
        Ok(()) => state.note_schema_checked(),
        Err(error @ SchemaError::TooOld { .. }) => return Err(error.into()),
        Err(SchemaError::Store(error)) => {
            tracing::warn!(%error, "start without having seen the schema; /readyz stays 503 until then")
        }
    }

    let public = TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let private = TcpListener::bind(config.metrics_listen)
        .await
        .with_context(|| format!("listen on {} for metrics", config.metrics_listen))?;
    tracing::info!(address = %public.local_addr()?, metrics_address = %private.local_addr()?, "listening");

    let upkeep = metrics.clone();
    tokio::spawn(async move {
        let mut ticks = interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    // Metrics are served to the very end: the last scrape should see the drain.
    let scraped = http::private(Arc::clone(&state), metrics);
    tokio::spawn(async move { axum::serve(private, scraped).await });

    let (closing, mut closed) = watch::channel(false);
    let server = axum::serve(public, http::public(Arc::clone(&state))).with_graceful_shutdown(async move {
        // An error means that the sender is gone, and the server should close then too.
        let _ = closed.wait_for(|closing| *closing).await;
    });
    let mut server = tokio::spawn(async move { server.await });
    tokio::select! {
        ended = &mut server => return ended.context("run the server")?.context("serve HTTP"),
        stopped = stop_signal() => tracing::info!(signal = stopped?, "draining"),
    }
    drain(&state, config.drain).await;
    closing.send_replace(true);
    match timeout(config.shutdown, server).await {
        Ok(ended) => ended.context("run the server")?.context("serve HTTP")?,
        Err(_) => tracing::warn!(
            seconds = config.shutdown.as_secs(),
            "stop with requests still open: the shutdown time is over"
        ),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Requests go on being answered while load balancers find out from /readyz.
#[allow(clippy::disallowed_methods, reason = "there is nothing to poll: load balancers do not tell when they know")]
async fn drain(state: &Shared, pause: Duration) {
    state.drain();
    sleep(pause).await;
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
