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
        (None, None) if live.taken_down => last_phase(&main),
        (None, None) => phase(spec, &init, &main),
    };
    let mut ips = pod_ips(pod, observed, facts);
    if ips.is_empty() && !observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready) {
        ips = reported_ips(previous);
    }
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

/// The sandbox's addresses, the node's with host network. A dead sandbox's stay until there is another one: the API shows
/// an ended pod's address.
pub(crate) fn pod_ips(pod: &Pod, observed: &Observed, facts: &NodeFacts) -> Vec<IpAddr> {
    match &observed.sandbox {
        Some(_) if pod.spec().host_network == Some(true) => facts.host_ips.clone(),
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    }
}

/// The same from what was reported, where the runtime no longer knows.
fn reported_ips(previous: Option<&core::PodStatus>) -> Vec<IpAddr> {
    let ips = previous.and_then(|p| p.pod_ips.as_ref()).into_iter().flatten();
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
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

/// The phase of a pod that was deleted, whatever its restart policy.
fn last_phase(main: &[core::ContainerStatus]) -> &'static str {
    let succeeded = |s: &core::ContainerStatus| {
        s.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
    };
    if main.iter().all(succeeded) { "Succeeded" } else { "Failed" }
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
mod tests;
