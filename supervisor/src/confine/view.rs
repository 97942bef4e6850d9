//! Which files a component gets to see: the list from which both the view and Landlock's rules are made.

use std::path::{Path, PathBuf};

use launch::{Access, Mount};

use super::{Machine, Subject, resolver};
use crate::manifest::Network;
use crate::wiring;

/// Libraries, and the loader that maps them into a program.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// The dynamic loaders by their names in programs. Running a program opens its loader for execution, too.
const LOADERS: [&str; 7] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/lib/ld-musl-armhf.so.1",
];

/// What every program reads.
const COMMON: [&str; 2] = ["/etc/ld.so.cache", "/etc/localtime"];

const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What names of hosts are looked up by, besides what [`resolver`] keeps fresh, and the authorities that certificates of
/// public services lead to. A file that is replaced is seen in its new form at the next start.
const OUTBOUND: [&str; 7] = [
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/etc/pki",
];

/// The kernel's messages and the machine's clock, for whoever keeps the host's root.
const KERNELS_OWN: [&str; 4] = ["/dev/kmsg", "/proc/kmsg", "/dev/rtc0", "/dev/rtc"];

/// Enough for what SQLite and libraries put into `/tmp`, and little enough for a device.
const TMP_BYTES: u64 = 16 << 20;

/// A file or folder of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    path: PathBuf,
    access: Access,
    /// Code in it may be mapped.
    libraries: bool,
}

/// What of the host a component sees.
#[derive(Clone, Debug)]
pub(super) struct Files {
    shown: Vec<Shown>,
    /// Link and what it says.
    links: Vec<(PathBuf, PathBuf)>,
    /// The own directories, which hold no device files.
    own: Vec<PathBuf>,
    /// Directories and sockets of others.
    hidden: Vec<PathBuf>,
    /// Kernel modules among the libraries.
    modules: Vec<PathBuf>,
    /// Read where there is no view to make them look otherwise.
    without_view: Vec<PathBuf>,
}

impl Files {
    pub(super) fn of(subject: &Subject<'_>, machine: &Machine<'_>) -> Self {
        let Subject { name, component, places, .. } = *subject;
        let mut files = Self {
            shown: Vec::new(),
            links: Vec::new(),
            own: Vec::new(),
            hidden: subject.sockets.to_vec(),
            modules: machine.modules.iter().map(|path| path.to_path_buf()).collect(),
            without_view: Vec::new(),
        };
        for path in LIBRARIES {
            files.shown.push(Shown { path: path.into(), access: Access::ReadOnly, libraries: true });
        }
        for path in COMMON {
            files.show(path, Access::ReadOnly);
        }
        if matches!(component.network, Network::Outbound | Network::Host) {
            for path in OUTBOUND {
                files.show(path, Access::ReadOnly);
            }
            files.names_of_hosts(&places.run, machine.resolver);
        }
        for (paths, access) in
            [(&component.paths.read, Access::ReadOnly), (&component.paths.write, Access::ReadWrite)]
        {
            for path in paths.iter().filter_map(|path| places.fill(path).ok()) {
                files.show(path, access);
            }
        }
        files.show(subject.config, Access::ReadOnly);
        for root in [&places.state, &places.run] {
            files.show(root.join(name), Access::ReadWrite);
            files.own.push(root.join(name));
            files.hidden.extend(subject.others.iter().map(|other| root.join(other)));
        }
        for server in component.calls.keys() {
            files.show(wiring::path(&places.run, server, name), Access::ReadOnly);
        }
        files.show(wiring::notify_path(&places.run, name), Access::ReadOnly);
        files
    }

    /// Once: what lies in a folder that is shown with the same access is there already.
    fn show(&mut self, path: impl Into<PathBuf>, access: Access) {
        let path = path.into();
        let there = |shown: &Shown| path.starts_with(&shown.path) && shown.access == access;
        if !self.shown.iter().any(there) {
            self.shown.push(Shown { path, access, libraries: false });
        }
    }

    /// In a view: the supervisor's copies, under the names everybody knows. Without one, the host's own files by their
    /// folders, since they are replaced.
    fn names_of_hosts(&mut self, run_dir: &Path, target: Option<&Path>) {
        let copies = resolver::folder(run_dir);
        for name in resolver::FILES {
            self.links.push((Path::new("/etc").join(name), copies.join(name)));
        }
        self.show(copies, Access::ReadOnly);
        self.without_view.push("/etc".into());
        self.without_view.extend(target.and_then(Path::parent).map(Path::to_owned));
    }

    /// The mounts of a private root, parents before what lies in them.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = self
            .shown
            .iter()
            .map(|shown| Mount::Bind {
                source: shown.path.clone(),
                path: shown.path.clone(),
                access: shown.access,
                exec: shown.libraries,
                optional: true,
            })
            .collect();
        mounts.push(Mount::Tmpfs { path: "/tmp".into(), bytes: TMP_BYTES, mode: 0o1777 });
        mounts.extend(DEVICES.map(|path| Mount::Device { path: path.into() }));
        mounts.extend(
            self.links
                .iter()
                .map(|(path, target)| Mount::Symlink { path: path.clone(), target: target.clone() }),
        );
        mounts.extend(self.modules.iter().map(|path| Mount::Mask { path: path.clone() }));
        mounts.sort_by(|a, b| a.path().cmp(b.path()));
        mounts
    }

    /// What holds a component that keeps the host's root: what is others' and what is the kernel's is hidden or read-only.
    pub(super) fn on_the_host(&self) -> Vec<Mount> {
        let again = |path: &Path, access| Mount::Bind {
            source: path.to_owned(),
            path: path.to_owned(),
            access,
            exec: false,
            optional: true,
        };
        let masked = self.hidden.iter().chain(&self.modules).cloned().chain(KERNELS_OWN.map(PathBuf::from));
        let mut mounts: Vec<Mount> = self.own.iter().map(|path| again(path, Access::ReadWrite)).collect();
        mounts.push(again(Path::new("/proc/sys"), Access::ReadOnly));
        mounts.extend(masked.map(|path| Mount::Mask { path }));
        mounts
    }

    /// The same for Landlock. Libraries are mapped, not run: only the loader is. The host's own `/tmp` is not granted.
    pub(super) fn rules(&self, has_view: bool) -> Vec<(PathBuf, Access, bool)> {
        let mut rules: Vec<_> =
            self.shown.iter().map(|shown| (shown.path.clone(), shown.access, false)).collect();
        rules.extend(LOADERS.map(|path| (path.into(), Access::ReadOnly, true)));
        rules.extend(DEVICES.map(|path| (path.into(), Access::ReadWrite, false)));
        if has_view {
            rules.push(("/tmp".into(), Access::ReadWrite, false));
        } else {
            rules.extend(self.without_view.iter().map(|path| (path.clone(), Access::ReadOnly, false)));
        }
        rules
    }
}
