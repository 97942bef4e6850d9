//! What processes there are and what each may do, as the manifest says it.
//!
//! Parsing is strict and collects: a component with an unknown key or a wrong type is reported and left out, and the
//! others are read on, so that [`parse`] and [`check::check`] together name every mistake at once.

pub mod check;
mod fields;
mod grants;
mod places;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Value;

pub use grants::{Grant, Kind, UNRESTRICTED, Why};
pub use places::Places;
pub use units::{Bytes, Span};

/// A whole manifest, by component name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Named places of the file system, for the templates of paths, environment and listeners.
    pub path: BTreeMap<String, String>,
    /// Every component of the file, in order of name.
    pub components: BTreeMap<String, Component>,
}

/// One process. An absent key is the tightest value.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// May call lower ranks only. From 1; the supervisor is 0.
    pub rank: u8,
    /// File name of the program in the supervisor's exec directory.
    pub exec: String,
    /// The user it runs as; its primary group is taken from there.
    pub user: String,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Linux capabilities it keeps.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Namespaces of its own: all, unless one is left out with a reason. `network = "none"` adds one for the network.
    #[serde(default = "every_namespace")]
    pub namespaces: BTreeSet<Namespace>,
    /// The networks it reaches.
    #[serde(default)]
    pub network: Network,
    /// What it sees of the file system besides its own directories.
    #[serde(default)]
    pub paths: Paths,
    /// Listeners it inherits, by name: a Unix path in `{run}`, or an IP address with port. Whoever inherits its listener
    /// needs no network of its own to serve.
    #[serde(default)]
    pub listen: BTreeMap<String, String>,
    /// The policy of its system calls, `policy/<name>.policy`; the one of its own name, if absent.
    #[serde(default)]
    pub syscalls: Option<String>,
    /// Does not start where the machine lacks a mechanism that should hold it, instead of running without.
    #[serde(default)]
    pub strict: bool,
    /// Resource limits.
    #[serde(default)]
    pub limits: Limits,
    /// Methods it may call, by server. `supervisor` is a server, too: its control interface.
    #[serde(default)]
    pub calls: BTreeMap<String, Vec<String>>,
    /// Further environment, with the templates of [`Places`].
    #[serde(default)]
    pub env: BTreeMap<String, Variable>,
    /// Only in this mode; always, if absent.
    #[serde(default)]
    pub when: Option<When>,
    /// Back-off.
    #[serde(default)]
    pub restart: Restart,
    /// A process that has not said READY=1 after so long is killed.
    pub ready_timeout: Span,
    /// A ready process that is silent for so long is killed; never, if absent.
    #[serde(default)]
    pub watchdog: Option<Span>,
    /// From SIGTERM to SIGKILL.
    pub drain: Span,
    /// The reason for each grant.
    #[serde(default)]
    pub why: Why,
}

/// A namespace of a component's own.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Mounts: it sees a root with nothing but what it was granted.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
}

impl Namespace {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Mount, Self::Ipc, Self::Uts];

    /// As in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
}

fn every_namespace() -> BTreeSet<Namespace> {
    Namespace::ALL.into()
}

/// Which networks a component reaches.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// None at all.
    #[default]
    None,
    /// It connects, and binds no port.
    Outbound,
    /// It binds ports and accepts, and connects nowhere.
    Inbound,
    /// The machine's network, as any process.
    Host,
}

impl Network {
    /// As in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Host => "host",
        }
    }
}

/// What of the file system a component sees besides its own directories.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// For reading.
    #[serde(default)]
    pub read: Vec<String>,
    /// For reading and writing. `"/"` keeps the host's whole root, with other components' directories hidden.
    #[serde(default)]
    pub write: Vec<String>,
    /// Mounts made below these are seen by the host and the other way round. Needs `write = ["/"]`.
    #[serde(default)]
    pub shared: Vec<String>,
}

impl Paths {
    /// Whether it keeps the host's root.
    pub fn host_root(&self) -> bool {
        self.write.iter().any(|path| path == "/")
    }
}

/// Resource limits.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory; reaching it ends the process.
    pub memory: Option<Bytes>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Its share of a busy processor against its siblings', 1 to 10 000, as cgroup v2 counts.
    pub cpu_weight: u32,
    /// Open descriptors.
    pub nofile: u64,
    /// Size of a core dump. None by default: a dump holds keys and Secrets.
    pub core: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: None, pids: None, cpu_weight: 100, nofile: 256, core: Bytes(0) }
    }
}

