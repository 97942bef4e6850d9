//! How a component is held to what its manifest grants: the decision, as pure functions. The `launch` crate carries it out.
//!
//! Everything holds twice where the kernel allows it. The view of the file system and Landlock's rules say the same about
//! files, the network namespace, Landlock and the policy of system calls about the network: whoever gets past one meets
//! the next. What a machine lacks is said in words ([`Profile::missing`]) and shown as *degraded*.

pub mod resolver;
pub mod shared;
pub mod syscalls;
mod view;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use launch::{Access, Confinement, Filter, Landlock, Mount, Namespaces, Root, Support, View};

use crate::manifest::{Component, Namespace, Network, Places, UNRESTRICTED};
use view::Files;

/// Landlock's ABI that knows TCP.
const LANDLOCK_TCP: u32 = 4;
/// Landlock's ABI that knows signals and abstract sockets.
const LANDLOCK_SCOPES: u32 = 6;

/// Whom a profile is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its block in the manifest.
    pub component: &'a Component,
    /// The other components of the manifest.
    pub others: &'a [&'a str],
    /// Sockets in the run directory that are not for it.
    pub sockets: &'a [PathBuf],
    /// Where everything is.
    pub places: &'a Places,
    /// The configuration file. May not exist.
    pub config: &'a Path,
}

/// What is known of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine<'a> {
    /// The kernel, and our rights.
    pub support: Support,
    /// Where `/etc/resolv.conf` leads to, when it is a symbolic link.
    pub resolver: Option<&'a Path>,
    /// Why mounts cannot be shared at a place that the component shares.
    pub unshared: Option<&'a str>,
    /// Those of [`MODULES`] that are there.
    pub modules: &'a [&'a Path],
}

/// Where the kernel's modules lie, among the libraries. No component loads or reads one.
pub const MODULES: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];

/// What a process of a component is kept from. The program is not in it: it may change from launch to launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// What it sees of the file system; `None`: all.
    pub view: Option<View>,
    /// Starts with an empty session keyring.
    pub keyring: bool,
    /// Memory is writable or executable, never both.
    pub write_xor_execute: bool,
    /// Landlock's rules.
    pub landlock: Option<Landlock>,
    /// Programs that decide on system calls.
    pub filters: Vec<Filter>,
    /// What the manifest asks for and this machine does not give, in words.
    pub missing: Vec<String>,
}

/// The folder private roots are mounted on, in each component's own mount namespace.
pub fn staging(run_dir: &Path) -> PathBuf {
    run_dir.join("root")
}

/// Decides what holds a component on this machine.
pub fn profile(subject: &Subject<'_>, machine: &Machine<'_>) -> Profile {
    let (component, support) = (subject.component, &machine.support);
    let mut missing = Vec::new();
    let namespaces = namespaces(component, machine, &mut missing);
    let files = Files::of(subject, machine);
    let host_root = component.paths.host_root();

    let mut view = None;
    if namespaces.contains(Namespaces::MOUNT) {
        if host_root {
            let shared = component.paths.shared.iter().filter_map(|path| subject.places.fill(path).ok());
            let root = Root::Host { shared: shared.map(Into::into).collect() };
            view = Some(View { root, mounts: files.on_the_host() });
        } else if support.private_root {
            let root = Root::Private { staging: staging(&subject.places.run) };
            view = Some(View { root, mounts: files.mounts() });
        } else {
            missing.push("private root (mounts are refused here)".to_owned());
        }
    }
    let landlock = landlock(component, support, &files, view.is_some(), namespaces, &mut missing);
    if !support.keyring {
        missing.push("session keyring of its own".to_owned());
    }
    Profile {
        namespaces,
        view,
        keyring: support.keyring,
        // Held by the policy of system calls, too: older kernels lack nothing.
        write_xor_execute: support.write_xor_execute,
        landlock,
        filters: filters(subject, support, &mut missing),
        missing,
    }
}

