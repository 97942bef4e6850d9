//! Every rule a manifest must keep, as one pure function over the whole set.

use std::collections::{BTreeMap, BTreeSet};

use launch::CapabilitySet;

use super::{Component, Finding, Manifest, Network, When};

/// What the manifest is checked against.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The method names a component serves; `None` when it serves nothing.
    pub methods: &'a dyn Fn(&str) -> Option<Vec<&'static str>>,
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

/// Folders of the run directory that are not components'.
const RESERVED_NAMES: [&str; 2] = ["link", "notify"];

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
/// More immediate restarts than this in a row are a crash loop.
const LARGEST_BURST: u32 = 20;

/// All mistakes of a manifest, in order of component.
pub fn check(file: &str, manifest: &Manifest, known: &Known<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, component) in &manifest.components {
        let mut check = Check { file, name, component, manifest, findings: &mut findings };
        check.names(known);
        check.calls(known);
        check.grants();
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

struct Check<'a> {
    file: &'a str,
    name: &'a str,
    component: &'a Component,
    manifest: &'a Manifest,
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
            self.report("", "", "the name is taken by a folder of the supervisor");
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
                self.report(&key, "", format!("{server} runs in standalone mode only, {} always", self.name));
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

    /// Each unusual grant has a reason, and each reason a grant.
    fn grants(&mut self) {
        let component = self.component;
        let mut unusual = BTreeSet::new();
        if component.user == "root" {
            unusual.insert("user");
        }
        if component.network == Network::Host {
            unusual.insert("network");
        }
        for capability in &component.capabilities {
            if CapabilitySet::named(capability).is_none() {
                self.report("capabilities", capability, "unknown capability");
            } else if !unusual.insert(capability) {
                self.report("capabilities", capability, "is granted twice");
            }
        }
        for grant in &unusual {
            if component.why.get(*grant).is_none_or(|reason| reason.trim().is_empty()) {
                let (key, value) = match *grant {
                    "user" => ("user", "root"),
                    "network" => ("network", "host"),
                    capability => ("capabilities", capability),
                };
                self.report(key, value, format!("an unusual grant needs a reason: why.{grant}"));
            }
        }
        for reason in component.why.keys().filter(|reason| !unusual.contains(reason.as_str())) {
            self.report(&format!("why.{reason}"), "", "is a reason for something that is not granted");
        }
        for (key, paths) in [("paths.read", &component.paths.read), ("paths.write", &component.paths.write)] {
            for path in paths.iter().filter(|path| !is_plain_absolute(path)) {
                self.report(key, path, "must be an absolute path without .. or .");
            }
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
            let rest = value.value().replace("{run}", "").replace("{state}", "");
            if rest.contains(['{', '}', '\0']) {
                self.report(&key, value.value(), "the only templates are {run} and {state}");
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
        if component.limits.nofile < FEWEST_DESCRIPTORS {
            let value = component.limits.nofile.to_string();
            self.report("limits.nofile", &value, format!("must be {FEWEST_DESCRIPTORS} at least"));
        }
    }
}

/// Component, user and group names: they appear in paths, in `APIARY_LINKS` and in file names of sockets.
fn is_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == ".." || part == ".")
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn methods(server: &str) -> Option<Vec<&'static str>> {
        proto::interface_of(server)
            .map(|interface| interface.methods.iter().map(|method| method.name).collect())
    }

    const KNOWN: Known<'_> = Known { methods: &methods, accounts: None };

    /// One component, `keyholder`, and what a test adds.
    fn findings(more: &str) -> Vec<String> {
        let text = format!(
            "[component.keyholder]\nrank = 1\nexec = \"keyholder\"\nuser = \"edge-key\"\nready_timeout = \"10s\"\n\
             drain = \"5s\"\n{more}"
        );
        let (manifest, findings) = parse("m", &text);
        assert_eq!(findings, [], "{text}");
        check("m", &manifest, &KNOWN).iter().map(ToString::to_string).collect()
    }

    const HUB: &str =
        "[component.hub]\nexec = \"hub\"\nuser = \"hub\"\nready_timeout = \"1s\"\ndrain = \"1s\"\n";

    #[test]
    fn embedded_manifests_have_no_mistake() {
        for side in [crate::cli::Side::Edge, crate::cli::Side::Cloud] {
            let (manifest, findings) = parse(side.manifest_name(), side.manifest());
            assert_eq!(findings, []);
            assert_eq!(check(side.manifest_name(), &manifest, &KNOWN), []);
        }
    }

    #[test]
    fn call_to_an_equal_or_higher_rank_is_refused() {
        assert_eq!(
            findings(&format!("{HUB}rank = 1\ncalls = {{ keyholder = [\"Sign\"] }}")),
            ["m: component hub: calls.keyholder: keyholder has rank 1: rank 1 may call lower ranks only"]
        );
    }

    #[test]
    fn call_to_itself_is_refused() {
        assert!(findings("calls = { keyholder = [\"Sign\"] }")[0].contains("may call lower ranks only"));
    }

    #[test]
    fn unknown_server_and_unknown_method_are_both_named() {
        let found =
            findings(&format!("{HUB}rank = 2\ncalls = {{ keyholder = [\"Steal\"], vault = [\"Open\"] }}"));
        assert_eq!(
            found,
            [
                "m: component hub: calls.keyholder = \"Steal\": no such method; there are PublicKey, Sign",
                "m: component hub: calls.vault: there is no such component",
            ]
        );
    }

    #[test]
    fn server_that_runs_in_one_mode_only_cannot_be_needed_always() {
        let found =
            findings(&format!("when = \"standalone\"\n{HUB}rank = 2\ncalls = {{ keyholder = [\"Sign\"] }}"));
        assert_eq!(
            found,
            ["m: component hub: calls.keyholder: keyholder runs in standalone mode only, hub always"]
        );
    }

    #[test]
    fn unusual_grant_needs_a_reason() {
        assert_eq!(
            findings("capabilities = [\"CAP_CHOWN\"]\nnetwork = \"host\""),
            [
                "m: component keyholder: capabilities = \"CAP_CHOWN\": an unusual grant needs a reason: why.CAP_CHOWN",
                "m: component keyholder: network = \"host\": an unusual grant needs a reason: why.network",
            ]
        );
        assert_eq!(findings("capabilities = [\"CAP_CHOWN\"]\nwhy = { CAP_CHOWN = \"volumes\" }"), [""; 0]);
    }

    #[test]
    fn reason_without_a_grant_is_stale() {
        assert_eq!(
            findings("why = { CAP_KILL = \"once\" }"),
            ["m: component keyholder: why.CAP_KILL: is a reason for something that is not granted"]
        );
    }

    #[test]
    fn unknown_capability_is_refused() {
        assert_eq!(
            findings("capabilities = [\"CAP_ALL\"]"),
            ["m: component keyholder: capabilities = \"CAP_ALL\": unknown capability"]
        );
    }

    #[test]
    fn two_components_may_not_share_a_user() {
        let found = findings(&HUB.replace("user = \"hub\"", "user = \"edge-key\"\nrank = 2"));
        assert!(found[0].contains("is also the user of hub"), "{found:?}");
    }

    #[test]
    fn exec_with_a_path_is_refused() {
        let found = findings(&HUB.replace("exec = \"hub\"", "exec = \"../hub\"\nrank = 2"));
        assert!(found[0].contains("exec = \"../hub\""), "{found:?}");
    }

    #[test]
    fn reserved_variables_and_unknown_templates_are_refused() {
        let found = findings("env = { LD_PRELOAD = \"/x\", A = \"{home}/x\", B = \"{run}/x\" }");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let found = findings(
            "watchdog = \"100ms\"\nrestart = { floor = \"1m\", ceiling = \"1s\", burst = 1000 }\nlimits = { nofile = 3 }",
        );
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn missing_accounts_are_named() {
        let text = HUB.to_owned() + "rank = 1\ngroups = [\"staff\"]";
        let (manifest, _) = parse("m", &text);
        let nobody = |_: &str| false;
        let known = Known { methods: &methods, accounts: Some(Accounts { user: &nobody, group: &nobody }) };
        let found = check("m", &manifest, &known);
        assert_eq!(found.iter().map(|f| f.value.as_str()).collect::<Vec<_>>(), ["hub", "staff"]);
    }
}
