//! How exposed a process is, as `systemd-analyze security` counts it.
//!
//! The items, their weights and their grades are systemd's (252, and unchanged in 258; `src/analyze/analyze-security.c`),
//! so that a number here can be held against that of any service on the same machine. Where systemd looks at a unit's
//! settings, this looks at [`Facts`]: what a setting is for counts, not the setting.
//!
//! One item is left out: `Delegate=` has no meaning here, since no component is given a control group of its own to
//! divide. As with systemd, `SupplementaryGroups=` and `RemoveIPC=` do not count for a process of root.

use super::calls::{FAMILIES, INTERNET, NAMESPACES, SETS};
use super::facts::{Addresses, Devices, Facts, Processes, System};
use super::mounts::Seen;

/// One line of the score.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// systemd's name of it.
    pub name: String,
    /// How it is with this process.
    pub description: String,
    /// systemd's weight.
    pub weight: u32,
    /// From 0, closed, to 1, as an unconfined process.
    pub badness: f64,
}

/// The whole score.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// From 0 to 10, rounded up to a tenth as systemd does.
    pub overall: f64,
    /// Everything that counted, in systemd's order of subjects.
    pub items: Vec<Item>,
}

impl Score {
    /// What an item adds to the score.
    pub fn share(&self, item: &Item) -> f64 {
        item.badness * f64::from(item.weight) * 10.0 / f64::from(self.weights())
    }

    fn weights(&self) -> u32 {
        self.items.iter().map(|item| item.weight).sum()
    }
}

/// Users of this number are nobody: services that share it are not apart from each other.
const NOBODY: u32 = 65_534;

/// Capabilities that count together, by systemd's name of the group.
const CAPABILITIES: [(&str, &[&str], u32, &str); 24] = [
    ("CAP_SYS_ADMIN", &["CAP_SYS_ADMIN"], 1500, "administer the system"),
    (
        "CAP_SET(UID|GID|PCAP)",
        &["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"],
        1500,
        "change its user, groups and capabilities",
    ),
    ("CAP_SYS_PTRACE", &["CAP_SYS_PTRACE"], 1500, "trace any process"),
    ("CAP_SYS_TIME", &["CAP_SYS_TIME"], 1000, "set the clock"),
    ("CAP_NET_ADMIN", &["CAP_NET_ADMIN"], 1000, "configure the network"),
    ("CAP_SYS_RAWIO", &["CAP_SYS_RAWIO"], 1000, "reach devices past their drivers"),
    ("CAP_SYS_MODULE", &["CAP_SYS_MODULE"], 1000, "load kernel modules"),
    (
        "CAP_AUDIT_*",
        &["CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE"],
        500,
        "reach the audit subsystem",
    ),
    ("CAP_SYSLOG", &["CAP_SYSLOG"], 500, "read the kernel's log"),
    ("CAP_SYS_(NICE|RESOURCE)", &["CAP_SYS_NICE", "CAP_SYS_RESOURCE"], 500, "raise its priority and limits"),
    ("CAP_MKNOD", &["CAP_MKNOD"], 500, "make device files"),
    (
        "CAP_(CHOWN|FSETID|SETFCAP)",
        &["CAP_CHOWN", "CAP_FSETID", "CAP_SETFCAP"],
        1000,
        "change the owner, mode and capabilities of any file",
    ),
    (
        "CAP_(DAC_*|FOWNER|IPC_OWNER)",
        &["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_IPC_OWNER"],
        1000,
        "pass file permissions by",
    ),
    ("CAP_KILL", &["CAP_KILL"], 500, "signal any process"),
    (
        "CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
        &["CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW"],
        500,
        "use privileged ports and raw sockets",
    ),
    ("CAP_SYS_BOOT", &["CAP_SYS_BOOT"], 100, "restart the machine"),
    ("CAP_MAC_*", &["CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE"], 100, "change or pass by mandatory access control"),
    ("CAP_LINUX_IMMUTABLE", &["CAP_LINUX_IMMUTABLE"], 75, "mark files immutable"),
    ("CAP_IPC_LOCK", &["CAP_IPC_LOCK"], 50, "lock memory"),
    ("CAP_SYS_CHROOT", &["CAP_SYS_CHROOT"], 50, "change its root directory"),
    ("CAP_BLOCK_SUSPEND", &["CAP_BLOCK_SUSPEND"], 25, "keep the system awake"),
    ("CAP_WAKE_ALARM", &["CAP_WAKE_ALARM"], 25, "wake the system up"),
    ("CAP_LEASE", &["CAP_LEASE"], 25, "take leases on any file"),
    ("CAP_SYS_TTY_CONFIG", &["CAP_SYS_TTY_CONFIG"], 25, "hang up terminals"),
];
/// As above, for those systemd added last.
const LATE_CAPABILITIES: [(&str, &[&str], u32, &str); 2] = [
    ("CAP_SYS_PACCT", &["CAP_SYS_PACCT"], 25, "switch process accounting"),
    ("CAP_BPF", &["CAP_BPF"], 25, "load BPF programs"),
];