fn namespaces(component: &Component, machine: &Machine<'_>, missing: &mut Vec<String>) -> Namespaces {
    let mut wanted = component.namespaces.iter().fold(Namespaces::NONE, |all, namespace| {
        all.union(match namespace {
            Namespace::Mount => Namespaces::MOUNT,
            Namespace::Ipc => Namespaces::IPC,
            Namespace::Uts => Namespaces::UTS,
        })
    });
    if component.network == Network::None {
        wanted = wanted.union(Namespaces::NET);
    }
    let mut given = wanted.intersection(machine.support.namespaces);
    let refused = wanted.difference(given);
    if !refused.is_empty() {
        missing.push(format!("namespaces of its own: {refused} (not permitted)"));
    }
    if let Some(reason) = machine.unshared
        && given.contains(Namespaces::MOUNT)
    {
        // Mounts that must reach the host are worth more than the folders that would be hidden.
        given = given.difference(Namespaces::MOUNT);
        missing.push(format!("mount namespace of its own ({reason})"));
    }
    given
}

fn landlock(
    component: &Component,
    support: &Support,
    files: &Files,
    has_view: bool,
    namespaces: Namespaces,
    missing: &mut Vec<String>,
) -> Option<Landlock> {
    let abi = support.landlock_abi;
    if abi == 0 {
        missing.push("Landlock".to_owned());
        return None;
    }
    let network = component.network;
    let no_way_out = namespaces.contains(Namespaces::NET);
    if abi < LANDLOCK_TCP && network != Network::Host && !no_way_out {
        missing.push(format!("rules for TCP (Landlock's ABI is {abi}, not {LANDLOCK_TCP})"));
    }
    if abi < LANDLOCK_SCOPES {
        missing.push(format!("limits of signals (Landlock's ABI is {abi}, not {LANDLOCK_SCOPES})"));
    }
    // Landlock's file rules forbid mount(2), which whoever keeps the host's root is here for.
    let restrict = !component.paths.host_root();
    Some(Landlock {
        files: restrict,
        rules: if restrict { files.rules(has_view) } else { Vec::new() },
        bind_tcp: matches!(network, Network::Inbound | Network::Host),
        connect_tcp: matches!(network, Network::Outbound | Network::Host),
        scope_signals: true,
        scope_abstract: true,
    })
}

fn filters(subject: &Subject<'_>, support: &Support, missing: &mut Vec<String>) -> Vec<Filter> {
    if !support.seccomp {
        missing.push("seccomp".to_owned());
        return Vec::new();
    }
    let name = subject.component.syscalls.as_deref().unwrap_or(subject.name);
    let policy = match name {
        UNRESTRICTED => None,
        // A checked manifest names one that exists; without one, everything would be allowed.
        name => Some(syscalls::policy(name).unwrap_or(&syscalls::NOTHING)),
    };
    syscalls::filters(policy).unwrap_or_else(|error| {
        missing.push(format!("seccomp ({error})"));
        Vec::new()
    })
}

impl Profile {
    /// The profile with what one launch adds: the program file, and the cgroups.
    pub fn confinement<'a>(&self, program: &Path, cgroups: Vec<BorrowedFd<'a>>) -> Confinement<'a> {
        let mut view = self.view.clone();
        if let Some(View { root: Root::Private { .. }, mounts }) = &mut view {
            let there = mounts.iter().any(
                |mount| matches!(mount, Mount::Bind { path, exec: true, .. } if program.starts_with(path)),
            );
            if !there {
                mounts.push(Mount::Bind {
                    source: program.to_owned(),
                    path: program.to_owned(),
                    access: Access::ReadOnly,
                    exec: true,
                    optional: false,
                });
            }
        }
        let mut landlock = self.landlock.clone();
        if let Some(landlock) = landlock.as_mut().filter(|landlock| landlock.files) {
            landlock.rules.push((program.to_owned(), Access::ReadOnly, true));
        }
        Confinement {
            cgroups,
            namespaces: self.namespaces,
            view,
            keyring: self.keyring,
            write_xor_execute: self.write_xor_execute,
            landlock,
            filters: self.filters.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
