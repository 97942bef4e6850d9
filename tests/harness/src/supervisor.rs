//! A supervisor under test, started and started again as systemd would do it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::containerd::{open_log, tail};
use crate::wait::{millis_since_epoch, until};
use crate::{Run, interrupt};

/// From start to every component ready; cold caches and a busy machine included.
pub(crate) const READY_LIMIT: Duration = Duration::from_mins(1);
/// From SIGTERM to the end of the supervisor: it drains its components in order.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Which half of Apiary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `edgecore`.
    Edge,
    /// `cloudcore --standalone`.
    Cloud,
}

impl Side {
    /// The name the supervisor is started under.
    pub fn program(self) -> &'static str {
        match self {
            Self::Edge => "edgecore",
            Self::Cloud => "cloudcore",
        }
    }

    /// The components of the side, in start order.
    pub fn components(self) -> &'static [&'static str] {
        match self {
            Self::Edge => &["metamanager", "keyholder", "edgehub", "edged", "metrics"],
            Self::Cloud => &["authority", "apiserver", "controllers", "cloudhub", "metrics"],
        }
    }
}

/// What `edgectl status` says of one component; fields as in `proto/control.proto`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Component {
    /// Its name.
    pub name: String,
    /// `ready`, `backoff`, `failed`, …
    pub state: String,
    /// 0 when it does not run.
    pub pid: i32,
    /// The user it runs as.
    pub uid: u32,
    /// Differs from start to start.
    pub generation: u64,
    /// Starts after the first.
    pub restarts: u64,
    /// Milliseconds since 1970 when it last became ready; 0 when it never did.
    pub ready_since_ms: u64,
    /// Why the process before this one ended.
    pub last_exit: String,
    /// What it last said of itself.
    pub status_text: String,
    /// How often it was ended for reaching its memory ceiling.
    pub memory_kills: u64,
    /// How often it was killed for being silent or late.
    pub hang_kills: u64,
}

/// A component that was killed and is back.
#[derive(Clone, Debug)]
pub struct Back {
    /// As it is now.
    pub component: Component,
    /// From the kill until its successor said that it is ready.
    pub took: Duration,
}

/// What `edgectl status -o json` prints.
#[derive(Debug, Deserialize)]
struct Status {
    components: Vec<Component>,
}

/// A supervisor with its directories. Dropping it stops it.
#[derive(Debug)]
pub struct Supervisor {
    side: Side,
    folder: PathBuf,
    programs: PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
}

impl Supervisor {
    /// A supervisor that is not started yet, with state and run directories and configuration below `folder` and its
    /// programs in `programs`.
    pub(crate) fn new(side: Side, folder: PathBuf, programs: PathBuf) -> Self {
        let extra = if side == Side::Cloud { vec!["--standalone".to_owned()] } else { Vec::new() };
        Self { side, folder, programs, extra, child: None }
    }

    /// The folder of what a component may read besides its own: `{etc}` in the manifest.
    pub fn etc(&self) -> PathBuf {
        self.folder.join("etc")
    }

    /// `edgecore.yaml` or `cloudcore.yaml`.
    pub fn config(&self) -> PathBuf {
        self.etc().join(format!("{}.yaml", self.side.program()))
    }

    /// The node agent's directory of pods: `{kubelet}` in the manifest.
    pub fn kubelet(&self) -> PathBuf {
        self.folder.join("kubelet")
    }

