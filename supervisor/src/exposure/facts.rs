//! What the kernel says of a live process, and what was loaded into it where the kernel does not tell.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use launch::{Access, Filter, Landlock};
use rustix::thread::CapabilitySet;

use super::calls::{Calls, INTERNET};
use super::mounts::{Mount, Mounts, Seen};

/// What [`super::score`] counts. Each field is about the process; "host" is what the supervisor has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "most are an item of the score")]
pub struct Facts {
    /// Its user id; 0 when any of its four user ids is.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// What it could ever have.
    pub bounding: CapabilitySet,
    /// What it has.
    pub effective: CapabilitySet,
    /// What programs it runs get.
    pub ambient: CapabilitySet,
    /// Running a program gives it nothing more.
    pub no_new_privs: bool,
    /// File mode bits it does not give out.
    pub umask: u32,
    /// Which namespaces differ from the supervisor's.
    pub own: Namespaces,
    /// Some mount of it passes mounts on to the host.
    pub propagates: bool,
    /// Its root directory is not the host's.
    pub own_root: bool,
    /// It sees the host's `/tmp` or `/var/tmp`.
    pub host_tmp: bool,
    /// It sees device files of hardware.
    pub hardware: bool,
    /// Which devices it could open.
    pub devices: Devices,
    /// What it sees of other processes.
    pub processes: Processes,
    /// It sees files of `/proc` that are not about processes.
    pub kernel_proc: bool,
    /// Control group file systems.
    pub cgroups: Seen,
    /// `/proc/sys` and `/sys`.
    pub tunables: Seen,
    /// It sees the files of kernel modules.
    pub modules: bool,
    /// It sees `/dev/kmsg`, or as root `/proc/kmsg`.
    pub kernel_log: bool,
    /// It sees the hardware clock.
    pub clock: bool,
    /// Home directories.
    pub home: Seen,
    /// What of the system it may write.
    pub system: System,
    /// Which addresses it can reach or is reached at.
    pub addresses: Addresses,
    /// It has a session keyring of its own.
    pub own_keyring: bool,
    /// The kernel refuses to make memory executable that is or was writable.
    pub write_xor_execute: bool,
    /// Only its main process can speak for it.
    pub notify_main_only: bool,
    /// What its system call filters let through.
    pub calls: Calls,
}

/// Namespaces that differ from the supervisor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each kind the kernel has")]
pub struct Namespaces {
    /// Mounts.
    pub mount: bool,
    /// Network.
    pub network: bool,
    /// System V IPC.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Users.
    pub user: bool,
}

/// Devices that could be opened, by the mounts' `nodev` and the control group's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// `/dev/null` and its like.
    Pseudo,
    /// Those on a list.
    Listed,
    /// Any that its user may.
    All,
}

/// Other processes in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    /// No `/proc` at all.
    Absent,
    /// Those of other users are hidden.
    Hidden,
    /// Seen, and not looked into.
    NoAccess,
    /// All of them.
    Full,
}

/// How far the system is protected from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// It writes nothing but what it was given.
    ReadOnly,
    /// `/usr`, `/boot` and `/etc` are read-only.
    Protected,
    /// `/usr` and `/boot` are read-only.
    Programs,
    /// Nothing is.
    Writable,
}

/// Reach of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addresses {
    /// None.
    None,
    /// This machine's own.
    Loopback,
    /// Those of listeners it was given.
    Inherited,
    /// All.
    All,
}

/// What was loaded into the process at its launch; the kernel does not show it to others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded<'a> {
    /// Its system call filters.
    pub filters: &'a [Filter],
    /// Its Landlock domain.
    pub landlock: Option<&'a Landlock>,
    /// Whether it began with an empty session keyring.
    pub keyring: bool,
    /// Whether memory that was writable never becomes executable.
    pub write_xor_execute: bool,
    /// Addresses of the IP listeners it inherits: none, this machine's, or others, too.
    pub inherits: Option<Addresses>,
}

impl Facts {
    /// Whether it could have this capability.
    pub fn may_have(&self, name: &str) -> bool {
        capability(name).is_none_or(|capability| self.bounding.contains(capability))
    }

    /// Whether it has this capability.
    pub fn has(&self, name: &str) -> bool {
        capability(name).is_some_and(|capability| self.effective.contains(capability))
    }
}

