use super::*;
use crate::model::ContainerRecord;
use crate::security::ImageUser;
use crate::testing::{pod, pod_with};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn sandbox(ready: bool) -> Sandbox {
    Sandbox { id: "s0".into(), ready, ips: vec![], attempt: 0, created_at: at(1) }
}

fn container(name: &str, attempt: u32, state: ContainerState) -> Container {
    let record = ContainerRecord {
        name: name.into(),
        id: format!("{name}{attempt}"),
        image: String::new(),
        image_id: String::new(),
        attempt,
        created_at: at(2),
        state,
    };
    Container { record, hash: None, sandbox: Some("s0".into()), grace: None, log: None }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(2) }
}

fn exited(exit_code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: Some(at(2)),
        finished_at: at(3),
        exit_code,
        reason: String::new(),
        message: String::new(),
    }
}

fn view(sandboxes: Vec<Sandbox>, containers: Vec<Container>) -> PodView {
    let mut view = PodView { sandboxes, containers, ..PodView::default() };
    view.containers.sort_by_key(|c| std::cmp::Reverse(c.record.attempt));
    view
}

fn present(names: &[&str]) -> Memory {
    let image = PresentImage { id: "sha256:1".into(), user: ImageUser::default() };
    let images = names.iter().map(|name| ((*name).to_owned(), ImageState::Present(image.clone()))).collect();
    Memory { volumes_ready: true, images, ..Memory::default() }
}

fn run(pod: &Pod, view: &PodView, memory: &Memory) -> Plan {
    plan(pod, view, memory, Goal::Run, at(10))
}

fn start(name: &str, after: Option<u32>) -> Action {
    Action::Start { container: name.into(), sandbox: "s0".into(), after }
}

const ONE: &str = r#"{"containers": [{"name": "c", "image": "i:1"}]}"#;
const TWO_INIT: &str =
    r#"{"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}, {"name": "d"}]}"#;
const SIDECAR: &str = r#"{"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
    "containers": [{"name": "c"}], "restartPolicy": "Never"}"#;

#[test]
fn a_new_pod_first_gets_its_volumes() {
    assert_eq!(run(&pod(ONE), &view(vec![], vec![]), &Memory::default()).actions, [Action::PrepareVolumes]);
}

#[test]
fn sandbox_and_image_are_made_at_the_same_time() {
    let plan = run(&pod(ONE), &view(vec![], vec![]), &present(&[]));
    let sandbox = Action::CreateSandbox { attempt: 0, replaces: None };
    assert_eq!(plan.actions, [sandbox, Action::EnsureImage { container: "c".into() }]);
}

#[test]
fn a_container_starts_when_sandbox_and_image_are_there() {
    let plan = run(&pod(ONE), &view(vec![sandbox(true)], vec![]), &present(&["c"]));
    assert_eq!(plan.actions, [start("c", None)]);
}

#[test]
fn what_is_under_way_is_not_asked_for_again() {
    let mut memory = present(&["c"]);
    memory.busy.insert(Target::Container("c".into()));
    assert_eq!(run(&pod(ONE), &view(vec![sandbox(true)], vec![]), &memory).actions, []);
}

#[test]
fn a_healthy_pod_is_left_alone() {
    let plan =
        run(&pod(ONE), &view(vec![sandbox(true)], vec![container("c", 0, running())]), &Memory::default());
    assert_eq!(plan, Plan { actions: vec![], waiting: BTreeMap::new(), wake_at: None, stage: Stage::Live });
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod(TWO_INIT);
    let memory = present(&["i", "j", "c", "d"]);
    let of = |containers| run(&pod, &view(vec![sandbox(true)], containers), &memory).actions;
    assert_eq!(of(vec![]), [start("i", None)]);
    assert_eq!(of(vec![container("i", 0, running())]), []);
    assert_eq!(of(vec![container("i", 0, exited(0))]), [start("j", None)]);
    assert_eq!(
        of(vec![container("i", 0, exited(0)), container("j", 0, exited(0))]),
        [start("c", None), start("d", None)]
    );
}

#[test]
fn init_containers_are_not_repeated_once_main_containers_were_made() {
    let containers = vec![container("c", 0, running()), container("d", 0, exited(1))];
    let plan = run(&pod(TWO_INIT), &view(vec![sandbox(true)], containers), &present(&["i", "j", "c", "d"]));
    assert_eq!(plan.actions, [start("d", Some(0))]);
}

