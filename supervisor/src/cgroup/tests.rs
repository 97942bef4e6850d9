use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A group name of this test alone, and the machine's hierarchies; `None`, said aloud, where groups are not ours to make.
struct Machine {
    layout: Layout,
    name: String,
}

fn machine(test: &str) -> Option<Machine> {
    let read = |path| fs::read(path).expect("proc");
    let layout = Layout::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    let there = layout
        .v2
        .iter()
        .chain(layout.v1.values())
        .any(|place| rustix::fs::access(&place.own, rustix::fs::Access::WRITE_OK).is_ok());
    if !there {
        println!("skipped: no cgroup hierarchy that this user may write to");
        return None;
    }
    Some(Machine { layout, name: format!("apiary-test-{test}-{}", std::process::id()) })
}

const WANTED: Ceilings = Ceilings { memory: Some(64 * 1024 * 1024), pids: Some(7), cpu_weight: Some(200) };

/// A process in `group` that waits. What a group is charged for is taken after the joining: hence the second program.
fn sleeper(group: &Group) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec sleep 600"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sh");
    for directory in group.directories() {
        write(&directory.join("cgroup.procs"), &child.id().to_string()).expect("joined");
    }
    child.stdin.take().expect("piped").write_all(b"go\n").expect("told");
    child
}

fn comes_true(condition: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

fn killed_in_time(mut child: Child) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if child.try_wait().expect("wait").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    false
}

#[test]
fn group_is_named_after_the_run_directory() {
    assert_eq!(name(Path::new("/run/apiary/edge")), "apiary-edge");
    assert_eq!(name(Path::new("/tmp/x/run")), "tmp-x-run");
}

#[test]
fn machine_without_groups_lacks_each_limit_that_was_wanted() {
    let none = Cgroups::in_layout(&Layout::default(), "apiary-edge");
    assert_eq!(none.mode(), "none");
    let (group, missing) = none.group("a", &Ceilings { cpu_weight: None, ..WANTED });
    assert_eq!(missing, ["memory limit (no cgroup)", "process limit (no cgroup)"]);
    assert_eq!((group.enforced, group.join().count()), (Ceilings::default(), 0));
    assert_eq!((group.memory_kib(), group.memory_kills()), (0, 0));
    group.sweep();
    group.remove();
}

#[test]
fn hierarchy_that_may_not_be_written_is_named() {
    let place = Place { mount: "/proc".into(), own: "/proc".into() };
    let v1 = Layout { v1: [(Controller::Memory, place.clone())].into(), ..Layout::default() };
    let (_, missing) = Cgroups::in_layout(&v1, "x").group("a", &WANTED);
    assert!(missing[0].starts_with("memory limit (could not make a group in /proc/x: "), "{missing:?}");
    assert_eq!(missing[1], "process limit (the controller is not available here)");
    let v2 = Cgroups::in_layout(&Layout { v2: Some(place), ..Layout::default() }, "x");
    assert_eq!(v2.mode(), "none");
    assert!(v2.group("a", &WANTED).1[0].starts_with("memory limit (could not make /proc/x/"));
}

#[test]
fn only_known_controllers_are_read() {
    let text = "cpuset cpu io memory hugetlb pids rdma\n";
    assert_eq!(controllers(text), [Controller::Memory, Controller::Pids, Controller::Cpu]);
    assert!(controllers("").is_empty());
}

#[test]
fn default_weight_needs_no_controller() {
    let limits = Limits::default();
    assert_eq!(Ceilings::from(&limits), Ceilings::default());
    let limits = Limits { cpu_weight: 50, ..limits };
    assert_eq!(Ceilings::from(&limits).cpu_weight, Some(50));
}

#[test]
fn v1_holds_a_component_to_its_limits_and_kills_what_it_leaves() {
    let Some(machine) = machine("v1").filter(|machine| machine.layout.v1.len() == 3) else { return };
    let layout = Layout { v2: None, ..machine.layout };
    let cgroups = Cgroups::in_layout(&layout, &machine.name);
    assert_eq!(cgroups.mode(), "v1");
    let (group, missing) = cgroups.group("a", &WANTED);
    assert_eq!((missing, group.enforced), (Vec::new(), WANTED));
    assert_eq!(group.join().count(), 3);
    let value = |controller: Controller, file: &str| {
        let base = layout.v1[&controller].own.join(&machine.name).join("a");
        fs::read_to_string(base.join(file)).expect("file").trim().to_owned()
    };
    assert_eq!(value(Controller::Memory, "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(value(Controller::Pids, "pids.max"), "7");
    assert_eq!(value(Controller::Cpu, "cpu.shares"), "2048");

    let left = sleeper(&group);
    let charged = comes_true(|| group.memory_kib() > 0);
    group.sweep();
    assert!(killed_in_time(left) && charged);
    assert_eq!(group.memory_kills(), 0);

    // Found again as an earlier run left it, with a ceiling above and below the one there is.
    for memory in [32 << 20, 128 << 20] {
        let (again, missing) = cgroups.group("a", &Ceilings { memory: Some(memory), ..WANTED });
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(again.enforced.memory, Some(memory));
    }
    cgroups.remove_others(&["a"]);
    assert!(group.directories().iter().all(|directory| directory.exists()));
    cgroups.remove_others(&[]);
    cgroups.remove();
    assert!(!cgroups.exists());
}

/// Where the unified hierarchy has no controllers (they are v1's), all of it but the ceilings can be seen.
#[test]
fn v2_without_controllers_groups_and_kills_and_says_what_it_lacks() {
    let Some(machine) = machine("v2") else { return };
    let Some(v2) = machine.layout.v2.filter(|_| !machine.layout.v1.is_empty()) else { return };
    let base = v2.mount.join(&machine.name);
    // Without the move into the leaf: a test must not move its own process, where others run beside it.
    let cgroups = Cgroups::V2 { base: base.clone(), available: controllers("") };
    fs::create_dir(&base).expect("group");
    let (group, missing) = cgroups.group("a", &WANTED);
    assert_eq!(missing[0], "memory limit (the controller is not available here)");
    assert_eq!((missing.len(), group.enforced), (3, Ceilings::default()));
    let left = sleeper(&group);
    group.sweep();
    assert!(killed_in_time(left));
    // The kernel needs a moment to let the last of them go.
    assert!(comes_true(|| {
        group.remove();
        !base.join("a").exists()
    }));
    cgroups.remove();
    assert!(!base.exists());
}
