//! From settings to parts that can be started: the manifest checked, directories made, links bound.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use launch::{CapabilitySet, Identity, Inherited, Launch, Limit, Namespaces, Root, Support, View};
use thiserror::Error;

use crate::accounts;
use crate::cli::{Listen, Settings};
use crate::confine::resolver::{self, Copies};
use crate::confine::{self, Machine, Profile, Subject, syscalls};
use crate::dirs::{self, DirError};
use crate::manifest::check::{Accounts, Known, SUPERVISOR, check};
use crate::manifest::{self, Component, Finding, Manifest, Places};
use crate::notify;
use crate::policy::EXIT_CONFIG;
use crate::reexec::Kept;
use crate::wiring::{self, Link, Listener};

/// What the supervisor itself needs, beside what launching takes and what it grants.
const NEEDED: [&str; 5] = [
    // Directories and links are given to the components' users.
    "CAP_CHOWN",
    "CAP_FOWNER",
    // Signals to processes of other users; what they use of memory.
    "CAP_KILL",
    "CAP_SYS_PTRACE",
    // Listeners from the command line.
    "CAP_NET_BIND_SERVICE",
];

/// The resolver's file.
const RESOLVER: &str = "/etc/resolv.conf";

/// Why the supervisor does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The command line names something that is not there.
    #[error("{0}")]
    Usage(String),
    /// The manifest has mistakes: all of them.
    #[error("the manifest has {} finding{}\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, lines(.0))]
    Manifest(Vec<Finding>),
    /// Socket paths the kernel would not take.
    #[error(
        "the run directory's path is too long for sockets in it (107 bytes at most); choose a shorter --run-dir: {}",
        .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    LongPaths(Vec<PathBuf>),
    /// A directory cannot be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Another supervisor works in the same run directory.
    #[error("another supervisor runs in {}; stop it first, or choose another --run-dir", .0.display())]
    Taken(PathBuf),
    /// A system call failed.
    #[error("could not {what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("  {finding}")).collect::<Vec<_>>().join("\n")
}

impl StartError {
    /// 78 (`EX_CONFIG`) where starting again cannot help, so that systemd can be told not to try; else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Manifest(_) | Self::LongPaths(_) => {
                ExitCode::from(u8::try_from(EXIT_CONFIG).unwrap_or(1))
            }
            Self::Dir(_) | Self::Taken(_) | Self::Io { .. } => ExitCode::FAILURE,
        }
    }
}

/// The methods the components' interfaces have, and those of the supervisor's own.
pub fn methods(server: &str) -> Option<Vec<&'static str>> {
    let interface = match server {
        SUPERVISOR => Some(&proto::control::CONTROL),
        component => proto::interface_of(component),
    };
    interface.map(|interface| interface.methods.iter().map(|method| method.name).collect())
}

/// Where the manifest's named places are.
pub fn places(settings: &Settings, manifest: &Manifest) -> Places {
    Places::new(&settings.run_dir, &settings.state_dir, &manifest.path, &settings.paths)
}

/// The manifest of these settings, with everything that is wrong with it, with what the command line adds to it and with
/// the policies of system calls. As root, every user must exist.
pub fn findings(settings: &Settings) -> (Manifest, Vec<Finding>) {
    let file = &settings.manifest_name;
    let (mut manifest, mut findings) = manifest::parse(file, &settings.manifest);
    let option = |component: &str, key: String, value: String, problem: &str| Finding {
        file: "command line".to_owned(),
        component: component.to_owned(),
        key,
        value,
        problem: problem.to_owned(),
    };
    for (name, place) in settings.paths.iter().filter(|(name, _)| !manifest.path.contains_key(*name)) {
        let problem = "the manifest has no place of that name";
        findings.push(option("", format!("--path {name}"), place.display().to_string(), problem));
    }
    for Listen { component, name, address } in &settings.listen {
        let key = format!("--listen {name}");
        match manifest.components.get_mut(component) {
            None => findings.push(option(component, key, address.clone(), "there is no such component")),
            Some(part) if part.listen.contains_key(name) => {
                findings.push(option(
                    component,
                    key,
                    address.clone(),
                    "the manifest has a listener of that name",
                ));
            }
            Some(part) => {
                part.listen.insert(name.clone(), address.clone());
                part.why.listen.insert(name.clone(), "asked for on the command line".to_owned());
            }
        }
    }
    let accounts = Accounts { user: &accounts::has_user, group: &accounts::has_group };
    let known = Known {
        methods: &methods,
        policy: &syscalls::exists,
        places: &places(settings, &manifest),
        accounts: (accounts::own_uid() == 0).then_some(accounts),
    };
    findings.extend(check(file, &manifest, &known));
    findings.extend(planted_links(file, &manifest, known.places));
    findings.extend(syscalls::findings());
    (manifest, findings)
}

