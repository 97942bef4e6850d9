//! Peers of another version, over a real socket.

use prost::Message as _;

use super::support::*;
use crate::frame::{self, Hello, Kind, PART};
use crate::*;

/// The hello of the version before this one, as it was.
#[derive(Clone, PartialEq, prost::Message)]
struct PreviousHello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    interface: String,
    #[prost(string, tag = "3")]
    component: String,
    #[prost(uint64, tag = "4")]
    generation: u64,
}

/// Its envelope, as it was.
#[derive(Clone, PartialEq, prost::Message)]
struct PreviousEnvelope {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    call: u64,
    #[prost(uint32, tag = "3")]
    method: u32,
    #[prost(uint64, tag = "4")]
    deadline_ms: u64,
    #[prost(bytes = "vec", tag = "8")]
    payload: Vec<u8>,
}

fn previous_frame(kind: Kind, call: u64, method: u32, payload: Vec<u8>) -> Vec<u8> {
    let envelope = PreviousEnvelope { kind: kind as i32, call, method, deadline_ms: 5000, payload };
    let mut frame = u32::try_from(envelope.encoded_len()).unwrap().to_be_bytes().to_vec();
    envelope.encode(&mut frame).unwrap();
    frame
}

fn previous_hello(component: &str) -> Vec<u8> {
    let hello = PreviousHello {
        protocol: 1,
        interface: TEST.name.into(),
        component: component.into(),
        generation: 3,
    };
    previous_frame(Kind::Hello, 0, 0, hello.encode_to_vec())
}

/// A peer's hello with other versions of the protocol.
fn speaking(oldest: u32, newest: u32, component: &str) -> Vec<u8> {
    let us = Identity::new(component, 1);
    let hello = Hello { protocol: oldest, newest, version: "9.9.0".into(), ..Hello::new(&TEST, &us) };
    frame::hello(&hello)
}

#[tokio::test]
async fn older_client_calls_and_gets_large_answers_whole() {
    let bus = Bus::up(link_for_all());
    let mut old = Raw::connect(&bus.path()).await;
    old.speak(1);
    old.send(previous_hello("client")).await;
    assert_eq!(old.receive().await.unwrap().kind, Kind::Hello);
    for size in [10, PART, 3 * 1024 * 1024] {
        let blob = Blob::of_size(size);
        old.send(previous_frame(Kind::Request, 7, 1, blob.encode_to_vec())).await;
        let answer = old.receive().await.unwrap();
        assert_eq!((answer.kind, answer.call, answer.total), (Kind::Reply, 7, None));
        assert_eq!(Blob::decode(answer.payload).unwrap(), blob);
    }
}

#[tokio::test]
async fn older_client_reads_a_stream_of_items_larger_than_a_part() {
    let bus = Bus::up(link_for_all());
    let mut old = Raw::connect(&bus.path()).await;
    old.speak(1);
    old.send(previous_hello("client")).await;
    assert_eq!(old.receive().await.unwrap().kind, Kind::Hello);
    let request = Blob { number: 2, data: vec![100].into() };
    old.send(previous_frame(Kind::Request, 1, 3, request.encode_to_vec())).await;
    for number in 0..2 {
        let item = old.receive().await.unwrap();
        assert_eq!((item.kind, item.total), (Kind::Item, None));
        let item = Blob::decode(item.payload).unwrap();
        assert_eq!((item.number, item.data.len()), (number, 100 * 1024));
    }
    assert_eq!(old.receive().await.unwrap().kind, Kind::End);
}

#[tokio::test]
async fn older_clients_hello_is_answered_in_its_own_terms() {
    let bus = Bus::up(link_for_all());
    let mut old = Raw::connect(&bus.path()).await;
    old.send(previous_hello("client")).await;
    // An older client accepts protocol 1 and its own interface, and knows no other field.
    let ours = Hello::new(&TEST, &Identity::new("server", 1)).encode_to_vec();
    let understood = PreviousHello::decode(ours.as_slice()).unwrap();
    assert_eq!((understood.protocol, understood.interface.as_str()), (1, TEST.name));
    assert_eq!(old.receive().await.unwrap().kind, Kind::Hello);
}

#[tokio::test]
async fn older_server_is_called_and_gets_large_requests_whole() {
    let bus = Bus::down();
    let listener = tokio::net::UnixListener::bind(bus.path()).unwrap();
    let serving = tokio::spawn(async move {
        let mut old = Raw::accept(&listener).await;
        old.speak(1);
        assert_eq!(old.receive().await.unwrap().kind, Kind::Hello);
        old.send(previous_hello("server")).await;
        for _ in 0..2 {
            let request = old.receive().await.unwrap();
            assert_eq!((request.kind, request.total), (Kind::Request, None));
            old.send(previous_frame(Kind::Reply, request.call, 0, request.payload.to_vec())).await;
        }
    });
    let caller = bus.caller();
    for size in [10, 2 * 1024 * 1024] {
        assert_eq!(caller.echo(Blob::of_size(size)).await.unwrap().data.len(), size);
    }
    serving.await.unwrap();
}

