//! Every rule a manifest must keep, as one pure function over the whole set.

mod paths;

use std::collections::{BTreeMap, BTreeSet};

use launch::CapabilitySet;

use super::grants::UNRESTRICTED;
use super::places::TAKEN;
use super::{Component, Finding, Kind, Manifest, Namespace, Places, When};

/// What the manifest is checked against.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The method names a component serves; `None` when it serves nothing.
    pub methods: &'a dyn Fn(&str) -> Option<Vec<&'static str>>,
    /// Whether there is a system call policy of that name.
    pub policy: &'a dyn Fn(&str) -> bool,
    /// Where the named places are.
    pub places: &'a Places,
    /// Users and groups of this machine; `None` where they do not matter (a build, a supervisor without root).
    pub accounts: Option<Accounts<'a>>,
}

/// Which users and groups there are.
#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    /// Whether there is a user of that name.
    pub user: &'a dyn Fn(&str) -> bool,
    /// Whether there is a group of that name.
    pub group: &'a dyn Fn(&str) -> bool,
}

/// The supervisor as a server, and folders of the run directory that are not components'.
const RESERVED_NAMES: [&str; 5] = [SUPERVISOR, "link", "notify", "resolver", "root"];
/// The server that is not a component.
pub const SUPERVISOR: &str = "supervisor";
/// Names of inherited listeners begin so; a client of that name would be taken for one.
const LISTENER_PREFIX: &str = "listen-";

/// What the supervisor sets itself, or what changes how a program is loaded.
const RESERVED_VARIABLES: [&str; 8] = [
    "PATH",
    "LANG",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
];
const RESERVED_PREFIXES: [&str; 3] = ["APIARY_", "LISTEN_", "LD_"];

/// Descriptors below this do not suffice for the standard three, a runtime and one link.
const FEWEST_DESCRIPTORS: u64 = 32;
/// With less, glibc and a runtime do not start.
const LEAST_MEMORY: u64 = 4 << 20;
/// What cgroup v2 takes.
const CPU_WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// More immediate restarts than this in a row are a crash loop.
const LARGEST_BURST: u32 = 20;

/// All mistakes of a manifest, in order of component.
pub fn check(file: &str, manifest: &Manifest, known: &Known<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    places(file, manifest, &mut findings);
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut listeners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, component) in &manifest.components {
        let mut check =
            Check { file, name, component, manifest, places: known.places, findings: &mut findings };
        check.names(known);
        check.calls(known);
        check.grants();
        check.paths();
        for address in check.listeners() {
            if let Some(other) = listeners.insert(address.clone(), name) {
                check.report("listen", &address, format!("is also listened on by {other}"));
            }
        }
        check.syscalls(known);
        check.environment();
        check.numbers();
        if component.user != "root"
            && let Some(other) = owners.insert(&component.user, name)
        {
            check.report(
                "user",
                &component.user,
                format!("is also the user of {other}; then each could do what the other may"),
            );
        }
    }
    findings
}

/// The names of places are for templates, and the places whole paths.
fn places(file: &str, manifest: &Manifest, findings: &mut Vec<Finding>) {
    for (name, place) in &manifest.path {
        let problem = if TAKEN.contains(&name.as_str()) {
            "the supervisor gives this place itself".to_owned()
        } else if !is_name(name) {
            "a name is 1 to 32 of a-z, 0-9 and -, and begins with a letter".to_owned()
        } else if let Some(problem) = paths::problem(place) {
            problem.to_owned()
        } else if place == "/" {
            "is everything: name a place".to_owned()
        } else {
            continue;
        };
        findings.push(Finding {
            file: file.to_owned(),
            component: String::new(),
            key: format!("path.{name}"),
            value: place.clone(),
            problem,
        });
    }
}

struct Check<'a> {
    file: &'a str,
    name: &'a str,
    component: &'a Component,
    manifest: &'a Manifest,
    places: &'a Places,
    findings: &'a mut Vec<Finding>,
}