/// Granted paths that a symbolic link of somebody else leads to: whoever owns the link decides what is granted. Such a
/// path is not followed at launch either.
fn planted_links(file: &str, manifest: &Manifest, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, component) in &manifest.components {
        let paths = &component.paths;
        for (key, path) in
            [("paths.read", &paths.read), ("paths.write", &paths.write), ("paths.shared", &paths.shared)]
                .into_iter()
                .flat_map(|(key, paths)| paths.iter().map(move |path| (key, path)))
        {
            let planted = places.fill(path).ok().and_then(|path| dirs::foreign_link(Path::new(&path)));
            if let Some((link, owner)) = planted {
                findings.push(Finding {
                    file: file.to_owned(),
                    component: name.clone(),
                    key: key.to_owned(),
                    value: path.clone(),
                    problem: format!(
                        "{} is a symbolic link of uid {owner}, who could lead it anywhere",
                        link.display()
                    ),
                });
            }
        }
    }
    findings
}

/// The manifest, when nothing is wrong with it, with what runs in this mode.
pub fn checked_manifest(settings: &Settings) -> Result<Manifest, StartError> {
    let (manifest, findings) = findings(settings);
    if !findings.is_empty() {
        return Err(StartError::Manifest(findings));
    }
    let manifest = manifest.in_mode(settings.standalone);
    let long = wiring::too_long(&settings.run_dir, &manifest);
    if long.is_empty() { Ok(manifest) } else { Err(StartError::LongPaths(long)) }
}

/// For `--check`: every program is there and may be executed.
pub fn check_programs(settings: &Settings, manifest: &Manifest) -> Result<(), StartError> {
    let mut findings = Vec::new();
    for (name, component) in &manifest.components {
        let program = settings.exec_dir.join(&component.exec);
        let problem = match std::fs::metadata(&program) {
            Err(error) => error.to_string(),
            Ok(meta) if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 => {
                "is no program".to_owned()
            }
            Ok(_) => continue,
        };
        findings.push(Finding {
            file: settings.manifest_name.clone(),
            component: name.clone(),
            key: "exec".to_owned(),
            value: program.display().to_string(),
            problem,
        });
    }
    if findings.is_empty() { Ok(()) } else { Err(StartError::Manifest(findings)) }
}

/// Keeps other supervisors out of the run directory for as long as it lives.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl AsFd for RunLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes the supervisor's own directories and takes the run directory.
pub fn take_directories(settings: &Settings, kept: &mut Kept) -> Result<RunLock, StartError> {
    let run = &settings.run_dir;
    dirs::ensure_root(&settings.state_dir, 0o755)?;
    dirs::ensure_root(run, 0o755)?;
    dirs::ensure_root(&confine::staging(run), 0o700)?;
    dirs::ensure_root(&resolver::folder(run), 0o755)?;
    if let Some(lock) = kept.take("lock") {
        return Ok(RunLock { file: File::from(lock) });
    }
    let path = run.join("lock");
    let io = |source| StartError::Io { what: format!("open {}", path.display()), source };
    // Ours alone: whoever could open it could hold the lock against us.
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Taken(run.clone())),
        Err(errno) => return Err(io(errno.into())),
    }
    dirs::ensure_root(&run.join("link"), 0o755)?;
    // Reachable, not listable: a component finds its own socket by the path it was told.
    dirs::ensure_root(&run.join("notify"), 0o711)?;
    Ok(RunLock { file })
}