fn capability(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(name.strip_prefix("CAP_")?)
}

/// What is read of a process, before anything is concluded from it.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// `/proc/<pid>/status`.
    pub status: String,
    /// `/proc/<pid>/mountinfo`.
    pub mounts: Mounts,
    /// `/proc/<pid>/net/fib_trie`: its IPv4 addresses.
    pub fib_trie: String,
    /// `/proc/<pid>/net/if_inet6`: its IPv6 addresses.
    pub if_inet6: String,
    /// The device list of its control group, of version 1.
    pub device_list: String,
    /// Targets of `/proc/<pid>/ns/*`, in the order of [`KINDS`]; empty when they could not be read.
    pub namespaces: Vec<PathBuf>,
}

/// The kinds of namespaces that are compared.
const KINDS: [&str; 5] = ["mnt", "net", "ipc", "uts", "user"];
/// Largest text read from `/proc`: a host with thousands of containers has mount tables of a few MiB.
const LARGEST: u64 = 8 << 20;

impl Raw {
    /// Reads what there is. `None` when the process has ended, which is no error.
    pub fn read(pid: u32) -> Option<Self> {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let raw = Self::below(&base)?;
        let live = |status: &str| {
            !status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX"))
        };
        // Read first and last: what is in between belongs to a process that lived.
        (live(&raw.status) && live(&text(&base.join("status"))?)).then_some(raw)
    }

    /// The supervisor's own, to compare with.
    pub fn own() -> Self {
        Self::below(Path::new("/proc/self")).unwrap_or_default()
    }

    fn below(base: &Path) -> Option<Self> {
        let read = |name: &str| text(&base.join(name));
        Some(Self {
            status: read("status")?,
            mounts: Mounts::parse(&read("mountinfo").unwrap_or_default()),
            fib_trie: read("net/fib_trie").unwrap_or_default(),
            if_inet6: read("net/if_inet6").unwrap_or_default(),
            device_list: device_list(&read("cgroup").unwrap_or_default()).unwrap_or_default(),
            namespaces: KINDS
                .iter()
                .filter_map(|kind| std::fs::read_link(base.join("ns").join(kind)).ok())
                .collect(),
        })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn capabilities(&self, name: &str) -> CapabilitySet {
        // What cannot be read counts as everything.
        let bits = self.field(name).and_then(|text| u64::from_str_radix(text, 16).ok());
        bits.map_or(CapabilitySet::all(), CapabilitySet::from_bits_retain)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// The largest reach of the addresses it has.
    fn addresses(&self) -> Addresses {
        let mut reach = Addresses::None;
        let mut last = "";
        for line in self.fib_trie.lines().map(str::trim) {
            if let Some((_, address)) = line.split_once("-- ") {
                last = address;
            } else if line.ends_with("host LOCAL") {
                reach =
                    reach.max(if last.starts_with("127.") { Addresses::Loopback } else { Addresses::All });
            }
        }
        for line in self.if_inet6.lines() {
            reach = reach.max(if line.ends_with(" lo") { Addresses::Loopback } else { Addresses::All });
        }
        reach
    }
}

/// A file of `/proc`, as far as [`LARGEST`].
pub(super) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The device list of a control group of version 1; version 2 keeps it in a BPF program, which tells nobody.
fn device_list(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|controller| controller == "devices").then_some(path)
    })?;
    let own = Mounts::parse(&text(Path::new("/proc/self/mountinfo"))?);
    let mount =
        own.of_kind(&["cgroup"]).find(|mount| mount.options.split(',').any(|option| option == "devices"))?;
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    text(&mount.point.join(below).join("devices.list"))
}

/// The places of the host that the facts ask about: those that exist, without symbolic links.
#[derive(Clone, Debug, Default)]
pub struct Places {
    home: Vec<PathBuf>,
    tmp: Vec<PathBuf>,
    programs: Vec<PathBuf>,
    etc: Vec<PathBuf>,
    dev: Vec<PathBuf>,
    modules: Vec<PathBuf>,
    kernel_log: Vec<PathBuf>,
    clock: Vec<PathBuf>,
}

