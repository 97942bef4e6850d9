//! What Landlock refuses: launches of this very program, confined by nothing else. They need no root, but a kernel with
//! Landlock.

mod probed;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use launch::{Access, Landlock, Launch, Step, Support, launch};
use probed::{DONE, probe, said, step_of};

/// Not a test: what the launched copies of this program do.
#[test]
fn probe_task() {
    probed::probe::run();
}

fn has(abi: u32) -> bool {
    let support = Support::probe().expect("probe").landlock_abi;
    if support < abi {
        eprintln!("not run: needs Landlock ABI {abi}, found {support}");
    }
    support >= abi
}

/// Nothing but what starting this program takes, and `rules`.
fn within(mut plan: Launch<'static>, rules: &[(PathBuf, Access, bool)]) -> Launch<'static> {
    let program = [
        plan.exec.clone(),
        "/usr/lib".into(),
        "/usr/lib64".into(),
        "/lib".into(),
        "/lib64".into(),
        "/etc/ld.so.cache".into(),
        "/no/such/place".into(),
    ];
    let program = program.into_iter().map(|path| (path, Access::ReadOnly, true));
    plan.confinement.landlock = Some(Landlock {
        files: true,
        rules: program.chain(rules.iter().cloned()).collect(),
        bind_tcp: true,
        connect_tcp: true,
        ..Landlock::default()
    });
    plan
}

#[test]
fn files_outside_the_rules_cannot_be_read_written_or_run() {
    if !has(1) {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    for name in ["open", "closed"] {
        std::fs::create_dir(dir.path().join(name)).expect("directory");
        std::fs::write(dir.path().join(name).join("x"), "x").expect("write");
    }
    let rules = [(dir.path().join("open"), Access::ReadWrite, false)];
    for (task, name) in
        [("read", "x"), ("list", ""), ("write", "x"), ("write", "new"), ("make directory", "dir")]
    {
        for (place, expected) in [("open", DONE), ("closed", libc::EACCES)] {
            let path = dir.path().join(place).join(name);
            let plan = within(probe(task, path.to_str().expect("text")), &rules);
            assert_eq!(said(&plan), expected, "{task} {}", path.display());
        }
    }
    let plan = within(probe("run", "/bin/true"), &[]);
    assert_eq!(said(&plan), libc::EACCES);
}

#[test]
fn what_may_be_read_cannot_be_changed() {
    if !has(3) {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("x");
    std::fs::write(&file, "x").expect("write");
    let rules = [(dir.path().to_owned(), Access::ReadOnly, false)];
    for (task, expected) in
        [("read", DONE), ("write", libc::EACCES), ("truncate", libc::EACCES), ("remove", libc::EACCES)]
    {
        assert_eq!(said(&within(probe(task, file.to_str().expect("text")), &rules)), expected, "{task}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "x");
}

#[test]
fn symbolic_links_cannot_be_planted_and_files_in_it_not_run() {
    if !has(1) {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("program");
    std::fs::copy("/bin/true", &program).expect("copy");
    let rules = [(dir.path().to_owned(), Access::ReadWrite, false)];
    let link = dir.path().join("link");
    assert_eq!(said(&within(probe("make link", link.to_str().expect("text")), &rules)), libc::EACCES);
    assert_eq!(said(&within(probe("run", program.to_str().expect("text")), &rules)), libc::EACCES);
}

#[test]
fn tcp_is_refused_unless_allowed() {
    if !has(4) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    for (task, argument) in [("connect", address.as_str()), ("bind", "127.0.0.1:0")] {
        let mut plan = probe(task, argument);
        for (connect_tcp, bind_tcp) in [(false, false), (false, true), (true, false)] {
            plan.confinement.landlock = Some(Landlock { connect_tcp, bind_tcp, ..Landlock::default() });
            let allowed = if task == "connect" { connect_tcp } else { bind_tcp };
            assert_eq!(
                said(&plan),
                if allowed { DONE } else { libc::EACCES },
                "{task} {connect_tcp} {bind_tcp}"
            );
        }
    }
}

#[test]
fn signals_and_abstract_sockets_stay_within_the_domain() {
    if !has(6) {
        return;
    }
    let name = format!("apiary-launch-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("address");
    let _listener = UnixListener::bind_addr(&address).expect("listen");
    let me = std::process::id().to_string();
    for (task, argument) in [("signal", &me), ("connect abstract", &name)] {
        let mut plan = probe(task, argument);
        for scoped in [false, true] {
            plan.confinement.landlock =
                Some(Landlock { scope_signals: scoped, scope_abstract: scoped, ..Landlock::default() });
            assert_eq!(said(&plan), if scoped { libc::EPERM } else { DONE }, "{task}");
        }
    }
}

#[test]
fn kernel_without_landlock_offers_none_and_fails_at_the_step() {
    if !probed::is_root() {
        return;
    }
    std::thread::spawn(|| {
        probed::without_system_call(libc::SYS_landlock_create_ruleset);
        assert_eq!(Support::probe().expect("probe").landlock_abi, 0);
        let mut plan = probed::shell("");
        plan.confinement.landlock = Some(Landlock { files: true, ..Landlock::default() });
        let (step, source) = step_of(launch(&plan));
        assert_eq!((step, source.raw_os_error()), (Step::Landlock, Some(libc::ENOSYS)));
    })
    .join()
    .expect("join");
}

#[test]
fn rule_behind_a_planted_symbolic_link_is_refused_by_name() {
    if !has(1) || !probed::is_root() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/etc", &link).expect("link");
    std::os::unix::fs::lchown(&link, Some(65_533), None).expect("owner");
    let plan = within(probe("read", "/etc/passwd"), &[(link.clone(), Access::ReadOnly, false)]);
    match launch(&plan) {
        Err(launch::Error::Step { step: Step::Landlock, subject, .. }) => assert_eq!(subject, Some(link)),
        other => panic!("{other:?}"),
    }
}
