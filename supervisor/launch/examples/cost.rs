//! What each step of a launch costs: `cargo run -p launch --release --example cost`, as root. Median time until the
//! program runs, in microseconds, of launches with one step more than a plain one, and of one with all of them.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use launch::{
    Access, CapabilitySet, Confinement, Filter, Identity, Instruction, Landlock, Launch, Mount, Namespaces,
    Root, Support, View, launch,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};

const ROUNDS: usize = 200;

fn main() {
    println!("{:?}", Support::probe().expect("probe"));
    let staging = std::env::temp_dir().join(format!("apiary-launch-cost-{}", std::process::id()));
    std::fs::create_dir(&staging).expect("staging directory");
    // Version 2, or as many hierarchies of version 1 as a component has limits in.
    let name = format!("apiary-launch-cost-{}", std::process::id());
    let groups = ["", "memory", "pids", "cpu"]
        .map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy).join(&name));
    let join = |group: &PathBuf| {
        std::fs::create_dir(group).ok()?;
        File::options().write(true).open(group.join("cgroup.procs")).ok()
    };
    let procs: Vec<_> = groups.iter().filter_map(join).collect();

    let all = Namespaces::MOUNT.union(Namespaces::IPC).union(Namespaces::UTS);
    let view = || Some(View { root: Root::Private { staging: staging.clone() }, mounts: mounts() });
    let cgroups = || procs.iter().map(AsFd::as_fd).collect();
    let plain = Confinement::default;
    for (name, confinement) in [
        ("plain", plain()),
        ("cgroups", Confinement { cgroups: cgroups(), ..plain() }),
        ("mount namespace", Confinement { namespaces: Namespaces::MOUNT, ..plain() }),
        ("ipc namespace", Confinement { namespaces: Namespaces::IPC, ..plain() }),
        ("uts namespace", Confinement { namespaces: Namespaces::UTS, ..plain() }),
        ("net namespace", Confinement { namespaces: Namespaces::NET, ..plain() }),
        ("private root", Confinement { namespaces: Namespaces::MOUNT, view: view(), ..plain() }),
        ("keyring", Confinement { keyring: true, ..plain() }),
        ("landlock", Confinement { landlock: Some(domain()), ..plain() }),
        ("filter", Confinement { filters: vec![filter()], ..plain() }),
        ("all but net namespace", full(all, view(), cgroups())),
        ("all", full(all.union(Namespaces::NET), view(), cgroups())),
    ] {
        println!("{name:22} {:6} us", median(confinement));
    }
    for group in groups {
        let _ = std::fs::remove_dir(group);
    }
    let _ = std::fs::remove_dir(staging);
}

fn full(namespaces: Namespaces, view: Option<View>, cgroups: Vec<BorrowedFd<'_>>) -> Confinement<'_> {
    Confinement {
        cgroups,
        namespaces,
        view,
        keyring: true,
        write_xor_execute: true,
        landlock: Some(domain()),
        filters: vec![filter()],
    }
}

fn median(confinement: Confinement<'_>) -> u128 {
    let plan = Launch {
        component: "cost",
        exec: "/usr/bin/true".into(),
        argv0: "true",
        args: Vec::new(),
        env: vec![("PATH", OsString::from("/usr/bin"))],
        inherited: Vec::new(),
        identity: Some(Identity { uid: 65_533, gid: 65_533, groups: Vec::new() }),
        capabilities: CapabilitySet::EMPTY,
        limits: Vec::new(),
        confinement,
    };
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let child = launch(&plan).expect("launch");
            let time = start.elapsed().as_micros();
            waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).expect("wait");
            time
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// About as many as a component has.
fn mounts() -> Vec<Mount> {
    let bind = |path: &str, access, exec| Mount::Bind {
        source: path.into(),
        path: path.into(),
        access,
        exec,
        optional: true,
    };
    let programs = ["/usr/bin/true", "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"];
    let files = ["/etc/localtime", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services"];
    let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let state = ["/var/lib", "/run", "/etc/ssl/certs", "/usr/share/ca-certificates"];
    let mut mounts: Vec<_> = programs.into_iter().map(|path| bind(path, Access::ReadOnly, true)).collect();
    mounts.extend(files.into_iter().map(|path| bind(path, Access::ReadOnly, false)));
    mounts.extend(devices.into_iter().map(|path| Mount::Device { path: path.into() }));
    mounts.extend(state.into_iter().map(|path| bind(path, Access::ReadWrite, false)));
    mounts.push(Mount::Tmpfs { path: "/tmp".into(), bytes: 16 << 20, mode: 0o1777 });
    mounts
}

fn domain() -> Landlock {
    let rules = mounts().iter().map(|mount| (mount.path().to_owned(), Access::ReadOnly, true)).collect();
    Landlock { files: true, rules, scope_signals: true, scope_abstract: true, ..Landlock::default() }
}

/// As long as a real allow-list, and lets everything pass.
fn filter() -> Filter {
    let instruction = |code, jt, k| Instruction { code, jt, jf: 0, k };
    // Load the number; 150 comparisons that come to the same; allow.
    let mut program = vec![instruction(0x20, 0, 0)];
    program.extend((0..150).map(|n| instruction(0x15, 0, n)));
    program.push(instruction(0x06, 0, 0x7fff_0000));
    Filter { program }
}
