//! Real children. They run `/bin/sh`; the one that needs root says so when it cannot run.

mod probed;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use launch::{CapabilitySet, Error, Identity, Inherited, Limit, Step, launch};
use probed::{is_root, output, shell, step_of};
use rustix::process::{WaitId, WaitIdOptions, waitid};

#[test]
fn environment_is_exactly_what_was_given() {
    let mut plan = shell("");
    plan.exec = "/usr/bin/env".into();
    plan.args.clear();
    plan.env = vec![("A", "1".into()), ("B", "two words".into())];
    assert_eq!(output(&plan), "A=1\nB=two words\n");
}

#[test]
fn inherited_descriptors_are_numbered_from_three_and_announced() {
    let first = File::open("/proc/version").expect("open");
    let second = File::open("/proc/filesystems").expect("open");
    let mut plan = shell(
        "test \"$LISTEN_PID\" = $$ && echo \"$LISTEN_FDS $LISTEN_FDNAMES\"; \
         readlink /proc/$$/fd/3 /proc/$$/fd/4",
    );
    plan.inherited = vec![
        Inherited { name: "edgehub", fd: second.as_fd() },
        Inherited { name: "edged", fd: first.as_fd() },
    ];
    assert_eq!(output(&plan), "2 edgehub:edged\n/proc/filesystems\n/proc/version\n");
}

#[test]
fn descriptors_that_were_not_granted_are_closed() {
    // Made without close-on-exec on purpose: what a careless library would leave open.
    let mut leaky = Vec::new();
    for _ in 0..8 {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        leaky.extend([read, write]);
    }
    // Asked one by one: a shell listing the directory has it open itself.
    let listing = output(&shell("for n in $(seq 0 99); do test -e /proc/$$/fd/$n && echo $n; done; true"));
    assert_eq!(listing, "0\n1\n2\n");
}

#[test]
fn standard_input_is_empty_and_both_outputs_arrive() {
    assert_eq!(output(&shell("cat; echo out; echo err >&2")), "out\nerr\n");
}

#[test]
fn child_leads_its_own_session_in_the_root_directory() {
    let text = output(&shell("cut -d' ' -f1,6 /proc/$$/stat; readlink /proc/$$/cwd"));
    let (ids, directory) = text.split_once('\n').expect("two lines");
    let (pid, session) = ids.split_once(' ').expect("two numbers");
    assert_eq!(pid, session);
    assert_eq!(directory, "/\n");
}

#[test]
fn child_dies_with_the_thread_that_launched_it() {
    let child =
        std::thread::spawn(|| launch(&shell("exec sleep 600"))).join().expect("join").expect("launch");
    let status =
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).expect("wait").expect("ended");
    assert_eq!(status.terminating_signal(), Some(9));
}

#[test]
fn new_privileges_are_off_and_no_capability_is_left() {
    let status = output(&shell("exec cat /proc/self/status"));
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("SigBlk:"), "0000000000000000");
    // 32 and 33 belong to libc, whose posix_spawn (that of cargo, here) leaves them ignored.
    let ignored = u64::from_str_radix(&field("SigIgn:"), 16).expect("hexadecimal");
    assert_eq!(ignored & !(0b11 << 31), 0);
}

#[test]
fn limits_are_set_soft_and_hard() {
    let mut plan = shell("ulimit -Sn; ulimit -Hn; ulimit -Hc");
    plan.limits = vec![(Limit::Nofile, 61), (Limit::Core, 0)];
    assert_eq!(output(&plan), "61\n61\n0\n");
}

#[test]
fn missing_program_fails_at_exec_and_names_everything() {
    let mut plan = shell("");
    plan.exec = "/nonexistent/metamanager".into();
    let error = launch(&plan).expect_err("no such program");
    assert_eq!(
        error.to_string(),
        "component probe: launch step \"exec\" failed for /nonexistent/metamanager: No such file or directory (os error 2)"
    );
}

