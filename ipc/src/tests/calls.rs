use std::time::Duration;

use super::support::*;
use crate::*;

#[tokio::test]
async fn reply_carries_what_was_sent() {
    let bus = Bus::up(link_for_all());
    let blob = Blob { data: "hello".into(), number: 9 };
    assert_eq!(bus.caller().echo(blob.clone()).await, Ok(blob));
}

#[tokio::test]
async fn largest_message_goes_both_ways() {
    let bus = Bus::up(link_for_all());
    let blob = Blob::of_size(MAX_PAYLOAD - 5);
    assert_eq!(bus.caller().echo(blob.clone()).await.unwrap().data.len(), blob.data.len());
}

#[tokio::test]
async fn server_error_arrives_with_code_and_message() {
    let bus = Bus::up(link_for_all());
    let answer: Result<Blob, _> =
        bus.caller().unary(&TEST.methods[FAIL], &Blob::number(1), DEFAULT_DEADLINE).await;
    assert_eq!(answer, Err(CallError::Failed { code: TestError::NotFound, message: "no such blob".into() }));
}

#[tokio::test]
async fn error_code_of_a_newer_server_becomes_unspecified() {
    let bus = Bus::up(link_for_all());
    let answer: Result<Blob, CallError<TestError>> =
        bus.caller().unary(&TEST.methods[FAIL], &Blob::number(2), DEFAULT_DEADLINE).await;
    assert_eq!(answer.unwrap_err().code(), Some(TestError::Unspecified));
}

#[tokio::test]
async fn more_calls_than_may_be_in_flight_wait_for_each_other_on_one_connection() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let calls = (0..500).map(|number| caller.echo(Blob::number(number)));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.into_iter().map(Result::unwrap).map(|blob| blob.number).eq(0..500));
    assert_eq!(bus.stats(), Stats { connections_total: 1, calls_total: 500, violations_total: 0 });
}

fn peer(component: String) -> Peer {
    let version = Identity::new("", 0).version.to_owned();
    Peer { component, uid: our_uid(), pid: std::process::id(), generation: 5, version }
}

#[tokio::test]
async fn peer_of_a_link_is_the_client_it_was_made_for() {
    let mut bus = Bus::up(link_for_all());
    bus.caller().echo(Blob::default()).await.unwrap();
    let peer = peer("client".to_owned());
    bus.see(Seen::Peer(peer)).await;
}

#[tokio::test]
async fn peer_of_a_socket_for_anyone_is_its_uid() {
    let mut bus = Bus::up(Admission::AnyUser);
    bus.caller().echo(Blob::default()).await.unwrap();
    let peer = peer(format!("uid:{}", our_uid()));
    bus.see(Seen::Peer(peer)).await;
}

#[tokio::test]
async fn deadline_ends_the_call_and_its_handler() {
    let mut bus = Bus::up(link_for_all());
    let answer = bus.caller().hang(Duration::from_millis(20)).await;
    assert_eq!(answer, Err(CallError::Deadline));
    bus.see(Seen::Hanging).await;
    bus.see(Seen::Dropped).await;
}

#[tokio::test]
async fn endless_deadline_is_no_overflow() {
    let bus = Bus::up(link_for_all());
    let answer: Result<Blob, CallError<TestError>> =
        bus.caller().unary(&TEST.methods[ECHO], &Blob::number(1), Duration::MAX).await;
    assert_eq!(answer, Ok(Blob::number(1)));
}

#[tokio::test]
async fn dropping_a_call_cancels_it_on_the_server() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.hang(Duration::from_mins(1)).await }
    });
    bus.see(Seen::Hanging).await;
    call.abort();
    bus.see(Seen::Dropped).await;
    // The connection lives on.
    caller.echo(Blob::default()).await.unwrap();
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn cancelled_calls_make_room_for_new_ones() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    // Hang admits two at once; each of these is cancelled at its deadline.
    for _ in 0..6 {
        assert_eq!(caller.hang(Duration::from_millis(1)).await, Err(CallError::Deadline));
    }
    assert_eq!(bus.stats().violations_total, 0);
    bus.seen.close();
}

#[tokio::test]
async fn listener_for_an_unknown_method_is_not_served() {
    let bus = Bus::down();
    let server = Server::new(Identity::new("server", 1), bus.service.clone());
    let error = server.serve(bind(&bus.path(), 0o600).unwrap(), link(&["Ecko"])).unwrap_err();
    assert_eq!(error.to_string(), "link for client allows Ecko, which apiary.test.v1.Test does not have");
}

#[tokio::test]
async fn bind_sets_the_mode_and_replaces_a_stale_socket() {
    use std::os::unix::fs::PermissionsExt;
    let bus = Bus::down();
    drop(bind(&bus.path(), 0o600).unwrap());
    let _listener = bind(&bus.path(), 0o660).unwrap();
    let mode = std::fs::metadata(bus.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}
