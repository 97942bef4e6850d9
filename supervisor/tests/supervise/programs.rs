//! Programs that are replaced, and ceilings that are reached.

use std::fs;

use proto::control::{StartRequest, StatusRequest};

use crate::support::{Supervisor, install, kill_9, manifest, probe};

/// A program that ends at once.
const BAD: &[u8] = b"#!/bin/sh\nexit 1\n";

#[tokio::test]
async fn replaced_program_is_used_at_the_next_start() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "")]));
    let a = supervisor.until_ready("a").await;
    let inode = |pid: u32| {
        let meta = fs::metadata(format!("/proc/{pid}/exe")).expect("exe");
        std::os::unix::fs::MetadataExt::ino(&meta)
    };
    let before = inode(a.pid);
    install(&supervisor, "probe", &fs::read(probe()).expect("probe"));
    assert_eq!(supervisor.component("a").await.pid, a.pid);
    kill_9(&a);
    let again = supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
    assert_ne!(inode(again.pid), before);
    assert!(!again.rolled_back);
}

#[tokio::test]
async fn bad_program_is_rolled_back_and_a_good_one_used_again() {
    let supervisor = Supervisor::start(&manifest(&[(1, "ready", "restart = { floor = \"1ms\" }")]));
    let a = supervisor.until_ready("a").await;
    let good = fs::read(probe()).expect("probe");
    install(&supervisor, "probe.previous", &good);
    install(&supervisor, "probe", BAD);
    kill_9(&a);
    let back = supervisor.until("a", |now| now.state == "ready" && now.pid != a.pid).await;
    assert!(back.rolled_back && back.exec.ends_with("/probe.previous"), "{back:?}");
    // One start at once after the kill, and two more chances.
    assert_eq!(back.restarts, 4);
    assert_eq!(supervisor.log().matches("the previous one is run").count(), 1, "{}", supervisor.log());
    // Once it works it stays, also over crashes.
    kill_9(&back);
    let back = supervisor.until("a", |now| now.state == "ready" && now.pid != back.pid).await;
    assert!(back.rolled_back);
    install(&supervisor, "probe", &good);
    kill_9(&back);
    let mended = supervisor.until("a", |now| now.state == "ready" && now.pid != back.pid).await;
    assert!(!mended.rolled_back && mended.exec.ends_with("/probe"), "{mended:?}");
}

#[tokio::test]
async fn bad_configuration_is_believed_once_the_previous_program_finds_it_too() {
    let supervisor = Supervisor::start(&manifest(&[(1, "config", "restart = { floor = \"1ms\" }")]));
    supervisor.until("a", |a| a.state == "failed" && a.restarts == 0).await;
    install(&supervisor, "probe.previous", &fs::read(probe()).expect("probe"));
    supervisor.client().start(StartRequest { component: "a".into() }).await.expect_err("not ready");
    let a = supervisor.until("a", |a| a.state == "failed").await;
    // The two chances left, and the previous one.
    assert_eq!((a.restarts, a.rolled_back), (3, true), "{a:?}");
    assert_eq!(a.last_exit, "exit code 78: bad configuration, see its log");
}

#[tokio::test]
async fn program_is_not_blamed_for_being_late_while_what_it_calls_is_not_ready() {
    let late = "ready_timeout = \"50ms\"\nrestart = { floor = \"1ms\", ceiling = \"1ms\" }";
    let call = "calls = { keyholder = [\"Sign\"] }\nwhy = { calls = { keyholder = \"has it sign\" } }";
    let caller = format!("{late}\n{call}");
    let text = manifest(&[(1, "crash", ""), (2, "mute", &caller), (2, "mute", late)]);
    let supervisor = Supervisor::start(&text.replace("[component.a]", "[component.keyholder]"));
    install(&supervisor, "probe.previous", &fs::read(probe()).expect("probe"));
    // Calls nobody.
    supervisor.until("c", |c| c.rolled_back).await;
    let b = supervisor.until("b", |b| b.restarts >= 5).await;
    assert!(!b.rolled_back, "{b:?}");
}

#[tokio::test]
async fn memory_ceiling_is_a_reason_by_name() {
    let supervisor = Supervisor::start(&manifest(&[(1, "greedy", "limits = { memory = \"16M\" }")]));
    let reply = supervisor.client().status(StatusRequest {}).await.expect("status");
    let a = reply.components.first().expect("component");
    if a.memory_limit_kib == 0 {
        println!("skipped: no memory limits here ({}): {}", reply.cgroup, a.degraded.join("; "));
        return;
    }
    assert_eq!(a.memory_limit_kib, 16 * 1024);
    let a = supervisor.until("a", |a| a.memory_kills > 0).await;
    assert_eq!(a.last_exit, "memory ceiling of 16 MiB reached (killed by SIGKILL)");
    assert_eq!(a.hang_kills, 0);
}