/// A variable of the environment.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Variable {
    /// Always set.
    Always(String),
    /// Set in one mode.
    When(VariableWhen),
}

/// A variable of the environment that is set in one mode.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VariableWhen {
    /// What it is set to.
    pub value: String,
    /// In which mode.
    pub when: When,
}

impl Variable {
    /// What it is set to, when it is.
    pub fn value(&self) -> &str {
        match self {
            Self::Always(value) | Self::When(VariableWhen { value, .. }) => value,
        }
    }

    /// Whether it is set in this mode.
    pub fn applies(&self, standalone: bool) -> bool {
        match self {
            Self::Always(_) => true,
            Self::When(VariableWhen { when: When::Standalone, .. }) => standalone,
        }
    }
}

/// A mode of the supervisor.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// `--standalone`.
    Standalone,
}

/// How a process that ended is started again.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// The first wait.
    pub floor: Span,
    /// The longest wait.
    pub ceiling: Span,
    /// So many failures in a row of a component that had been ready are answered at once, without a wait.
    pub burst: u32,
}

impl Default for Restart {
    /// 10 ms: at most a hundred starts in the first seconds of a failure, far fewer after. 30 s: an operator who mended
    /// the cause does not wait long. 3: a crash is answered at once, a crash loop is not.
    fn default() -> Self {
        Self { floor: Span(Duration::from_millis(10)), ceiling: Span(Duration::from_secs(30)), burst: 3 }
    }
}

/// One mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The manifest file, or `edge.toml` and the like for an embedded one.
    pub file: String,
    /// The component; empty when the whole file is meant.
    pub component: String,
    /// The key, with dots; empty when the whole component is meant.
    pub key: String,
    /// The offending value; empty when there is none.
    pub value: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if !self.component.is_empty() {
            write!(f, ": component {}", self.component)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = {:?}", self.value)?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

/// Reads a manifest. Components with findings are left out of it.
pub fn parse(file: &str, text: &str) -> (Manifest, Vec<Finding>) {
    let mut manifest = Manifest::default();
    let mut findings = Vec::new();
    let mut report = |component: &str, key: &str, value: String, problem: String| {
        findings.push(Finding {
            file: file.to_owned(),
            component: component.to_owned(),
            key: key.to_owned(),
            value,
            problem,
        });
    };

    let mut document = match text.parse::<toml::Table>() {
        Ok(document) => document,
        Err(error) => {
            report("", "", String::new(), error.to_string().trim_end().to_owned());
            return (manifest, findings);
        }
    };
    let components = document.remove("component");
    match document.remove("path") {
        None => {}
        Some(Value::Table(places)) => {
            for (name, place) in places {
                match place {
                    Value::String(place) => drop(manifest.path.insert(name, place)),
                    other => {
                        report("", &format!("path.{name}"), shown(&other), "must be a string".to_owned());
                    }
                }
            }
        }
        Some(other) => report("", "path", shown(&other), "must be a table".to_owned()),
    }
    for (key, value) in &document {
        report("", key, shown(value), "unknown key; there are component, path".to_owned());
    }
    let Some(Value::Table(components)) = components else {
        report("", "component", String::new(), "there is no [component.NAME] block".to_owned());
        return (manifest, findings);
    };
    for (name, value) in components {
        let Value::Table(table) = value else {
            report(&name, "", String::new(), "must be a table".to_owned());
            continue;
        };
        let mut unknown = unknown_keys::<Component>(&table, "");
        for (key, fields) in [
            ("limits", unknown_keys::<Limits> as fn(&toml::Table, &str) -> Vec<_>),
            ("paths", unknown_keys::<Paths>),
            ("restart", unknown_keys::<Restart>),
            ("why", unknown_keys::<Why>),
        ] {
            if let Some(Value::Table(inner)) = table.get(key) {
                unknown.extend(fields(inner, &format!("{key}.")));
            }
        }
        if !unknown.is_empty() {
            for (key, value, known) in unknown {
                report(&name, &key, value, format!("unknown key; there are {}", known.join(", ")));
            }
            continue;
        }
        match Component::deserialize(Value::Table(table)) {
            Ok(component) => {
                manifest.components.insert(name, component);
            }
            Err(error) => {
                report(&name, "", String::new(), error.to_string().trim_end().replace('\n', " "));
            }
        }
    }
    (manifest, findings)
}

/// Key, value and the known keys, for every key of `table` that is no field of `T`.
fn unknown_keys<T: DeserializeOwned>(
    table: &toml::Table,
    prefix: &str,
) -> Vec<(String, String, &'static [&'static str])> {
    let known = fields::of::<T>();
    table
        .iter()
        .filter(|(key, _)| !known.contains(&key.as_str()))
        .map(|(key, value)| (format!("{prefix}{key}"), shown(value), known))
        .collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        other => format!("({})", other.type_str()),
    }
}

