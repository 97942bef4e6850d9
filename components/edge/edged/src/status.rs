//! The pod's status as a kubelet writes it: a pure function of object, runtime and what edged knows
//! (`pkg/kubelet/kubelet_pods.go: generateAPIPodStatus, getPhase, convertToAPIContainerStatuses`,
//! `pkg/kubelet/status/generate.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::model::{ContainerRecord, ContainerState, Live, NodeFacts, Observed, Pod, Waiting};
use crate::quantity;

/// What edged reports of a pod now. `previous` is what it reported last: transition times and the last state of
/// containers whose older attempt is gone come from it.
pub(crate) fn pod_status(
    pod: &Pod,
    observed: &Observed,
    live: &Live,
    facts: &NodeFacts,
    previous: Option<&core::PodStatus>,
    now: Timestamp,
) -> core::PodStatus {
    let spec = pod.spec();
    let init = container_statuses(
        pod,
        spec.init_containers.as_deref().unwrap_or(&[]),
        true,
        observed,
        live,
        facts,
        previous,
    );
    let mut main = container_statuses(pod, &spec.containers, false, observed, live, facts, previous);
    // The kubelet sorts containers by name and leaves init containers in the order of the spec.
    main.sort_by(|a, b| a.name.cmp(&b.name));

    // What ended for good stays so, whatever is left of its containers to tell.
    let ended = previous.filter(|p| matches!(p.phase.as_deref(), Some("Succeeded" | "Failed")));
    let phase = match (&live.failed, ended.and_then(|p| p.phase.as_deref())) {
        (Some(_), _) => "Failed",
        (None, Some(ended)) => ended,
        (None, None) => phase(spec, &init, &main),
    };
    let ips = pod_ips(pod, observed, facts);
    let conditions = conditions(pod, observed, &init, &main, phase, previous, now);
    core::PodStatus {
        phase: Some(phase.to_owned()),
        reason: live.failed.as_ref().map(|f| f.reason.clone()).or(ended.and_then(|p| p.reason.clone())),
        message: live
            .failed
            .as_ref()
            .map(|f| f.message.clone())
            .filter(|m| !m.is_empty())
            .or(ended.and_then(|p| p.message.clone())),
        conditions: Some(conditions),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        host_ip: facts.host_ips.first().map(ToString::to_string),
        host_ips: Some(facts.host_ips.iter().map(|ip| core::HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| core::PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(qos_class(spec).to_owned()),
        start_time: previous.and_then(|p| p.start_time.clone()).or(Some(whole_seconds(now))),
        ..core::PodStatus::default()
    }
}

/// The sandbox's addresses, the node's with host network.
pub(crate) fn pod_ips(pod: &Pod, observed: &Observed, facts: &NodeFacts) -> Vec<IpAddr> {
    match &observed.sandbox {
        Some(sandbox) if sandbox.ready && pod.spec().host_network == Some(true) => facts.host_ips.clone(),
        Some(sandbox) if sandbox.ready => sandbox.ips.clone(),
        _ => Vec::new(),
    }
}

fn container_statuses(
    pod: &Pod,
    containers: &[core::Container],
    init: bool,
    observed: &Observed,
    live: &Live,
    facts: &NodeFacts,
    previous: Option<&core::PodStatus>,
) -> Vec<core::ContainerStatus> {
    let known = previous
        .and_then(|p| if init { p.init_container_statuses.as_ref() } else { p.container_statuses.as_ref() });
    let has_init = pod.spec().init_containers.as_ref().is_some_and(|c| !c.is_empty());
    containers
        .iter()
        .map(|container| {
            let before = known.into_iter().flatten().find(|status| status.name == container.name);
            container_status(container, init, has_init, observed, live, facts, before)
        })
        .collect()
}

fn container_status(
    container: &core::Container,
    init: bool,
    has_init: bool,
    observed: &Observed,
    live: &Live,
    facts: &NodeFacts,
    before: Option<&core::ContainerStatus>,
) -> core::ContainerStatus {
    let name = &container.name;
    let newest = observed.newest(name);
    let running = newest.is_some_and(|c| matches!(c.state, ContainerState::Running { .. }));
    // A container that runs is not waiting, whatever edged thought of it before.
    let waiting = live.waiting.get(name).or(live.blocked.as_ref()).filter(|_| !running);

    let terminated = |record: &ContainerRecord| terminated(record, facts);
    let (state, last_state) = match (newest, waiting) {
        (Some(record), Some(waiting)) => {
            (waiting_state(waiting), terminated(record).or_else(|| last_terminated(before)))
        }
        (Some(record), None) => match &record.state {
            ContainerState::Running { started_at } => {
                let state = core::ContainerStateRunning { started_at: Some(whole_seconds(*started_at)) };
                let state = core::ContainerState { running: Some(state), ..Default::default() };
                (state, older(observed, name, facts).or_else(|| last_terminated(before)))
            }
            ContainerState::Exited { .. } => {
                let state = core::ContainerState { terminated: terminated(record), ..Default::default() };
                (
                    state,
                    older(observed, name, facts)
                        .or_else(|| last_terminated_unless(before, &record.id, facts)),
                )
            }
            ContainerState::Created | ContainerState::Unknown => (
                waiting_state(&creating(has_init && !init)),
                older(observed, name, facts).or_else(|| last_terminated(before)),
            ),
        },
        (None, Some(waiting)) => (waiting_state(waiting), last_terminated(before)),
        (None, None) => (waiting_state(&creating(has_init && !init)), last_terminated(before)),
    };

    let exited_well = newest.is_some_and(|c| matches!(c.state, ContainerState::Exited { exit_code: 0, .. }));
    let started = running && (container.startup_probe.is_none() || live.started.get(name) == Some(&true));
    let passes = container.readiness_probe.is_none() || live.ready.get(name) == Some(&true);
    let ready = if init && !is_sidecar(container) { exited_well } else { started && passes };
    core::ContainerStatus {
        name: name.clone(),
        image: newest.map_or_else(|| container.image.clone().unwrap_or_default(), |c| c.image.clone()),
        image_id: newest.map(|c| c.image_id.clone()).unwrap_or_default(),
        container_id: newest.map(|c| format!("{}://{}", facts.runtime_name, c.id)),
        // A container whose every attempt was removed has not run less often for that.
        restart_count: newest.map_or_else(
            || before.map_or(0, |b| b.restart_count),
            |c| i32::try_from(c.attempt).unwrap_or(i32::MAX),
        ),
        ready,
        started: Some(started),
        state: Some(state),
        last_state: Some(core::ContainerState { terminated: last_state, ..Default::default() }),
        volume_mounts: volume_mounts(container),
        ..Default::default()
    }
}

/// An init container that keeps running beside the pod's containers (KEP-753).
pub(crate) fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn volume_mounts(container: &core::Container) -> Option<Vec<core::VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &core::VolumeMount| core::VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
    };
    Some(mounts.iter().map(status).collect())
}

