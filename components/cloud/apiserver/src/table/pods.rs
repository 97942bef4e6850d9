use jiff::Timestamp;
use serde_json::Value;

use super::{Column, Columns, age, narrow, wide};
use crate::object::{self, list, text};

pub(crate) static PODS: Columns = Columns {
    columns: &[
        narrow("Name"),
        narrow("Ready"),
        narrow("Status"),
        Column { name: "Restarts", kind: "string", wide: false },
        narrow("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart.filter(|_| summary.restarts > 0) {
        Some(at) => format!("{} ({} ago)", summary.restarts, age::human(now.duration_since(at))),
        None => summary.restarts.to_string(),
    };
    let gates = list(pod, "/spec/readinessGates");
    let gates_met = gates.iter().filter(|gate| has_condition(pod, text(gate, "/conditionType"))).count();
    vec![
        object::name(pod).into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age::of(pod, now),
        or_none(text(pod, "/status/podIP")),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        if gates.is_empty() { "<none>".into() } else { format!("{gates_met}/{}", gates.len()).into() },
    ]
}

struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Restart count and the end of the run before.
fn count_restarts(container: &Value, restarts: &mut i64, last: &mut Option<Timestamp>) {
    *restarts += container["restartCount"].as_i64().unwrap_or(0);
    let ended = text(container, "/lastState/terminated/finishedAt").parse::<Timestamp>().ok();
    *last = (*last).max(ended);
}

/// How a terminated container ended, when it gives no reason.
fn ending(terminated: &Value) -> String {
    match terminated["signal"].as_i64().unwrap_or(0) {
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

/// The STATUS column: the phase, unless a container has something more telling to say.
fn summarize(pod: &Value) -> Summary {
    let mut total = list(pod, "/spec/containers").len();
    let (mut ready, mut restarts, mut last_restart) = (0, 0, None);
    let phase = text(pod, "/status/phase");
    let pod_reason = text(pod, "/status/reason");
    let mut status = if pod_reason.is_empty() { phase } else { pod_reason }.to_owned();

    let init_specs = list(pod, "/spec/initContainers");
    let is_sidecar = |name: &str| {
        init_specs.iter().any(|spec| text(spec, "/name") == name && spec["restartPolicy"] == "Always")
    };
    total += init_specs.iter().filter(|spec| spec["restartPolicy"] == "Always").count();
    let mut initializing = false;
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        count_restarts(container, &mut restarts, &mut last_restart);
        let sidecar = is_sidecar(text(container, "/name"));
        if sidecar {
            count_restarts(container, &mut sidecar_restarts, &mut sidecar_last);
        }
        let terminated = container.pointer("/state/terminated");
        if terminated.is_some_and(|t| t["exitCode"] == 0) {
            continue;
        }
        if sidecar && container["started"] == true {
            ready += usize::from(container["ready"] == true);
            continue;
        }
        let waiting = text(container, "/state/waiting/reason");
        status = match terminated {
            Some(t) if text(t, "/reason").is_empty() => format!("Init:{}", ending(t)),
            Some(t) => format!("Init:{}", text(t, "/reason")),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", init_specs.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || has_condition(pod, "Initialized") {
        (restarts, last_restart) = (sidecar_restarts, sidecar_last);
        let mut running = false;
        // The first container speaks last.
        for container in list(pod, "/status/containerStatuses").iter().rev() {
            count_restarts(container, &mut restarts, &mut last_restart);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut status);
            } else if let Some(terminated) = container.pointer("/state/terminated") {
                let reason = text(terminated, "/reason");
                status = if reason.is_empty() { ending(terminated) } else { reason.to_owned() };
            } else if container["ready"] == true && container.pointer("/state/running").is_some() {
                running = true;
                ready += 1;
            }
        }
        if status == "Completed" && running {
            let shown = if has_condition(pod, "Ready") { "Running" } else { "NotReady" };
            shown.clone_into(&mut status);
        }
    }
    if object::is_terminating(pod) {
        if pod_reason == "NodeLost" {
            "Unknown".clone_into(&mut status);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut status);
        }
    }
    Summary { status, ready, total, restarts, last_restart }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(status: Value) -> (String, String, i64) {
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]}, "status": status});
        let summary = summarize(&pod);
        (summary.status, format!("{}/{}", summary.ready, summary.total), summary.restarts)
    }

    #[test]
    fn a_new_pod_is_pending() {
        assert_eq!(shown(json!({"phase": "Pending"})), ("Pending".into(), "0/1".into(), 0));
    }

    #[test]
    fn init_containers_are_counted() {
        let status = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]});
        assert_eq!(shown(status).0, "Init:1/2");
        let status = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
        assert_eq!(shown(status), ("Init:CrashLoopBackOff".into(), "0/1".into(), 2));
    }

    #[test]
    fn a_crash_loop_shows_its_restarts() {
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}]});
        assert_eq!(shown(status), ("CrashLoopBackOff".into(), "0/1".into(), 4));
    }

    #[test]
    fn a_running_pod_counts_ready_containers() {
        let status = json!({"phase": "Running", "containerStatuses": [
            {"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        assert_eq!(shown(status), ("Running".into(), "1/1".into(), 0));
    }

    #[test]
    fn an_exit_without_reason_shows_its_code() {
        let status = json!({"phase": "Failed", "containerStatuses": [
            {"name": "c", "state": {"terminated": {"exitCode": 3}}}]});
        assert_eq!(shown(status).0, "ExitCode:3");
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(summarize(&pod).status, "Terminating");
    }
}
