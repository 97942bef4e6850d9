//! What a process can reach and do beyond the file system: real launches that look at themselves. Those that make
//! namespaces or control groups need root.

mod probed;

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;

use launch::{
    CapabilitySet, Error, Filter, Identity, Inherited, Limit, Mount, Namespaces, Step, Support, launch,
};
use probed::probe::Queue;
use probed::{DONE, filter, finish, is_root, output, place, private, probe, said, shell, step_of};

/// Not a test: what the launched copies of this program do.
#[test]
fn probe_task() {
    probed::probe::run();
}

#[test]
fn network_namespace_has_nothing_to_reach_and_not_even_itself() {
    if !is_root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    for (task, argument, here, apart) in [
        ("connect", address.as_str(), DONE, libc::ENETUNREACH),
        ("connect to itself", "", DONE, libc::ENETUNREACH),
    ] {
        let mut plan = probe(task, argument);
        assert_eq!(said(&plan), here, "{task}");
        plan.confinement.namespaces = Namespaces::NET;
        assert_eq!(said(&plan), apart, "{task}");
    }
    let mut plan = shell("tail -n +3 /proc/self/net/dev | cut -d: -f1 | tr -d ' '");
    plan.confinement.namespaces = Namespaces::NET;
    // The loopback, down.
    assert_eq!(output(&plan), "lo\n");
}

#[test]
fn host_name_can_be_changed_for_itself_only() {
    if !is_root() {
        return;
    }
    let name = || std::fs::read_to_string("/proc/sys/kernel/hostname").expect("host name");
    let before = name();
    let mut plan = shell(
        "cat /proc/sys/kernel/hostname; echo other > /proc/sys/kernel/hostname; cat /proc/sys/kernel/hostname",
    );
    plan.capabilities = CapabilitySet::named("CAP_SYS_ADMIN").expect("known");
    plan.confinement.namespaces = Namespaces::UTS;
    assert_eq!(output(&plan), format!("{before}other\n"));
    assert_eq!(name(), before);
}

#[test]
fn message_queues_of_others_are_not_there() {
    if !is_root() {
        return;
    }
    let queue = Queue::new();
    let mut plan = probe("message queue", &queue.0.to_string());
    assert_eq!(said(&plan), DONE);
    plan.confinement.namespaces = Namespaces::IPC;
    assert_eq!(said(&plan), libc::EINVAL);
}

#[test]
fn keys_of_the_supervisor_are_not_there() {
    if !Support::probe().expect("probe").keyring {
        eprintln!("not run: no keyrings here");
        return;
    }
    // The keyring is this thread's.
    std::thread::spawn(|| {
        probed::probe::add_key_to_own_keyring("apiary-launch-test");
        let mut plan = probe("find key", "apiary-launch-test");
        assert_eq!(said(&plan), DONE);
        plan.confinement.keyring = true;
        assert_eq!(said(&plan), libc::ENOKEY);
    })
    .join()
    .expect("join");
}

#[test]
fn no_core_dump_means_none_to_a_program_that_takes_them_either() {
    let mut plan = shell("grep core /proc/self/limits | tr -s ' '");
    plan.limits = vec![(Limit::Core, 0)];
    assert_eq!(output(&plan).trim(), "Max core file size 1 1 bytes");
}

#[test]
fn memory_is_never_writable_and_executable() {
    if !Support::probe().expect("probe").write_xor_execute {
        eprintln!("not run: needs Linux 6.3");
        return;
    }
    let mut plan = probe("executable memory", "");
    assert_eq!(said(&plan), DONE);
    plan.confinement.write_xor_execute = true;
    assert_eq!(said(&plan), libc::EACCES);
}

#[test]
fn what_user_id_0_means_for_capabilities_is_locked() {
    if !is_root() {
        return;
    }
    let mut plan = probe("secure bits", "");
    plan.identity = Some(Identity { uid: 0, gid: 0, groups: Vec::new() });
    plan.capabilities = CapabilitySet::named("CAP_SETPCAP").expect("known");
    let (text, _) = finish(launch(&plan).expect("launch"));
    assert!(text.contains("\nsecure bits: 0xef\n"), "{text}");
}

#[test]
fn system_call_a_filter_forbids_kills() {
    let mut plan = probe("host name", "");
    plan.confinement.filters = vec![filter(libc::SYS_uname, libc::SECCOMP_RET_KILL_PROCESS)];
    plan.limits = vec![(Limit::Core, 0)];
    let (_, status) = finish(launch(&plan).expect("launch"));
    assert_eq!(status.terminating_signal(), Some(libc::SIGSYS));
}

#[test]
fn system_call_a_filter_refuses_is_unknown_to_the_program() {
    let mut plan = probe("host name", "");
    assert_eq!(said(&plan), libc::EFAULT);
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    plan.confinement.filters = vec![filter(libc::SYS_uname, refuse)];
    assert_eq!(said(&plan), libc::ENOSYS);
}

