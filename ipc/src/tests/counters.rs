use std::time::Duration;

use super::support::*;
use crate::*;

#[tokio::test]
async fn calls_failures_and_bytes_are_counted_by_link() {
    let bus = Bus::up(link(&["Echo", "Fail"]));
    let caller = bus.caller();
    for _ in 0..3 {
        caller.echo(Blob::of_size(1000)).await.unwrap();
    }
    let failed: Result<Blob, CallError<TestError>> =
        caller.unary(&TEST.methods[FAIL], &Blob::number(1), Duration::from_secs(5)).await;
    failed.unwrap_err();
    let [link] = bus.server().links().try_into().unwrap();
    assert_eq!((link.client.as_str(), link.connections_total, link.connections_open), ("client", 1, 1));
    let methods: Vec<_> = link.methods.iter().map(|m| (m.name, m.calls_total, m.failures_total)).collect();
    assert_eq!(methods, [("Echo", 3, 0), ("Fail", 1, 1)]);
    assert_eq!(link.latency.iter().sum::<u64>(), 4);
    assert!(link.latency_sum > Duration::ZERO);
    assert!((3_000..4_000).contains(&link.received_bytes), "{} bytes received", link.received_bytes);
    assert!((3_000..4_000).contains(&link.sent_bytes), "{} bytes sent", link.sent_bytes);
}

#[tokio::test]
async fn late_and_cancelled_calls_are_failures() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    assert_eq!(caller.hang(Duration::from_millis(5)).await, Err(CallError::Deadline));
    bus.see(Seen::Hanging).await;
    bus.see(Seen::Dropped).await;
    caller.echo(Blob::default()).await.unwrap();
    assert_eq!(bus.server().links()[0].methods[HANG].failures_total, 1);
}

#[tokio::test]
async fn calls_that_end_with_their_connection_are_failures() {
    let mut bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    raw.send(request(1, 2, &Blob::default())).await;
    bus.see(Seen::Hanging).await;
    drop(raw);
    bus.see(Seen::Dropped).await;
    let [link] = bus.server().links().try_into().unwrap();
    assert_eq!((link.methods[HANG].failures_total, link.refusals_total), (1, 0));
}

#[tokio::test]
async fn a_refusal_is_counted_with_its_reason() {
    let bus = Bus::up(link(&["Echo"]));
    bus.caller().hang(Duration::from_secs(5)).await.unwrap_err();
    violations(&bus, 1).await;
    let [link] = bus.server().links().try_into().unwrap();
    assert_eq!((link.refusals_total, link.connections_open), (1, 0));
    assert!(link.last_refusal.contains("Hang"), "{}", link.last_refusal);
}

#[tokio::test]
async fn counting_wakes_whoever_reports_and_silence_does_not() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    caller.echo(Blob::default()).await.unwrap();
    bus.server().counted().await;
    bus.server().links();
    let silence = tokio::time::timeout(Duration::from_millis(50), bus.server().counted()).await;
    assert!(silence.is_err(), "nothing was counted");
    caller.echo(Blob::default()).await.unwrap();
    bus.server().counted().await;
}

#[tokio::test]
async fn a_peer_that_hangs_is_disconnected_and_no_rule_breaker() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    // 16 answers of 60 KiB: more than the socket takes.
    for call in 1..=16 {
        raw.send(request(call, 1, &Blob::of_size(60 * 1024))).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let closed = async {
        while bus.server().links()[0].connections_open > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the peer is disconnected");
    assert_eq!(bus.server().links()[0].refusals_total, 0);
    drop(raw);
}