/// One component with all that outlives its processes.
#[derive(Debug)]
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its block in the manifest.
    pub component: Component,
    /// The user it runs as, by name.
    pub user: String,
    /// The ids it runs as.
    pub identity: Identity,
    /// Whether the launch changes to them; not when we are not root.
    pub change_identity: bool,
    /// The capabilities it keeps.
    pub capabilities: CapabilitySet,
    /// Its resource limits.
    pub limits: Vec<(Limit, u64)>,
    /// What was granted and this machine does not give.
    pub degraded: Vec<String>,
    /// The listeners of its callers.
    pub links: Vec<Link>,
    /// The listeners of everybody else.
    pub listeners: Vec<Listener>,
    /// What its processes are kept from.
    pub profile: Profile,
    /// Its environment, but for what changes from start to start.
    pub env: Vec<(String, OsString)>,
}

impl Prepared {
    /// One launch of it: `program` in its place, in these cgroups.
    pub fn launch<'a>(
        &'a self,
        program: PathBuf,
        generation: u64,
        cgroups: Vec<BorrowedFd<'a>>,
    ) -> Launch<'a> {
        let mut env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        env.push(("APIARY_GENERATION", generation.to_string().into()));
        let links = self.links.iter().map(|link| Inherited { name: &link.client, fd: link.listener.as_fd() });
        let listeners = self
            .listeners
            .iter()
            .map(|listener| Inherited { name: &listener.name, fd: listener.listener.as_fd() });
        Launch {
            component: &self.name,
            argv0: &self.name,
            args: Vec::new(),
            env,
            inherited: links.chain(listeners).collect(),
            identity: self.change_identity.then(|| self.identity.clone()),
            capabilities: self.capabilities,
            limits: self.limits.clone(),
            confinement: self.profile.confinement(&program, cgroups),
            exec: program,
        }
    }
}

/// Prepares every component, in start order: by rank, then by name. Within a tokio runtime.
///
/// With each comes the socket on which it tells of itself. Sockets among `kept` are used as they are.
pub fn prepare(
    settings: &Settings,
    manifest: &Manifest,
    kept: &mut Kept,
) -> Result<Vec<(Prepared, notify::Socket)>, StartError> {
    let root = accounts::own_uid() == 0;
    let held = CapabilitySet::held()
        .map_err(|source| StartError::Io { what: "read our own capabilities".to_owned(), source })?;
    let identity_of = |name: &str| identity_of(manifest, name, root);
    wiring::remove_stale(&settings.run_dir, manifest).map_err(|source| StartError::Io {
        what: format!("clear {}", settings.run_dir.join("link").display()),
        source,
    })?;

    let places = places(settings, manifest);
    let support = Support::probe()
        .map_err(|source| StartError::Io { what: "ask what the kernel supports".to_owned(), source })?;
    let mut copies = Copies::new("/etc", resolver::folder(&settings.run_dir));
    if let Err(error) = copies.refresh() {
        tracing::warn!(%error, "could not copy what components look names up by");
    }
    tokio::spawn(copies.keep());
    let target = std::fs::canonicalize(RESOLVER).ok().filter(|target| target != Path::new(RESOLVER));
    // A symbolic link leads out of a private root, and its target is no folder of libraries.
    let is_folder = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let modules =
        confine::MODULES.map(Path::new).into_iter().filter(|path| is_folder(path)).collect::<Vec<_>>();
    let mut parts = Vec::new();
    for (name, component) in &manifest.components {
        let identity = identity_of(name);
        let (uid, gid) = (identity.uid, identity.gid);
        dirs::ensure(&settings.state_dir.join(name), 0o700, uid, gid)?;
        dirs::ensure(&settings.run_dir.join(name), 0o711, uid, gid)?;
        let io = |what: String| move |source| StartError::Io { what, source };
        let notify_path = wiring::notify_path(&settings.run_dir, name);
        let notify = notify::Socket::open(&notify_path, uid, gid, kept)
            .map_err(io(format!("bind {}", notify_path.display())))?;
        let links = wiring::bind(&settings.run_dir, manifest, name, identity_of, kept)
            .map_err(io(format!("bind the links of {name}")))?;

        let listeners =
            wiring::listen(&places, component, kept).map_err(io(format!("bind the listeners of {name}")))?;

        let unshared = shared(component, &places, &support);
        let others: Vec<&str> =
            manifest.components.keys().map(String::as_str).filter(|other| other != name).collect();
        let sockets = wiring::sockets_of_others(&places, manifest, name);
        let subject = Subject {
            name,
            component,
            others: &others,
            sockets: &sockets,
            places: &places,
            config: &settings.config,
        };
        let machine = Machine {
            support,
            resolver: target.as_deref(),
            unshared: unshared.as_deref(),
            modules: &modules,
        };
        let profile = confine::profile(&subject, &machine);

        let granted = granted(component);
        let mut degraded = Vec::new();
        let missing = granted.difference(held);
        if !missing.is_empty() {
            degraded.push(format!("{missing} (not held by the supervisor)"));
        }
        let (limits, short) = limits(component, held);
        degraded.extend(short);
        degraded.extend(profile.missing.iter().cloned());

        let part = Prepared {
            name: name.clone(),
            user: if root { component.user.clone() } else { accounts::own_name() },
            identity,
            change_identity: root,
            capabilities: granted.intersection(held),
            limits,
            degraded,
            env: environment(settings, &places, name, component, &links, &profile),
            links,
            listeners,
            profile,
            component: component.clone(),
        };
        parts.push((part, notify));
    }
    parts.sort_by_key(|(part, _)| part.component.rank);
    Ok(parts)
}

