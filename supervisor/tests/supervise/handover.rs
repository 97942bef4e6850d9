//! Another supervisor program takes over the process, and the components live on.

use std::fs;

use ipc::CallError;
use nix::sys::signal::{Signal, kill};
use proto::control::{
    Component, ControlError, LogsRequest, ReexecRequest, StartRequest, StatusReply, StatusRequest,
    StopRequest,
};

use crate::support::{PATIENCE, Supervisor, install, is_alive, kill_9, manifest};

async fn status(supervisor: &Supervisor) -> StatusReply {
    supervisor.client().status(StatusRequest {}).await.expect("status")
}

/// Asks for a reexec and waits until it has happened.
async fn reexec(supervisor: &Supervisor) -> StatusReply {
    let before = status(supervisor).await.reexecs;
    let reply = supervisor.client().reexec(ReexecRequest {}).await.expect("accepted");
    assert_eq!(reply.version, env!("CARGO_PKG_VERSION"));
    let begin = std::time::Instant::now();
    loop {
        let now = status(supervisor).await;
        if now.reexecs > before {
            return now;
        }
        assert!(begin.elapsed() < PATIENCE, "{}", supervisor.log());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

async fn refusal(supervisor: &Supervisor) -> String {
    let error = supervisor.client().reexec(ReexecRequest {}).await.expect_err("refused");
    let CallError::Failed { code, message } = error else { panic!("{error:?}") };
    assert_eq!(code, ControlError::Unsuitable);
    message
}

/// What must not change.
fn identity(component: &Component) -> (&str, u32, u64, u64, u64, u64, &str) {
    (
        &component.state,
        component.pid,
        component.generation,
        component.restarts,
        component.ready_since_ms,
        component.ready_us,
        &component.status_text,
    )
}

async fn lines(supervisor: &Supervisor, component: &str) -> Vec<String> {
    let request = LogsRequest { component: component.into(), follow: false, tail: 0 };
    let mut stream = supervisor.client().logs(request).await.expect("logs");
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await {
        lines.push(line.expect("line").line);
    }
    lines
}

#[tokio::test]
async fn components_counters_and_log_tails_live_on_under_another_program() {
    let text = manifest(&[(1, "ready", "watchdog = \"5s\""), (1, "ready", ""), (2, "ready", "")]);
    let supervisor = Supervisor::start_copy(&text);
    supervisor.until_ready("c").await;
    kill_9(&supervisor.component("a").await);
    supervisor.until("a", |a| a.state == "ready" && a.restarts == 1).await;
    supervisor.client().stop(StopRequest { component: "b".into() }).await.expect("stopped");
    let (before, log) = (status(&supervisor).await, lines(&supervisor, "a").await);

    for round in 1..=2 {
        // Another file, the same program.
        install(&supervisor, "edgecore", &fs::read(env!("CARGO_BIN_EXE_edgecore")).expect("edgecore"));
        let after = reexec(&supervisor).await;
        assert_eq!((after.pid, after.started_ms, after.reexecs), (before.pid, before.started_ms, round));
        for (before, after) in before.components.iter().zip(&after.components) {
            assert_eq!(identity(before), identity(after));
            assert!(after.degraded == before.degraded, "{after:?}");
        }
        assert_eq!(lines(&supervisor, "a").await, log);
    }

    // What is new is seen as before: lines, ends, requests.
    let a = supervisor.component("a").await;
    kill_9(&a);
    let again = supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
    assert_eq!((again.generation, again.restarts), (a.generation + 1, 2));
    assert_eq!(lines(&supervisor, "a").await.len(), log.len() + 2);
    assert_eq!(supervisor.component("b").await.state, "stopped");
    supervisor.client().start(StartRequest { component: "b".into() }).await.expect("started");
    // And the new program is their parent in every respect.
    let pids: Vec<u32> = status(&supervisor).await.components.iter().map(|component| component.pid).collect();
    drop(supervisor);
    let begin = std::time::Instant::now();
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(begin.elapsed() < PATIENCE, "components outlive their supervisor");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn no_line_is_lost_or_cut_while_programs_change() {
    let supervisor = Supervisor::start_copy(&manifest(&[(1, "chatty", "")]));
    supervisor.until_ready("a").await;
    for _ in 0..5 {
        reexec(&supervisor).await;
    }
    let lines = lines(&supervisor, "a").await;
    let numbers: Vec<u64> = lines
        .iter()
        .filter(|line| line.starts_with("line "))
        .map(|line| {
            let number = line.strip_prefix("line ").and_then(|line| line.strip_suffix(" is whole"));
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?} was cut"))
        })
        .collect();
    assert!(numbers.len() > 100, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[tokio::test]
async fn deadlines_go_on_under_another_program() {
    // Twice over in time to notice a watchdog that hears nothing; and a heartbeat may be a second late on a busy machine.
    let text = manifest(&[(1, "mute", "ready_timeout = \"5s\""), (1, "ready", "watchdog = \"2s\"")]);
    let supervisor = Supervisor::start_copy(&text);
    let b = supervisor.until_ready("b").await;
    reexec(&supervisor).await;
    let a = supervisor.until("a", |a| a.hang_kills == 1 && a.restarts == 1).await;
    assert_eq!(a.last_exit, "not ready in 5s: killed by SIGKILL");
    // Its heartbeats are still heard.
    let now = supervisor.component("b").await;
    assert_eq!(now.pid, b.pid, "{}\n{}", now.last_exit, supervisor.log());
}

#[tokio::test]
async fn stop_after_a_reexec_is_in_order() {
    let mut supervisor = Supervisor::start_copy(&manifest(&[(1, "ready", "")]));
    supervisor.until_ready("a").await;
    reexec(&supervisor).await;
    assert!(supervisor.stop().success());
    assert!(supervisor.log().contains("a drained"), "{}", supervisor.log());
}

#[tokio::test]
async fn program_that_cannot_take_over_is_refused_and_nothing_changes() {
    let text = manifest(&[(1, "ready", "")]);
    let supervisor = Supervisor::start_copy(&text);
    let a = supervisor.until_ready("a").await;

    install(&supervisor, "edgecore", &fs::read("/bin/true").expect("true"));
    assert!(refusal(&supervisor).await.ends_with("is no supervisor that can take over"));
    install(&supervisor, "edgecore", b"no program at all");
    let why = refusal(&supervisor).await;
    assert!(why.contains("launch step \"exec\""), "{why}");
    install(&supervisor, "edgecore", &fs::read(env!("CARGO_BIN_EXE_edgecore")).expect("edgecore"));
    install(&supervisor, "manifest.toml", text.replace("rank = 1", "rank = 0").as_bytes());
    let why = refusal(&supervisor).await;
    assert!(why.contains("exit code 78") && why.contains("component a: rank"), "{why}");

    let after = status(&supervisor).await;
    assert_eq!(after.reexecs, 0);
    assert_eq!(identity(&after.components[0]), identity(&a));
    install(&supervisor, "manifest.toml", text.as_bytes());
    reexec(&supervisor).await;
}

#[tokio::test]
async fn changed_manifest_is_applied_as_far_as_processes_that_live_on_allow() {
    let both = manifest(&[(1, "ready", ""), (1, "ready", ""), (2, "ready", "")]);
    let supervisor = Supervisor::start_copy(&both);
    let (a, b, c) = (
        supervisor.until_ready("a").await,
        supervisor.until_ready("b").await,
        supervisor.until_ready("c").await,
    );
    // `b` goes, `d` comes, `c` may have fewer descriptors.
    let changed = both.replace("[component.b]", "[component.d]") + "limits = { nofile = 128 }\n";
    install(&supervisor, "manifest.toml", changed.as_bytes());
    let after = reexec(&supervisor).await;
    let names: Vec<&str> = after.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(names, ["a", "d", "c"]);
    assert_eq!((after.components[0].pid, after.components[2].pid), (a.pid, c.pid));
    let outdated = "the present manifest (restart it to apply)";
    assert!(!after.components[0].degraded.iter().any(|missing| missing == outdated));
    assert!(after.components[2].degraded.iter().any(|missing| missing == outdated));
    supervisor.until_ready("d").await;
    let begin = std::time::Instant::now();
    while is_alive(b.pid) {
        assert!(begin.elapsed() < PATIENCE, "{}", supervisor.log());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn told_to_stop_around_a_hand_over_it_stops() {
    // Before the answer has left, about when the new program takes over, and once that one has.
    for after in [0, 96, 98, 99, 100, 101, 102, 104, 110] {
        let mut supervisor = Supervisor::start_copy(&manifest(&[(1, "ready", "")]));
        supervisor.until_ready("a").await;
        supervisor.client().reexec(ReexecRequest {}).await.expect("accepted");
        tokio::time::sleep(std::time::Duration::from_millis(after)).await;
        kill(Supervisor::pid(&supervisor.child), Signal::SIGTERM).expect("signal");
        let begin = std::time::Instant::now();
        let status = loop {
            if let Some(status) = supervisor.child.try_wait().expect("wait") {
                break status;
            }
            assert!(begin.elapsed() < PATIENCE, "{after} ms: {}", supervisor.log());
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        };
        assert!(status.success(), "{after} ms: {status}\n{}", supervisor.log());
        assert!(supervisor.log().contains("a drained"), "{after} ms: {}", supervisor.log());
    }
}
