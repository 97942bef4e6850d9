//! What a process is kept from, as a plain description. The child turns it into system calls.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::Step;

/// Everything that narrows what a process can see and do, beyond its user and capabilities. The default narrows nothing;
/// whoever fills it in asks [`Support`](crate::Support) first, since a step the kernel refuses fails the launch.
#[derive(Debug, Default)]
pub struct Confinement<'a> {
    /// Open `cgroup.procs` files, one per hierarchy, each open for writing; the process moves itself into them.
    pub cgroups: Vec<BorrowedFd<'a>>,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// The file system it sees; needs [`Namespaces::MOUNT`]. `None` leaves the mounts as they are.
    pub view: Option<View>,
    /// Starts with an empty session keyring of its own.
    pub keyring: bool,
    /// Memory that was writable never becomes executable, nor both at once (`PR_SET_MDWE`, since Linux 6.3).
    pub write_xor_execute: bool,
    /// Landlock's rules. Paths are those of the view, opened with the rights of the new user.
    pub landlock: Option<Landlock>,
    /// System call filters, loaded in this order as the very last step before exec. All of them see every later call
    /// and the strictest answer counts; so each must let `execve` pass, and each but the last `seccomp`. A filter that
    /// refuses `write` or `exit_group` only costs the name of the step when exec fails.
    pub filters: Vec<Filter>,
}

impl Confinement<'_> {
    /// What a step calls its subject number `n`.
    pub(crate) fn subject(&self, step: Step, n: usize) -> Option<&Path> {
        match step {
            Step::View => {
                let view = self.view.as_ref()?;
                let shared = match &view.root {
                    Root::Private { .. } => &[][..],
                    Root::Host { shared } => shared,
                };
                view.mounts.iter().map(Mount::path).chain(shared.iter().map(AsRef::as_ref)).nth(n)
            }
            Step::Landlock => Some(&self.landlock.as_ref()?.rules.get(n)?.0),
            _ => None,
        }
    }
}

/// A set of namespace kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u8);

impl Namespaces {
    /// None: all are the supervisor's.
    pub const NONE: Self = Self(0);
    /// Mounts.
    pub const MOUNT: Self = Self(1);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(1 << 1);
    /// Host and domain name. The new one begins with the host's.
    pub const UTS: Self = Self(1 << 2);
    /// Network: without any interface but a loopback that is down, so nothing can be reached, not even itself.
    /// Abstract Unix sockets are apart, too; those with a path are not.
    pub const NET: Self = Self(1 << 3);

