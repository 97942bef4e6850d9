//! A real supervisor with real components (`examples/probe.rs`), as root or not.

mod handover;
mod machine;
mod programs;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipc::CallError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::control::{ControlError, LinksRequest, LogsRequest, RestartRequest, StartRequest, StopRequest};

use support::{PATIENCE, Supervisor, USERS, is_alive, kill_9, manifest, probe, spawn};

#[tokio::test]
async fn killed_component_is_back_at_once_and_the_others_do_not_notice() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", ""), (2, "ready", "")]));
    let (a, b) = (supervisor.until_ready("a").await, supervisor.until_ready("b").await);
    assert_eq!(a.status_text, "serving");
    let begin = Instant::now();
    kill_9(&a);
    let again = supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
    println!("back after {:?}", begin.elapsed());
    assert_eq!(again.generation, a.generation + 1);
    assert_eq!(again.restarts, 1);
    assert_eq!(again.last_exit, "killed by SIGKILL");
    assert!(again.pss_kib > 0);
    assert_eq!(supervisor.component("b").await.pid, b.pid);
}

#[tokio::test]
async fn component_that_is_never_ready_is_killed_and_does_not_hold_up_the_next_rank() {
    let supervisor =
        Supervisor::start(&manifest(&[(1, "mute", "ready_timeout = \"200ms\""), (2, "ready", "")]));
    supervisor.until_ready("b").await;
    let a = supervisor.until("a", |a| a.restarts > 0).await;
    assert_eq!(a.last_exit, "not ready in 200ms: killed by SIGKILL");
}

#[tokio::test]
async fn bad_configuration_is_left_alone_until_asked_for() {
    let supervisor = Supervisor::start(&manifest(&[(1, "config", ""), (2, "ready", "")]));
    supervisor.until_ready("b").await;
    let a = supervisor.component("a").await;
    assert_eq!((a.state.as_str(), a.pid, a.restarts), ("failed", 0, 0));
    assert_eq!(a.last_exit, "exit code 78: bad configuration, see its log");
    let error =
        supervisor.client().restart(RestartRequest { component: "a".into() }).await.expect_err("not ready");
    let CallError::Failed { code, message } = error else { panic!("{error:?}") };
    assert_eq!(code, ControlError::NotReady);
    assert!(message.contains("exit code 78"), "{message}");
    assert_eq!(supervisor.component("a").await.restarts, 1);
}

#[tokio::test]
async fn crash_loop_waits_longer_and_longer() {
    let supervisor = Supervisor::start(&manifest(&[(1, "crash", "restart = { floor = \"40ms\" }")]));
    let a = supervisor.until("a", |a| a.state == "backoff" && a.restarts >= 3).await;
    assert!(a.next_start_ms > 0 && a.last_exit == "exit code 1", "{a:?}");
    let strikes = a.restarts + 1;
    assert_eq!(
        a.status_text,
        format!("waits after {strikes} failures in a row; its program was never ready")
    );
    assert_eq!(supervisor.log().matches("never became ready in 3 starts").count(), 1);
}

#[tokio::test]
async fn program_that_is_not_there_is_a_clear_reason_and_tried_again() {
    let text = manifest(&[(1, "ready", "")]).replace("\"probe\"", "\"missing\"");
    let supervisor = Supervisor::start(&text);
    let a = supervisor.until("a", |a| a.restarts >= 1).await;
    assert!(a.last_exit.contains("launch step") && a.last_exit.contains("missing"), "{}", a.last_exit);
    fs::copy(probe(), supervisor.folder.path().join("missing")).expect("probe");
    supervisor.until_ready("a").await;
}