impl Places {
    /// Those of this machine.
    pub fn find() -> Self {
        let real = |paths: &[&str]| {
            let found: BTreeSet<PathBuf> =
                paths.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
            found.into_iter().collect()
        };
        Self {
            home: real(&["/home", "/root", "/run/user"]),
            tmp: real(&["/tmp", "/var/tmp"]),
            programs: real(&["/usr", "/boot"]),
            etc: real(&["/etc"]),
            dev: real(&["/dev"]),
            modules: real(&["/usr/lib/modules", "/lib/modules"]),
            kernel_log: real(&["/dev/kmsg"]),
            clock: real(&["/dev/rtc", "/dev/rtc0", "/dev/rtc1"]),
        }
    }
}

/// Device files that stand for no hardware.
const PSEUDO: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Concludes the facts.
pub fn conclude(process: &Raw, host: &Raw, places: &Places, loaded: &Loaded<'_>) -> Facts {
    let view = View { mounts: &process.mounts, host: &host.mounts, landlock: loaded.landlock };
    let ids: Vec<u32> = numbers(process.field("Uid"));
    let uid = if ids.is_empty() || ids.contains(&0) { 0 } else { ids[ids.len().min(2) - 1] };
    // The kernel confirms that filters are there; which they are it does not tell.
    let filtered = process.number("Seccomp") == Some(2)
        && process.number("Seccomp_filters").is_none_or(|count| count >= loaded.filters.len() as u64);
    let calls = if filtered { Calls::of(loaded.filters) } else { Calls::unfiltered() };
    let own = own_namespaces(process, host);
    let addresses = match (own.network, calls.families[INTERNET]) {
        (true, _) => process.addresses().max(loaded.inherits.unwrap_or(Addresses::None)),
        (false, true) => Addresses::All,
        (false, false) => loaded.inherits.unwrap_or(Addresses::None),
    };
    let hidepid = |mount: &Mount| match mount.option("hidepid") {
        Some("2" | "4" | "invisible" | "ptraceable") => Processes::Hidden,
        Some("1" | "noaccess") => Processes::NoAccess,
        _ => Processes::Full,
    };
    let proc: Vec<&Mount> = process.mounts.of_kind(&["proc"]).collect();
    let worst = |kinds: &[&str]| view.reach_of_kind(kinds);
    Facts {
        uid,
        gid: numbers(process.field("Gid")).get(1).copied().unwrap_or(0),
        groups: numbers(process.field("Groups")),
        bounding: process.capabilities("CapBnd"),
        effective: process.capabilities("CapEff"),
        ambient: process.capabilities("CapAmb"),
        no_new_privs: process.number("NoNewPrivs") == Some(1),
        umask: process.field("Umask").and_then(|text| u32::from_str_radix(text, 8).ok()).unwrap_or(0),
        own,
        propagates: view.propagates(),
        own_root: process.mounts.locate(Path::new("/")) != host.mounts.locate(Path::new("/")),
        host_tmp: view.reach(&places.tmp) > Seen::No,
        hardware: view.hardware(&places.dev),
        devices: view.devices(&places.dev, &process.device_list),
        processes: proc
            .iter()
            .map(|mount| hidepid(mount))
            .max_by_key(|seen| *seen as u8)
            .unwrap_or(Processes::Absent),
        kernel_proc: proc.iter().any(|mount| mount.option("subset") != Some("pid")),
        cgroups: worst(&["cgroup", "cgroup2"]),
        tunables: proc
            .iter()
            .map(|mount| view.at(&mount.point.join("sys")))
            .fold(worst(&["sysfs"]), Seen::max),
        modules: view.reach(&places.modules) > Seen::No,
        kernel_log: view.reach(&places.kernel_log) > Seen::No
            || (uid == 0 && proc.iter().any(|mount| view.shows(mount, &mount.point.join("kmsg")))),
        clock: view.reach(&places.clock) > Seen::No,
        home: view.reach(&places.home),
        system: if view.reach(&places.programs) == Seen::Writable {
            System::Writable
        } else if view.reach(&places.etc) == Seen::Writable {
            System::Programs
        } else if view.reach(&[PathBuf::from("/")]) == Seen::Writable {
            System::Protected
        } else {
            System::ReadOnly
        },
        addresses,
        own_keyring: loaded.keyring,
        write_xor_execute: loaded.write_xor_execute,
        // The supervisor takes word only from the process it started, whose id the kernel puts beside each message.
        notify_main_only: true,
        calls,
    }
}

