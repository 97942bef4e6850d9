//! The program as a shell runs it, against a supervisor's control socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use ipc::{Admission, Fail, Identity, Peer, Server, Sink};
use proto::control::{
    Component, Control, ControlError, ControlServer, Link, LinksReply, LinksRequest, LogLine, LogsRequest,
    MethodUse, Privilege, PrivilegesReply, PrivilegesRequest, ProcessPrivileges, ReexecReply, ReexecRequest,
    RestartReply, RestartRequest, StartReply, StartRequest, StatusReply, StatusRequest, StopReply,
    StopRequest,
};
use rustix::termios::SpecialCodeIndex;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A supervisor with one component. It leaves out: processes (pids are numbers), the end of the connection at a
/// replacement, the confirmation by the new program, and every mechanism behind what it says of links and privileges.
#[derive(Default)]
struct Supervisor {
    looks: Mutex<Looks>,
}

/// What changes from call to call.
#[derive(Default)]
struct Looks {
    reexecs: u64,
    calls: u64,
    stopped: bool,
    /// A replacement that loses a component.
    careless: bool,
}

impl Supervisor {
    fn edged(&self) -> Component {
        let looks = self.looks.lock().unwrap();
        let lost = looks.careless && looks.reexecs > 0;
        Component {
            name: "edged".into(),
            state: if looks.stopped { "stopped" } else { "ready" }.into(),
            pid: match () {
                () if looks.stopped => 0,
                () if lost => 8,
                () => 7,
            },
            user: "root".into(),
            cpu_ns: looks.calls * 1_000_000,
            memory_kib: 1024,
            memory_limit_kib: 65_536,
            ..Component::default()
        }
    }
}

fn known(name: &str) -> Result<(), Fail<ControlError>> {
    if name == "edged" {
        return Ok(());
    }
    Err(Fail::new(ControlError::NoComponent, format!("no component {name:?}; there is edged")))
}

impl Control for Supervisor {
    async fn status(&self, _: &Peer, _: StatusRequest) -> Result<StatusReply, Fail<ControlError>> {
        self.looks.lock().unwrap().calls += 1;
        let components = vec![self.edged()];
        let reexecs = self.looks.lock().unwrap().reexecs;
        Ok(StatusReply {
            components,
            supervisor: "edgecore".into(),
            version: format!("0.{}.0", reexecs + 1),
            pid: 5,
            reexecs,
            ..StatusReply::default()
        })
    }

    async fn restart(&self, _: &Peer, request: RestartRequest) -> Result<RestartReply, Fail<ControlError>> {
        known(&request.component)?;
        Ok(RestartReply { component: Some(self.edged()) })
    }

    async fn start(&self, _: &Peer, request: StartRequest) -> Result<StartReply, Fail<ControlError>> {
        known(&request.component)?;
        self.looks.lock().unwrap().stopped = false;
        Ok(StartReply { component: Some(self.edged()) })
    }

    async fn stop(&self, _: &Peer, request: StopRequest) -> Result<StopReply, Fail<ControlError>> {
        known(&request.component)?;
        self.looks.lock().unwrap().stopped = true;
        Ok(StopReply { component: Some(self.edged()) })
    }

    async fn reexec(&self, _: &Peer, _: ReexecRequest) -> Result<ReexecReply, Fail<ControlError>> {
        let mut looks = self.looks.lock().unwrap();
        if looks.stopped {
            let message = "the new program refused the manifest; nothing has changed";
            return Err(Fail::new(ControlError::Unsuitable, message));
        }
        looks.reexecs += 1;
        Ok(ReexecReply { version: format!("0.{}.0", looks.reexecs + 1) })
    }

    async fn links(&self, _: &Peer, _: LinksRequest) -> Result<LinksReply, Fail<ControlError>> {
        let mut looks = self.looks.lock().unwrap();
        looks.calls += 100;
        let method = MethodUse { name: "Apply".into(), calls_total: looks.calls, failures_total: 0 };
        let link = Link {
            server: "metamanager".into(),
            client: "edgehub".into(),
            methods: vec![method],
            latency: vec![looks.calls],
            refusals_total: 1,
            last_refusal: "method Delete is not granted".into(),
            ..Link::default()
        };
        Ok(LinksReply { links: vec![link] })
    }

    async fn privileges(
        &self,
        _: &Peer,
        _: PrivilegesRequest,
    ) -> Result<PrivilegesReply, Fail<ControlError>> {
        let grant = |grant: &str, why: &str| Privilege {
            kind: "capability".into(),
            grant: grant.into(),
            why: why.into(),
            enforced_by: "capabilities".into(),
            used: String::new(),
        };
        let process = ProcessPrivileges {
            component: "edged".into(),
            pid: 7,
            score: 4.2,
            privileges: vec![grant("CAP_CHOWN", "volumes"), grant("CAP_KILL", "")],
            exposures: Vec::new(),
        };
        Ok(PrivilegesReply { processes: vec![process] })
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
        Self::with(Supervisor::default())
    }

