//! What the server does with a peer that breaks a rule: words, disconnection, a count.

use std::time::Duration;

use prost::Message;

use super::support::*;
use crate::frame::{self, Kind};
use crate::*;

/// Sends frames after the hello and returns the server's parting words.
async fn refused(admission: Admission, frames: Vec<Vec<u8>>) -> String {
    let bus = Bus::up(admission);
    let mut raw = Raw::greeted(&bus).await;
    for frame in frames {
        raw.send(frame).await;
    }
    let words = raw.refusal().await;
    violations(&bus, 1).await;
    words
}

/// Sends one frame in place of a hello.
async fn refused_at_first(admission: Admission, first: Vec<u8>) -> String {
    let bus = Bus::up(admission);
    let mut raw = Raw::connect(&bus.path()).await;
    raw.send(first).await;
    let words = raw.refusal().await;
    violations(&bus, 1).await;
    words
}

#[tokio::test]
async fn wrong_uid_is_refused() {
    let admission = Admission::Link { client: "client".into(), uid: our_uid() + 1, methods: vec![] };
    let words = refused_at_first(admission, hello(&TEST, "client")).await;
    let ours = our_uid();
    assert_eq!(words, format!("this link is for client, uid {}, not for uid {ours}", ours + 1));
}

#[tokio::test]
async fn component_of_another_name_is_refused() {
    let words = refused_at_first(link_for_all(), hello(&TEST, "edged")).await;
    assert_eq!(words, "this link is for client, not for edged");
}

#[tokio::test]
async fn other_interface_is_refused() {
    static OTHER: Interface = Interface { name: "a.b.C", methods: &[] };
    let words = refused_at_first(link_for_all(), hello(&OTHER, "client")).await;
    assert_eq!(words, "interface a.b.C, this server has apiary.test.v1.Test");
}

#[tokio::test]
async fn request_before_the_hello_is_refused() {
    let words = refused_at_first(link_for_all(), request(1, 1, &Blob::default())).await;
    assert_eq!(words, "the first frame is no hello");
}

#[tokio::test]
async fn method_outside_the_links_list_is_refused() {
    let words = refused(link(&["Echo"]), vec![request(1, 4, &Blob::default())]).await;
    assert_eq!(words, "client may not call Fail");
}

#[tokio::test]
async fn method_zero_is_refused() {
    let words = refused(link_for_all(), vec![request(1, 0, &Blob::default())]).await;
    assert!(words.contains("has no method 0"), "{words}");
}

#[tokio::test]
async fn request_above_its_methods_bound_is_refused() {
    let words = refused(link_for_all(), vec![request(1, 2, &Blob::of_size(1024))]).await;
    assert_eq!(words, "Hang takes at most 1024 bytes, these are 1027");
}

#[tokio::test]
async fn frame_above_the_frame_bound_is_refused_before_it_is_read() {
    // Only the length: nothing behind it needs to come.
    let words = refused(link_for_all(), vec![u32::MAX.to_be_bytes().to_vec()]).await;
    assert_eq!(words, "frame of 4294967295 bytes, at most 69760 are allowed");
}

#[tokio::test]
async fn request_that_does_not_decode_is_refused() {
    // The payload of another message: field 1 is a number here.
    #[derive(Clone, PartialEq, Message)]
    struct Other {
        #[prost(fixed64, tag = "1")]
        number: u64,
    }
    let frame = request(1, 1, &Other { number: 3 });
    let words = refused(link_for_all(), vec![frame]).await;
    assert!(words.starts_with("request of Echo does not decode"), "{words}");
}

#[tokio::test]
async fn frame_that_does_not_decode_is_refused() {
    let garbage = [&32_u32.to_be_bytes()[..], &[0xff; 32]].concat();
    let words = refused(link_for_all(), vec![garbage]).await;
    assert!(words.starts_with("frame does not decode"), "{words}");
}

#[tokio::test]
async fn more_calls_at_once_than_the_method_admits_are_refused() {
    let hangs = (1..=3).map(|call| request(call, 2, &Blob::default())).collect();
    let words = refused(link_for_all(), hangs).await;
    assert_eq!(words, "more than 2 calls of Hang at once");
}

#[tokio::test]
async fn call_number_in_use_is_refused() {
    let hangs = vec![request(1, 2, &Blob::default()), request(1, 2, &Blob::default())];
    assert_eq!(refused(link_for_all(), hangs).await, "call number 1 is in use");
    assert_eq!(
        refused(link_for_all(), vec![request(0, 2, &Blob::default())]).await,
        "call number 0 is in use"
    );
}

#[tokio::test]
async fn credit_beyond_the_window_is_refused() {
    let frames = vec![
        request(1, 3, &Blob { number: u64::MAX, data: vec![1].into() }),
        written(|out| frame::credit(out, 1, u32::MAX)),
    ];
    assert_eq!(refused(link_for_all(), frames).await, "credit beyond the stream window");
}

#[tokio::test]
async fn credit_for_a_unary_call_is_refused() {
    let frames = vec![request(1, 2, &Blob::default()), written(|out| frame::credit(out, 1, 1))];
    assert_eq!(refused(link_for_all(), frames).await, "credit for a call that is no stream");
}

#[tokio::test]
async fn servers_frame_from_a_client_is_refused() {
    let frames = vec![message(Kind::Reply, 1, &Blob::default())];
    assert_eq!(refused(link_for_all(), frames).await, "a frame only servers send");
}

#[tokio::test]
async fn cancel_and_credit_for_a_finished_call_are_no_violation() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    raw.send(written(|out| frame::cancel(out, 9))).await;
    raw.send(written(|out| frame::credit(out, 9, 100))).await;
    raw.send(request(1, 1, &Blob::number(8))).await;
    let got = raw.receive().await.unwrap();
    assert_eq!((got.kind, got.call), (Kind::Reply, 1));
    assert_eq!(bus.stats().violations_total, 0);
}

#[tokio::test]
async fn client_that_breaks_a_rule_does_not_disturb_another() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    caller.echo(Blob::default()).await.unwrap();
    let mut raw = Raw::greeted(&bus).await;
    raw.send(request(1, 0, &Blob::default())).await;
    raw.refusal().await;
    caller.echo(Blob::default()).await.unwrap();
    assert_eq!(bus.stats().connections_total, 2);
}

#[tokio::test]
async fn server_reads_no_further_request_of_a_peer_that_takes_no_answers() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    // Far more than the queue and both socket buffers hold; each echo answers 60 KiB.
    let sent = async {
        for call in 1.. {
            raw.send(request(call, 1, &Blob::of_size(60 * 1024))).await;
        }
    };
    let stuck = tokio::time::timeout(Duration::from_millis(500), sent).await;
    assert!(stuck.is_err(), "the peer could send without end");
    let started = usize::try_from(bus.stats().calls_total).unwrap();
    assert!(started * 60 * 1024 < 4 * crate::WRITE_QUEUE, "{started} calls were started");
}