impl Manifest {
    /// What runs in this mode.
    #[must_use]
    pub fn in_mode(mut self, standalone: bool) -> Self {
        self.components.retain(|_, component| match component.when {
            None => true,
            Some(When::Standalone) => standalone,
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [component.store]
        rank = 1
        exec = "store"
        user = "store"
        ready_timeout = "10s"
        drain = "5s"
    "#;

    #[test]
    fn absent_key_is_the_tightest_value() {
        let (manifest, findings) = parse("m", SMALL);
        assert_eq!(findings, []);
        let store = &manifest.components["store"];
        assert_eq!(store.network, Network::None);
        assert!(store.capabilities.is_empty() && store.calls.is_empty() && store.groups.is_empty());
        assert_eq!(store.limits.core, Bytes(0));
        assert_eq!(store.watchdog, None);
    }

    #[test]
    fn every_unknown_key_is_named_with_its_place() {
        let text = format!("{SMALL}\nranks = 2\nlimits = {{ ram = \"1G\" }}\n[other]\nx = 1");
        let (_, findings) = parse("m", &text);
        let places: Vec<_> = findings.iter().map(|f| (f.component.as_str(), f.key.as_str())).collect();
        assert_eq!(places, [("", "other"), ("store", "ranks"), ("store", "limits.ram")]);
        assert!(findings[2].to_string().contains("m: component store: limits.ram = \"1G\": unknown key"));
    }

    #[test]
    fn wrong_value_is_named_and_the_other_components_are_still_read() {
        let text = format!(
            "{SMALL}\n[component.bad]\nrank = 1\nexec = \"b\"\nuser = \"b\"\nready_timeout = \"soon\"\ndrain = \"1s\""
        );
        let (manifest, findings) = parse("m", &text);
        assert!(manifest.components.contains_key("store"));
        assert_eq!(findings.len(), 1);
        let text = findings[0].to_string();
        assert!(
            text.contains("component bad") && text.contains("soon") && text.contains("ready_timeout"),
            "{text}"
        );
    }

    #[test]
    fn missing_key_is_named() {
        let (_, findings) = parse("m", "[component.a]\nrank = 1");
        assert!(findings[0].to_string().contains("missing field `exec`"), "{}", findings[0]);
    }

    #[test]
    fn text_that_is_not_toml_is_one_finding() {
        let (manifest, findings) = parse("m", "[component");
        assert!(manifest.components.is_empty());
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn component_of_another_mode_is_left_out() {
        let text = format!("{SMALL}\nwhen = \"standalone\"");
        let (manifest, _) = parse("m", &text);
        assert!(manifest.clone().in_mode(false).components.is_empty());
        assert_eq!(manifest.in_mode(true).components.len(), 1);
    }

    #[test]
    fn variable_of_another_mode_does_not_apply() {
        let text = format!("{SMALL}\nenv = {{ A = \"1\", B = {{ value = \"2\", when = \"standalone\" }} }}");
        let (manifest, findings) = parse("m", &text);
        assert_eq!(findings, []);
        let env = &manifest.components["store"].env;
        assert!(env["A"].applies(false) && !env["B"].applies(false) && env["B"].applies(true));
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_manifest_or_findings_and_no_panic(
            text in "[ -~\n]{0,200}",
            key in "[a-z.]{1,12}",
            value in "[ -~]{0,12}",
        ) {
            parse("m", &text);
            let (_, findings) = parse("m", &format!("{SMALL}\n{key} = {value}"));
            assert!(findings.iter().all(|finding| !finding.problem.is_empty()));
        }
    }
}