/// Weight of each of [`SETS`], in its order.
const SET_WEIGHTS: [u32; SETS.len()] = [1000, 250, 1000, 1000, 1000, 250, 700, 1000, 1000, 700, 1000];
/// Weight of each of [`FAMILIES`].
const FAMILY_WEIGHTS: [u32; FAMILIES.len()] = [1500, 25, 200, 1000, 1250];
/// Weight of each of [`NAMESPACES`].
const NAMESPACE_WEIGHTS: [u32; NAMESPACES.len()] = [1500, 500, 500, 500, 500, 500, 100];

/// Counts the score.
pub fn score(facts: &Facts) -> Score {
    let mut list = List::default();
    identity(&mut list, facts);
    namespaces(&mut list, facts);
    kernel(&mut list, facts);
    files(&mut list, facts);
    capabilities(&mut list, facts);
    calls(&mut list, facts);
    network(&mut list, facts);
    let weights: f64 = list.items.iter().map(|item| f64::from(item.weight)).sum();
    let sum: f64 = list.items.iter().map(|item| (item.badness * f64::from(item.weight)).ceil()).sum();
    Score { overall: (sum * 100.0 / weights).ceil() / 10.0, items: list.items }
}

#[derive(Default)]
struct List {
    items: Vec<Item>,
}

impl List {
    fn graded(&mut self, name: &str, weight: u32, (badness, description): (f64, &str)) {
        let (name, description) = (name.to_owned(), description.to_owned());
        self.items.push(Item { name, description, weight, badness });
    }

    fn either(&mut self, name: &str, weight: u32, open: bool, closed_text: &str, open_text: &str) {
        self.graded(name, weight, if open { (1.0, open_text) } else { (0.0, closed_text) });
    }
}

fn identity(list: &mut List, facts: &Facts) {
    let root = facts.uid == 0;
    list.graded(
        "User=/DynamicUser=",
        2000,
        match facts.uid {
            0 => (1.0, "runs as root"),
            NOBODY => (0.9, "runs as nobody, as other services may"),
            _ => (0.0, "runs as a user of its own"),
        },
    );
    if !root {
        let none = "has no supplementary group";
        list.either("SupplementaryGroups=", 200, !facts.groups.is_empty(), none, "has supplementary groups");
    }
    let umask = match facts.umask {
        mask if mask & 0o002 == 0 => (1.0, "makes files that anybody may write"),
        mask if mask & 0o004 == 0 => (0.5, "makes files that anybody may read"),
        mask if mask & 0o020 == 0 => (0.2, "makes files that its group may write"),
        mask if mask & 0o040 == 0 => (0.1, "makes files that its group may read"),
        _ => (0.0, "makes files for its own user only"),
    };
    list.graded("UMask=", 100, umask);
    list.either(
        "NoNewPrivileges=",
        1000,
        !facts.no_new_privs,
        "cannot gain privileges by running a program",
        "may gain privileges by running a set-user-id program",
    );
    list.either(
        "KeyringMode=",
        1000,
        !facts.own_keyring && facts.calls.keyrings,
        "shares no kernel keyring",
        "shares a kernel keyring",
    );
    list.either(
        "NotifyAccess=",
        1000,
        !facts.notify_main_only,
        "nobody else can speak for it",
        "a child of it may speak for it",
    );
    if !root {
        list.either(
            "RemoveIPC=",
            100,
            !facts.own.ipc && facts.calls.system_v,
            "leaves no System V IPC object behind",
            "may leave System V IPC objects behind",
        );
    }
}