#[tokio::test]
async fn silent_component_is_killed_by_its_watchdog_and_a_talking_one_is_not() {
    let watchdog = "watchdog = \"1s\"";
    let supervisor = Supervisor::start(&manifest(&[(1, "silent", watchdog), (1, "ready", watchdog)]));
    let b = supervisor.until_ready("b").await;
    let a = supervisor.until("a", |a| a.restarts >= 1 && a.state == "ready").await;
    assert_eq!(a.last_exit, "silent for 1s: killed by SIGKILL");
    assert_eq!(supervisor.component("b").await.pid, b.pid);
}

#[tokio::test]
async fn restart_on_request_drains_and_answers_when_ready() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "")]));
    let before = supervisor.until_ready("a").await;
    let reply =
        supervisor.client().restart(RestartRequest { component: "a".into() }).await.expect("restarted");
    let after = reply.component.expect("component");
    assert_eq!((after.state.as_str(), after.generation), ("ready", before.generation + 1));
    assert_eq!(after.last_exit, format!("restarted by uid:{}: exit code 0", nix::unistd::geteuid()));
    assert!(supervisor.log().contains("a drained"));
}

#[tokio::test]
async fn request_for_an_unknown_component_names_those_there_are() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "")]));
    let request = RestartRequest { component: "z".into() };
    let error = supervisor.client().restart(request).await.expect_err("unknown");
    let CallError::Failed { code, message } = error else { panic!("{error:?}") };
    assert_eq!(code, ControlError::NoComponent);
    assert!(message.ends_with("there are a"), "{message}");
}

#[tokio::test]
async fn sigterm_stops_in_reverse_order_and_exits_with_success() {
    let mut supervisor =
        Supervisor::start(&manifest(&[(1, "ready", ""), (3, "ready", ""), (2, "ready", "")]));
    supervisor.until_ready("b").await;
    supervisor.client().restart(RestartRequest { component: "a".into() }).await.expect("restarted");
    assert!(supervisor.stop().success());
    let log = supervisor.log();
    let log = &log[log.rfind("\"stopping\"").expect("logged")..];
    // Not by who asked for something before.
    assert_eq!(log.matches("\"reason\":\"exit code 0\"").count(), 3, "{log}");
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in\n{log}"));
    assert!(place("b drained") < place("c drained") && place("c drained") < place("a drained"));
    assert!(!supervisor.folder.path().join("run/control.sock").exists());
}

#[tokio::test]
async fn component_that_does_not_drain_is_killed_at_its_deadline() {
    let mut supervisor = Supervisor::start(&manifest(&[(1, "stubborn", "drain = \"100ms\"")]));
    supervisor.until_ready("a").await;
    assert!(supervisor.stop().success());
    assert!(supervisor.log().contains("not drained in 100ms: killed by SIGKILL"), "{}", supervisor.log());
}

#[tokio::test]
async fn components_die_with_their_supervisor_and_the_next_one_starts_anew() {
    let mut supervisor = Supervisor::start(&manifest(&[(1, "ready", ""), (2, "ready", "")]));
    let (a, b) = (supervisor.until_ready("a").await, supervisor.until_ready("b").await);
    supervisor.child.kill().expect("kill");
    supervisor.child.wait().expect("wait");
    let begin = Instant::now();
    while is_alive(a.pid) || is_alive(b.pid) {
        assert!(begin.elapsed() < PATIENCE, "components outlive their supervisor");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    supervisor.child = spawn(supervisor.folder.path());
    let again = supervisor.until_ready("b").await;
    assert!(again.generation > b.generation);
}

#[tokio::test]
async fn second_supervisor_of_the_same_run_directory_is_refused() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "")]));
    supervisor.until_ready("a").await;
    let status = spawn(supervisor.folder.path()).wait().expect("wait");
    assert_eq!(status.code(), Some(1));
    assert!(supervisor.log().contains("another supervisor runs in"), "{}", supervisor.log());
    supervisor.until_ready("a").await;
}

