//! The life of the server: check the schema, listen, drain.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    config, http, process,
    state::{AppState, Shared},
    store::schema::{self, SchemaError},
    telemetry,
    trust::Trust,
};

pub(crate) async fn run(config: config::Serve, trust: &Trust) -> anyhow::Result<()> {
    let metrics = telemetry::metrics()?;
    let state = Arc::new(AppState::new(&config, trust)?);
    match schema::check(&state.probe).await {
        Ok(()) => state.note_schema_checked(),
        Err(error @ SchemaError::TooOld { .. }) => return Err(error.into()),
        Err(SchemaError::Store(error)) => {
            tracing::warn!(%error, "start without having seen the schema; /readyz stays 503 until then")
        }
    }

    let public = TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let scraped = http::private(Arc::clone(&state), metrics.clone());
    let private = process::listen_privately(config.metrics_listen, scraped, metrics).await?;
    tracing::info!(address = %public.local_addr()?, metrics_address = %private, "listening");

    let (closing, mut closed) = watch::channel(false);
    let server = axum::serve(public, http::public(Arc::clone(&state))).with_graceful_shutdown(async move {
        // An error means that the sender is gone, and the server should close then too.
        let _ = closed.wait_for(|closing| *closing).await;
    });
    let mut server = tokio::spawn(async move { server.await });
    tokio::select! {
        ended = &mut server => return ended.context("run the server")?.context("serve HTTP"),
        stopped = process::stop_signal() => tracing::info!(signal = stopped?, "draining"),
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