    fn with(supervisor: Supervisor) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = ipc::bind(&dir.path().join("s"), 0o600).unwrap();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::new(Identity::new("edgecore", 1), ControlServer::new(supervisor));
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

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)))
    }

    /// The first lines of a command that goes on, which is ended then.
    fn first_lines(&self, arguments: &[&str], count: usize) -> Vec<serde_json::Value> {
        let mut child = self.edgectl(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.take(count).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        lines
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
    assert!(stdout(&output).ends_with("edgecore 0.1.0, pid 5\n"), "{}", stdout(&output));
    assert_eq!(running.json(&["status", "-o", "json"])["components"][0]["name"], "edged");
}

#[test]
fn no_colour_gets_into_a_pipe() {
    let running = Running::start();
    for command in [["status"], ["links"], ["privileges"]] {
        let output = running.edgectl(&command).env("TERM", "xterm").output().unwrap();
        assert!(!stdout(&output).contains('\x1b'), "{}", stdout(&output));
    }
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
fn stopped_component_is_started_again() {
    let running = Running::start();
    assert_eq!(stdout(&running.run(&["stop", "edged"])), "edged is stopped until `edgectl start edged`\n");
    assert_eq!(running.json(&["start", "edged", "-o", "json"])["state"], "ready");
    assert_eq!(stdout(&running.run(&["start", "edged"])), "edged is ready, pid 7\n");
    assert_eq!(running.run(&["stop", "nobody"]).status.code(), Some(1));
}

#[test]
fn reexec_waits_for_the_new_program() {
    let running = Running::start();
    let output = running.run(&["reexec"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("edgecore 0.2.0 took over in "), "{}", stdout(&output));
    let json = running.json(&["reexec", "-o", "json"]);
    assert_eq!((&json["version"], &json["kept"][0]["pid"]), (&"0.3.0".into(), &7.into()));
}

#[test]
fn reexec_that_loses_a_component_fails() {
    let careless = Supervisor::default();
    careless.looks.lock().unwrap().careless = true;
    let running = Running::with(careless);
    let output = running.run(&["reexec"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "edgectl: edgecore 0.2.0 took over, but edged has pid 8, before 7\n");
}

#[test]
fn refused_reexec_says_why() {
    let running = Running::start();
    running.run(&["stop", "edged"]);
    let output = running.run(&["reexec"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "edgectl: the new program refused the manifest; nothing has changed\n");
}

#[test]
fn links_show_calls_and_the_last_refusal() {
    let running = Running::start();
    let output = running.run(&["links", "--verbose"]);
    assert!(stdout(&output).contains("  Apply"), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("last refused edgehub: method Delete is not granted\n"));
}

#[test]
fn watched_links_in_a_pipe_are_objects_with_rates() {
    let running = Running::start();
    let lines = running.first_lines(&["links", "--watch"], 2);
    assert!(lines[0]["links"][0].get("perSecond").is_none(), "{}", lines[0]);
    let rate = lines[1]["links"][0]["perSecond"]["calls"].as_f64().unwrap();
    assert!((1.0..=100.1).contains(&rate), "100 calls in a second or more: {rate}");
}

#[test]
fn watched_status_in_a_pipe_is_an_object_for_each_change() {
    let running = Running::start();
    let mut child = running.edgectl(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["components"][0]["state"], "ready");
    running.run(&["stop", "edged"]);
    assert_eq!(next()["components"][0]["state"], "stopped");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn privileges_without_a_reason_are_marked() {
    let running = Running::start();
    let output = running.run(&["privileges"]);
    assert!(
        stdout(&output).ends_with("\nmarked: edged: capability CAP_KILL has no reason\n"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&running.run(&["privileges", "edged"])).contains("(no reason)"));
    let json = running.json(&["privileges", "-o", "json"]);
    assert_eq!(json["processes"][0]["score"], 4.2);
    let output = running.run(&["privileges", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "edgectl: no component \"nobody\"; there are edged\n");
}

#[test]
fn top_in_a_pipe_is_told_once() {
    let running = Running::start();
    let json = running.json(&["top", "-o", "json"]);
    assert!(json["components"][0]["cpuPercent"].as_f64().unwrap() > 0.0, "{json}");
    assert!(stdout(&running.run(&["top"])).contains("all of edgecore"));
}

/// The person's end of a terminal, and the program's.
fn terminal() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    (terminal.into(), File::options().read(true).write(true).open(name).unwrap())
}

/// Reads until there were two more frames.
fn see_two_frames(terminal: &mut File, seen: &mut Vec<u8>) {
    let (mut some, before) = ([0; 4096], seen.len());
    while seen[before..].windows(3).filter(|bytes| bytes == b"\x1b[H").count() < 2 {
        let count = terminal.read(&mut some).unwrap();
        seen.extend_from_slice(&some[..count]);
    }
}

/// A terminal nobody writes to any more ends with an error.
fn see_the_end(terminal: &mut File, mut seen: Vec<u8>) -> String {
    let mut some = [0; 4096];
    while let Ok(count @ 1..) = terminal.read(&mut some) {
        seen.extend_from_slice(&some[..count]);
    }
    String::from_utf8(seen).unwrap()
}

/// A terminal, as far as that goes without being the controlling one: keys are left out, and the end comes by a signal.
#[test]
fn live_view_is_drawn_in_place_and_leaves_the_screen_as_it_was() {
    let running = Running::start();
    let (mut terminal, screen) = terminal();
    let mut command = running.edgectl(&["top"]);
    let mut child = command.env("TERM", "xterm").env_remove("NO_COLOR").stdout(screen).spawn().unwrap();
    // Closes our end of what it writes to, so that the screen ends with it.
    drop(command);

    let mut seen = Vec::new();
    see_two_frames(&mut terminal, &mut seen);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    let seen = see_the_end(&mut terminal, seen);
    assert!(seen.starts_with("\x1b[?1049h") && seen.ends_with("\x1b[?1049l"), "{seen:?}");
    assert!(seen.contains("\x1b[32mready\x1b[0m"), "{seen:?}");
}

/// `setsid` makes the terminal the controlling one.
#[test]
fn live_view_is_left_neither_by_ctrl_z_nor_by_ctrl_backslash() {
    let running = Running::start();
    let (mut terminal, screen) = terminal();
    let before = rustix::termios::tcgetattr(&screen).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_edgectl"), "top"]).env("APIARY_CONTROL", running.socket());
    command.stdin(screen.try_clone().unwrap()).stdout(screen.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop(command);

    let mut seen = Vec::new();
    see_two_frames(&mut terminal, &mut seen);
    terminal.write_all(b"\x1a\x1c").unwrap();
    see_two_frames(&mut terminal, &mut seen);
    terminal.write_all(b"q").unwrap();
    assert!(child.wait().unwrap().success());
    let after = rustix::termios::tcgetattr(&screen).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        assert!(after.special_codes[key] != 0);
    }
    drop(screen);
    assert!(see_the_end(&mut terminal, seen).ends_with("\x1b[?1049l"));
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
fn usage_error_exits_with_2_but_of_check_with_64() {
    let running = Running::start();
    assert_eq!(running.run(&["logs"]).status.code(), Some(2));
    assert_eq!(running.run(&["status", "-o", "xml"]).status.code(), Some(2));
    assert_eq!(running.run(&["check", "--bogus"]).status.code(), Some(64));
    assert_eq!(running.run(&["-o", "json", "check", "stray"]).status.code(), Some(64));
    assert_eq!(running.run(&["check", "--help"]).status.code(), Some(0));
}

#[test]
fn absent_supervisor_is_one_line() {
    let running = Running::start();
    let output = running.run(&["--socket", "/nonexistent/control.sock", "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn check_needs_no_supervisor_and_its_exit_code_is_the_worst_finding() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("edgecore.yaml");
    std::fs::write(&config, "modules: {edgeHub: {heartbeat: 0}}").unwrap();
    let at = |name: &str| dir.path().join(name).into_os_string();
    let output = Command::new(env!("CARGO_BIN_EXE_edgectl"))
        .args(["check", "-o", "json", "--config"])
        .arg(&config)
        .args([std::ffi::OsStr::new("--state-dir"), &at("s"), std::ffi::OsStr::new("--run-dir"), &at("r")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let file = findings.iter().find(|finding| finding["id"] == "config.file").unwrap();
    assert_eq!(file["severity"], "error");
    for part in ["found", "why", "fix"] {
        assert!(!file[part].as_str().unwrap().is_empty(), "{part}");
    }
}

#[test]
fn config_check_prints_all_findings() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("edgecore.yaml");
    std::fs::write(&config, "modules: {edgeHub: {heartbeat: 0}, edged: {nodeIP: x}}").unwrap();
    let check = |file: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgectl"));
        command.args(["config", "check"]).arg(file).output().unwrap()
    };
    let output = check(&config);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("heartbeat is 0") && text.contains("nodeIP is"), "{text}");
    assert_eq!(check(&dir.path().join("none.yaml")).status.code(), Some(1));
}

#[test]
fn completions_name_the_program_and_its_components() {
    let running = Running::start();
    for shell in ["bash", "zsh", "fish"] {
        let output = running.run(&["completions", shell]);
        let script = stdout(&output);
        assert!(script.contains("edgectl") && script.contains("metamanager"), "{shell}");
    }
    assert!(stdout(&running.run(&["completions", "bash"])).contains("_edgectl"));
}