fn namespaces(list: &mut List, facts: &Facts) {
    let own = &facts.own;
    list.either(
        "PrivateMounts=",
        1000,
        !own.mount || facts.propagates,
        "mounts of it stay its own",
        "mounts of it reach the host",
    );
    list.either("PrivateUsers=", 1000, !own.user, "sees its own users only", "sees the host's users");
    list.either("PrivateNetwork=", 2500, !own.network, "sees no network", "sees the host's network");
    list.either(
        "ProtectHostname=",
        50,
        !own.uts && facts.calls.hostname,
        "cannot change the host's name",
        "may change the host's name",
    );
    list.either("PrivateTmp=", 1000, facts.host_tmp, "has a /tmp of its own", "sees the host's /tmp");
    list.either("PrivateDevices=", 1000, facts.hardware, "sees no hardware device", "sees hardware devices");
    list.either(
        "RootDirectory=/RootImage=",
        200,
        !facts.own_root,
        "has a root directory of its own",
        "has the host's root directory",
    );
    list.graded(
        "ProtectProc=",
        1000,
        match facts.processes {
            Processes::Absent => (0.0, "sees no /proc"),
            Processes::Hidden => (0.0, "sees itself alone in /proc"),
            Processes::NoAccess => (1.0 / 3.0, "sees that other processes are there"),
            Processes::Full => (1.0, "sees every process"),
        },
    );
    list.either(
        "ProcSubset=",
        10,
        facts.kernel_proc,
        "sees no /proc file but of processes",
        "sees all of /proc",
    );
}

fn kernel(list: &mut List, facts: &Facts) {
    let (calls, bounding) = (&facts.calls, |name: &str| facts.may_have(name));
    list.either(
        "ProtectControlGroups=",
        1000,
        facts.cgroups == Seen::Writable,
        "cannot change control groups",
        "may change control groups",
    );
    list.either(
        "ProtectKernelModules=",
        1000,
        bounding("CAP_SYS_MODULE") || calls.set("@module").is_some() || facts.modules,
        "can neither load nor read kernel modules",
        "may load or read kernel modules",
    );
    list.either(
        "ProtectKernelTunables=",
        1000,
        facts.tunables == Seen::Writable,
        "cannot change kernel settings",
        "may change kernel settings in /proc/sys and /sys",
    );
    list.either(
        "ProtectKernelLogs=",
        1000,
        bounding("CAP_SYSLOG") || calls.kernel_log || facts.kernel_log,
        "cannot reach the kernel's log",
        "may read the kernel's log",
    );
    list.either(
        "ProtectClock=",
        1000,
        bounding("CAP_SYS_TIME")
            || bounding("CAP_WAKE_ALARM")
            || calls.set("@clock").is_some()
            || facts.clock,
        "cannot set a clock",
        "may set a clock",
    );
}