#[test]
fn after_the_loss_of_its_sandbox_a_pod_begins_anew() {
    let containers =
        vec![container("i", 0, exited(0)), container("j", 0, exited(0)), container("c", 0, running())];
    let pod = pod(TWO_INIT);
    let stop = run(&pod, &view(vec![sandbox(false)], containers), &present(&[]));
    assert!(matches!(&stop.actions[0], Action::Stop { id, .. } if id == "c0"), "{stop:?}");
    let dead =
        vec![container("i", 0, exited(0)), container("j", 0, exited(0)), container("c", 0, exited(137))];
    let make = run(&pod, &view(vec![sandbox(false)], dead.clone()), &present(&[]));
    assert_eq!(make.actions[0], Action::CreateSandbox { attempt: 1, replaces: Some("s0".into()) });
    let fresh = Sandbox { id: "s1".into(), attempt: 1, ..sandbox(true) };
    let again = run(&pod, &view(vec![fresh, sandbox(false)], dead), &present(&["i"]));
    let start = Action::Start { container: "i".into(), sandbox: "s1".into(), after: Some(0) };
    assert_eq!(again.actions, [start]);
}

#[test]
fn a_crash_is_restarted_at_once_and_the_next_one_waits() {
    let pod = pod(ONE);
    let crashed = view(vec![sandbox(true)], vec![container("c", 0, exited(1))]);
    let mut memory = present(&["c"]);
    assert_eq!(run(&pod, &crashed, &memory).actions, [start("c", Some(0))]);
    memory.restarts.next(&restart_key(&pod.spec().containers[0]), at(3), at(3));
    let plan = plan(&pod, &crashed, &memory, Goal::Run, at(5));
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(13))));
    assert_eq!(plan.waiting["c"].reason, "CrashLoopBackOff");
    assert_eq!(
        plan.waiting["c"].message,
        "back-off 10s restarting failed container=c pod=web-0_default(uid-1)"
    );
}

#[test]
fn a_restart_under_way_is_no_back_off() {
    let pod = pod(ONE);
    let crashed = view(vec![sandbox(true)], vec![container("c", 0, exited(1))]);
    let mut memory = present(&[]);
    memory.restarts.next(&restart_key(&pod.spec().containers[0]), at(3), at(3));
    memory.busy.insert(Target::Container("c".into()));
    let plan = plan(&pod, &crashed, &memory, Goal::Run, at(5));
    assert_eq!((plan.actions, plan.waiting), (vec![], BTreeMap::new()));
}