fn numbers(field: Option<&str>) -> Vec<u32> {
    field.unwrap_or_default().split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// A namespace that cannot be read counts as the host's.
fn own_namespaces(process: &Raw, host: &Raw) -> Namespaces {
    let complete = [process, host].iter().all(|raw| raw.namespaces.len() == KINDS.len());
    let differs = |kind: &str| {
        let at = KINDS.iter().position(|known| *known == kind);
        complete && at.is_some_and(|at| process.namespaces[at] != host.namespaces[at])
    };
    Namespaces {
        mount: differs("mnt"),
        network: differs("net"),
        ipc: differs("ipc"),
        uts: differs("uts"),
        user: differs("user"),
    }
}

/// What a process can reach of the host's files: by its mounts, and by Landlock within them. File permissions are left
/// out, as systemd leaves them out.
struct View<'a> {
    mounts: &'a Mounts,
    host: &'a Mounts,
    landlock: Option<&'a Landlock>,
}

impl View<'_> {
    /// The most that can be done with any of these places of the host.
    fn reach(&self, places: &[PathBuf]) -> Seen {
        places
            .iter()
            .filter_map(|place| self.host.locate(place))
            .flat_map(|place| {
                let seen: Vec<Seen> = self
                    .mounts
                    .views(&place)
                    .map(|(path, mount)| mount.seen().min(self.landlocked(&path)))
                    .collect();
                seen
            })
            .max()
            .unwrap_or(Seen::No)
    }

    /// The most that can be done at a path of the process.
    fn at(&self, path: &Path) -> Seen {
        self.mounts.covering(path).map_or(Seen::No, |mount| mount.seen().min(self.landlocked(path)))
    }

    fn reach_of_kind(&self, kinds: &[&str]) -> Seen {
        self.mounts
            .of_kind(kinds)
            .map(|mount| mount.seen().min(self.landlocked(&mount.point)))
            .max()
            .unwrap_or(Seen::No)
    }

    fn shows(&self, mount: &Mount, path: &Path) -> bool {
        self.mounts.covering(path) == Some(mount) && self.landlocked(path) > Seen::No
    }

    fn landlocked(&self, path: &Path) -> Seen {
        let Some(landlock) = self.landlock.filter(|landlock| landlock.files) else { return Seen::Writable };
        landlock
            .rules
            .iter()
            .filter(|(root, _, _)| path.starts_with(root))
            .map(|(_, access, _)| match access {
                Access::ReadOnly => Seen::ReadOnly,
                Access::ReadWrite => Seen::Writable,
            })
            .max()
            .unwrap_or(Seen::No)
    }

    fn propagates(&self) -> bool {
        let peers: BTreeSet<u64> = self.host.iter().filter_map(|mount| mount.peers).collect();
        self.mounts.iter().filter_map(|mount| mount.peers).any(|group| peers.contains(&group))
    }

    /// Mounts of single pseudo devices, which may show a device without being a danger.
    fn is_pseudo(&self, mount: &Mount, dev: &[PathBuf]) -> bool {
        dev.iter().filter_map(|dev| self.host.locate(dev)).any(|dev| {
            self.mounts.parts(&dev).any(|part| part == mount)
                && mount.root.file_name().is_some_and(|name| PSEUDO.iter().any(|known| name == *known))
        })
    }

    fn hardware(&self, dev: &[PathBuf]) -> bool {
        dev.iter().filter_map(|dev| self.host.locate(dev)).any(|place| {
            self.mounts.views(&place).next().is_some()
                || self.mounts.parts(&place).any(|part| !self.is_pseudo(part, dev))
        })
    }

    fn devices(&self, dev: &[PathBuf], list: &str) -> Devices {
        if self.mounts.uncovered().all(|mount| mount.nodev || self.is_pseudo(mount, dev)) {
            return Devices::Pseudo;
        }
        let listed = !list.is_empty() && !list.lines().any(|line| line.starts_with("a "));
        if listed { Devices::Listed } else { Devices::All }
    }
}

#[cfg(test)]
mod tests;
