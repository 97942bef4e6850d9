use std::sync::atomic::Ordering;

use super::support::*;
use crate::*;

#[tokio::test]
async fn items_come_in_order_and_then_none() {
    let bus = Bus::up(link_for_all());
    let mut stream = bus.caller().count(20_000, 0).await;
    for number in 0..20_000 {
        assert_eq!(stream.next().await.unwrap().unwrap().number, number);
    }
    assert!(stream.next().await.is_none());
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn error_after_items_comes_last() {
    let bus = Bus::up(link_for_all());
    let mut stream = bus.caller().count_then(1, 0, true).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Some(TestError::NotFound));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn items_larger_than_the_window_pass_one_after_the_other() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    // 255 KiB is about a window, alternating with small ones to leave an uneven rest.
    let (mut large, mut small) = (caller.count(50, 255).await, caller.count(50, 1).await);
    for _ in 0..50 {
        assert_eq!(large.next().await.unwrap().unwrap().data.len(), 255 * 1024);
        assert_eq!(small.next().await.unwrap().unwrap().data.len(), 1024);
    }
}

#[tokio::test]
async fn server_is_held_back_by_a_reader_that_stands_still() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut stream = caller.count(10_000, 1).await;
    assert_eq!(stream.next().await.unwrap().unwrap().number, 0);
    // Many round trips in which the server could run ahead.
    for _ in 0..200 {
        caller.echo(Blob::default()).await.unwrap();
    }
    let sent = bus.service.sent.load(Ordering::Relaxed);
    assert!(sent <= u64::from(STREAM_WINDOW) / 1024, "{sent} KiB sent ahead of the reader");
    // And lets it go on.
    for number in 1..10_000 {
        assert_eq!(stream.next().await.unwrap().unwrap().number, number);
    }
}

#[tokio::test]
async fn dropping_a_stream_ends_its_handler() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut stream = caller.count(u64::MAX, 1).await;
    stream.next().await.unwrap().unwrap();
    drop(stream);
    bus.see(Seen::Gone).await;
    caller.echo(Blob::default()).await.unwrap();
}

#[tokio::test]
async fn one_stream_too_many_is_refused_without_harm() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut open = [caller.count(u64::MAX, 1).await, caller.count(u64::MAX, 1).await];
    let refused = caller.count_then(1, 0, false).await.unwrap_err();
    assert_eq!(refused, CallError::Refused("client to server: 2 Count streams are open".into()));
    assert!(open[0].next().await.unwrap().is_ok());
    let [first, _second] = open;
    drop(first);
    let mut third = caller.count(1, 0).await;
    assert!(third.next().await.unwrap().is_ok());
    assert_eq!(bus.stats().violations_total, 0);
}

#[tokio::test]
async fn many_streams_and_calls_share_a_connection() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let (mut one, mut two) = (caller.count(3000, 0).await, caller.count(3000, 0).await);
    for number in 0..3000 {
        assert_eq!(one.next().await.unwrap().unwrap().number, number);
        assert_eq!(caller.echo(Blob::number(number)).await.unwrap().number, number);
        assert_eq!(two.next().await.unwrap().unwrap().number, number);
    }
    assert_eq!(bus.stats().connections_total, 1);
}
