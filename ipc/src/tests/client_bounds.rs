//! What the client does with its own mistakes, and with a server that breaks the protocol.

use std::time::Duration;

use tokio::net::UnixListener;

use super::support::*;
use crate::frame::Kind;
use crate::*;

#[tokio::test]
async fn oversized_request_is_refused_before_it_is_sent() {
    let bus = Bus::down();
    let answer: Result<Blob, CallError<TestError>> =
        bus.caller().unary(&TEST.methods[HANG], &Blob::of_size(1024), Duration::from_secs(5)).await;
    let Err(CallError::Refused(words)) = answer else { panic!("{answer:?}") };
    assert!(words.ends_with("Hang takes at most 1024 bytes, these are 1027"), "{words}");
}

#[tokio::test]
async fn call_the_link_does_not_allow_is_refused_and_not_repeated() {
    let bus = Bus::up(link(&["Echo"]));
    let error = bus.caller().hang(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, CallError::Refused("client to server: client may not call Hang".into()));
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn refusal_at_the_hello_reaches_the_caller() {
    let bus = Bus::up(Admission::Link { client: "edged".into(), uid: our_uid(), methods: vec![] });
    let error = bus.caller().echo(Blob::default()).await.unwrap_err();
    let CallError::Refused(words) = error else { panic!("{error:?}") };
    assert!(words.starts_with("client to /"), "{words}");
    assert!(words.ends_with(": this link is for edged, not for client"), "{words}");
}

/// A server written by hand behind a client of one call.
async fn served_by<F: Future<Output = ()>>(
    serve: impl FnOnce(UnixListener) -> F,
) -> Result<Blob, CallError<TestError>> {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let call = caller.hang(Duration::from_millis(300));
    tokio::pin!(call);
    let mut serving = std::pin::pin!(serve(listener));
    tokio::select! {
        answer = &mut call => answer,
        () = &mut serving => call.await,
    }
}

#[tokio::test]
async fn server_of_another_interface_is_refused() {
    static OTHER: Interface = Interface { name: "a.b.C", methods: &[] };
    let answer = served_by(|listener| async move {
        let mut server = Raw::accept(&listener).await;
        server.send(hello(&OTHER, "old")).await;
        std::future::pending::<()>().await;
    })
    .await;
    let Err(CallError::Refused(words)) = answer else { panic!("{answer:?}") };
    assert!(words.ends_with("serves a.b.C, not apiary.test.v1.Test"), "{words}");
}

#[tokio::test]
async fn servers_garbage_is_a_lost_connection() {
    let answer = served_by(|listener| async move {
        loop {
            let mut server = Raw::accept_as(&listener, "server").await;
            server.send([&16_u32.to_be_bytes()[..], &[0xff; 16]].concat()).await;
            while server.receive().await.is_some() {}
        }
    })
    .await;
    let Err(CallError::Disconnected(reason)) = answer else { panic!("{answer:?}") };
    assert!(reason.starts_with("client to server: the server broke the protocol"), "{reason}");
}

#[tokio::test]
async fn item_beyond_the_credit_ends_the_connection() {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let serving = tokio::spawn(async move {
        let mut server = Raw::accept_as(&listener, "server").await;
        let call = server.requested().await;
        // Each costs its 60 KiB and 64 bytes, and the window is 256 KiB.
        for _ in 0..5 {
            server.send(message(Kind::Item, call, &Blob::of_size(60 * 1024))).await;
        }
        assert_eq!(server.receive().await, None, "the client stays with a server that floods it");
    });
    let mut stream = caller.count(1, 0).await;
    serving.await.unwrap();
    for _ in 0..4 {
        assert!(stream.next().await.unwrap().is_ok());
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("beyond the stream's credit"), "{error}");
}

#[tokio::test]
async fn answer_that_is_no_message_is_malformed() {
    let answer = served_by(|listener| async move {
        let mut server = Raw::accept_as(&listener, "server").await;
        let call = server.requested().await;
        // Kind 3, its call, and a payload of two bytes that are no message.
        server.send(vec![0, 0, 0, 8, 0x08, 3, 0x10, u8::try_from(call).unwrap(), 0x42, 2, 0xff, 0xff]).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(answer, Err(CallError::Malformed(_))), "{answer:?}");
}

#[tokio::test]
async fn channel_of_one_interface_does_not_serve_another() {
    static OTHER: Interface = Interface { name: "apiary.other.v1.Other", methods: TEST.methods };
    let bus = Bus::up(link_for_all());
    let channel = Channel::new(bus.path(), Identity::new("client", 1));
    let _first = channel.caller(&TEST);
    let error = channel.caller(&OTHER).echo(Blob::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error:?}");
}
