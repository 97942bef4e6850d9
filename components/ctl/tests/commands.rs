//! The program as a shell runs it, against a supervisor's control socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ipc::{Admission, Fail, Identity, Peer, Server, Sink};
use proto::control::{
    Component, Control, ControlError, ControlServer, LogLine, LogsRequest, RestartReply, RestartRequest,
    StatusReply, StatusRequest,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A supervisor with one component.
struct Supervisor;

fn edged() -> Component {
    Component {
        name: "edged".into(),
        state: "ready".into(),
        pid: 7,
        user: "root".into(),
        ..Component::default()
    }
}

impl Control for Supervisor {
    async fn status(&self, _: &Peer, _: StatusRequest) -> Result<StatusReply, Fail<ControlError>> {
        Ok(StatusReply { components: vec![edged()], supervisor: "edgecore".into(), ..StatusReply::default() })
    }

    async fn restart(&self, _: &Peer, request: RestartRequest) -> Result<RestartReply, Fail<ControlError>> {
        if request.component == "edged" {
            return Ok(RestartReply { component: Some(edged()) });
        }
        let message = format!("no component {:?}; there is edged", request.component);
        Err(Fail::new(ControlError::NoComponent, message))
    }

    async fn logs(
        &self,
        _: &Peer,
        request: LogsRequest,
        out: Sink<LogLine>,
    ) -> Result<(), Fail<ControlError>> {
        let count = if request.tail == 0 { 100_000 } else { request.tail };
        for number in 0..count {
            let line = LogLine { line: format!(r#"{{"message":"line {number}"}}"#), ..LogLine::default() };
            if out.send(line).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Serves until it is dropped.
struct Running {
    dir: TempDir,
    _stop: oneshot::Sender<()>,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = ipc::bind(&dir.path().join("s"), 0o600).unwrap();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::new(Identity::new("edgecore", 1), ControlServer::new(Supervisor));
                server.serve(listener, Admission::AnyUser).unwrap();
                let _ = stopped.await;
            });
        });
        Self { dir, _stop: stop }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn edgectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgectl"));
        command.args(arguments).env("APIARY_CONTROL", self.socket());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.edgectl(arguments).output().unwrap()
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn status_prints_a_table_or_json() {
    let running = Running::start();
    let output = running.run(&["status"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("COMPONENT"), "{}", stdout(&output));
    let output = running.run(&["status", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["components"][0]["name"], "edged");
}

#[test]
fn restart_of_an_unknown_component_fails_with_the_supervisors_words() {
    let running = Running::start();
    assert_eq!(stdout(&running.run(&["restart", "edged"])), "edged is ready again, pid 7\n");
    let output = running.run(&["restart", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "edgectl: no component \"nobody\"; there is edged\n");
}

#[test]
fn logs_prints_the_last_lines() {
    let running = Running::start();
    let output = running.run(&["logs", "edged", "--tail", "2"]);
    assert_eq!(stdout(&output).lines().count(), 2);
    assert!(stdout(&output).ends_with("line 1\n"), "{}", stdout(&output));
}

#[test]
fn reader_that_goes_away_is_success() {
    let running = Running::start();
    let mut child =
        running.edgectl(&["logs", "edged"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn usage_error_exits_with_2() {
    let running = Running::start();
    assert_eq!(running.run(&["logs"]).status.code(), Some(2));
    assert_eq!(running.run(&["status", "-o", "xml"]).status.code(), Some(2));
}

#[test]
fn absent_supervisor_is_one_line() {
    let running = Running::start();
    let output = running.run(&["--socket", "/nonexistent/control.sock", "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn completions_name_the_program() {
    let running = Running::start();
    assert!(stdout(&running.run(&["completions", "bash"])).contains("_edgectl"));
}