fn creating(after_init: bool) -> Waiting {
    let reason = if after_init { "PodInitializing" } else { "ContainerCreating" };
    Waiting { reason: reason.to_owned(), message: String::new() }
}

fn waiting_state(waiting: &Waiting) -> core::ContainerState {
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: Some(waiting.message.clone()).filter(|message| !message.is_empty()),
        }),
        ..Default::default()
    }
}

fn terminated(record: &ContainerRecord, facts: &NodeFacts) -> Option<core::ContainerStateTerminated> {
    let ContainerState::Exited { started_at, finished_at, exit_code, reason, message } = &record.state else {
        return None;
    };
    Some(core::ContainerStateTerminated {
        container_id: Some(format!("{}://{}", facts.runtime_name, record.id)),
        exit_code: *exit_code,
        started_at: started_at.map(whole_seconds),
        finished_at: Some(whole_seconds(*finished_at)),
        reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
        message: Some(message.clone()).filter(|message| !message.is_empty()),
        signal: None,
    })
}

fn older(observed: &Observed, name: &str, facts: &NodeFacts) -> Option<core::ContainerStateTerminated> {
    observed.previous(name).and_then(|record| terminated(record, facts))
}

/// The last ended attempt we reported, for when the runtime no longer has it.
fn last_terminated(before: Option<&core::ContainerStatus>) -> Option<core::ContainerStateTerminated> {
    let before = before?;
    let of = |state: &Option<core::ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    of(&before.state).or_else(|| of(&before.last_state))
}

fn last_terminated_unless(
    before: Option<&core::ContainerStatus>,
    id: &str,
    facts: &NodeFacts,
) -> Option<core::ContainerStateTerminated> {
    let own = format!("{}://{id}", facts.runtime_name);
    let before = before?;
    let of = |state: &Option<core::ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    [of(&before.state), of(&before.last_state)]
        .into_iter()
        .flatten()
        .find(|t| t.container_id.as_ref() != Some(&own))
}

