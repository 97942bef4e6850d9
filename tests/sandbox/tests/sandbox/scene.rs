//! The stage: real directories, sockets and users of one side, with a probe in place of every component's program, started
//! under the profile the supervisor would start the component under.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use harness::{Side, Slot, users};
use launch::{CapabilitySet, Child, Confinement, Exit, Inherited, Launch, Process};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use proto::control::ProcessPrivileges;
use supervisor::cgroup::{Ceilings, Cgroups, Group};
use supervisor::cli::{Options, Settings};
use supervisor::manifest::Limits;
use supervisor::reexec::Kept;
use supervisor::setup::{self, Prepared};
use supervisor::wiring::{self, Link};
use supervisor::{cli, exposure, notify};

use crate::attempts::{Attempt, Control};

/// One attempt takes milliseconds; a machine under load, a few hundred.
const LIMIT: Duration = Duration::from_secs(20);
/// Stands for what a component would keep in its state.
const SECRET: &str = "secret";

/// A side with all its processes. Dropping it ends them and removes their groups; the rest is the slot's.
pub(crate) struct Scene {
    runtime: tokio::runtime::Runtime,
    side: Side,
    settings: Settings,
    parts: Vec<Part>,
    cgroups: Cgroups,
    /// Links into the supervisor itself.
    own_links: Vec<Link>,
    /// Processes that only sit there, by component.
    siblings: BTreeMap<String, Process>,
    tcp: TcpListener,
    free: u16,
    _listeners: Vec<UnixListener>,
    _lock: setup::RunLock,
    root: PathBuf,
}

struct Part {
    prepared: Prepared,
    group: Group,
    missing: Vec<String>,
    _notify: notify::Socket,
}

/// What holds a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Everything, as the supervisor starts it.
    Whole,
    /// Everything but the filters of system calls: what would hold a process that got past them.
    WithoutFilters,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome(pub(crate) String);

impl Scene {
    /// Prepares everything as the supervisor does, plants what is to be found, and starts one process per component.
    pub(crate) fn prepare(side: Side, slot: &mut Slot) -> Result<Self> {
        users::ensure()?;
        let root = slot.root().to_owned();
        let settings = settings(side, &root)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let manifest = setup::checked_manifest(&settings)?;
        for component in manifest.components.values() {
            let program = settings.exec_dir.join(&component.exec);
            if !program.exists() {
                fs::create_dir_all(&settings.exec_dir)?;
                fs::copy(env!("CARGO_BIN_EXE_probe"), &program).context("could not copy the probe")?;
            }
        }
        fs::write(&settings.config, "{}\n")?;
        fs::create_dir_all(root.join("kubelet"))?;

        let entered = runtime.enter();
        let mut kept = Kept::default();
        let lock = setup::take_directories(&settings, &mut kept)?;
        let prepared = setup::prepare(&settings, &manifest, &mut kept)?;
        let own_links = setup::own_links(&settings, &manifest, &mut kept)?;
        drop(entered);
        let cgroups = Cgroups::open(&settings.run_dir);
        let parts = prepared.into_iter().map(|(prepared, notify)| {
            let (group, lacking) = cgroups.group(&prepared.name, &Ceilings::from(&prepared.component.limits));
            let missing = prepared.degraded.iter().cloned().chain(lacking).collect();
            Part { prepared, group, missing, _notify: notify }
        });
        let parts: Vec<Part> = parts.collect();

        let (tcp, free) = (TcpListener::bind((Ipv4Addr::LOCALHOST, slot.port()?))?, slot.port()?);
        let mut scene = Self {
            runtime,
            side,
            settings,
            parts,
            cgroups,
            own_links,
            siblings: BTreeMap::new(),
            tcp,
            free,
            _listeners: Vec::new(),
            _lock: lock,
            root,
        };
        scene.plant()?;
        for name in scene.names() {
            let (process, said) = scene.start(&name, &["sit".to_owned()], Held::Whole)?;
            ensure!(said == "sitting", "a process in place of {name} said {said:?} ({:?})", process.1);
            scene.siblings.insert(name, process.0.context("it ended")?);
        }
        Ok(scene)
    }

