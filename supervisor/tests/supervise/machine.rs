//! What the machine gives, and who else talks to the supervisor: cgroups, systemd, its own components.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use proto::control::{LinksRequest, LogsRequest, PrivilegesRequest, StatusRequest};

use crate::support::{PATIENCE, Supervisor, manifest};

const LIMITS: &str = "limits = { memory = \"64M\", pids = 16, cpu_weight = 200 }";

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn component_is_in_the_groups_of_its_limits() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", LIMITS)]));
    let a = supervisor.until_ready("a").await;
    let mode = supervisor.client().status(StatusRequest {}).await.expect("status").cgroup;
    if mode == "none" {
        assert!(a.degraded.iter().any(|missing| missing.starts_with("memory limit (")), "{a:?}");
        println!("skipped: no groups that this user may make");
        return;
    }
    assert_eq!((a.memory_limit_kib, a.pids_limit), (64 * 1024, 16));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", a.pid)).expect("cgroup");
    let expected = if mode == "v1" { 3 } else { 1 };
    assert_eq!(groups.lines().filter(|line| line.ends_with("-run/a")).count(), expected, "{groups}");
    let a = supervisor.until("a", |a| a.memory_kib > 0).await;
    assert!(a.threads > 0 && a.cpu_ns > 0 && a.pss_kib > 0, "{a:?}");
}

/// The unified hierarchy alone, as far as this machine has it: in a mount namespace without the others.
#[tokio::test]
async fn unified_hierarchy_without_controllers_groups_and_says_what_it_lacks() {
    let unified = "/sys/fs/cgroup/unified";
    if !is_root() || !fs::exists(unified).unwrap_or(false) {
        println!("skipped: needs root and {unified}");
        return;
    }
    let supervisor = Supervisor::start_with(&manifest(&[(1, "ready", LIMITS)]), |folder| {
        let program = folder.join("edgecore");
        fs::copy(env!("CARGO_BIN_EXE_edgecore"), &program).expect("edgecore");
        let mut command = Command::new("unshare");
        let script =
            "for m in memory pids cpu; do umount /sys/fs/cgroup/$m || exit; done; exec \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(program);
        command
    });
    let a = supervisor.until_ready("a").await;
    assert_eq!(supervisor.client().status(StatusRequest {}).await.expect("status").cgroup, "v2");
    assert_eq!(a.degraded[0], "memory limit (the controller is not available here)", "{a:?}");
    assert_eq!((a.memory_limit_kib, a.pids_limit), (0, 0));
    let group = |pid: u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
        groups.lines().find_map(|line| line.strip_prefix("0::")).expect("v2").to_owned()
    };
    assert!(group(a.pid).ends_with("-run/a"), "{}", group(a.pid));
    let own = group(supervisor.child.id());
    assert!(own.ends_with("-run/supervisor"), "{own}");
    // The next program finds itself in the leaf, and the group above it.
    supervisor.client().reexec(proto::control::ReexecRequest {}).await.expect("accepted");
    let begin = std::time::Instant::now();
    while supervisor.client().status(StatusRequest {}).await.expect("status").reexecs == 0 {
        assert!(begin.elapsed() < PATIENCE, "{}", supervisor.log());
    }
    assert_eq!(group(supervisor.child.id()), own);
    assert_eq!(supervisor.component("a").await.pid, a.pid);
    drop(supervisor);
    let base = format!("{unified}{}", own.strip_suffix("/supervisor").expect("leaf"));
    let begin = std::time::Instant::now();
    for group in ["a", "supervisor", ""] {
        // The kernel needs a moment for processes that were killed.
        while let Err(error) = fs::remove_dir(format!("{base}/{group}")) {
            assert!(begin.elapsed() < PATIENCE, "{base}/{group}: {error}");
        }
    }
}

#[tokio::test]
async fn strict_component_does_not_start_where_something_is_missing() {
    // More descriptors than the kernel lets anybody have.
    let strict = "strict = true\nlimits = { nofile = 2000000000 }";
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", strict), (2, "ready", "")]));
    supervisor.until_ready("b").await;
    let a = supervisor.component("a").await;
    assert_eq!((a.state.as_str(), a.pid, a.restarts), ("failed", 0, 0), "{a:?}");
    assert!(a.last_exit.starts_with("strict, and this machine does not give it: "), "{}", a.last_exit);
    assert_eq!(a.status_text, "left alone until it is started or restarted");
}

#[tokio::test]
async fn component_asks_its_supervisor_what_it_may() {
    let asks = "calls = { supervisor = [\"Status\"] }\nwhy.calls.supervisor = \"a test\"";
    let supervisor = Supervisor::start(&manifest(&[(1, "asks", asks), (2, "ready", "")]));
    supervisor.until_ready("a").await;
    let request = LogsRequest { component: "a".into(), follow: false, tail: 2 };
    let mut said = supervisor.client().logs(request).await.expect("logs");
    let mut next = async || said.next().await.expect("line").expect("no error").line;
    assert_eq!(next().await, "sees Ok(2)");
    let refused = next().await;
    assert!(refused.starts_with("refused: ") && refused.contains("Links"), "{refused}");
    let links = supervisor.client().links(LinksRequest {}).await.expect("links").links;
    let own = links.iter().find(|link| link.server == "supervisor").expect("own link");
    assert_eq!((own.client.as_str(), own.methods[0].name.as_str()), ("a", "Status"));
    assert_eq!((own.methods[0].calls_total, own.refusals_total), (1, 1));
}

#[tokio::test]
async fn privileges_are_told_of_every_component() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", ""), (2, "config", "")]));
    let a = supervisor.until_ready("a").await;
    supervisor.until("b", |b| b.state == "failed").await;
    let processes = supervisor.client().privileges(PrivilegesRequest {}).await.expect("privileges").processes;
    let seen: Vec<_> = processes.iter().map(|process| (process.component.as_str(), process.pid)).collect();
    assert_eq!(seen, [("a", a.pid), ("b", 0)]);
    assert!(processes[0].privileges.iter().any(|privilege| privilege.kind == "user"));
}

#[tokio::test]
async fn systemd_is_told_when_all_is_ready_and_that_the_loop_goes_round() {
    let socket = tempfile::tempdir().expect("tempdir");
    let path = socket.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("bound");
    systemd.set_read_timeout(Some(PATIENCE)).expect("time-out");
    let supervisor = Supervisor::start_with(&manifest(&[(1, "ready", "")]), |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgecore"));
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        command
    });
    let mut told = String::new();
    while !(told.contains("READY=1") && told.matches("WATCHDOG=1").count() >= 3) {
        let mut datagram = [0; 4096];
        let length = systemd.recv(&mut datagram).expect("told in time");
        told += &String::from_utf8_lossy(&datagram[..length]);
        told.push('\n');
    }
    assert!(told.contains("STATUS=1 of 1 components ready"), "{told}");
    // Meant for the supervisor alone.
    let a = supervisor.until_ready("a").await;
    let environment = fs::read(format!("/proc/{}/environ", a.pid)).expect("environment");
    assert!(!String::from_utf8_lossy(&environment).contains(&*path.to_string_lossy()));
}