#[tokio::test]
async fn log_lines_are_kept_and_annotated() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", ""), (2, "ready", "calls = {}")]));
    let a = supervisor.until_ready("a").await;
    let request = LogsRequest { component: "a".into(), follow: true, tail: 0 };
    let mut lines = supervisor.client().logs(request).await.expect("logs");
    let first = lines.next().await.expect("line").expect("no error");
    assert_eq!((first.line.as_str(), first.pid), ("a was started with \"\"", a.pid));
    let second = lines.next().await.expect("line").expect("no error");
    assert!(second.line.contains("hello from a"));
    assert!(supervisor.log().contains(&format!(
        "{{\"level\":\"INFO\",\"message\":\"hello from a\",\"component\":\"a\",\"pid\":{},\"generation\":{}}}",
        a.pid, a.generation
    )));
    // Follows into the next process.
    kill_9(&a);
    let third = lines.next().await.expect("line").expect("no error");
    assert_eq!(third.generation, a.generation + 1);
}

#[tokio::test]
async fn component_runs_as_its_user_in_directories_of_its_own() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "")]));
    let a = supervisor.until_ready("a").await;
    let me = nix::unistd::geteuid();
    let expected = if me.is_root() {
        nix::unistd::User::from_name(USERS[0]).expect("lookup").expect("user").uid
    } else {
        me
    };
    assert_eq!(a.uid, expected.as_raw());
    let status = fs::read_to_string(format!("/proc/{}/status", a.pid)).expect("status");
    assert!(status.contains(&format!("Uid:\t{expected}\t{expected}\t{expected}\t{expected}\n")), "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"));
    for (folder, mode) in [("state/a", 0o700), ("run/a", 0o711)] {
        let meta = fs::metadata(supervisor.folder.path().join(folder)).expect("folder");
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{folder}");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), expected.as_raw(), "{folder}");
    }
}

#[tokio::test]
async fn supervisor_lives_on_when_nobody_reads_its_log() {
    let folder = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    fs::copy(probe(), folder.path().join("probe")).expect("probe");
    fs::write(folder.path().join("manifest.toml"), manifest(&[(1, "ready", "")])).expect("manifest");
    let mut child = Command::new(env!("CARGO_BIN_EXE_edgecore"))
        .arg("--run-dir")
        .arg(folder.path().join("run"))
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .arg("--exec-dir")
        .arg(folder.path())
        .arg("--manifest")
        .arg(folder.path().join("manifest.toml"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("edgecore");
    drop(child.stderr.take());
    let supervisor = Supervisor { folder, child };
    let a = supervisor.until_ready("a").await;
    kill_9(&a);
    supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
}

#[test]
fn bad_manifest_ends_with_78_and_every_finding() {
    let text = manifest(&[(1, "ready", "colour = \"red\""), (0, "ready", "network = \"host\"")]);
    let mut supervisor = Supervisor::start(&text);
    assert_eq!(supervisor.child.wait().expect("wait").code(), Some(78));
    let log = supervisor.log();
    for part in ["3 findings", "component a: colour", "component b: rank", "component b: network"] {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
}

#[tokio::test]
async fn stopped_component_stays_stopped_until_it_is_started() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", ""), (2, "ready", "")]));
    let (a, b) = (supervisor.until_ready("a").await, supervisor.until_ready("b").await);
    let me = nix::unistd::geteuid();
    let reply = supervisor.client().stop(StopRequest { component: "a".into() }).await.expect("stopped");
    let stopped = reply.component.expect("component");
    assert_eq!((stopped.state.as_str(), stopped.pid), ("stopped", 0));
    assert_eq!(stopped.last_exit, format!("stopped by uid:{me}: exit code 0"));
    assert_eq!(stopped.status_text, format!("stopped by uid:{me} until it is started"));
    assert!(!is_alive(a.pid));
    // Again: nothing to do, and said so at once.
    supervisor.client().stop(StopRequest { component: "a".into() }).await.expect("stopped");
    assert_eq!(supervisor.component("a").await.state, "stopped");
    let reply = supervisor.client().start(StartRequest { component: "a".into() }).await.expect("started");
    let started = reply.component.expect("component");
    assert_eq!((started.state.as_str(), started.generation), ("ready", a.generation + 1));
    assert!(started.ready_us > 0 && started.cpu_ns > 0 && started.threads > 0, "{started:?}");
    let reply = supervisor.client().start(StartRequest { component: "a".into() }).await.expect("runs");
    assert_eq!(reply.component.expect("component").pid, started.pid);
    assert_eq!(supervisor.component("b").await.pid, b.pid);
}

#[tokio::test]
async fn component_stopped_while_lower_ranks_start_is_not_started() {
    let supervisor = Supervisor::start(&manifest(&[(1, "mute", ""), (2, "ready", "")]));
    let b = supervisor.until("b", |b| b.state == "stopped").await;
    assert_eq!(b.status_text, "waits for its turn: lower ranks start first");
    supervisor.client().stop(StopRequest { component: "b".into() }).await.expect("stopped");
    supervisor.client().stop(StopRequest { component: "a".into() }).await.expect("stopped");
    let b = supervisor.component("b").await;
    assert_eq!((b.state.as_str(), b.generation), ("stopped", 0));
    supervisor.client().start(StartRequest { component: "b".into() }).await.expect("started");
}

#[tokio::test]
async fn hung_component_is_killed_and_started_again() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "watchdog = \"1s\"")]));
    let a = supervisor.until_ready("a").await;
    kill(Pid::from_raw(i32::try_from(a.pid).expect("pid")), Signal::SIGSTOP).expect("stop");
    let again = supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
    assert_eq!(again.last_exit, "silent for 1s: killed by SIGKILL");
    assert_eq!((again.hang_kills, again.memory_kills), (1, 0));
}

