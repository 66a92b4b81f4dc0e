//! The lock as people and their tools read a Lease. Nothing is decided by it.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use provisioner_core::clock;
use provisioner_core::lease::{Holder, TTL};
use serde::Deserialize;
use serde_json::Value;

pub(crate) fn spec(value: &Value) -> Option<LeaseSpec> {
    let Holder { user, host, pid, command, since, .. } = Holder::deserialize(value).ok()?;
    Some(LeaseSpec {
        holder_identity: Some(format!("{user}@{host} (pid {pid}, `{command}`)")),
        acquire_time: time(since),
        renew_time: time(clock::unix_seconds()),
        lease_duration_seconds: i32::try_from(TTL.as_secs()).ok(),
        ..LeaseSpec::default()
    })
}

fn time(seconds: u64) -> Option<MicroTime> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).map(MicroTime)
}
