//! What the client does with its own mistakes, and with a server that breaks the protocol.

use std::time::Duration;

use tokio::net::UnixListener;

use super::support::*;
use crate::frame::{self, Frame, Hello};
use crate::*;

#[tokio::test]
async fn oversized_request_is_refused_before_it_is_sent() {
    let bus = Bus::down();
    let answer: Result<Blob, CallError<TestError>> =
        bus.caller().unary(&TEST.methods[HANG], &Blob::of_size(1024), Duration::from_secs(5)).await;
    let expected = "Hang takes at most 1024 bytes, these are 1027";
    assert_eq!(answer, Err(CallError::Refused(expected.into())));
}

#[tokio::test]
async fn call_the_link_does_not_allow_is_refused_and_not_repeated() {
    let bus = Bus::up(link(&["Echo"]));
    let error = bus.caller().hang(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, CallError::Refused("client may not call Hang".into()));
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn refusal_at_the_hello_reaches_the_caller() {
    let bus = Bus::up(Admission::Link { client: "edged".into(), uid: our_uid(), methods: vec![] });
    let error = bus.caller().echo(Blob::default()).await.unwrap_err();
    assert_eq!(error, CallError::Refused("this link is for edged, not for client".into()));
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
async fn server_of_another_protocol_version_is_refused() {
    let answer = served_by(|listener| async move {
        let mut server = Raw::accept(&listener).await;
        let hello =
            Hello { protocol: 9, interface: TEST.name.into(), component: "old".into(), generation: 1 };
        server.send(frame::raw_hello(&hello)).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(answer, Err(CallError::Refused("old speaks protocol version 9, this client 1".into())));
}

#[tokio::test]
async fn server_of_another_interface_is_refused() {
    let answer = served_by(|listener| async move {
        let mut server = Raw::accept(&listener).await;
        server.send(frame::hello("a.b.C", &Identity::new("old", 1))).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(answer, Err(CallError::Refused("old serves a.b.C, not apiary.test.v1.Test".into())));
}

#[tokio::test]
async fn servers_garbage_is_a_lost_connection() {
    let answer = served_by(|listener| async move {
        loop {
            let mut server = Raw::accept(&listener).await;
            let _ = server.receive().await;
            server.send(frame::hello(TEST.name, &Identity::new("server", 1))).await;
            server.send(vec![0xff; 16].into()).await;
            while server.receive().await.is_some() {}
        }
    })
    .await;
    let Err(CallError::Disconnected(reason)) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("server broke the protocol"), "{reason}");
}

#[tokio::test]
async fn item_beyond_the_credit_ends_the_connection() {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let serving = tokio::spawn(async move {
        let mut server = Raw::accept(&listener).await;
        assert!(matches!(server.receive().await, Some(Frame::Hello(_))));
        server.send(frame::hello(TEST.name, &Identity::new("server", 1))).await;
        let Some(Frame::Request { call, .. }) = server.receive().await else { panic!("no request") };
        for _ in 0..3 {
            server.send(frame::item(call, &Blob::of_size(STREAM_WINDOW as usize))).await;
        }
        assert_eq!(server.receive().await, None, "the client stays with a server that floods it");
    });
    let mut stream = caller.count(1, 0).await;
    serving.await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    assert!(stream.next().await.unwrap().is_ok());
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("beyond the stream's credit"), "{error}");
}

#[tokio::test]
async fn answer_that_is_no_message_is_malformed() {
    let answer = served_by(|listener| async move {
        let mut server = Raw::accept(&listener).await;
        let _ = server.receive().await;
        server.send(frame::hello(TEST.name, &Identity::new("server", 1))).await;
        let Some(Frame::Request { call, .. }) = server.receive().await else { panic!("no request") };
        server.send(frame::reply_bytes(call, &[0xff, 0xff])).await;
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
