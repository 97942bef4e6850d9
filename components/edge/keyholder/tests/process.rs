//! The process as the supervisor starts it: inherited listener, readiness, drain, exit codes, sudden death.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipc::blocking::Channel;
use ipc::{CallError, Identity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use proto::keyholder::{KeyholderBlockingClient, PublicKeyRequest, SignRequest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use tempfile::TempDir;

/// What the supervisor provides: directories, a listener that outlives the process, a notify socket.
struct Place {
    dir: TempDir,
    listener: std::os::fd::OwnedFd,
    notify: UnixDatagram,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = ipc::bind(&dir.path().join("link.sock"), 0o600).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify.sock")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        Self { dir, listener, notify }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts keyholder. A shell stands in for the supervisor where descriptor and pid have to be right.
    fn start(&self, generation: u64) -> Running {
        let child = Command::new("/bin/sh")
            .args(["-c", r#"LISTEN_PID=$$ exec "$0" 3<&0 </dev/null"#, env!("CARGO_BIN_EXE_keyholder")])
            .env_clear()
            .env("APIARY_COMPONENT", "keyholder")
            .env("APIARY_GENERATION", generation.to_string())
            .env("APIARY_LINKS", format!("edgehub:{}:PublicKey,Sign", Uid::effective()))
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "edgehub")
            .env("NOTIFY_SOCKET", self.dir.path().join("notify.sock"))
            .env("WATCHDOG_USEC", "100000")
            .env("STATE_DIRECTORY", self.state())
            .env("RUNTIME_DIRECTORY", self.dir.path())
            .stdin(self.listener.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running(Some(child))
    }

    fn notified(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.notify.recv(&mut buffer).expect("a notification within 10 s");
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
    }

    fn client(&self, component: &str) -> KeyholderBlockingClient {
        let path: &Path = &self.dir.path().join("link.sock");
        KeyholderBlockingClient::new(Channel::new(path, Identity::new(component, 1)))
    }
}

/// Killed at the end of its test.
struct Running(Option<Child>);

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Exit code and what it logged.
    fn end(mut self) -> (Option<i32>, String) {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn says_when_it_is_ready_and_alive_and_drains_on_sigterm() {
    let place = Place::new();
    let running = place.start(1);
    assert_eq!(place.notified(), "READY=1");
    assert_eq!(place.notified(), "WATCHDOG=1");
    assert_eq!(place.notified(), "WATCHDOG=1");
    running.signal(Signal::SIGTERM);
    while place.notified() == "WATCHDOG=1" {}
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    for line in log.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "not a JSON line: {line}");
    }
}

#[test]
fn calls_survive_its_sudden_death() {
    let place = Place::new();
    let client = place.client("edgehub");
    let first = place.start(1);
    let point = client.public_key(PublicKeyRequest {}).unwrap().point;
    first.signal(Signal::SIGKILL);
    let _ = first.end();
    // Nobody is there: the call waits in the listener's backlog for the next process.
    let signing = std::thread::spawn(move || client.sign(SignRequest { message: "message".into() }));
    let _second = place.start(2);
    let signature = signing.join().unwrap().unwrap().signature;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(b"message", &signature).unwrap();
}

#[test]
fn another_component_is_refused_and_logged_by_name() {
    let place = Place::new();
    let running = place.start(1);
    let error = place.client("edged").public_key(PublicKeyRequest {}).unwrap_err();
    let CallError::Refused(words) = error else { panic!("{error:?}") };
    assert!(words.ends_with(": this link is for edgehub, not for edged"), "{words}");
    running.signal(Signal::SIGTERM);
    let (_, log) = running.end();
    assert!(log.contains("disconnected a peer that broke a rule") && log.contains("edged"), "{log}");
}

#[test]
fn damaged_key_ends_it_with_78_and_one_error_line_with_a_hint() {
    let place = Place::new();
    std::fs::write(place.state().join("node.key"), "damaged").unwrap();
    let (code, log) = place.start(1).end();
    assert_eq!(code, Some(78), "{log}");
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
    let [error] = errors[..] else { panic!("{log}") };
    assert!(
        error.contains("node.key is damaged") && error.contains(r#""hint":"restore the file"#),
        "{error}"
    );
}

#[test]
fn missing_environment_ends_it_with_78_naming_the_variable() {
    let output = Command::new(env!("CARGO_BIN_EXE_keyholder")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("STATE_DIRECTORY is not set"), "{log}");
}