    const NAMED: [(&'static str, Self); 4] =
        [("mount", Self::MOUNT), ("ipc", Self::IPC), ("uts", Self::UTS), ("net", Self::NET)];

    /// The kind of that name: `mount`, `ipc`, `uts` or `net`.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it holds no kind.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of its kinds.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().filter(move |(_, kind)| self.contains(*kind)).map(|(name, _)| *name)
    }

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Bits that name no kind are dropped.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b1111)
    }

    /// The flags of `unshare(2)`.
    pub(crate) const fn flags(self) -> libc::c_int {
        let mut flags = 0;
        if self.contains(Self::MOUNT) {
            flags |= libc::CLONE_NEWNS;
        }
        if self.contains(Self::IPC) {
            flags |= libc::CLONE_NEWIPC;
        }
        if self.contains(Self::UTS) {
            flags |= libc::CLONE_NEWUTS;
        }
        if self.contains(Self::NET) {
            flags |= libc::CLONE_NEWNET;
        }
        flags
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.names().enumerate() {
            write!(f, "{}{name}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The file system a process sees. All paths are absolute and hold no `..`.
///
/// Symbolic links on the way to a source, or to a mount point in the host's root, are followed only where root owns
/// them: one planted by a component in a directory it may write leads nowhere. On the way to a mount point in a private
/// root none is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What it begins with.
    pub root: Root,
    /// Applied in this order, so what lies below another mount comes after it.
    pub mounts: Vec<Mount>,
}

/// The root of a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Nothing but the view's mounts, on a read-only root. Missing directories on the way to a mount point, and the mount
    /// points, are made.
    Private {
        /// An existing directory; the new root is mounted on it, in the child's mount namespace only. All components may
        /// share one.
        staging: PathBuf,
    },
    /// The host's root. Mounts the host makes appear here; mounts made here stay here, except below these places.
    Host {
        /// Places on shared mounts of the host. Mounts below them are seen both ways.
        shared: Vec<PathBuf>,
    },
}

/// One piece of a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// An empty directory.
    Directory {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// An empty file, readable by all.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: PathBuf,
        /// Where.
        path: PathBuf,
    },
    /// A file or directory of the host with all that is mounted below it, without set-user-id and device files.
    ///
    /// Kernels before 5.12 cannot restrict the mounts below: they are left out there.
    Bind {
        /// In the host's root.
        source: PathBuf,
        /// In the view.
        path: PathBuf,
        /// Whether it may be written, as far as the file permissions go.
        access: Access,
        /// Whether programs and libraries in it may be run.
        exec: bool,
        /// Leaves it out when there is no source; otherwise that fails the launch.
        optional: bool,
    },
    /// A device file of the host at the same path, such as `/dev/null`. Left out when the host lacks it.
    Device {
        /// In both.
        path: PathBuf,
    },
    /// Memory of its own: empty, writable as the mode says, without programs, set-user-id and device files.
    Tmpfs {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The permission bits of its root directory.
        mode: u32,
    },
    /// Hides a directory behind an empty, read-only one, or a file behind one that cannot be opened. Left out when there
    /// is nothing to hide.
    Mask {
        /// Which.
        path: PathBuf,
    },
}

impl Mount {
    /// Where it is in the view.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. }
            | Self::File { path }
            | Self::Symlink { path, .. }
            | Self::Bind { path, .. }
            | Self::Device { path }
            | Self::Tmpfs { path, .. }
            | Self::Mask { path } => path,
        }
    }
}

/// What may be done with a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and listing.
    ReadOnly,
    /// Reading, writing, making and removing.
    ReadWrite,
}

/// A Landlock domain. The default restricts TCP and nothing else.
///
/// A kernel with an older ABI holds less of it: see [`Support`](crate::Support) for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent restrictions, each named where it is set")]
pub struct Landlock {
    /// Whether files are restricted to `rules`. A domain that restricts files forbids `mount(2)` as well.
    pub files: bool,
    /// What may be accessed, below these paths, and whether programs may be run there. Writing includes making files,
    /// directories, sockets and pipes, but neither symbolic links nor device files. Paths that the process could not reach
    /// anyway are skipped.
    pub rules: Vec<(PathBuf, Access, bool)>,
    /// Whether TCP ports may be bound (restricted since ABI 4).
    pub bind_tcp: bool,
    /// Whether TCP connections may be made (restricted since ABI 4).
    pub connect_tcp: bool,
    /// Forbids signals to processes outside the domain (since ABI 6).
    pub scope_signals: bool,
    /// Forbids connections to abstract Unix sockets made outside the domain (since ABI 6).
    pub scope_abstract: bool,
}

/// A seccomp program, in classic BPF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// At most 4096.
    pub program: Vec<Instruction>,
}

/// One BPF instruction, `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named_and_map_to_their_flags() {
        for (name, flag) in [
            ("mount", libc::CLONE_NEWNS),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("net", libc::CLONE_NEWNET),
        ] {
            assert_eq!(Namespaces::named(name).map(Namespaces::flags), Some(flag), "{name}");
        }
        assert_eq!(Namespaces::named("user"), None);
        assert_eq!(Namespaces::UTS.union(Namespaces::MOUNT).to_string(), "mount uts");
    }
}