fn files(list: &mut List, facts: &Facts) {
    list.graded(
        "ProtectHome=",
        1000,
        match facts.home {
            Seen::No => (0.0, "sees no home directory"),
            Seen::ReadOnly => (0.5, "reads home directories"),
            Seen::Writable => (1.0, "may write to home directories"),
        },
    );
    list.graded(
        "ProtectSystem=",
        1000,
        match facts.system {
            System::ReadOnly => (0.0, "can write nothing but what it was given"),
            System::Protected => (0.3, "may write outside /usr, /boot and /etc"),
            System::Programs => (0.5, "may write outside /usr and /boot"),
            System::Writable => (1.0, "may write to the whole system"),
        },
    );
    list.graded(
        "DeviceAllow=",
        1000,
        match facts.devices {
            Devices::Pseudo => (0.0, "can open no device but /dev/null and its like"),
            Devices::Listed => (0.5, "can open the devices on a list"),
            Devices::All => (1.0, "can open any device its user may"),
        },
    );
}

fn capabilities(list: &mut List, facts: &Facts) {
    for (name, members, weight, what) in CAPABILITIES.iter().chain(&LATE_CAPABILITIES) {
        let open = members.iter().any(|capability| facts.may_have(capability));
        list.either(
            &format!("CapabilityBoundingSet=~{name}"),
            *weight,
            open,
            &format!("cannot {what}"),
            &format!("may {what}"),
        );
    }
    list.either(
        "AmbientCapabilities=",
        500,
        !facts.ambient.is_empty(),
        "hands no capability on",
        "hands capabilities on to programs it runs",
    );
}

fn calls(list: &mut List, facts: &Facts) {
    let calls = &facts.calls;
    for ((name, _), (weight, call)) in SETS.iter().zip(SET_WEIGHTS.into_iter().zip(calls.sets)) {
        let grade = match call {
            None => (0.0, format!("no call of {name} passes")),
            Some(call) if calls.filtered => (0.9, format!("calls of {name} pass, such as {call}")),
            Some(_) => (1.0, "no system call filter".to_owned()),
        };
        list.graded(&format!("SystemCallFilter=~{name}"), weight, (grade.0, &grade.1));
    }
    list.either(
        "SystemCallArchitectures=",
        1000,
        calls.foreign,
        "only the native system calls",
        "also the system calls of other architectures",
    );
    for ((kind, _), (weight, open)) in
        NAMESPACES.iter().zip(NAMESPACE_WEIGHTS.into_iter().zip(calls.namespaces))
    {
        list.either(
            &format!("RestrictNamespaces=~{kind}"),
            weight,
            open,
            "can neither make nor join one",
            "may ask for one of its own",
        );
    }
    list.either("LockPersonality=", 100, calls.personality, "keeps its ABI", "may change its ABI");
    list.either(
        "MemoryDenyWriteExecute=",
        100,
        calls.writable_executable && !facts.write_xor_execute,
        "runs no code it has written",
        "may run code it has written",
    );
    list.either(
        "RestrictRealtime=",
        500,
        calls.realtime,
        "cannot take real-time scheduling",
        "may take real-time scheduling",
    );
    list.either(
        "RestrictSUIDSGID=",
        1000,
        calls.set_id,
        "cannot make set-user-id files",
        "may make set-user-id files",
    );
}

fn network(list: &mut List, facts: &Facts) {
    for (n, ((name, _), (weight, open))) in
        FAMILIES.iter().zip(FAMILY_WEIGHTS.into_iter().zip(facts.calls.families)).enumerate()
    {
        let what = if n == INTERNET { "Internet sockets" } else { "sockets of it" };
        list.either(
            &format!("RestrictAddressFamilies=~{name}"),
            weight,
            open,
            &format!("can make no {what}"),
            &format!("may make {what}"),
        );
    }
    list.graded(
        "IPAddressDeny=",
        1000,
        match facts.addresses {
            Addresses::None => (0.0, "reaches no address"),
            Addresses::Loopback => (0.2, "reaches this machine's addresses alone"),
            Addresses::Inherited => (0.5, "is reached at the addresses it was given"),
            Addresses::All => (1.0, "reaches every address"),
        },
    );
}

#[cfg(test)]
mod tests;
