//! Messages larger than a part: nobody waits long for them, and nobody makes us hold more than agreed.

use std::time::Duration;

use prost::Message as _;

use super::support::*;
use crate::frame::{Head, Kind, PART};

const MIB: usize = 1024 * 1024;

/// The first part of an `Echo` of this size, and what is missing of it.
fn first_part(call: u64, total: usize) -> Vec<u8> {
    part(Head::request(call, 1, None), total, &vec![7; PART])
}

fn further_part(call: u64, length: usize) -> Vec<u8> {
    part(Head::of(Kind::Part, call), 0, &vec![7; length])
}

async fn refused(frames: Vec<Vec<u8>>) -> String {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    for frame in frames {
        raw.send(frame).await;
    }
    let words = raw.refusal().await;
    violations(&bus, 1).await;
    words
}

#[tokio::test]
async fn large_calls_and_items_arrive_whole_beside_each_other() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut stream = caller.count(20, 255).await;
    let calls = (1..=6).map(|mib| {
        let caller = caller.clone();
        async move {
            let data: Vec<u8> = (0..mib * MIB / 2).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let sent = Blob { data: data.into(), number: 1 };
            assert_eq!(caller.echo(sent.clone()).await.unwrap(), sent);
        }
    });
    let items = async {
        for number in 0..20 {
            let item = stream.next().await.unwrap().unwrap();
            assert_eq!((item.number, item.data.len()), (number, 255 * 1024));
        }
        assert!(stream.next().await.is_none());
    };
    tokio::join!(futures_util::future::join_all(calls), items);
    assert_eq!(bus.stats().violations_total, 0);
}

#[tokio::test]
async fn small_answer_waits_for_one_part_of_a_large_one_at_most() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    let large = Blob::of_size(2 * MIB);
    let mut sent = Vec::new();
    let bytes = large.encode_to_vec();
    for (at, chunk) in bytes.chunks(PART).enumerate() {
        let head = if at == 0 { Head::request(1, 1, None) } else { Head::of(Kind::Part, 1) };
        sent.extend(part(head, if at == 0 { bytes.len() } else { 0 }, chunk));
    }
    raw.send(sent).await;
    // The large answer has begun, and the socket is full of it.
    let first = raw.receive().await.unwrap();
    assert_eq!((first.kind, first.total), (Kind::Reply, Some(bytes.len())));
    raw.send(request(2, 1, &Blob::number(2))).await;
    // What the socket held when the small one came, one part more, and there it is.
    let mut before = 0;
    while raw.receive().await.unwrap().call == 1 {
        before += 1;
    }
    assert!(before * PART < MIB, "{before} parts came before the small answer");
    assert!(bytes.len() / PART - before > 8, "the large answer was over before the small one");
}

#[tokio::test]
async fn burst_of_16_mib_streams_through_a_window_of_256_kib() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut stream = caller.count(16 * 8, 128).await;
    let mut bytes = 0;
    while let Some(item) = stream.next().await {
        bytes += item.unwrap().data.len();
        // A neighbour's call gets through all the while.
        caller.echo(Blob::number(1)).await.unwrap();
    }
    assert_eq!(bytes, 16 * MIB);
}

#[tokio::test]
async fn cancelled_large_call_leaves_nothing_behind() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    for _ in 0..20 {
        // Given up somewhere between the first part of the request and the last of the answer.
        let wait = Duration::from_micros(fastrand::u64(0..3000));
        let blob = Blob::of_size(3 * MIB);
        let _ = caller.unary::<_, Blob, TestError>(&TEST.methods[ECHO], &blob, wait).await;
    }
    caller.echo(Blob::of_size(4 * MIB - 8)).await.unwrap();
    assert_eq!((bus.stats().violations_total, bus.stats().connections_total), (0, 1));
    bus.seen.close();
}

#[tokio::test]
async fn more_bytes_in_requests_than_agreed_wait_for_their_turn() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let calls = (0..10).map(|_| caller.echo(Blob::of_size(2 * MIB)));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().data.len(), 2 * MIB);
    }
    assert_eq!(bus.stats().violations_total, 0);
    bus.seen.close();
}

#[tokio::test]
async fn unfinished_messages_beyond_the_bound_are_refused() {
    let frames = (1..=3).map(|call| first_part(call, 3 * MIB)).collect();
    assert_eq!(refused(frames).await, "more than 5242880 bytes in requests at once");
}

#[tokio::test]
async fn part_of_no_message_is_refused() {
    assert_eq!(refused(vec![further_part(9, 10)]).await, "a part of no message of call 9");
}

#[tokio::test]
async fn part_beyond_the_messages_length_is_refused() {
    let frames = vec![first_part(1, PART + 10), further_part(1, 11)];
    assert_eq!(refused(frames).await, "a part of 11 bytes where 10 are missing");
    let frames = vec![first_part(1, PART + 10), further_part(1, 0)];
    assert_eq!(refused(frames).await, "a part of 0 bytes where 10 are missing");
}

#[tokio::test]
async fn small_message_in_parts_is_refused() {
    let words = refused(vec![part(Head::request(1, 1, None), 20, &[7; 10])]).await;
    assert_eq!(words, "a message of 20 bytes in parts, the first of 10");
}

#[tokio::test]
async fn announced_length_above_the_methods_bound_is_refused() {
    let words = refused(vec![part(Head::request(1, 2, None), PART + 1, &[7; 10])]).await;
    assert_eq!(words, "Hang takes at most 1024 bytes, these are 65537");
}

#[tokio::test]
async fn second_message_of_a_call_that_is_arriving_is_refused() {
    let words = refused(vec![first_part(1, MIB), first_part(1, MIB)]).await;
    assert_eq!(words, "call number 1 is in use");
}

#[tokio::test]
async fn cancelled_message_makes_room_for_another() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    for call in 1..=20 {
        raw.send(first_part(call, 4 * MIB - 8)).await;
        raw.send(written(|out| crate::frame::cancel(out, call))).await;
    }
    raw.send(request(50, 1, &Blob::number(1))).await;
    assert_eq!(raw.receive().await.unwrap().call, 50);
    assert_eq!(bus.stats().violations_total, 0);
}