/// Makes the places shared whose mounts the component shares with the host; says what stands against it.
fn shared(component: &Component, places: &Places, support: &Support) -> Option<String> {
    if !support.namespaces.contains(Namespaces::MOUNT) {
        return None;
    }
    component.paths.shared.iter().find_map(|path| {
        let path = places.fill(path).ok()?;
        let error = confine::shared::ensure(Path::new(&path)).err()?;
        Some(format!("{path} cannot be shared: {error}"))
    })
}

/// The links into the supervisor itself.
pub fn own_links(settings: &Settings, manifest: &Manifest, kept: &mut Kept) -> Result<Vec<Link>, StartError> {
    let root = accounts::own_uid() == 0;
    wiring::bind(&settings.run_dir, manifest, SUPERVISOR, |name| identity_of(manifest, name, root), kept)
        .map_err(|source| StartError::Io { what: "bind the supervisor's links".to_owned(), source })
}

/// Gives up every capability that neither launching takes nor a component is granted, for good. What is left, in words.
/// Before there are other threads, which would keep theirs.
pub fn drop_rights(manifest: &Manifest) -> Result<CapabilitySet, StartError> {
    let wanted = manifest
        .components
        .values()
        .map(granted)
        .chain(NEEDED.iter().filter_map(|name| CapabilitySet::named(name)))
        .fold(CapabilitySet::for_launching(), CapabilitySet::union);
    wanted.keep_only().map_err(|source| StartError::Io { what: "give up capabilities".to_owned(), source })
}

/// The ids of a component; ours when we cannot change them. The check has made sure that its user exists.
fn identity_of(manifest: &Manifest, name: &str, root: bool) -> Identity {
    manifest
        .components
        .get(name)
        .filter(|_| root)
        .and_then(|component| accounts::identity(&component.user, &component.groups))
        .unwrap_or_else(|| Identity {
            uid: accounts::own_uid(),
            gid: accounts::own_gid(),
            groups: Vec::new(),
        })
}

fn granted(component: &Component) -> CapabilitySet {
    component
        .capabilities
        .iter()
        .filter_map(|name| CapabilitySet::named(name))
        .fold(CapabilitySet::EMPTY, CapabilitySet::union)
}

/// The limits, and what of them this machine does not let us set.
fn limits(component: &Component, held: CapabilitySet) -> (Vec<(Limit, u64)>, Option<String>) {
    let wanted = component.limits.nofile;
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let may_raise =
        CapabilitySet::named("CAP_SYS_RESOURCE").is_some_and(|raise| held.difference(raise) != held);
    let nofile = if may_raise { wanted } else { wanted.min(hard) };
    let short = (nofile < wanted).then(|| format!("{wanted} descriptors (our hard limit leaves {nofile})"));
    (vec![(Limit::Nofile, nofile), (Limit::Core, component.limits.core.0)], short)
}

