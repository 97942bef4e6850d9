//! Policies of system calls: one file per component, one call and one reason a line.
//!
//! ```text
//! # A comment.
//! include runtime
//! recvmsg: frames from links
//! socket(domain = AF_UNIX, type & SOCK_STREAM): links
//! mmap(prot & PROT_EXEC = 0): memory that is never code
//! ```
//!
//! A call is allowed when one of its lines holds; on a line, every condition must. What no line allows fails with `ENOSYS`,
//! as on a kernel that lacks it: libraries then try the older way, and a newer library does not end a fleet. What
//! `kill.policy` lists has no honest use in any component, and ends the process.

mod compile;
mod names;
mod parse;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::manifest::Finding;
pub use compile::{Uncompilable, filters};
pub use parse::all as parse;

/// Every policy file of the source.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../policy/", $name, ".policy")))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "kill",
    "runtime",
    "files",
    "database",
    "outbound",
    "inbound",
    "metamanager",
    "keyholder",
    "edgehub",
    "edged",
    "authority",
    "apiserver",
    "controllers",
    "cloudhub",
    "metrics",
];

/// What is no component's list: the forbidden calls.
const NOT_FOR_COMPONENTS: &str = "kill";

/// One file, with what it includes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The lines of each call, by its name.
    pub calls: BTreeMap<String, Vec<Rule>>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// All must hold; none means always.
    pub conditions: Vec<Condition>,
    /// Why the call is allowed, or forbidden.
    pub reason: String,
    /// File and line, `edgehub.policy:3`.
    pub place: String,
}

/// What one argument of a call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its place among the arguments, from 0.
    pub argument: u8,
    /// How it is compared.
    pub test: Test,
}

/// A comparison of the lower 32 bits of an argument: all arguments that are compared are `int`s or flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is this.
    Is(u32),
    /// It is not this.
    IsNot(u32),
    /// Of the bits of `mask`, exactly those of `value` are set.
    Bits {
        /// The bits that are looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
}

/// Whether a policy allows a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Not at all.
    Never,
    /// With certain arguments.
    Sometimes,
    /// With any.
    Always,
}

impl Policy {
    /// Whether it allows this call.
    pub fn permits(&self, call: &str) -> Permit {
        match self.calls.get(call) {
            None => Permit::Never,
            Some(rules) if rules.iter().any(|rule| rule.conditions.is_empty()) => Permit::Always,
            Some(_) => Permit::Sometimes,
        }
    }
}

/// Allows no call.
pub static NOTHING: Policy = Policy { calls: BTreeMap::new() };

static POLICIES: LazyLock<(BTreeMap<String, Policy>, Vec<Finding>)> = LazyLock::new(|| parse::all(FILES));

/// Whether a component may name this policy.
pub fn exists(name: &str) -> bool {
    name != NOT_FOR_COMPONENTS && FILES.iter().any(|(known, _)| *known == name)
}

/// The policy of that name.
pub fn policy(name: &str) -> Option<&'static Policy> {
    POLICIES.0.get(name).filter(|_| name != NOT_FOR_COMPONENTS)
}

/// What no component may do, unless its own policy names it.
pub fn forbidden() -> &'static Policy {
    POLICIES.0.get(NOT_FOR_COMPONENTS).unwrap_or(&NOTHING)
}

/// Every mistake in the policy files.
pub fn findings() -> Vec<Finding> {
    POLICIES.1.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_files_have_no_mistake() {
        assert_eq!(findings(), []);
        for (name, _) in FILES {
            assert!(POLICIES.0.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn every_component_has_a_policy() {
        for side in [crate::cli::Side::Edge, crate::cli::Side::Cloud] {
            let (manifest, _) = crate::manifest::parse("m", side.manifest());
            for (name, component) in &manifest.components {
                assert!(exists(component.syscalls.as_deref().unwrap_or(name)), "{name}");
            }
        }
    }

    #[test]
    fn nobody_changes_users_namespaces_or_traces() {
        for (name, _) in FILES.iter().filter(|(name, _)| *name != NOT_FOR_COMPONENTS) {
            let policy = policy(name).expect("parsed");
            for call in [
                "setuid",
                "setresuid",
                "setgroups",
                "unshare",
                "setns",
                "ptrace",
                "bpf",
                "kexec_load",
                "capset",
            ] {
                assert_eq!(policy.permits(call), Permit::Never, "{name}: {call}");
            }
            // A clone that makes a process would be one without a supervisor.
            assert_eq!(policy.permits("clone3"), Permit::Never, "{name}");
            assert_ne!(policy.permits("clone"), Permit::Always, "{name}");
        }
    }

    #[test]
    fn list_of_forbidden_calls_is_no_components_policy() {
        assert!(!exists("kill") && policy("kill").is_none() && !exists("no-such"));
        assert_eq!(forbidden().permits("ptrace"), Permit::Always);
    }
}
