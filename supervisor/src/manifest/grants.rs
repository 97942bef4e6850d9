//! What a component was given beyond the least, and why.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Component, Namespace, Network};

/// The reason for each grant, under the grant's own key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Why {
    /// Why it runs as root.
    pub user: Option<String>,
    /// Why it has a network.
    pub network: Option<String>,
    /// Why a namespace is the host's.
    pub namespaces: Option<String>,
    /// Why its system calls are not restricted to a list.
    pub syscalls: Option<String>,
    /// By group.
    pub groups: BTreeMap<String, String>,
    /// By capability.
    pub capabilities: BTreeMap<String, String>,
    /// By path as it is written in `paths`, for reading, writing and sharing alike.
    pub paths: BTreeMap<String, String>,
    /// By server.
    pub calls: BTreeMap<String, String>,
    /// By name of the listener.
    pub listen: BTreeMap<String, String>,
}

/// What kind of thing is granted. The names are those of `control.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To be root.
    User,
    /// A supplementary group.
    Group,
    /// A capability.
    Capability,
    /// A network.
    Network,
    /// A path for reading.
    Read,
    /// A path for writing.
    Write,
    /// Mounts below a path are the host's, too.
    Shared,
    /// A namespace of the host.
    Namespace,
    /// Calls to a server.
    Call,
    /// System calls without a list.
    Syscalls,
    /// A listener.
    Listen,
}

impl Kind {
    /// As in `control.proto`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Capability => "capability",
            Self::Network => "network",
            Self::Read => "read",
            Self::Write => "write",
            Self::Shared => "shared",
            Self::Namespace => "namespace",
            Self::Call => "call",
            Self::Syscalls => "syscalls",
            Self::Listen => "listen",
        }
    }

    /// The manifest's key for it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "groups",
            Self::Capability => "capabilities",
            Self::Network => "network",
            Self::Read => "paths.read",
            Self::Write => "paths.write",
            Self::Shared => "paths.shared",
            Self::Namespace => "namespaces",
            Self::Call => "calls",
            Self::Syscalls => "syscalls",
            Self::Listen => "listen",
        }
    }
}

/// One thing a component was given beyond the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// What kind of thing.
    pub kind: Kind,
    /// Which one, as the manifest says it.
    pub name: &'a str,
    /// The reason, unless there is none.
    pub why: Option<&'a str>,
}

impl<'a> Grant<'a> {
    fn new(kind: Kind, name: &'a str, why: Option<&'a String>) -> Self {
        Self { kind, name, why: why.map(String::as_str).filter(|why| !why.trim().is_empty()) }
    }
}

/// The policy name that stands for "no list".
pub const UNRESTRICTED: &str = "unrestricted";

impl Component {
    /// Everything it was given beyond the least, in a fixed order.
    pub fn grants(&self) -> Vec<Grant<'_>> {
        let why = &self.why;
        let mut grants = Vec::new();
        if self.user == "root" {
            grants.push(Grant::new(Kind::User, "root", why.user.as_ref()));
        }
        grants.extend(self.groups.iter().map(|name| Grant::new(Kind::Group, name, why.groups.get(name))));
        grants.extend(
            self.capabilities
                .iter()
                .map(|name| Grant::new(Kind::Capability, name, why.capabilities.get(name))),
        );
        if self.network != Network::None {
            grants.push(Grant::new(Kind::Network, self.network.name(), why.network.as_ref()));
        }
        let kept = Namespace::ALL.into_iter().filter(|namespace| !self.namespaces.contains(namespace));
        grants.extend(
            kept.map(|namespace| Grant::new(Kind::Namespace, namespace.name(), why.namespaces.as_ref())),
        );
        let paths = &self.paths;
        for (kind, paths) in
            [(Kind::Read, &paths.read), (Kind::Write, &paths.write), (Kind::Shared, &paths.shared)]
        {
            grants.extend(paths.iter().map(|path| Grant::new(kind, path, why.paths.get(path))));
        }
        if self.syscalls.as_deref() == Some(UNRESTRICTED) {
            grants.push(Grant::new(Kind::Syscalls, UNRESTRICTED, why.syscalls.as_ref()));
        }
        grants.extend(self.calls.keys().map(|name| Grant::new(Kind::Call, name, why.calls.get(name))));
        grants.extend(self.listen.keys().map(|name| Grant::new(Kind::Listen, name, why.listen.get(name))));
        grants
    }

    /// Reasons for what is not granted, by their key below `why`.
    pub(super) fn stale_reasons(&self) -> Vec<String> {
        let why = &self.why;
        let grants = self.grants();
        let has = |kind: Kind, name: Option<&str>| {
            grants.iter().any(|grant| grant.kind == kind && name.is_none_or(|name| grant.name == name))
        };
        let mut stale = Vec::new();
        for (key, reason, kind) in [
            ("user", &why.user, Kind::User),
            ("network", &why.network, Kind::Network),
            ("namespaces", &why.namespaces, Kind::Namespace),
            ("syscalls", &why.syscalls, Kind::Syscalls),
        ] {
            if reason.is_some() && !has(kind, None) {
                stale.push(key.to_owned());
            }
        }
        for (key, reasons, kinds) in [
            ("groups", &why.groups, &[Kind::Group][..]),
            ("capabilities", &why.capabilities, &[Kind::Capability]),
            ("paths", &why.paths, &[Kind::Read, Kind::Write, Kind::Shared]),
            ("calls", &why.calls, &[Kind::Call]),
            ("listen", &why.listen, &[Kind::Listen]),
        ] {
            for name in reasons.keys() {
                if !kinds.iter().any(|kind| has(*kind, Some(name))) {
                    stale.push(format!("{key}.{name}"));
                }
            }
        }
        stale
    }
}