/// What every start of a component finds in its environment. Nothing of our own gets there but what is named here.
fn environment(
    settings: &Settings,
    places: &Places,
    name: &str,
    component: &Component,
    links: &[Link],
    profile: &Profile,
) -> Vec<(String, OsString)> {
    let run = &settings.run_dir;
    let mut env: Vec<(String, OsString)> = Vec::new();
    let mut set = |name: &str, value: OsString| env.push((name.to_owned(), value));
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    set("LANG", "C.UTF-8".into());
    for passed_on in ["RUST_BACKTRACE", "RUST_LOG"] {
        if let Some(value) = std::env::var_os(passed_on) {
            set(passed_on, value);
        }
    }
    set("APIARY_COMPONENT", name.into());
    set("APIARY_CONFIG", settings.config.clone().into());
    set("STATE_DIRECTORY", settings.state_dir.join(name).into());
    set("RUNTIME_DIRECTORY", run.join(name).into());
    set("APIARY_CALLS", wiring::calls_variable(run, name, component.calls.keys()).into());
    set("APIARY_LINKS", wiring::links_variable(links).into());
    if let Some(View { root: Root::Host { shared }, .. }) = &profile.view {
        // Where mounts made by the component are seen by the host; nothing else can tell.
        set("APIARY_SHARED", std::env::join_paths(shared).unwrap_or_default());
    }
    set("NOTIFY_SOCKET", wiring::notify_path(run, name).into());
    if let Some(watchdog) = component.watchdog {
        set("WATCHDOG_USEC", watchdog.0.as_micros().to_string().into());
    }
    for (variable, value) in &component.env {
        if value.applies(settings.standalone) {
            // Unfillable ones are findings: a checked manifest has none.
            set(variable, places.fill(value.value()).unwrap_or_default().into());
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::Side;

    fn settings(standalone: bool) -> Settings {
        Settings {
            side: Side::Cloud,
            standalone,
            config: "/etc/apiary/cloudcore.yaml".into(),
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            exec_dir: "/x".into(),
            manifest_name: "cloud.toml".to_owned(),
            manifest: Side::Cloud.manifest().to_owned(),
            paths: BTreeMap::new(),
            listen: Vec::new(),
            check: false,
        }
    }

    fn variables(standalone: bool, component: &str) -> Vec<(String, OsString)> {
        let settings = settings(standalone);
        let (manifest, _) = manifest::parse("m", &settings.manifest);
        let places = places(&settings, &manifest);
        environment(&settings, &places, component, &manifest.components[component], &[], &Profile::default())
    }

    fn value(variables: &[(String, OsString)], name: &str) -> Option<String> {
        variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn component_is_told_its_directories_and_its_calls() {
        let env = variables(true, "cloudhub");
        assert_eq!(value(&env, "STATE_DIRECTORY").as_deref(), Some("/s/cloudhub"));
        assert_eq!(value(&env, "RUNTIME_DIRECTORY").as_deref(), Some("/r/cloudhub"));
        assert_eq!(
            value(&env, "APIARY_CALLS").as_deref(),
            Some("authority=/r/link/authority.cloudhub.sock;controllers=/r/link/controllers.cloudhub.sock")
        );
        assert_eq!(value(&env, "WATCHDOG_USEC").as_deref(), Some("30000000"));
    }

    #[test]
    fn templates_are_filled_in_and_a_variable_of_another_mode_is_absent() {
        let kubeconfig = value(&variables(true, "controllers"), "KUBECONFIG");
        assert_eq!(kubeconfig.as_deref(), Some("/r/apiserver/controllers.kubeconfig"));
        assert_eq!(value(&variables(false, "controllers"), "KUBECONFIG"), None);
    }

    #[test]
    fn start_error_lists_every_finding() {
        let mut settings = settings(false);
        settings.manifest = "[component.a]\nrank = 1\n[component.b]\nrank = 2\nx = 1".to_owned();
        let error = checked_manifest(&settings).expect_err("two mistakes");
        let text = error.to_string();
        assert!(text.starts_with("the manifest has 2 findings\n  cloud.toml: component a: "), "{text}");
        assert!(text.contains("\n  cloud.toml: component b: x = \"1\": unknown key"), "{text}");
    }
}
