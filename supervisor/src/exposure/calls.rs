//! Which kinds of system calls the loaded filters let through, in the terms of `systemd-analyze security`.

use launch::Filter;

use super::filter::{Call, passes, passes_foreign, passes_named};

/// What passes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an item of the score")]
pub struct Calls {
    /// Whether there is a filter at all.
    pub filtered: bool,
    /// For each of [`SETS`], a call of it that passes.
    pub sets: [Option<&'static str>; SETS.len()],
    /// For each of [`FAMILIES`], whether sockets of it can be made.
    pub families: [bool; FAMILIES.len()],
    /// For each of [`NAMESPACES`], whether a new one can be asked for, or an existing one joined.
    pub namespaces: [bool; NAMESPACES.len()],
    /// Calls of another architecture's table.
    pub foreign: bool,
    /// Another ABI personality.
    pub personality: bool,
    /// Real-time scheduling.
    pub realtime: bool,
    /// Giving a file a set-user-id or set-group-id bit.
    pub set_id: bool,
    /// Memory that is or was writable made executable.
    pub writable_executable: bool,
    /// The kernel's log.
    pub kernel_log: bool,
    /// Host and domain name.
    pub hostname: bool,
    /// System V IPC objects.
    pub system_v: bool,
    /// Kernel keyrings.
    pub keyrings: bool,
}

/// systemd's sets of calls that its assessment looks at (`systemd-analyze syscall-filter @NAME`), with their calls, those
/// of sets that one includes among them.
pub const SETS: [(&str, &[&str]); 11] = [
    ("@clock", CLOCK),
    ("@cpu-emulation", &["modify_ldt", "subpage_prot", "switch_endian", "vm86", "vm86old"]),
    (
        "@debug",
        &[
            "lookup_dcookie",
            "perf_event_open",
            "pidfd_getfd",
            "ptrace",
            "rtas",
            "s390_runtime_instr",
            "sys_debug_setcontext",
        ],
    ),
    ("@module", MODULE),
    (
        "@mount",
        &[
            "chroot",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "umount",
            "umount2",
        ],
    ),
    (
        "@obsolete",
        &[
            "_sysctl",
            "afs_syscall",
            "bdflush",
            "create_module",
            "ftime",
            "get_kernel_syms",
            "getpmsg",
            "idle",
            "putpmsg",
            "query_module",
            "security",
            "sgetmask",
            "ssetmask",
            "stime",
            "sysfs",
            "tuxcall",
            "uselib",
            "ustat",
            "vserver",
        ],
    ),
    (
        "@privileged",
        &[
            "chown",
            "chown32",
            "fchown",
            "fchown32",
            "fchownat",
            "lchown",
            "lchown32",
            "adjtimex",
            "clock_adjtime",
            "clock_settime",
            "settimeofday",
            "delete_module",
            "finit_module",
            "init_module",
            "ioperm",
            "iopl",
            "kexec_file_load",
            "kexec_load",
            "reboot",
            "swapoff",
            "swapon",
            "_sysctl",
            "acct",
            "bpf",
            "capset",
            "chroot",
            "fanotify_init",
            "fanotify_mark",
            "nfsservctl",
            "open_by_handle_at",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "setfsuid",
            "setfsuid32",
            "setgroups",
            "setgroups32",
            "sethostname",
            "setresuid",
            "setresuid32",
            "setreuid",
            "setreuid32",
            "setuid",
            "setuid32",
            "vhangup",
        ],
    ),
    (
        "@raw-io",
        &[
            "ioperm",
            "iopl",
            "pciconfig_iobase",
            "pciconfig_read",
            "pciconfig_write",
            "s390_pci_mmio_read",
            "s390_pci_mmio_write",
        ],
    ),
    ("@reboot", &["kexec_file_load", "kexec_load", "reboot"]),
    (
        "@resources",
        &[
            "ioprio_set",
            "mbind",
            "migrate_pages",
            "move_pages",
            "nice",
            "sched_setaffinity",
            "sched_setattr",
            "sched_setparam",
            "sched_setscheduler",
            "set_mempolicy",
            "set_mempolicy_home_node",
            "setpriority",
            "setrlimit",
        ],
    ),
    ("@swap", &["swapoff", "swapon"]),
];

const CLOCK: &[&str] =
    &["adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday"];
const MODULE: &[&str] = &["delete_module", "finit_module", "init_module"];

/// The groups of address families systemd tells apart, with the numbers of `socket(2)`. The last one is every other
/// family the kernel may know.
pub const FAMILIES: [(&str, &[u64]); 5] = [
    ("AF_(INET|INET6)", &[2, 10]),
    ("AF_UNIX", &[1]),
    ("AF_NETLINK", &[16]),
    ("AF_PACKET", &[17]),
    (
        "…",
        &[
            3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
            32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45,
        ],
    ),
];
/// `AF_(INET|INET6)` in [`FAMILIES`].
pub const INTERNET: usize = 0;

/// Kinds of namespaces as systemd names them, with their `CLONE_NEW*` flags.
pub const NAMESPACES: [(&str, u64); 7] = [
    ("user", 0x1000_0000),
    ("mnt", 0x0002_0000),
    ("ipc", 0x0800_0000),
    ("pid", 0x2000_0000),
    ("cgroup", 0x0200_0000),
    ("net", 0x4000_0000),
    ("uts", 0x0400_0000),
];

/// `CLONE_VM`, `CLONE_SIGHAND` and `CLONE_THREAD`.
const THREAD: u64 = 0x0001_0900;
/// `SCHED_FIFO`, `SCHED_RR`, `SCHED_DEADLINE`.
const REALTIME: [u64; 3] = [1, 2, 6];
/// A mode with set-user-id, and one with set-group-id.
const SET_ID: [u64; 2] = [0o4755, 0o2755];
/// Flags with which opening makes a file and takes a mode: `O_CREAT | O_WRONLY`, and `__O_TMPFILE | O_WRONLY`.
const NEW_FILE: [u64; 2] = [0o101, 0o20_000_001];
/// `PROT_EXEC`, and together with `PROT_WRITE`.
const EXECUTABLE: u64 = 4;
const WRITABLE_EXECUTABLE: u64 = 6;
/// `PER_LINUX32`.
const OTHER_PERSONALITY: u64 = 8;
/// `SHM_EXEC`.
const SHM_EXEC: u64 = 0o100_000;

impl Calls {
    /// Without a filter.
    pub fn unfiltered() -> Self {
        Self::of(&[])
    }