    /// Puts everything there that a process could reach for. Modes are wide open, so that it is not file permissions
    /// alone that hold a process back.
    fn plant(&mut self) -> Result<()> {
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for part in &self.parts {
            let (name, identity) = (&part.prepared.name, &part.prepared.identity);
            let give = |path: &Path| lchown(path, Some(identity.uid), Some(identity.gid));
            let state = self.state(name);
            open(&state, 0o777)?;
            open(&self.run(name), 0o777)?;
            for file in [self.secret(name), self.own_file(name), self.runtime_file(name)] {
                fs::write(&file, "secret\n")?;
                open(&file, 0o666)?;
                give(&file)?;
            }
            mknod(
                &self.planted_device(name),
                SFlag::S_IFCHR,
                Mode::from_bits_truncate(0o666),
                makedev(1, 5),
            )?;
            open(&self.planted_device(name), 0o666)?;
            let other = self.parts.iter().map(|other| &other.prepared.name).find(|other| *other != name);
            symlink(self.secret(other.context("one other")?), self.planted_link(name))?;
            give(&self.planted_link(name))?;
        }
        let (holder, key) = self.key();
        fs::write(self.state(holder).join(key), "key\n")?;
        open(&self.state(holder).join(key), 0o666)?;
        fs::create_dir_all(self.pod_secret().parent().context("a folder")?)?;
        fs::write(self.pod_secret(), "secret\n")?;

        for path in [self.control_socket(), self.runtime_socket()] {
            let _ = fs::remove_file(&path);
            self._listeners.push(UnixListener::bind(&path)?);
        }
        // The supervisor's own has this mode; the runtime's is wide open here.
        open(&self.control_socket(), 0o660)?;
        open(&self.runtime_socket(), 0o666)?;
        let name = SocketAddr::from_abstract_name(self.abstract_name())?;
        self._listeners.push(UnixListener::bind_addr(&name)?);
        Ok(())
    }