fn phase(
    spec: &core::PodSpec,
    init: &[core::ContainerStatus],
    main: &[core::ContainerStatus],
) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let terminated = |s: &core::ContainerStatus| {
        s.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code)
    };
    let last = |s: &core::ContainerStatus| {
        s.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code)
    };
    let is_running =
        |s: &core::ContainerStatus| s.state.as_ref().is_some_and(|state| state.running.is_some());

    let mut pending_init = false;
    let mut pending_sidecar = false;
    let mut failed_init = false;
    for (status, container) in init.iter().zip(spec.init_containers.iter().flatten()) {
        if is_sidecar(container) {
            pending_sidecar |= status.started != Some(true);
            continue;
        }
        match terminated(status).or_else(|| if is_running(status) { None } else { last(status) }) {
            Some(0) => {}
            Some(_) => failed_init = true,
            None => pending_init = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        if is_running(status) {
            running += 1;
        } else if let Some(code) = terminated(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else if last(status).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if failed_init && policy == "Never" {
        "Failed"
    } else if pending_init || waiting > 0 || (pending_sidecar && running + stopped == 0) {
        "Pending"
    } else if running > 0 {
        "Running"
    } else if stopped == 0 {
        "Pending"
    } else if policy == "Always" {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    }
}

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { status: false, reason: Some(reason), message }
    }
}

fn conditions(
    pod: &Pod,
    observed: &Observed,
    init: &[core::ContainerStatus],
    main: &[core::ContainerStatus],
    phase: &str,
    previous: Option<&core::PodStatus>,
    now: Timestamp,
) -> Vec<core::PodCondition> {
    let spec = pod.spec();
    let networked = observed
        .sandbox
        .as_ref()
        .is_some_and(|s| s.ready && (spec.host_network == Some(true) || !s.ips.is_empty()));
    let containers_ready = containers_ready(main, phase);
    let ready = match &containers_ready {
        Verdict { status: true, .. } => readiness_gates(pod),
        Verdict { reason, message, .. } => {
            Verdict { status: false, reason: *reason, message: message.clone() }
        }
    };
    let all = [
        ("PodReadyToStartContainers", Verdict { status: networked, reason: None, message: None }),
        ("Initialized", initialized(spec, init, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ];
    let known: BTreeMap<&str, &core::PodCondition> = previous
        .and_then(|p| p.conditions.as_ref())
        .into_iter()
        .flatten()
        .map(|c| (c.type_.as_str(), c))
        .collect();
    all.into_iter()
        .map(|(type_, verdict)| {
            let status = if verdict.status { "True" } else { "False" };
            let since =
                known.get(type_).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            core::PodCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.map(str::to_owned),
                message: verdict.message,
                last_transition_time: Some(since.unwrap_or_else(|| whole_seconds(now))),
                ..Default::default()
            }
        })
        .collect()
}

fn initialized(spec: &core::PodSpec, init: &[core::ContainerStatus], phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let incomplete: Vec<&str> = init
        .iter()
        .zip(spec.init_containers.iter().flatten())
        .filter(
            |(status, container)| {
                if is_sidecar(container) { status.started != Some(true) } else { !status.ready }
            },
        )
        .map(|(status, _)| status.name.as_str())
        .collect();
    if incomplete.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no(
            "ContainersNotInitialized",
            Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        )
    }
}

fn containers_ready(main: &[core::ContainerStatus], phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let unready: Vec<&str> = main.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no(
            "ContainersNotReady",
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        )
    }
}

