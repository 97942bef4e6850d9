use super::*;
use crate::model::Sandbox;
use crate::testing::{facts, pod};

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
    ContainerState::Exited { started_at: Some(at(2)), finished_at: at(3), exit_code: code, reason, message }
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
    let expected = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
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
    let reason = container.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
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
    let after = status(&pod, vec![record("i", 0, exited(0)), record("c", 0, running())], &Live::default());
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
    let after = status(&pod, vec![record("s", 0, exited(137)), record("c", 0, exited(0))], &Live::default());
    assert_eq!(after.phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_pod_that_was_taken_down_says_how_its_containers_ended() {
    let live = Live { taken_down: true, ..Live::default() };
    let killed = status(&pod(ONE), vec![record("c", 0, exited(137))], &live);
    assert_eq!(killed.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&killed, "Ready").reason.as_deref(), Some("PodFailed"));
    assert_eq!(status(&pod(ONE), vec![record("c", 0, exited(0))], &live).phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_dead_sandbox_keeps_its_address_but_no_readiness() {
    let pod = pod(ONE);
    let observed = |ready| Observed {
        sandbox: sandbox().map(|s| Sandbox { ready, ..s }),
        containers: vec![record("c", 0, exited(0))],
    };
    let alive = pod_status(&pod, &observed(true), &Live::default(), &facts(), None, at(10));
    for dead in [observed(false), Observed::default()] {
        let status = pod_status(&pod, &dead, &Live::default(), &facts(), Some(&alive), at(10));
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
        assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
    }
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
        qos_class(pod(&format!(r#"{{"containers": [{{"name": "c", "resources": {resources}}}]}}"#)).spec())
    };
    assert_eq!(class("{}"), "BestEffort");
    assert_eq!(class(r#"{"limits": {"cpu": "1", "memory": "1Gi"}}"#), "Guaranteed");
    assert_eq!(
        class(r#"{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}"#),
        "Burstable"
    );
}
