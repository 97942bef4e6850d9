//! A supervisor in a folder of its own.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ipc::{Channel, Identity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::control::{Component, ControlClient, StatusRequest};
use supervisor::cgroup::Cgroups;
use tempfile::TempDir;

/// For what takes milliseconds, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Users that every distribution has, for a run as root.
pub(crate) const USERS: [&str; 3] = ["daemon", "bin", "nobody"];

/// A manifest of components named `a`, `b`, …, each given by its rank, its behaviour and further lines.
pub(crate) fn manifest(components: &[(u8, &str, &str)]) -> String {
    let block = |(n, (rank, behaviour, more)): (usize, &(u8, &str, &str))| {
        let (name, user) = (char::from(b'a' + u8::try_from(n).expect("few")), USERS[n]);
        let defaults = [("ready_timeout", "20s"), ("drain", "5s"), ("syscalls", "runtime")]
            .iter()
            .filter(|(key, _)| !more.contains(key))
            .fold(String::new(), |text, (key, value)| text + &format!("{key} = \"{value}\"\n"));
        format!(
            "[component.{name}]\nrank = {rank}\nexec = \"probe\"\nuser = \"{user}\"\n{defaults}\
             env = {{ PROBE = \"{behaviour}\" }}\n{more}\n"
        )
    };
    components.iter().enumerate().map(block).collect()
}

pub(crate) struct Supervisor {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
}

impl Supervisor {
    /// One whose program is a copy in its folder, so that it can be replaced.
    pub(crate) fn start_copy(manifest: &str) -> Self {
        Self::start_with(manifest, |folder| {
            let program = folder.join("edgecore");
            fs::copy(env!("CARGO_BIN_EXE_edgecore"), &program).expect("edgecore");
            Command::new(program)
        })
    }

    pub(crate) fn start(manifest: &str) -> Self {
        Self::start_with(manifest, |_| Command::new(env!("CARGO_BIN_EXE_edgecore")))
    }

    /// One that is run by this command; the options are added.
    pub(crate) fn start_with(manifest: &str, program: impl Fn(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        fs::copy(probe(), folder.path().join("probe")).expect("probe");
        fs::write(folder.path().join("manifest.toml"), manifest).expect("manifest");
        let begin = std::time::Instant::now();
        let child = loop {
            match command(program(folder.path()), folder.path()).spawn() {
                // A process of another test, between its fork and its exec, still has the copied file open for writing.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && begin.elapsed() < PATIENCE => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                child => break child.expect("edgecore"),
            }
        };
        Self { folder, child }
    }

    pub(crate) fn pid(child: &Child) -> Pid {
        Pid::from_raw(i32::try_from(child.id()).expect("pid"))
    }

    pub(crate) fn client(&self) -> ControlClient {
        let path = self.folder.path().join("run/control.sock");
        ControlClient::new(Channel::new(path, Identity::new("test", 1)))
    }

    pub(crate) async fn components(&self) -> Vec<Component> {
        self.client().status(StatusRequest {}).await.expect("status").components
    }

    pub(crate) async fn component(&self, name: &str) -> Component {
        let all = self.components().await;
        all.into_iter().find(|component| component.name == name).expect("component")
    }

    /// Asks until `found` says yes.
    pub(crate) async fn until(&self, name: &str, found: impl Fn(&Component) -> bool) -> Component {
        let begin = Instant::now();
        loop {
            let component = self.component(name).await;
            if found(&component) {
                return component;
            }
            assert!(begin.elapsed() < PATIENCE, "{component:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Component {
        self.until(name, |component| component.state == "ready").await
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("log")
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        kill(Self::pid(&self.child), Signal::SIGTERM).expect("signal");
        self.child.wait().expect("wait")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // With it, its components; the groups it could not remove stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let groups = Cgroups::open(&self.folder.path().join("run"));
        let begin = Instant::now();
        while groups.exists() && begin.elapsed() < PATIENCE {
            groups.remove_others(&[]);
            groups.remove();
        }
    }
}

pub(crate) fn probe() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_edgecore")).parent().expect("target folder");
    let probe = profile.join("examples/probe");
    assert!(probe.exists(), "{} is missing: `cargo build -p supervisor --example probe`", probe.display());
    probe
}

pub(crate) fn spawn(folder: &Path) -> Child {
    command(Command::new(env!("CARGO_BIN_EXE_edgecore")), folder).spawn().expect("edgecore")
}

/// Lets `command`, which runs a supervisor, find everything in `folder`.
pub(crate) fn command(mut command: Command, folder: &Path) -> Command {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("log");
    for (option, name) in [
        ("--config", "edgecore.yaml"),
        ("--state-dir", "state"),
        ("--run-dir", "run"),
        ("--exec-dir", ""),
        ("--manifest", "manifest.toml"),
    ] {
        command.arg(option).arg(folder.join(name));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Puts a file into the supervisor's folder as a package manager would: never half of it, never under a running program.
pub(crate) fn install(supervisor: &Supervisor, name: &str, content: &[u8]) {
    let folder = supervisor.folder.path();
    fs::write(folder.join("new"), content).expect("written");
    fs::set_permissions(folder.join("new"), PermissionsExt::from_mode(0o755)).expect("chmod");
    fs::rename(folder.join("new"), folder.join(name)).expect("installed");
}

pub(crate) fn kill_9(component: &Component) {
    kill(Pid::from_raw(i32::try_from(component.pid).expect("pid")), Signal::SIGKILL).expect("kill");
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie whose parent is gone is reaped by somebody else, some time.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