/// A pod with readiness gates is ready once somebody has set all of them.
fn readiness_gates(pod: &Pod) -> Verdict {
    let set = |gate: &&core::PodReadinessGate| {
        let conditions = pod.object.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == gate.condition_type && c.status == "True")
    };
    let missing: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter(|gate| !set(gate))
        .map(|gate| {
            format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )
        })
        .collect();
    if missing.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(missing.join(", ")))
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort` (`pkg/apis/core/v1/helper/qos`).
pub(crate) fn qos_class(spec: &core::PodSpec) -> &'static str {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let amount = |list: Option<&BTreeMap<String, _>>, name: &str| {
        list.and_then(|l| l.get(name))
            .and_then(|q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| quantity::milli(&q.0))
            .filter(|value| *value > 0)
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for name in ["cpu", "memory"] {
            let resources = container.resources.as_ref();
            let limit = amount(resources.and_then(|r| r.limits.as_ref()), name);
            let request = amount(resources.and_then(|r| r.requests.as_ref()), name);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Kubernetes' `Time` has whole seconds.
fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The strategic-merge patch that makes the cloud's pod show exactly this status. Fields that lists or absence would
/// leave standing are replaced or set to null; conditions of others (readiness gates) stay.
pub(crate) fn status_patch(uid: &str, status: &core::PodStatus) -> Vec<u8> {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    if let Value::Object(fields) = &mut json {
        for name in ["reason", "message", "podIP"] {
            fields.entry(name).or_insert(Value::Null);
        }
        for name in ["podIPs", "hostIPs"] {
            // Merged by address: without the directive the addresses of an earlier sandbox would stay.
            let mut list = vec![json!({"$patch": "replace"})];
            list.extend(fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default());
            fields.insert(name.to_owned(), Value::Array(list));
        }
        for condition in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(condition) = condition {
                for name in ["reason", "message"] {
                    condition.entry(name).or_insert(Value::Null);
                }
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": json}).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Allocatable, Sandbox};
    use crate::testing::pod;

    fn facts() -> NodeFacts {
        NodeFacts {
            node_name: "edge-1".into(),
            host_ips: vec!["192.0.2.1".parse().expect("ip")],
            runtime_name: "containerd".into(),
            allocatable: Allocatable { cpu_millis: 1000, memory: 1, ephemeral_storage: 1 },
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the field has it")]
    fn sandbox() -> Option<Sandbox> {
        let ips = vec!["10.0.0.7".parse().expect("ip")];
        Some(Sandbox { id: "s".into(), ready: true, ips, attempt: 0, created_at: at(1) })
    }

    fn record(name: &str, attempt: u32, state: ContainerState) -> ContainerRecord {
        let id = format!("{name}{attempt}");
        let (image, image_id) = ("busybox:1.35".into(), "sha256:1".into());
        ContainerRecord { name: name.into(), id, image, image_id, attempt, created_at: at(1), state }
    }

    fn exited(code: i32) -> ContainerState {
        let (reason, message) = (if code == 0 { "Completed" } else { "Error" }.to_owned(), String::new());
        ContainerState::Exited {
            started_at: Some(at(2)),
            finished_at: at(3),
            exit_code: code,
            reason,
            message,
        }
    }

    fn running() -> ContainerState {
        ContainerState::Running { started_at: at(2) }
    }

    fn status(pod: &Pod, containers: Vec<ContainerRecord>, live: &Live) -> core::PodStatus {
        pod_status(pod, &Observed { sandbox: sandbox(), containers }, live, &facts(), None, at(10))
    }

    fn condition<'a>(status: &'a core::PodStatus, type_: &str) -> &'a core::PodCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == type_).expect("condition")
    }

    const ONE: &str = r#"{"containers": [{"name": "c", "image": "busybox:1.35"}]}"#;

    #[test]
    fn running_pod_without_probes_is_ready() {
        let status = status(&pod(ONE), vec![record("c", 0, running())], &Live::default());
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let types: Vec<_> =
            status.conditions.iter().flatten().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        let expected =
            ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
        assert_eq!(types, expected.map(|t| (t, "True")));
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        assert_eq!(container.container_id.as_deref(), Some("containerd://c0"));
        assert!(container.ready && container.started == Some(true));
    }

    #[test]
    fn readiness_probe_decides_when_there_is_one() {
        let pod = pod(r#"{"containers": [{"name": "c", "readinessProbe": {"tcpSocket": {"port": 1}}}]}"#);
        let mut live = Live::default();
        let not_yet = status(&pod, vec![record("c", 0, running())], &live);
        let ready = condition(&not_yet, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));
        live.ready.insert("c".into(), true);
        assert_eq!(condition(&status(&pod, vec![record("c", 0, running())], &live), "Ready").status, "True");
    }

    #[test]
    fn crash_loop_shows_back_off_last_state_and_count() {
        let mut live = Live::default();
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() };
        live.waiting.insert("c".into(), waiting);
        let status = status(&pod(ONE), vec![record("c", 2, exited(1)), record("c", 1, exited(1))], &live);
        assert_eq!(status.phase.as_deref(), Some("Running"), "restartPolicy Always has started it before");
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        let reason =
            container.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
        assert_eq!(reason, Some("CrashLoopBackOff"));
        let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("last state");
        assert_eq!((last.exit_code, last.container_id.as_deref()), (1, Some("containerd://c2")));
        assert_eq!(container.restart_count, 2);
    }

    #[test]
    fn init_containers_hold_the_pod_pending() {
        let pod = pod(r#"{"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}"#);
        let during = status(&pod, vec![record("i", 0, running())], &Live::default());
        assert_eq!(during.phase.as_deref(), Some("Pending"));
        let initialized = condition(&during, "Initialized");
        assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
        let waiting = during.container_statuses.as_ref().expect("statuses")[0]
            .state
            .as_ref()
            .and_then(|s| s.waiting.as_ref());
        assert_eq!(waiting.and_then(|w| w.reason.as_deref()), Some("PodInitializing"));
        let after =
            status(&pod, vec![record("i", 0, exited(0)), record("c", 0, running())], &Live::default());
        assert_eq!(after.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&after, "Initialized").status, "True");
    }

    #[test]
    fn restart_policy_decides_what_an_end_means() {
        let phase_of = |policy: &str, code: i32| {
            let pod = pod(&format!(r#"{{"restartPolicy": "{policy}", "containers": [{{"name": "c"}}]}}"#));
            status(&pod, vec![record("c", 0, exited(code))], &Live::default()).phase.expect("phase")
        };
        assert_eq!(phase_of("Never", 0), "Succeeded");
        assert_eq!(phase_of("Never", 1), "Failed");
        assert_eq!(phase_of("OnFailure", 0), "Succeeded");
        assert_eq!(phase_of("OnFailure", 1), "Running");
        assert_eq!(phase_of("Always", 0), "Running");
    }

    #[test]
    fn a_sidecar_that_ends_last_does_not_undo_the_end() {
        let pod =
            pod(r#"{"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "c"}]}"#);
        let before = status(&pod, vec![], &Live::default());
        assert_eq!(before.phase.as_deref(), Some("Pending"));
        let after =
            status(&pod, vec![record("s", 0, exited(137)), record("c", 0, exited(0))], &Live::default());
        assert_eq!(after.phase.as_deref(), Some("Succeeded"));
    }

    #[test]
    fn an_ended_pod_stays_ended_when_its_containers_are_gone() {
        let pod = pod(r#"{"restartPolicy": "Never", "containers": [{"name": "c"}]}"#);
        let ended = status(&pod, vec![record("c", 0, exited(1))], &Live::default());
        let later = pod_status(&pod, &Observed::default(), &Live::default(), &facts(), Some(&ended), at(20));
        assert_eq!(later.phase.as_deref(), Some("Failed"));
    }

    #[test]
    fn transition_time_and_start_time_survive() {
        let pod = pod(ONE);
        let observed = Observed { sandbox: sandbox(), containers: vec![record("c", 0, running())] };
        let first = pod_status(&pod, &observed, &Live::default(), &facts(), None, at(10));
        let second = pod_status(&pod, &observed, &Live::default(), &facts(), Some(&first), at(99));
        assert_eq!(first, second, "nothing changed, so nothing is reported");
        let gone = Observed { containers: vec![record("c", 0, exited(1))], ..observed };
        let third = pod_status(&pod, &gone, &Live::default(), &facts(), Some(&second), at(99));
        assert_eq!(condition(&third, "Ready").last_transition_time, Some(Time(at(99))));
        assert_eq!(condition(&third, "Initialized").last_transition_time, Some(Time(at(10))));
    }

    #[test]
    fn patch_clears_what_an_earlier_status_may_have_left() {
        let status = status(&pod(ONE), vec![record("c", 0, running())], &Live::default());
        let patch: Value = serde_json::from_slice(&status_patch("uid-1", &status)).expect("JSON");
        assert_eq!(patch["metadata"]["uid"], "uid-1");
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.7"}]));
        assert!(patch["status"]["reason"].is_null() && patch["status"]["conditions"][0]["message"].is_null());
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let class = |resources: &str| {
            qos_class(
                pod(&format!(r#"{{"containers": [{{"name": "c", "resources": {resources}}}]}}"#)).spec(),
            )
        };
        assert_eq!(class("{}"), "BestEffort");
        assert_eq!(class(r#"{"limits": {"cpu": "1", "memory": "1Gi"}}"#), "Guaranteed");
        assert_eq!(
            class(r#"{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}"#),
            "Burstable"
        );
    }
}
