use std::time::Duration;

use super::support::*;
use crate::*;

/// Calls from a thread, as rustls does from its handshake.
async fn call(
    channel: &crate::blocking::Channel,
    method: usize,
    blob: Blob,
    deadline: Duration,
) -> Result<Blob, CallError<TestError>> {
    let channel = channel.clone();
    tokio::task::spawn_blocking(move || channel.unary(&TEST, &TEST.methods[method], &blob, deadline))
        .await
        .unwrap()
}

fn channel(bus: &Bus) -> crate::blocking::Channel {
    crate::blocking::Channel::new(bus.path(), Identity::new("client", 5))
}

#[tokio::test]
async fn calls_share_one_connection() {
    let bus = Bus::up(link_for_all());
    let channel = channel(&bus);
    for number in 0..10 {
        let reply = call(&channel, ECHO, Blob::number(number), Duration::from_secs(5)).await;
        assert_eq!(reply, Ok(Blob::number(number)));
    }
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn server_error_arrives_and_keeps_the_connection() {
    let bus = Bus::up(link_for_all());
    let channel = channel(&bus);
    let answer = call(&channel, FAIL, Blob::number(1), Duration::from_secs(5)).await;
    assert_eq!(answer.unwrap_err().code(), Some(TestError::NotFound));
    call(&channel, ECHO, Blob::default(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn call_is_repeated_to_a_restarted_server() {
    let mut bus = Bus::up(link_for_all());
    let channel = channel(&bus);
    call(&channel, ECHO, Blob::default(), Duration::from_secs(5)).await.unwrap();
    bus.stop();
    bus.start(2, link_for_all());
    call(&channel, ECHO, Blob::default(), Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn deadline_ends_the_call_and_the_next_one_works() {
    let mut bus = Bus::up(link_for_all());
    let channel = channel(&bus);
    let answer = call(&channel, HANG, Blob::default(), Duration::from_millis(30)).await;
    assert_eq!(answer, Err(CallError::Deadline));
    bus.see(Seen::Hanging).await;
    bus.see(Seen::Dropped).await;
    call(&channel, ECHO, Blob::default(), Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn call_without_any_server_says_which_socket_it_tried() {
    let bus = Bus::down();
    let answer = call(&channel(&bus), ECHO, Blob::default(), Duration::from_millis(50)).await;
    let Err(CallError::Disconnected(reason)) = answer else { panic!("{answer:?}") };
    assert!(reason.contains(bus.path().to_str().unwrap()), "{reason}");
}

#[tokio::test]
async fn refusal_is_not_repeated() {
    let bus = Bus::up(link(&["Echo"]));
    let answer = call(&channel(&bus), FAIL, Blob::number(1), Duration::from_secs(5)).await;
    assert_eq!(answer, Err(CallError::Refused("client to server: client may not call Fail".into())));
    assert_eq!(bus.stats().connections_total, 1);
}

#[tokio::test]
async fn a_full_backlog_is_waited_for_no_longer_than_the_deadline() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let bus = Bus::down();
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&bus.path()).unwrap()).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _only = std::os::unix::net::UnixStream::connect(bus.path()).unwrap();
    let channel = channel(&bus);
    let answer = call(&channel, ECHO, Blob::default(), Duration::from_millis(100));
    let answer = tokio::time::timeout(Duration::from_secs(5), answer);
    assert_eq!(answer.await.expect("the deadline holds"), Err(CallError::Deadline));
}

#[tokio::test]
async fn a_call_behind_a_longer_one_ends_at_its_own_deadline() {
    let mut bus = Bus::up(link_for_all());
    let channel = channel(&bus);
    let hanging = call(&channel, HANG, Blob::default(), Duration::from_secs(2));
    let short = async {
        bus.see(Seen::Hanging).await;
        let started = std::time::Instant::now();
        (call(&channel, ECHO, Blob::default(), Duration::from_millis(100)).await, started.elapsed())
    };
    let (hung, (answer, took)) = tokio::join!(hanging, short);
    assert_eq!((hung, answer), (Err(CallError::Deadline), Err(CallError::Deadline)));
    assert!(took < Duration::from_secs(1), "{took:?}");
    call(&channel, ECHO, Blob::number(3), Duration::from_secs(5)).await.unwrap();
}
