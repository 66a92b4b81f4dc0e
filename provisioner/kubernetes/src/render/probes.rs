//! What a node asks a member, and how it lets one go.

use provisioner_core::stack::{Probe, Probes, Started, Stop};
use serde_json::{Map, Value, json};

/// The node sends SIGTERM, whatever the workload says; its own signal comes first and is waited for.
const SIGNAL: &str = r#"sleep "${2:-0}"; kill -s "${1#SIG}" 1; while kill -0 1 2>/dev/null; do sleep 0.1; done"#;
pub(crate) const STOP: [&str; 4] = ["/bin/sh", "-c", SIGNAL, "sh"];
/// As the provisioner's own checks ask; an application may answer to no name that it does not know.
const HOST: &str = "127.0.0.1";
const ASK_SECS: u32 = 5;
const ANSWER_SECS: u32 = 3;
/// Two answers that fail: one slow answer makes nobody unusable.
const FAILURES: u32 = 2;

/// What the main container has beside its process. There is no liveness probe: whoever is slow under load, or cut off
/// from those whom it asks, would be ended by one.
pub(super) fn probes(probes: Option<&Probes>, stop: &Stop) -> Map<String, Value> {
    let mut rendered = Map::new();
    if let Some(Probes { ready, started, .. }) = probes {
        rendered.insert("readinessProbe".to_owned(), probe(ready, ASK_SECS, FAILURES));
        if let Some(Started { probe: asked, within_secs }) = started {
            rendered.insert("startupProbe".to_owned(), probe(asked, 1, *within_secs));
        }
    }
    if let Some(hook) = before_stop(stop, leave_secs(probes)) {
        rendered.insert("lifecycle".to_owned(), json!({"preStop": hook}));
    }
    rendered
}

pub(super) fn leave_secs(probes: Option<&Probes>) -> u32 {
    probes.map_or(0, |probes| probes.leave_secs)
}

fn probe(asked: &Probe, every_secs: u32, failures: u32) -> Value {
    let (key, how) = match asked {
        Probe::Http { port, path, tls } => {
            let scheme = if *tls { "HTTPS" } else { "HTTP" };
            let headers = json!([{"name": "Host", "value": HOST}]);
            ("httpGet", json!({"port": port, "path": path, "scheme": scheme, "httpHeaders": headers}))
        }
        Probe::Tcp { port } => ("tcpSocket", json!({"port": port})),
        Probe::Command { argv } => ("exec", json!({"command": argv})),
    };
    json!({key: how, "periodSeconds": every_secs, "timeoutSeconds": ANSWER_SECS, "failureThreshold": failures})
}

/// The hook before the node's own signal, where the workload has another one or takes its time.
fn before_stop(stop: &Stop, leave_secs: u32) -> Option<Value> {
    let argv = STOP.map(str::to_owned).into_iter().chain([stop.signal.clone()]);
    match (stop.signal.as_str(), leave_secs) {
        ("SIGTERM", 0) => None,
        // By the node itself: the image may have no shell.
        ("SIGTERM", secs) => Some(json!({"sleep": {"seconds": secs}})),
        (_, 0) => Some(json!({"exec": {"command": argv.collect::<Vec<_>>()}})),
        (_, secs) => Some(json!({"exec": {"command": argv.chain([secs.to_string()]).collect::<Vec<_>>()}})),
    }
}
