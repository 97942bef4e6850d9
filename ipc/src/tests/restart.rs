use std::time::Duration;

use super::support::*;
use crate::*;

#[tokio::test]
async fn call_made_before_its_server_waits_for_it() {
    let mut bus = Bus::down();
    let caller = bus.caller();
    let call = tokio::spawn(async move { caller.echo(Blob::number(3)).await });
    tokio::task::yield_now().await;
    bus.start(1, link_for_all());
    assert_eq!(call.await.unwrap().unwrap().number, 3);
}

#[tokio::test]
async fn call_in_an_inherited_backlog_is_answered_by_the_server_that_comes() {
    let mut bus = Bus::down();
    // The supervisor's listener, before the component runs.
    let listener = bind(&bus.path(), 0o600).unwrap();
    let caller = bus.caller();
    // This one gives up while it waits for the hello; the next goes on on the same connection.
    let early = caller.hang(Duration::from_millis(5)).await;
    assert!(early.unwrap_err().is_transient());
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(Blob::number(4)).await }
    });
    let server = Server::new(Identity::new("server", 1), bus.service.clone());
    server.serve(listener, link_for_all()).unwrap();
    assert_eq!(call.await.unwrap().unwrap().number, 4);
    assert_eq!(server.stats().connections_total, 1);
    bus.seen.close();
}

#[tokio::test]
async fn call_in_flight_is_repeated_to_the_next_server() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.hang(Duration::from_secs(5)).await }
    });
    bus.see(Seen::Hanging).await;
    bus.stop();
    bus.see(Seen::Dropped).await;
    bus.start(2, link_for_all());
    bus.see(Seen::Hanging).await;
    assert_eq!(caller.channel().server_generation(), Some(2));
    call.abort();
}

#[tokio::test]
async fn generation_tells_a_new_server_from_the_old_one() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    assert_eq!(caller.channel().server_generation(), None);
    caller.echo(Blob::default()).await.unwrap();
    assert_eq!(caller.channel().server_generation(), Some(1));
    bus.stop();
    bus.start(2, link_for_all());
    caller.echo(Blob::default()).await.unwrap();
    assert_eq!(caller.channel().server_generation(), Some(2));
}

#[tokio::test]
async fn stream_of_a_dead_server_ends_with_an_error_and_a_new_one_opens() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let mut stream = caller.count(u64::MAX, 1).await;
    stream.next().await.unwrap().unwrap();
    bus.stop();
    bus.start(2, link_for_all());
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
    assert!(stream.next().await.is_none());
    let mut stream = caller.count(1, 0).await;
    assert!(stream.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn call_without_any_server_says_which_socket_it_tried() {
    let bus = Bus::down();
    let error = bus.caller().hang(Duration::from_millis(30)).await.unwrap_err();
    let CallError::Disconnected(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains(bus.path().to_str().unwrap()), "{reason}");
}

#[tokio::test]
async fn handlers_end_with_their_connection() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let call = tokio::spawn(async move { caller.hang(Duration::from_mins(1)).await });
    bus.see(Seen::Hanging).await;
    // The caller's only channel goes with its task, as when its process is killed.
    call.abort();
    bus.see(Seen::Dropped).await;
}
