use std::sync::atomic::Ordering;

use super::support::*;
use crate::frame::{self, Kind};
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

#[tokio::test]
async fn an_item_too_large_to_send_is_a_refusal_and_no_end() {
    let bus = Bus::up(link_for_all());
    let request = Blob { number: 2, data: vec![0, 0, 1].into() };
    let caller = bus.caller();
    // More often than there are places: each is free again.
    for _ in 0..4 {
        let mut stream: Streaming<Blob, TestError> =
            caller.stream(&TEST.methods[COUNT], &request).await.unwrap();
        for number in 0..2 {
            assert_eq!(stream.next().await.unwrap().unwrap().number, number);
        }
        let error = stream.next().await.expect("no clean end").unwrap_err();
        let CallError::Refused(words) = error else { panic!("{error:?}") };
        assert!(words.ends_with("is larger than a message may be"), "{words}");
    }
    let mut raw = Raw::greeted(&bus).await;
    raw.send(super::support::request(1, 3, &request)).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(raw.receive().await.unwrap().kind);
    }
    raw.send(super::support::request(2, 1, &Blob::default())).await;
    kinds.push(raw.receive().await.unwrap().kind);
    assert_eq!(kinds, [Kind::Item, Kind::Item, Kind::Refused, Kind::Reply]);
    let [link] = bus.server().links().try_into().unwrap();
    assert_eq!((link.methods[COUNT].calls_total, link.methods[COUNT].failures_total), (5, 5));
    assert_eq!(link.refusals_total, 0);
}

#[tokio::test]
async fn the_first_last_word_of_a_stream_counts() {
    let bus = Bus::down();
    let listener = tokio::net::UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let serving = async {
        let mut server = Raw::accept_as(&listener, "server").await;
        let call = server.requested().await;
        let words = written(|out| {
            frame::refused(out, call, "no more");
            frame::end(out, call);
        });
        server.send(words).await;
        server
    };
    let (mut stream, _server) = tokio::join!(caller.count(1, 0), serving);
    let error = stream.next().await.expect("no clean end").unwrap_err();
    assert_eq!(error, CallError::Refused("client to server: no more".into()));
}