#[tokio::test]
async fn supervisor_that_was_held_up_kills_nobody_for_it() {
    let watchdog = "watchdog = \"1s\"";
    let supervisor =
        Supervisor::start(&manifest(&[(1, "ready", watchdog), (1, "silent", "watchdog = \"2s\"")]));
    let (a, b) = (supervisor.until_ready("a").await, supervisor.until_ready("b").await);
    // A little past one deadline, and long past both.
    for pause in [1_300, 3_500] {
        kill(Supervisor::pid(&supervisor.child), Signal::SIGSTOP).expect("stop");
        tokio::time::sleep(Duration::from_millis(pause)).await;
        kill(Supervisor::pid(&supervisor.child), Signal::SIGCONT).expect("continue");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(supervisor.component("a").await.pid, a.pid, "{}", supervisor.log());
    }
    assert!(supervisor.log().contains("was held up"), "{}", supervisor.log());
    // Its own silence counts as before.
    supervisor.until("b", |now| now.state == "ready" && now.pid != b.pid).await;
    assert_eq!(supervisor.component("a").await.hang_kills, 0);
}

#[tokio::test]
async fn links_show_what_their_server_counted() {
    let call = "calls = { keyholder = [\"Sign\"] }\nwhy = { calls = { keyholder = \"has it sign\" } }";
    let text = manifest(&[(1, "links", ""), (2, "ready", call)]);
    // Named as a server whose interface is known.
    let supervisor = Supervisor::start(&text.replace("[component.a]", "[component.keyholder]"));
    supervisor.until_ready("b").await;
    let begin = Instant::now();
    let link = loop {
        let links = supervisor.client().links(LinksRequest {}).await.expect("links").links;
        let [link] = &links[..] else { panic!("{links:?}") };
        if link.received_bytes > 0 {
            break link.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{link:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!((link.server.as_str(), link.client.as_str(), link.received_bytes), ("keyholder", "b", 7));
    assert!(link.socket.ends_with("run/link/keyholder.b.sock"), "{}", link.socket);
    assert_eq!(link.methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>(), ["Sign"]);
}
