//! What a namespace that somebody gave is kept to.

use k8s_openapi::api::core::v1::ResourceQuota;
use provisioner_core::engine::Condition;
use provisioner_core::stack::{Stack, Workload};

use crate::pods;
use crate::quantity::whole;

const MIB: u64 = 1 << 20;

/// Whether all members fit; what else is in the namespace takes its own part. `None`: there is no quota.
pub(crate) fn told(quotas: &[ResourceQuota], stack: Option<&Stack>) -> Option<Condition> {
    let members: Vec<&Workload> = stack.iter().flat_map(|stack| stack.workloads()).collect();
    let (count, memory) = (members.len() as u64, members.iter().filter_map(|it| it.limits.memory_bytes).sum::<u64>());
    let mut fitting = Vec::new();
    for quota in quotas {
        for (what, hard) in quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten()) {
            let (asked, unit, word) = match what.as_str() {
                "pods" | "count/pods" => (count, 1, ""),
                "memory" | "requests.memory" | "limits.memory" => (memory, MIB, " MiB"),
                _ => continue,
            };
            let Some(allowed) = whole(hard) else { continue };
            let shown = |amount: u64| format!("{}{word}", amount / unit);
            let name = pods::name(&quota.metadata);
            if asked > allowed {
                let (allowed, asked) = (shown(allowed), shown(asked));
                let why = format!("{name} allows {allowed} of {what}, members ask for {asked}; have it raised");
                return Some(Condition { subject: "quota", verdict: Err(why) });
            }
            fitting.push(format!("{} of {} of {what} of {name}", shown(asked), shown(allowed)));
        }
    }
    let names = || quotas.iter().map(|quota| pods::name(&quota.metadata)).collect::<Vec<_>>().join(", ");
    let verdict = if fitting.is_empty() { names() } else { fitting.join(", ") };
    (!quotas.is_empty()).then_some(Condition { subject: "quota", verdict: Ok(verdict) })
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;
    use serde_json::{Value, json};

    use super::*;

    fn quota(hard: &Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "team"}, "spec": {"hard": hard}})).unwrap()
    }

    #[test]
    fn a_quota_is_told_with_what_members_ask_of_it() {
        let stack = Stack::new(
            StackName::new("dev").unwrap(),
            [("redis-1", 512), ("search-1", 1536)].map(|(member, mib)| crate::preflight::tests::workload(member, mib)),
        );
        let verdict = |hard: &Value| told(&[quota(hard)], Some(&stack)).unwrap().verdict;
        let fits = "2 of 10 of pods of team, 2048 MiB of 4096 MiB of requests.memory of team";
        assert_eq!(verdict(&json!({"pods": "10", "requests.memory": "4Gi", "services": "9"})), Ok(fits.to_owned()));
        let few = "team allows 1 of pods, members ask for 2; have it raised";
        assert_eq!(verdict(&json!({"pods": "1"})), Err(few.to_owned()));
        let small = "team allows 1024 MiB of limits.memory, members ask for 2048 MiB; have it raised";
        assert_eq!(verdict(&json!({"limits.memory": "1Gi"})), Err(small.to_owned()));
        assert_eq!(verdict(&json!({"services": "9"})), Ok("team".to_owned()));
        assert!(told(&[], Some(&stack)).is_none());
    }
}