#[test]
fn restart_policy_decides_and_the_end_stops_the_sandbox() {
    let stop = vec![Action::StopSandbox { id: "s0".into() }];
    for (policy, code, over) in [
        ("Never", 1, true),
        ("Never", 0, true),
        ("OnFailure", 0, true),
        ("OnFailure", 1, false),
        ("Always", 0, false),
    ] {
        let pod = pod(&format!(r#"{{"restartPolicy": "{policy}", "containers": [{{"name": "c"}}]}}"#));
        let plan =
            run(&pod, &view(vec![sandbox(true)], vec![container("c", 0, exited(code))]), &present(&["c"]));
        assert_eq!(plan.stage == Stage::Over, over, "{policy} {code}");
        assert_eq!(
            plan.actions,
            if over { stop.clone() } else { vec![start("c", Some(0))] },
            "{policy} {code}"
        );
    }
}

#[test]
fn a_pod_the_cloud_calls_finished_does_not_run_again() {
    let json = br#"{"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Succeeded"}}"#;
    let pod = Pod::parse(json).expect("a pod");
    let plan = run(&pod, &view(vec![], vec![]), &Memory::default());
    assert_eq!((plan.actions, plan.stage), (vec![], Stage::Over));
}

#[test]
fn another_image_replaces_the_container() {
    let mut old = container("c", 0, running());
    old.hash = Some("0".into());
    let plan = run(&pod(ONE), &view(vec![sandbox(true)], vec![old]), &present(&[]));
    assert!(matches!(&plan.actions[..], [Action::Stop { reason: StopReason::Changed, .. }]), "{plan:?}");
}

#[test]
fn an_unhealthy_container_is_stopped_with_its_probes_grace() {
    let mut memory = Memory::default();
    let unhealthy = Unhealthy { message: "m".into(), grace: Some(1) };
    memory.unhealthy.insert("c0".into(), unhealthy);
    let plan = run(&pod(ONE), &view(vec![sandbox(true)], vec![container("c", 0, running())]), &memory);
    let reason = StopReason::Unhealthy("m".into());
    assert_eq!(plan.actions, [Action::Stop { id: "c0".into(), container: "c".into(), grace: 1, reason }]);
}

#[test]
fn a_container_made_but_never_started_is_made_again_as_the_same_attempt() {
    let created = view(vec![sandbox(true)], vec![container("c", 0, ContainerState::Created)]);
    let plan = run(&pod(ONE), &created, &present(&["c"]));
    assert_eq!(plan.actions, [Action::RemoveContainer { id: "c0".into() }]);
}

#[test]
fn a_start_cut_short_is_no_restart_unless_this_edged_saw_it_fail() {
    let never_ran = ContainerState::Exited {
        started_at: None,
        finished_at: at(3),
        exit_code: 128,
        reason: "StartError".into(),
        message: String::new(),
    };
    let once = pod(r#"{"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}"#);
    let cut_short = view(vec![sandbox(true)], vec![container("c", 0, never_ran)]);
    let mut memory = present(&["c"]);
    assert_eq!(run(&once, &cut_short, &memory).actions, [Action::RemoveContainer { id: "c0".into() }]);
    let failure = Waiting { reason: "RunContainerError".into(), message: "no such file".into() };
    memory.start_failures.insert("c".into(), failure);
    let over = [Action::StopSandbox { id: "s0".into() }];
    assert_eq!(run(&once, &cut_short, &memory).actions, over, "it has failed, and Never means so");
}

#[test]
fn a_failed_pull_shows_its_error_then_the_waiting() {
    let mut memory = present(&[]);
    let failure = ImageFailure { reason: "ErrImagePull", message: "no".into() };
    memory.images.insert("c".into(), ImageState::Failed { failure, at: at(10), until: at(20) });
    let pod = pod(ONE);
    let view = view(vec![sandbox(true)], vec![]);
    let first = plan(&pod, &view, &memory, Goal::Run, at(10));
    assert_eq!((first.waiting["c"].reason.as_str(), first.wake_at), ("ErrImagePull", Some(at(11))));
    let then = plan(&pod, &view, &memory, Goal::Run, at(12));
    assert_eq!((then.waiting["c"].reason.as_str(), then.wake_at), ("ImagePullBackOff", Some(at(20))));
    assert_eq!(then.waiting["c"].message, "Back-off pulling image \"i:1\": ErrImagePull: no");
    let last = plan(&pod, &view, &memory, Goal::Run, at(20));
    assert_eq!(last.actions, [Action::EnsureImage { container: "c".into() }]);
}

#[test]
fn a_sidecar_starts_before_and_stops_after_the_containers_it_serves() {
    let pod = pod(SIDECAR);
    let mut memory = present(&["s", "c"]);
    let of = |containers, memory: &Memory| run(&pod, &view(vec![sandbox(true)], containers), memory);
    assert_eq!(of(vec![], &memory).actions, [start("s", None)]);
    assert_eq!(
        of(vec![container("s", 0, running())], &memory).actions,
        [],
        "its startup probe has not passed"
    );
    memory.started.insert("s".into(), true);
    assert_eq!(of(vec![container("s", 0, running())], &memory).actions, [start("c", None)]);
    let over = of(vec![container("s", 0, running()), container("c", 0, exited(0))], &memory);
    assert_eq!(over.stage, Stage::Over);
    assert!(matches!(&over.actions[..], [Action::Stop { id, .. }] if id == "s0"), "{over:?}");
    let both = view(vec![sandbox(true)], vec![container("s", 0, running()), container("c", 0, running())]);
    let end = plan(&pod, &both, &memory, Goal::End { grace: 30 }, at(10));
    assert!(matches!(&end.actions[..], [Action::Stop { id, .. }] if id == "c0"), "{end:?}");
}

#[test]
fn only_one_dead_attempt_is_kept() {
    let containers =
        vec![container("c", 2, running()), container("c", 1, exited(1)), container("c", 0, exited(1))];
    let plan = run(&pod(ONE), &view(vec![sandbox(true)], containers), &Memory::default());
    assert_eq!(plan.actions, [Action::RemoveContainer { id: "c0".into() }]);
}

#[test]
fn a_deleted_pod_is_taken_down_step_by_step() {
    let pod = pod_with(r#"{"name": "p", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}"#, ONE);
    let end = |view: &PodView, memory: &Memory| plan(&pod, view, memory, Goal::End { grace: 5 }, at(10));
    let mut memory = Memory::default();
    let alive = view(vec![sandbox(true)], vec![container("c", 0, running())]);
    let stop = Action::Stop { id: "c0".into(), container: "c".into(), grace: 5, reason: StopReason::PodEnds };
    assert_eq!(end(&alive, &memory).actions, [stop]);
    let dead = vec![container("c", 0, exited(0))];
    assert_eq!(
        end(&view(vec![sandbox(true)], dead.clone()), &memory).actions,
        [Action::StopSandbox { id: "s0".into() }]
    );
    assert_eq!(
        end(&view(vec![sandbox(false)], dead), &memory).actions,
        [Action::RemoveSandbox { id: "s0".into() }]
    );
    assert_eq!(end(&PodView::default(), &memory).actions, [Action::RemoveFiles]);
    memory.files_removed = true;
    assert_eq!(end(&PodView::default(), &memory).stage, Stage::Gone);
}

#[test]
fn a_start_under_way_is_waited_for_before_the_sandbox_goes() {
    let mut memory = Memory::default();
    memory.busy.insert(Target::Container("c".into()));
    let plan = plan(&pod(ONE), &view(vec![sandbox(true)], vec![]), &memory, Goal::End { grace: 5 }, at(10));
    assert_eq!((plan.actions, plan.stage), (vec![], Stage::Ending));
}

#[test]
fn a_shorter_grace_stops_again() {
    let mut memory = Memory::default();
    memory.busy.insert(Target::Id("c0".into()));
    memory.stopping.insert("c0".into(), at(40));
    let view = view(vec![sandbox(true)], vec![container("c", 0, running())]);
    assert_eq!(plan(&pod(ONE), &view, &memory, Goal::End { grace: 30 }, at(10)).actions, []);
    assert_eq!(plan(&pod(ONE), &view, &memory, Goal::End { grace: 1 }, at(10)).actions.len(), 1);
}

fn any_state() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Created),
        Just(running()),
        Just(exited(0)),
        Just(exited(1)),
        Just(ContainerState::Unknown)
    ]
}

proptest! {
    /// Whatever the runtime shows, a pod that is to end comes to its end when its actions are carried out.
    #[test]
    fn every_pod_can_be_taken_down(
        states in proptest::collection::vec(("[cdij]", 0..3_u32, any_state()), 0..6),
        ready in proptest::collection::vec(any::<bool>(), 0..3),
    ) {
        let pod = pod(TWO_INIT);
        let sandboxes = ready.iter().enumerate()
            .map(|(n, ready)| Sandbox { id: format!("s{n}"), ..sandbox(*ready) }).collect();
        let mut view = view(sandboxes, states.into_iter().map(|(name, n, state)| container(&name, n, state)).collect());
        let mut memory = Memory::default();
        for _ in 0..20 {
            let plan = plan(&pod, &view, &memory, Goal::End { grace: 1 }, at(10));
            if plan.stage == Stage::Gone {
                return Ok(());
            }
            prop_assert!(!plan.actions.is_empty(), "stuck with {view:?}");
            for action in plan.actions {
                match action {
                    Action::Stop { id, .. } => {
                        for c in view.containers.iter_mut().filter(|c| c.record.id == id) {
                            c.record.state = exited(0);
                        }
                    }
                    Action::StopSandbox { id } => {
                        for s in view.sandboxes.iter_mut().filter(|s| s.id == id) {
                            s.ready = false;
                        }
                    }
                    Action::RemoveSandbox { id } => {
                        view.sandboxes.retain(|s| s.id != id);
                        view.containers.retain(|c| c.sandbox.as_ref() != Some(&id));
                    }
                    Action::RemoveContainer { id } => view.containers.retain(|c| c.record.id != id),
                    Action::RemoveFiles => memory.files_removed = true,
                    other => prop_assert!(false, "{other:?} does not take a pod down"),
                }
            }
        }
        prop_assert!(false, "no end");
    }

    /// A running container is only ever stopped for a reason.
    #[test]
    fn a_healthy_container_is_never_touched(others in proptest::collection::vec(("[dij]", 0..3_u32, any_state()), 0..6)) {
        let mut containers: Vec<_> = others.into_iter().map(|(name, n, state)| container(&name, n, state)).collect();
        containers.push(container("c", 3, running()));
        let plan = run(&pod(TWO_INIT), &view(vec![sandbox(true)], containers), &present(&["c", "d", "i", "j"]));
        let touches = |action: &Action| match action {
            Action::Stop { container, .. } | Action::Start { container, .. } => container == "c",
            Action::RemoveContainer { id } => id == "c3",
            Action::StopSandbox { .. } | Action::CreateSandbox { .. } => true,
            _ => false,
        };
        if plan.stage == Stage::Live {
            prop_assert!(!plan.actions.iter().any(touches), "{plan:?}");
        }
    }
}