    /// Asks the filters.
    pub fn of(filters: &[Filter]) -> Self {
        let named = |name: &str| passes_named(filters, name);
        let with = |name: &str, index: usize, value: u64| {
            Call::named(name).is_some_and(|call| passes(filters, call.with(index, value)))
        };
        Self {
            filtered: !filters.is_empty(),
            sets: SETS.map(|(_, calls)| calls.iter().copied().find(|call| named(call))),
            families: FAMILIES.map(|(_, families)| families.iter().any(|family| with("socket", 0, *family))),
            namespaces: NAMESPACES.map(|(kind, flag)| {
                // The flags of `clone3` are in memory, out of a filter's sight. A new thread never gets a user or process
                // namespace of its own.
                with("unshare", 0, flag)
                    || with("clone", 0, flag)
                    || (!["user", "pid"].contains(&kind) && with("clone", 0, flag | THREAD))
                    || named("clone3")
                    || with("setns", 1, flag)
                    || with("setns", 1, 0)
            }),
            foreign: passes_foreign(filters),
            personality: with("personality", 0, OTHER_PERSONALITY),
            realtime: REALTIME.iter().any(|policy| with("sched_setscheduler", 1, *policy))
                || named("sched_setattr"),
            set_id: SET_ID.iter().any(|mode| {
                let by_mode = [("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("creat", 1)]
                    .into_iter()
                    .chain([("mknod", 1), ("mknodat", 2), ("mkdir", 1), ("mkdirat", 2)])
                    .any(|(call, index)| with(call, index, *mode));
                let by_opening = [("open", 1), ("openat", 2)].into_iter().any(|(call, flags)| {
                    NEW_FILE.iter().any(|new| {
                        Call::named(call).is_some_and(|call| {
                            passes(filters, call.with(flags, *new).with(flags + 1, *mode))
                        })
                    })
                });
                by_mode || by_opening
            }) || named("openat2"),
            writable_executable: with("mmap", 2, WRITABLE_EXECUTABLE)
                || with("mmap2", 2, WRITABLE_EXECUTABLE)
                || with("mprotect", 2, EXECUTABLE)
                || with("pkey_mprotect", 2, EXECUTABLE)
                || with("shmat", 2, SHM_EXEC),
            kernel_log: named("syslog"),
            hostname: named("sethostname") || named("setdomainname"),
            system_v: named("shmget") || named("semget") || named("msgget"),
            keyrings: named("keyctl") || named("add_key") || named("request_key"),
        }
    }

    /// Whether a call of this one of [`SETS`] passes.
    pub fn set(&self, name: &str) -> Option<&'static str> {
        SETS.iter().zip(self.sets).find(|((set, _), _)| *set == name).and_then(|(_, call)| call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposure::filter::tests::allowing;

    #[test]
    fn without_a_filter_everything_passes() {
        let calls = Calls::unfiltered();
        assert!(!calls.filtered && calls.personality && calls.realtime && calls.set_id && calls.kernel_log);
        assert!(calls.families.iter().chain(&calls.namespaces).all(|open| *open));
        assert_eq!(calls.set("@reboot"), Some("kexec_file_load"));
    }

    #[test]
    fn short_list_closes_everything_it_does_not_name() {
        let calls = Calls::of(&[allowing(&["read", "write", "futex", "exit_group"])]);
        assert!(calls.filtered && calls.sets.iter().all(Option::is_none));
        assert!(calls.families.iter().chain(&calls.namespaces).all(|open| !open));
        assert!(!calls.personality && !calls.realtime && !calls.set_id && !calls.writable_executable);
    }

    #[test]
    fn offending_call_of_a_set_is_named() {
        let calls = Calls::of(&[allowing(&["read", "umount2", "fchownat"])]);
        assert_eq!((calls.set("@mount"), calls.set("@privileged")), (Some("umount2"), Some("fchownat")));
        assert_eq!(calls.set("@swap"), None);
    }

    #[test]
    fn clone3_counts_as_every_namespace_since_its_flags_are_out_of_sight() {
        let calls = Calls::of(&[allowing(&["clone3"])]);
        assert!(calls.namespaces.iter().all(|open| *open));
    }

    #[test]
    fn unconditional_open_and_mprotect_are_seen() {
        let calls = Calls::of(&[allowing(&["openat", "mprotect"])]);
        assert!(calls.set_id && calls.writable_executable && !calls.system_v);
    }

    #[test]
    fn policies_of_components_leave_open_only_what_they_are_for() {
        use crate::confine::syscalls;

        for name in ["metamanager", "keyholder", "edgehub", "edged", "authority", "cloudhub", "metrics"] {
            let Ok(filters) = syscalls::filters(syscalls::policy(name)) else { return };
            let calls = Calls::of(&filters);
            let networked = ["edgehub", "edged", "cloudhub"].contains(&name);
            assert_eq!(calls.families[INTERNET], networked, "{name}");
            assert!(calls.namespaces.iter().all(|open| !open), "{name}");
            assert_eq!(calls.set("@mount").is_some() || calls.set_id, name == "edged", "{name}");
            assert!(!calls.foreign && !calls.writable_executable && !calls.keyrings, "{name}");
            assert!(!calls.personality && !calls.realtime && !calls.kernel_log && !calls.hostname, "{name}");
        }
    }
}