    /// The components, in start order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.prepared.name.clone()).collect()
    }

    /// What this machine does not give a component.
    pub(crate) fn missing(&self, name: &str) -> &[String] {
        self.part(name).map_or(&[], |part| &part.missing)
    }

    /// Whether this machine lacks a mechanism of confinement that a component should be held by.
    pub(crate) fn is_short(&self, name: &str) -> bool {
        self.part(name).is_ok_and(|part| !part.prepared.profile.missing.is_empty())
    }

    /// How groups are kept here.
    pub(crate) fn cgroup_mode(&self) -> &'static str {
        self.cgroups.mode()
    }

    fn part(&self, name: &str) -> Result<&Part> {
        self.parts
            .iter()
            .find(|part| part.prepared.name == name)
            .with_context(|| format!("there is no {name}"))
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.settings.state_dir.join(name)
    }

    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.settings.run_dir.join(name)
    }

    pub(crate) fn config(&self) -> &Path {
        &self.settings.config
    }

    pub(crate) fn secret(&self, name: &str) -> PathBuf {
        self.state(name).join(SECRET)
    }

    pub(crate) fn runtime_file(&self, name: &str) -> PathBuf {
        self.run(name).join(SECRET)
    }

    pub(crate) fn own_file(&self, name: &str) -> PathBuf {
        self.state(name).join("own")
    }

    pub(crate) fn planted_link(&self, name: &str) -> PathBuf {
        self.state(name).join("link-to-another")
    }

    pub(crate) fn planted_device(&self, name: &str) -> PathBuf {
        self.state(name).join("zero")
    }

    /// Who keeps the side's key, and in which file.
    pub(crate) fn key(&self) -> (&'static str, &'static str) {
        match self.side {
            Side::Edge => ("keyholder", "node.key"),
            Side::Cloud => ("authority", "rootCA.key"),
        }
    }

    pub(crate) fn pod_secret(&self) -> PathBuf {
        self.root.join("kubelet/pods/1/volumes/kubernetes.io~secret/s/token")
    }

    pub(crate) fn runtime_socket(&self) -> PathBuf {
        self.root.join("containerd.sock")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        wiring::control_path(&self.settings.run_dir)
    }

    pub(crate) fn notify_socket(&self, name: &str) -> PathBuf {
        wiring::notify_path(&self.settings.run_dir, name)
    }

    pub(crate) fn abstract_name(&self) -> String {
        format!("apiary-sandbox-{}", std::process::id())
    }

    /// A path that no program but the probe makes.
    pub(crate) fn trace(&self, folder: &str) -> PathBuf {
        Path::new(folder).join(format!(".apiary-probe-{}", std::process::id()))
    }

    pub(crate) fn program(&self, name: &str) -> String {
        let exec = self.part(name).map(|part| part.prepared.component.exec.clone()).unwrap_or_default();
        self.settings.exec_dir.join(exec).to_string_lossy().into_owned()
    }

    pub(crate) fn limits(&self, name: &str) -> Limits {
        self.part(name).map(|part| part.prepared.component.limits.clone()).unwrap_or_default()
    }

    pub(crate) fn supervisor(&self) -> u32 {
        std::process::id()
    }

    /// How exposed a running process is that is held as this component.
    pub(crate) fn exposure(&self, name: &str) -> Result<ProcessPrivileges> {
        let manifest = setup::checked_manifest(&self.settings)?;
        let places = setup::places(&self.settings, &manifest);
        let pid = self.siblings.get(name).map(Process::pid);
        Ok(exposure::assess(&self.part(name)?.prepared, &places, pid, &[]))
    }

    /// A running process of another component.
    pub(crate) fn sibling(&self, name: &str) -> u32 {
        let other = self.siblings.iter().find(|(other, _)| *other != name);
        other.map(|(_, process)| process.pid()).unwrap_or_default()
    }

    pub(crate) fn tcp_address(&self) -> String {
        self.tcp.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    pub(crate) fn free_address(&self) -> String {
        format!("127.0.0.1:{}", self.free)
    }

    /// Where a component listens on Unix sockets, besides its links.
    pub(crate) fn listeners(&self, name: &str) -> Vec<PathBuf> {
        let listen = self.part(name).map(|part| part.prepared.component.listen.clone()).unwrap_or_default();
        let run = self.settings.run_dir.to_string_lossy();
        let paths = listen.values().map(|address| PathBuf::from(address.replace("{run}", &run)));
        paths.filter(|path| path.is_absolute()).collect()
    }

    pub(crate) fn granted_links(&self, name: &str) -> Vec<PathBuf> {
        self.links().filter(|(client, _)| client == name).map(|(_, path)| path).collect()
    }

    pub(crate) fn other_links(&self, name: &str) -> Vec<PathBuf> {
        self.links().filter(|(client, _)| client != name).map(|(_, path)| path).collect()
    }

    /// Every link with its client.
    fn links(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let between = self.parts.iter().map(|part| (part.prepared.name.as_str(), &part.prepared.links));
        between.chain([("supervisor", &self.own_links)]).flat_map(move |(server, links)| {
            let path = move |client: &str| wiring::path(&self.settings.run_dir, server, client);
            links.iter().map(move |link| (link.client.clone(), path(&link.client)))
        })
    }

    /// Tries it in place of a component; `None` where there is nothing to try.
    pub(crate) fn attempt(&self, attempt: &Attempt, name: &str, held: Held) -> Result<Option<Outcome>> {
        let Some(sets) = (attempt.words)(self, name) else { return Ok(None) };
        let mut last = None;
        for words in sets {
            let outcome = self.outcome(attempt, &words, |words| self.start(name, words, held))?;
            let done = outcome.0 == "allowed" && attempt.name.contains("any ");
            last = Some(match last {
                // Every set must come to the same, or all outcomes are named.
                Some(Outcome(earlier)) if earlier != outcome.0 => Outcome(format!("{earlier}/{}", outcome.0)),
                _ => outcome,
            });
            if done {
                break;
            }
        }
        Ok(last)
    }

    /// Tries it as an unconfined process of root.
    pub(crate) fn control(&self, attempt: &Attempt) -> Result<Option<Outcome>> {
        if attempt.control != Control::Succeeds {
            return Ok(None);
        }
        for name in self.names() {
            if let Some(words) = (attempt.words)(self, &name).and_then(|sets| sets.into_iter().next()) {
                return self.outcome(attempt, &words, |words| self.start_unconfined(&name, words)).map(Some);
            }
        }
        Ok(None)
    }

    fn outcome(
        &self,
        attempt: &Attempt,
        words: &[String],
        start: impl Fn(&[String]) -> Result<((Option<Process>, Option<Exit>), String)>,
    ) -> Result<Outcome> {
        // Whether something stays is looked at from outside.
        let leaves = words.first().is_some_and(|word| word == "leave");
        let outside = words.get(1).map(PathBuf::from).unwrap_or_default();
        let ((_, exit), said) = start(words)?;
        ensure!(!said.starts_with("unknown"), "the probe does not know {words:?}");
        let word = match exit {
            Some(Exit::Signal(signal)) => nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal-{signal}"), |signal| signal.as_str().to_owned()),
            _ if leaves && said == "allowed" => {
                if outside.exists() { "allowed" } else { "unseen" }.to_owned()
            }
            _ if attempt.granted.contains(&said.as_str()) => "allowed".to_owned(),
            _ if said.is_empty() => format!("silent-{exit:?}"),
            _ => said,
        };
        for path in words.iter().skip(1).filter(|path| path.contains("/.apiary-probe-")) {
            let _ = fs::remove_file(path);
        }
        Ok(Outcome(word))
    }

    /// One launch under a component's profile.
    fn start(
        &self,
        name: &str,
        words: &[String],
        held: Held,
    ) -> Result<((Option<Process>, Option<Exit>), String)> {
        let part = self.part(name)?;
        let program = PathBuf::from(self.program(name));
        // The very launch the supervisor makes, with nothing but the program's arguments to come.
        let mut plan = part.prepared.launch(program, 1, part.group.join().collect());
        plan.args = words.iter().map(Into::into).collect();
        if held == Held::WithoutFilters {
            plan.confinement.filters.clear();
        }
        self.finish(&plan, words)
    }

    fn start_unconfined(
        &self,
        name: &str,
        words: &[String],
    ) -> Result<((Option<Process>, Option<Exit>), String)> {
        let plan = Launch {
            component: "unconfined",
            exec: self.program(name).into(),
            argv0: "unconfined",
            args: words.iter().map(Into::into).collect(),
            env: Vec::new(),
            inherited: Vec::new(),
            identity: None,
            capabilities: CapabilitySet::held()?,
            limits: Vec::new(),
            confinement: Confinement::default(),
        };
        self.finish(&plan, words)
    }

    /// Waits for its end, or for its first word if it is to sit.
    fn finish(
        &self,
        plan: &Launch<'_>,
        words: &[String],
    ) -> Result<((Option<Process>, Option<Exit>), String)> {
        let child: Child = launch::launch(plan)?;
        self.runtime.block_on(async {
            let (process, output) = Process::watch(child)?;
            let sits = words.first().is_some_and(|word| word == "sit");
            let mut output = fs::File::from(output);
            if sits {
                let mut line = [0; 8];
                output.read_exact(&mut line).context("a process that was to sit ended")?;
                return Ok(((Some(process), None), String::from_utf8_lossy(&line).trim().to_owned()));
            }
            let Ok(exit) = tokio::time::timeout(LIMIT, process.ended()).await else {
                process.kill()?;
                process.ended().await?;
                bail!("{} {words:?} took more than {LIMIT:?}", plan.component);
            };
            let mut said = String::new();
            output.take(4096).read_to_string(&mut said)?;
            Ok(((None, Some(exit?)), said.lines().next().unwrap_or_default().to_owned()))
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for process in self.siblings.values() {
            if process.kill().is_ok() {
                let _ = self.runtime.block_on(process.ended());
            }
        }
        for part in &self.parts {
            part.group.sweep();
            part.group.remove();
        }
        self.cgroups.remove();
    }
}

fn settings(side: Side, root: &Path) -> Result<Settings> {
    let below = |name: &str| root.join(name).into_os_string();
    let mut words = vec![side.program().into()];
    for (option, name) in
        [("--config", "config.yaml"), ("--state-dir", "state"), ("--run-dir", "run"), ("--exec-dir", "bin")]
    {
        words.extend([option.into(), below(name)]);
    }
    let side = match side {
        Side::Edge => {
            let mut kubelet = std::ffi::OsString::from("kubelet=");
            kubelet.push(below("kubelet"));
            words.extend(["--path".into(), kubelet]);
            cli::Side::Edge
        }
        Side::Cloud => {
            words.push("--standalone".into());
            cli::Side::Cloud
        }
    };
    Settings::new(side, Options::try_parse_from(words)?).map_err(anyhow::Error::msg)
}