impl Check<'_> {
    fn report(&mut self, key: &str, value: &str, problem: impl Into<String>) {
        self.findings.push(Finding {
            file: self.file.to_owned(),
            component: self.name.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            problem: problem.into(),
        });
    }

    fn names(&mut self, known: &Known<'_>) {
        let component = self.component;
        if !is_name(self.name) {
            self.report("", "", "a name is 1 to 32 of a-z, 0-9 and -, and begins with a letter");
        }
        if RESERVED_NAMES.contains(&self.name) {
            self.report("", "", "the name is taken by the supervisor");
        }
        if self.name.starts_with(LISTENER_PREFIX) {
            self.report("", "", format!("a name does not begin with {LISTENER_PREFIX}, as listeners' do"));
        }
        if component.rank == 0 {
            self.report("rank", "0", "is the supervisor's own; components begin at 1");
        }
        let exec = &component.exec;
        if exec.is_empty() || exec.contains(['/', '\0']) || exec.starts_with('.') {
            self.report("exec", exec, "must be a file name in the exec directory, without a path");
        }
        if !is_name(&component.user) {
            self.report("user", &component.user, "is not a user name");
        }
        for group in component.groups.iter().filter(|group| !is_name(group)) {
            self.report("groups", group, "is not a group name");
        }
        if let Some(accounts) = known.accounts {
            if !(accounts.user)(&component.user) {
                self.report(
                    "user",
                    &component.user,
                    "there is no such user; `systemd-sysusers` with packaging/sysusers.d/apiary.conf makes it",
                );
            }
            for group in component.groups.iter().filter(|group| !(accounts.group)(group)) {
                self.report(
                    "groups",
                    group,
                    "there is no such group; `systemd-sysusers` with packaging/sysusers.d/apiary.conf makes it",
                );
            }
        }
    }

    /// Calls go to lower ranks only, so there is no cycle.
    fn calls(&mut self, known: &Known<'_>) {
        let component = self.component;
        for (server, methods) in &component.calls {
            let key = format!("calls.{server}");
            if server != SUPERVISOR {
                let Some(callee) = self.manifest.components.get(server) else {
                    self.report(&key, "", "there is no such component");
                    continue;
                };
                if callee.rank >= component.rank {
                    let problem = format!(
                        "{server} has rank {}: rank {} may call lower ranks only",
                        callee.rank, component.rank
                    );
                    self.report(&key, "", problem);
                }
                if callee.when == Some(When::Standalone) && component.when.is_none() {
                    let problem = format!("{server} runs in standalone mode only, {} always", self.name);
                    self.report(&key, "", problem);
                }
            }
            let Some(there) = (known.methods)(server) else {
                self.report(&key, "", format!("{server} serves no interface"));
                continue;
            };
            if methods.is_empty() {
                self.report(&key, "", "grants no method: leave it out");
            }
            let mut seen = BTreeSet::new();
            for method in methods {
                if !there.contains(&method.as_str()) {
                    self.report(&key, method, format!("no such method; there are {}", there.join(", ")));
                }
                if !seen.insert(method) {
                    self.report(&key, method, "is granted twice");
                }
            }
        }
    }

    /// Each grant has a reason, and each reason a grant.
    fn grants(&mut self) {
        let component = self.component;
        let mut seen = BTreeSet::new();
        for grant in component.grants() {
            let (key, name) = (grant.kind.key(), grant.name);
            if !seen.insert((grant.kind, name)) {
                self.report(key, name, "is granted twice");
                continue;
            }
            if grant.kind == Kind::Capability && CapabilitySet::named(name).is_none() {
                self.report(key, name, "unknown capability");
                continue;
            }
            if grant.why.is_none() {
                let reason = match grant.kind {
                    Kind::User | Kind::Network | Kind::Namespace | Kind::Syscalls => format!("why.{key}"),
                    Kind::Read | Kind::Write | Kind::Shared => format!("why.paths.{name:?}"),
                    Kind::Group | Kind::Capability | Kind::Call | Kind::Listen => format!("why.{key}.{name}"),
                };
                let (key, name) = match grant.kind {
                    // The servers are keys themselves.
                    Kind::Call | Kind::Listen => (format!("{key}.{name}"), ""),
                    _ => (key.to_owned(), name),
                };
                self.report(&key, name, format!("a grant needs a reason: {reason}"));
            }
        }
        for reason in component.stale_reasons() {
            self.report(&format!("why.{reason}"), "", "is a reason for something that is not granted");
        }
        if component.paths.host_root() && !component.namespaces.contains(&Namespace::Mount) {
            self.report(
                "namespaces",
                "",
                "without a mount namespace of its own, nothing hides what others own",
            );
        }
    }

    fn syscalls(&mut self, known: &Known<'_>) {
        let policy = self.component.syscalls.as_deref().unwrap_or(self.name);
        if policy != UNRESTRICTED && !(known.policy)(policy) {
            self.report("syscalls", policy, format!("there is no supervisor/policy/{policy}.policy"));
        }
    }

    fn environment(&mut self) {
        for (variable, value) in &self.component.env {
            let key = format!("env.{variable}");
            let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if variable.is_empty() || !variable.chars().all(plain) {
                self.report(&key, value.value(), "a variable's name is of A-Z, 0-9 and _");
            }
            if RESERVED_VARIABLES.contains(&variable.as_str())
                || RESERVED_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
            {
                self.report(
                    &key,
                    value.value(),
                    "is set by the supervisor or changes how programs are loaded",
                );
            }
            if let Err(problem) = self.places.fill(value.value()) {
                self.report(&key, value.value(), problem);
            }
        }
    }

    fn numbers(&mut self) {
        let component = self.component;
        let restart = &component.restart;
        for (key, span) in [
            ("ready_timeout", component.ready_timeout),
            ("drain", component.drain),
            ("restart.floor", restart.floor),
        ] {
            if span.0.is_zero() {
                self.report(key, &span.to_string(), "must be more than nothing");
            }
        }
        if let Some(watchdog) = component.watchdog
            && watchdog.0.as_secs() == 0
        {
            self.report(
                "watchdog",
                &watchdog.to_string(),
                "must be 1s at least: a busy machine is not a hung process",
            );
        }
        if restart.ceiling < restart.floor {
            let problem = format!("is less than restart.floor, {}", restart.floor);
            self.report("restart.ceiling", &restart.ceiling.to_string(), problem);
        }
        if restart.burst > LARGEST_BURST {
            self.report(
                "restart.burst",
                &restart.burst.to_string(),
                format!("must be {LARGEST_BURST} at most"),
            );
        }
        let limits = &component.limits;
        if limits.nofile < FEWEST_DESCRIPTORS {
            let value = limits.nofile.to_string();
            self.report("limits.nofile", &value, format!("must be {FEWEST_DESCRIPTORS} at least"));
        }
        if let Some(memory) = limits.memory
            && memory.0 < LEAST_MEMORY
        {
            self.report(
                "limits.memory",
                &memory.0.to_string(),
                format!("must be {LEAST_MEMORY} bytes at least"),
            );
        }
        if limits.pids == Some(0) {
            self.report("limits.pids", "0", "must be 1 at least");
        }
        if !CPU_WEIGHTS.contains(&limits.cpu_weight) {
            self.report("limits.cpu_weight", &limits.cpu_weight.to_string(), "must be 1 to 10000");
        }
    }
}

/// Component, user and group names: they appear in paths, in `APIARY_LINKS` and in file names of sockets.
fn is_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests;
