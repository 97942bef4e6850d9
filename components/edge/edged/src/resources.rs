//! Requests and limits as the kernel's numbers (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`).

use cri::runtime::LinuxContainerResources;
use k8s_openapi::api::core::v1 as core;

use crate::model::Pod;
use crate::quantity;
use crate::status::qos_class;

/// Microseconds of a CFS period.
const CPU_PERIOD: i64 = 100_000;
/// The kernel's least quota.
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Guaranteed pods outlive everything but the node's own agents.
const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;

/// A container's share of the machine. `capacity` is the machine's memory in bytes.
pub(crate) fn of_container(pod: &Pod, container: &core::Container, capacity: i64) -> LinuxContainerResources {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let number =
        |list: Option<&std::collections::BTreeMap<String, _>>, name: &str, parse: fn(&str) -> Option<i64>| {
            list.and_then(|l| l.get(name))
                .and_then(|q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| parse(&q.0))
        };
    let cpu_limit = number(limits, "cpu", quantity::milli).unwrap_or(0);
    // A limit without a request is a request, too.
    let cpu_request = number(requests, "cpu", quantity::milli).unwrap_or(cpu_limit);
    let memory_limit = number(limits, "memory", quantity::whole).unwrap_or(0);
    let memory_request = number(requests, "memory", quantity::whole).unwrap_or(memory_limit);
    let quota = if cpu_limit > 0 { (cpu_limit.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA) } else { 0 };
    LinuxContainerResources {
        cpu_shares: shares(cpu_request),
        cpu_quota: quota,
        cpu_period: CPU_PERIOD,
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, memory_request, capacity),
        ..Default::default()
    }
}

fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn oom_score_adj(pod: &Pod, memory_request: i64, capacity: i64) -> i64 {
    // system-node-critical (2 000 001 000) and above.
    let critical = pod.spec().priority.is_some_and(|priority| priority >= 2_000_000_000);
    match qos_class(pod.spec()) {
        "Guaranteed" => GUARANTEED,
        _ if critical => GUARANTEED,
        "BestEffort" => BEST_EFFORT,
        // The more of the machine is asked for, the safer, between the two others.
        _ => (1000 - memory_request.saturating_mul(1000) / capacity.max(1))
            .clamp(1000 + GUARANTEED, BEST_EFFORT - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn of(resources: &str) -> LinuxContainerResources {
        let pod = pod(&format!(r#"{{"containers": [{{"name": "c", "resources": {resources}}}]}}"#));
        of_container(&pod, &pod.spec().containers[0], 1 << 30)
    }

    #[test]
    fn burstable_is_between_the_others() {
        let r = of(
            r#"{"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}"#,
        );
        assert_eq!((r.cpu_shares, r.cpu_quota, r.cpu_period), (256, 50_000, 100_000));
        assert_eq!((r.memory_limit_in_bytes, r.oom_score_adj), (512 << 20, 750));
    }

    #[test]
    fn best_effort_is_killed_first_and_has_no_bounds() {
        let r = of("{}");
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes, r.oom_score_adj), (2, 0, 0, 1000));
    }

    #[test]
    fn guaranteed_is_killed_last() {
        assert_eq!(of(r#"{"limits": {"cpu": "1", "memory": "1Gi"}}"#).oom_score_adj, -997);
    }
}