#[test]
fn failed_launch_leaves_no_zombie() {
    let mut plan = shell("");
    plan.exec = "/nonexistent".into();
    launch(&plan).expect_err("no such program");
    let me = rustix::process::getpid().as_raw_nonzero().to_string();
    let zombies = std::fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| {
            let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
            fields.next() == Some("Z") && fields.next() == Some(&me) && stat.contains("(launch")
        })
        .count();
    assert_eq!(zombies, 0);
}

#[test]
fn argument_with_a_nul_byte_is_refused_before_the_fork() {
    let mut plan = shell("");
    plan.env = vec![("A", "x\0y".into())];
    assert!(matches!(launch(&plan), Err(Error::Prepare { .. })));
}

#[test]
fn user_that_means_no_change_is_refused_before_the_fork() {
    for (uid, gid, group) in [(u32::MAX, 1, 1), (1, u32::MAX, 1), (1, 1, u32::MAX)] {
        let mut plan = shell("");
        plan.identity = Some(Identity { uid, gid, groups: vec![group] });
        assert!(matches!(launch(&plan), Err(Error::Prepare { .. })));
    }
}

#[test]
fn limit_above_the_hard_limit_fails_at_its_step() {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if hard == u64::MAX {
        eprintln!("not run: descriptors are unlimited here");
        return;
    }
    let mut plan = shell("");
    // Above the kernel's own ceiling (fs.nr_open), which root cannot pass either.
    plan.limits = vec![(Limit::Nofile, u64::from(u32::MAX))];
    let (step, source) = step_of(launch(&plan));
    assert_eq!(step, Step::Limits);
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn another_user_without_root_fails_at_the_first_credential_step() {
    if rustix::process::geteuid().is_root() {
        eprintln!("not run: needs a user other than root");
        return;
    }
    let mut plan = shell("");
    plan.identity = Some(Identity { uid: 65_533, gid: 65_533, groups: Vec::new() });
    assert_eq!(step_of(launch(&plan)).0, Step::Groups);
}

#[test]
fn user_groups_and_granted_capability_hold_after_exec() {
    if !is_root() {
        return;
    }
    let mut plan = shell("cat /proc/$$/status");
    plan.identity = Some(Identity { uid: 65_533, gid: 65_532, groups: vec![65_531] });
    plan.capabilities = CapabilitySet::named("CAP_NET_BIND_SERVICE").expect("known");
    let status = output(&plan);
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "65533 65533 65533 65533");
    assert_eq!(field("Gid:"), "65532 65532 65532 65532");
    assert_eq!(field("Groups:"), "65531");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000400", "{set}");
    }
}

#[test]
fn root_keeps_only_the_granted_capabilities() {
    if !is_root() {
        return;
    }
    let mut plan = shell("grep ^Cap /proc/$$/status | tr -s '\\t\\n' ' '");
    plan.identity = Some(Identity { uid: 0, gid: 0, groups: Vec::new() });
    plan.capabilities = CapabilitySet::named("CAP_CHOWN").expect("known");
    let one = "0000000000000001";
    assert_eq!(
        output(&plan).trim(),
        format!("CapInh: {one} CapPrm: {one} CapEff: {one} CapBnd: {one} CapAmb: {one}")
    );
}

#[test]
fn parent_death_signal_survives_the_change_of_user() {
    if !is_root() {
        return;
    }
    let child = std::thread::spawn(|| {
        let mut plan = shell("exec sleep 600");
        plan.identity = Some(Identity { uid: 65_533, gid: 65_533, groups: Vec::new() });
        launch(&plan)
    })
    .join()
    .expect("join")
    .expect("launch");
    let pidfd: OwnedFd = child.pidfd;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).expect("wait").expect("ended");
    assert_eq!(status.terminating_signal(), Some(9));
}

#[test]
fn end_of_a_process_ends_what_it_left_in_its_group() {
    // A runtime of this thread's own: the child dies with the thread that launched it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let child = launch(&shell("sleep 600 & kill -9 $$")).expect("launch");
        let (process, output) = launch::Process::watch(child).expect("watch");
        assert_eq!(process.ended().await.expect("ended").to_string(), "killed by SIGKILL");
        // Closed by the last of the group.
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).expect("output");
        process.terminate().expect("a process that is gone is no error");
    });
}