    /// Where components keep what must survive.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the supervisor and its components wrote.
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.side.program()))
    }

    /// The length of the log now: where to begin with [`Self::wait_log`].
    pub fn log_mark(&self) -> usize {
        std::fs::metadata(self.log()).map_or(0, |found| usize::try_from(found.len()).unwrap_or(usize::MAX))
    }

    /// Waits until a line written after `mark` holds all of `words`, whatever their case, and returns that line.
    pub fn wait_log(&self, mark: usize, words: &[&str]) -> Result<String> {
        let what = format!("a line with {} in the log of {}", words.join(" and "), self.side.program());
        until(READY_LIMIT, &what, || Ok(self.log_lines(mark, words)?.into_iter().next()))
            .with_context(|| format!("the log ends with\n{}", tail(&self.log(), 15)))
    }

    /// All lines written after `mark` that hold all of `words`, whatever their case.
    pub fn log_lines(&self, mark: usize, words: &[&str]) -> Result<Vec<String>> {
        let bytes = std::fs::read(self.log()).context("could not read the log")?;
        let text = String::from_utf8_lossy(bytes.get(mark..).unwrap_or_default()).into_owned();
        let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let holds = |line: &&str| {
            let line = line.to_lowercase();
            words.iter().all(|word| line.contains(word))
        };
        Ok(text.lines().filter(holds).map(str::to_owned).collect())
    }

    /// The socket `edgectl` talks to.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join("run/control.sock")
    }

    /// The supervisor's process id; `None` while it is stopped.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Which side it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// From its next start on it runs this manifest instead of its own.
    pub fn use_manifest(&mut self, path: &Path) {
        self.extra.extend(["--manifest".to_owned(), path.display().to_string()]);
    }

    /// Its command line without the program.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = self.extra.clone();
        let paths = [
            ("--config", self.config()),
            ("--state-dir", self.state()),
            ("--run-dir", self.folder.join("run")),
            ("--exec-dir", self.programs.clone()),
        ];
        for (option, path) in paths {
            arguments.extend([option.to_owned(), path.display().to_string()]);
        }
        let mut places = vec![("etc", self.etc())];
        if self.side == Side::Edge {
            places.push(("kubelet", self.kubelet()));
        }
        for (name, path) in places {
            arguments.extend(["--path".to_owned(), format!("{name}={}", path.display())]);
        }
        arguments
    }

    /// Starts it and returns at once.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.side.program());
        }
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.child = Some(spawn_daemon(&self.programs.join(self.side.program()), &arguments, &self.log())?);
        Ok(())
    }

    /// Starts it and waits until every component is ready.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Waits until every component is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("all components of {} are ready", self.side.program());
        until(READY_LIMIT, &what, || {
            self.check_running()?;
            let components = self.components()?;
            let late: Vec<String> = components
                .iter()
                .filter(|component| component.state != "ready")
                .map(|component| {
                    format!("{} is {} ({})", component.name, component.state, component.last_exit)
                })
                .collect();
            if !late.is_empty() || components.len() < self.side.components().len() {
                bail!("{}", late.join(", "));
            }
            Ok(Some(()))
        })
        .with_context(|| format!("the log ends with\n{}", tail(&self.log(), 15)))
    }

    fn check_running(&mut self) -> Result<()> {
        let Some(child) = self.child.as_mut() else { bail!("{} is not started", self.side.program()) };
        if let Some(status) = child.try_wait().context("could not look after the supervisor")? {
            bail!("{} ended with {status}", self.side.program());
        }
        Ok(())
    }

    /// Ends it with SIGTERM, as systemd stops a service, and returns how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { bail!("{} is not started", self.side.program()) };
        stop_child(&mut child, STOP_LIMIT)
    }

    /// Ends it with SIGKILL, and with it (parent-death signal) its components.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} is not started", self.side.program()) };
        child.kill().context("could not kill the supervisor")?;
        child.wait().context("could not wait for the supervisor")?;
        Ok(())
    }

    /// What `edgectl status` says.
    pub fn components(&self) -> Result<Vec<Component>> {
        let text = self.ctl(&["status", "-o", "json"])?;
        let status: Status = serde_json::from_str(&text)
            .with_context(|| format!("unexpected answer of `edgectl status`: {text}"))?;
        Ok(status.components)
    }

    /// What `edgectl status` says of one component.
    pub fn component(&self, name: &str) -> Result<Component> {
        let components = self.components()?;
        let found = components.into_iter().find(|component| component.name == name);
        found.with_context(|| format!("{} has no component {name}", self.side.program()))
    }

    /// Kills one component with SIGKILL and waits until another process does its work. The time is the supervisor's own
    /// (`ready_since_ms`), so looking for it does not add to it.
    pub fn kill_and_wait(&self, name: &str) -> Result<Back> {
        let before = self.component(name)?;
        if before.pid == 0 {
            bail!("{name} does not run: {} ({})", before.state, before.last_exit);
        }
        let killed_at = millis_since_epoch();
        kill(Pid::from_raw(before.pid), Signal::SIGKILL).with_context(|| format!("could not kill {name}"))?;
        let component = until(READY_LIMIT, &format!("{name} is back"), || {
            let component = self.component(name)?;
            Ok((component.pid != before.pid && component.state == "ready").then_some(component))
        })?;
        let took = Duration::from_millis(component.ready_since_ms.saturating_sub(killed_at));
        Ok(Back { component, took })
    }

    /// Kills the supervisor itself with SIGKILL, starts it again as systemd would, and waits until all its components
    /// are ready: how long the last of them took.
    pub fn kill_and_respawn(&mut self) -> Result<Duration> {
        let killed_at = millis_since_epoch();
        self.kill()?;
        self.start()?;
        let last =
            self.components()?.iter().map(|component| component.ready_since_ms).max().unwrap_or_default();
        Ok(Duration::from_millis(last.saturating_sub(killed_at)))
    }

    /// Runs `edgectl` (or `cloudctl`) against this supervisor.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let name = if self.side == Side::Edge { "edgectl" } else { "cloudctl" };
        Run::new(self.programs.join(name)).arg("--socket").arg(self.control_socket()).args(arguments).output()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(error) = self.stop()
        {
            eprintln!("could not stop {}: {error:#}", self.side.program());
        }
    }
}

/// Starts a program that stays, in a process group of its own (Ctrl-C is for whoever started the test), writing to `log`.
pub(crate) fn spawn_daemon(program: &Path, arguments: &[&str], log: &Path) -> Result<Child> {
    let log = open_log(log)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("could not share the log")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))
}

/// SIGTERM, then SIGKILL when `limit` has passed; the latter is an error.
pub(crate) fn stop_child(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    interrupt::shielded(|| {
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is an i32")?);
        // Not reaped yet, so the id is still its own.
        kill(pid, Signal::SIGTERM).context("could not send SIGTERM")?;
        let ended = until(limit, "the end of a process after SIGTERM", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().context("could not send SIGKILL")?;
            child.wait().context("could not wait for a killed process")?;
        }
        ended
    })
}