#[test]
fn every_filter_counts_and_the_last_may_forbid_another() {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let mut plan = probe("host name", "");
    plan.confinement.filters = vec![filter(libc::SYS_uname, refuse), filter(libc::SYS_seccomp, refuse)];
    assert_eq!(said(&plan), libc::ENOSYS);
    plan.confinement.filters.reverse();
    let (step, source) = step_of(launch(&plan));
    assert_eq!((step, source.raw_os_error()), (Step::Seccomp, Some(libc::ENOSYS)));
}

#[test]
fn filter_the_kernel_does_not_take_fails_at_its_step() {
    let mut plan = shell("");
    let mut endless = filter(libc::SYS_uname, 0);
    endless.program.pop();
    plan.confinement.filters = vec![endless];
    assert_eq!(step_of(launch(&plan)).0, Step::Seccomp);
    plan.confinement.filters = vec![Filter::default()];
    assert!(matches!(launch(&plan), Err(Error::Prepare { .. })));
}

#[test]
fn process_runs_in_its_control_groups() {
    if !is_root() {
        return;
    }
    let Some(group) = Group::new() else {
        eprintln!("not run: no writable control groups here");
        return;
    };
    let procs = File::options().write(true).open(group.0.join("cgroup.procs")).expect("open");
    let mut plan = shell("cat /proc/self/cgroup; ls -l /proc/$$/fd | grep -c cgroup");
    plan.confinement.cgroups = vec![procs.as_fd()];
    let (text, _) = finish(launch(&plan).expect("launch"));
    let name = group.0.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(text.lines().any(|line| line.ends_with(name)), "{text}");
    assert!(text.ends_with("\n0\n"), "no way back to the groups is left open: {text}");
}

#[test]
fn control_group_that_takes_nobody_fails_at_its_step() {
    let full = File::options().write(true).open("/dev/full").expect("open");
    let mut plan = shell("");
    plan.confinement.cgroups = vec![full.as_fd()];
    let error = launch(&plan).expect_err("full");
    assert_eq!(
        error.to_string(),
        "component probe: launch step \"cgroup\" failed for /bin/sh: No space left on device (os error 28)"
    );
}

#[test]
fn namespaces_without_the_right_fail_at_their_step_and_are_not_offered() {
    // Capabilities are this thread's.
    std::thread::spawn(|| {
        CapabilitySet::EMPTY.keep_only().expect("give up");
        let support = Support::probe().expect("probe");
        assert_eq!((support.namespaces, support.private_root), (Namespaces::NONE, false));
        let mut plan = shell("");
        plan.confinement.namespaces = Namespaces::UTS;
        assert_eq!(step_of(launch(&plan)).0, Step::Namespaces);
    })
    .join()
    .expect("join");
}

#[test]
fn root_on_a_plain_machine_is_offered_every_namespace() {
    if !is_root() {
        return;
    }
    let support = Support::probe().expect("probe");
    let sys_admin = CapabilitySet::named("CAP_SYS_ADMIN").expect("known");
    if CapabilitySet::held().expect("held").intersection(sys_admin).is_empty() {
        eprintln!("not run: needs CAP_SYS_ADMIN");
        return;
    }
    assert_eq!(support.namespaces.to_string(), "mount ipc uts net");
}

#[test]
fn fully_confined_process_has_only_its_descriptors() {
    if !is_root() {
        return;
    }
    let place = place();
    let inherited = File::open("/proc/version").expect("open");
    let mut plan = shell("for n in $(seq 0 99); do test -e /proc/$$/fd/$n && echo $n; done; true");
    plan.inherited = vec![Inherited { name: "edged", fd: inherited.as_fd() }];
    private(&mut plan, place.path(), [Mount::Tmpfs { path: "/tmp".into(), bytes: 1 << 20, mode: 0o1777 }]);
    plan.confinement.namespaces = everything();
    plan.confinement.keyring = Support::probe().expect("probe").keyring;
    plan.confinement.landlock = Some(launch::Landlock {
        files: true,
        rules: vec![("/".into(), launch::Access::ReadOnly, true)],
        ..launch::Landlock::default()
    });
    plan.confinement.filters = vec![filter(libc::SYS_ptrace, libc::SECCOMP_RET_KILL_PROCESS)];
    plan.identity = Some(probed::nobody());
    assert_eq!(output(&plan), "0\n1\n2\n3\n");
}

fn everything() -> Namespaces {
    Namespaces::MOUNT.union(Namespaces::IPC).union(Namespaces::UTS).union(Namespaces::NET)
}

/// A control group of the test's own, in the first hierarchy that takes one.
struct Group(std::path::PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("apiary-launch-test-{}", std::process::id());
        ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"].into_iter().find_map(
            |hierarchy| {
                let group = Self(Path::new(hierarchy).join(&name));
                std::fs::create_dir(&group.0).ok()?;
                group.0.join("cgroup.procs").exists().then_some(group)
            },
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