#[tokio::test]
async fn client_that_speaks_only_newer_versions_is_refused_with_both_named() {
    let bus = Bus::up(link_for_all());
    let mut newer = Raw::connect(&bus.path()).await;
    newer.send(speaking(3, 4, "client")).await;
    let words = newer.refusal().await;
    let ours = Identity::new("", 0).version;
    assert_eq!(words, format!("client 9.9.0 speaks protocol versions 3 to 4, server {ours} speaks 1 to 2"));
    violations(&bus, 1).await;
    assert_eq!(bus.server().links()[0].last_refusal, words);
}

#[tokio::test]
async fn server_that_speaks_only_newer_versions_is_refused_with_both_named() {
    let bus = Bus::down();
    let listener = tokio::net::UnixListener::bind(bus.path()).unwrap();
    let serving = tokio::spawn(async move {
        let mut newer = Raw::accept(&listener).await;
        newer.send(speaking(3, 4, "server")).await;
        while newer.receive().await.is_some() {}
    });
    let error = bus.caller().echo(Blob::default()).await.unwrap_err();
    let CallError::Refused(words) = error else { panic!("{error:?}") };
    let ours = Identity::new("", 0).version;
    assert!(
        words
            .ends_with(&format!("server 9.9.0 speaks protocol versions 3 to 4, client {ours} speaks 1 to 2")),
        "{words}"
    );
    serving.abort();
}

#[tokio::test]
async fn newer_peer_that_still_speaks_ours_is_taken_at_ours() {
    let bus = Bus::up(link_for_all());
    let mut newer = Raw::connect(&bus.path()).await;
    newer.send(speaking(2, 7, "client")).await;
    assert_eq!(newer.receive().await.unwrap().kind, Kind::Hello);
    newer.send(request(1, 1, &Blob::number(1))).await;
    assert_eq!(newer.receive().await.unwrap().kind, Kind::Reply);
}

/// The interface as a later version may have it.
static LATER: Interface = Interface {
    name: TEST.name,
    methods: &[
        Method { number: 1, name: "Echo", shape: Shape::Unary, max_request: MAX_PAYLOAD, at_once: 64 },
        Method { number: 2, name: "Hang", shape: Shape::Unary, max_request: 1024, at_once: 2 },
        Method { number: 3, name: "Count", shape: Shape::Stream, max_request: 1024, at_once: 2 },
        Method { number: 4, name: "Fail", shape: Shape::Unary, max_request: 1024, at_once: 64 },
        Method { number: 5, name: "Onward", shape: Shape::Unary, max_request: 1024, at_once: 64 },
        Method { number: 6, name: "Later", shape: Shape::Unary, max_request: MAX_PAYLOAD, at_once: 64 },
    ],
};

#[tokio::test]
async fn method_an_older_server_lacks_is_refused_by_name_and_the_others_go_on() {
    let bus = Bus::up(link_for_all());
    let caller = Channel::new(bus.path(), Identity::new("client", 5)).caller(&LATER);
    let echo = |number| {
        let caller = caller.clone();
        async move {
            let blob = Blob::number(number);
            caller.unary::<_, Blob, TestError>(&LATER.methods[0], &blob, DEFAULT_DEADLINE).await
        }
    };
    echo(1).await.unwrap();
    let error: CallError<TestError> =
        caller.unary::<_, Blob, _>(&LATER.methods[5], &Blob::default(), DEFAULT_DEADLINE).await.unwrap_err();
    let ours = Identity::new("", 0).version;
    assert_eq!(
        error,
        CallError::Refused(format!(
            "client to server: server {ours} does not have Later, method 6 of apiary.test.v1.Test: it ends at 5"
        ))
    );
    echo(2).await.unwrap();
    assert_eq!((bus.stats().connections_total, bus.stats().violations_total), (1, 0));
}

#[tokio::test]
async fn method_a_client_could_not_know_to_be_missing_is_refused_without_ending_the_link() {
    let bus = Bus::up(link_for_all());
    let mut newer = Raw::greeted(&bus).await;
    newer.send(request(1, 9, &Blob::default())).await;
    let got = newer.receive().await.unwrap();
    assert_eq!((got.kind, got.call), (Kind::Refused, 1));
    let ours = Identity::new("", 0).version;
    assert_eq!(got.text, format!("server {ours} has no method 9: its apiary.test.v1.Test ends at 5"));
    // One in parts is swallowed to its end.
    let head = frame::Head::request(2, 9, None);
    newer.send(part(head, PART + 10, &vec![1; PART])).await;
    assert_eq!(newer.receive().await.unwrap().kind, Kind::Refused);
    newer.send(part(frame::Head::of(Kind::Part, 2), 0, &[1; 10])).await;
    newer.send(request(3, 1, &Blob::number(3))).await;
    let got = newer.receive().await.unwrap();
    assert_eq!((got.kind, got.call), (Kind::Reply, 3));
    assert_eq!((bus.stats().connections_total, bus.stats().violations_total), (1, 2));
}
