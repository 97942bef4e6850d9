//! A slow reader costs its own credit, a deadline goes along, and what nobody waits for is freed.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::time::Duration;

use prost::Message as _;
use tokio::net::UnixListener;

use super::support::*;
use crate::frame::Kind;
use crate::*;

#[tokio::test]
async fn slow_reader_of_one_stream_does_not_hold_up_the_others() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    // Opened and never read: its items wait in its window.
    let mut slow = caller.count(u64::MAX, 4).await;
    let mut quick = caller.count(2_000, 4).await;
    for number in 0..2_000 {
        assert_eq!(quick.next().await.unwrap().unwrap().number, number);
    }
    for number in 0..100 {
        assert_eq!(caller.echo(Blob::number(number)).await.unwrap().number, number);
    }
    assert_eq!(slow.next().await.unwrap().unwrap().number, 0);
}

#[tokio::test]
async fn client_that_does_not_read_at_all_does_not_hold_up_another() {
    let bus = Bus::up(link_for_all());
    let mut raw = Raw::greeted(&bus).await;
    raw.send(request(1, 3, &Blob { number: u64::MAX, data: vec![64].into() })).await;
    raw.send(request(2, 3, &Blob { number: u64::MAX, data: vec![64].into() })).await;
    let caller = bus.caller();
    for number in 0..200 {
        assert_eq!(caller.echo(Blob::number(number)).await.unwrap().number, number);
    }
}

#[tokio::test]
async fn calls_made_in_a_handler_end_with_its_deadline() {
    let mut inner = Bus::up(link_for_all());
    let mut outer = Bus::down();
    outer.service.onward = Some(inner.caller());
    outer.start(1, link_for_all());
    let started = tokio::time::Instant::now();
    // The handler calls on with the default deadline of 10 s; its caller waits for 100 ms.
    let answer = outer.caller().onward(Duration::from_millis(100)).await;
    assert_eq!(answer, Err(CallError::Deadline));
    inner.see(Seen::Hanging).await;
    inner.see(Seen::Dropped).await;
    assert!(started.elapsed() < Duration::from_secs(2), "the onward call outlived its cause");
    // The inner server knew as well: it saw what was left of the 100 ms.
    let deadline = inner.service.deadlines.lock().unwrap().pop().expect("the call had a deadline");
    assert!(deadline <= Duration::from_millis(101), "{deadline:?} left");
    assert_eq!(crate::deadline(), None, "outside a handler there is none");
}

#[tokio::test]
async fn stream_handler_has_no_deadline_of_its_own() {
    let bus = Bus::up(link_for_all());
    let mut stream = bus.caller().count(1, 0).await;
    stream.next().await.unwrap().unwrap();
    assert!(bus.service.deadlines.lock().unwrap().is_empty());
}

#[tokio::test]
async fn cancellation_frees_the_servers_work_and_its_place() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Hang admits two at once.
    for _ in 0..5 {
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move { caller.hang(Duration::from_mins(1)).await })
            })
            .collect();
        for _ in 0..2 {
            bus.see(Seen::Hanging).await;
        }
        for call in &calls {
            call.abort();
        }
        for _ in 0..2 {
            bus.see(Seen::Dropped).await;
        }
        for call in calls {
            assert!(call.await.unwrap_err().is_cancelled());
        }
    }
    // Both places are free, and of the ten tasks none is left: there are the connection's two.
    caller.echo(Blob::default()).await.unwrap();
    let after = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(after <= before + 2, "{before} tasks before, {after} after");
    let [link] = bus.server().links().try_into().unwrap();
    assert_eq!((link.methods[HANG].calls_total, link.methods[HANG].failures_total), (10, 10));
    assert_eq!(link.refusals_total, 0);
}

#[tokio::test]
async fn calls_without_a_place_wait_no_longer_than_their_deadline() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let hangs: Vec<_> = (0..2)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.hang(Duration::from_mins(1)).await })
        })
        .collect();
    bus.see(Seen::Hanging).await;
    bus.see(Seen::Hanging).await;
    assert_eq!(caller.hang(Duration::from_millis(20)).await, Err(CallError::Deadline));
    hangs.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_later_call_with_an_earlier_deadline_ends_first() {
    let bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let (long, short) = tokio::join!(caller.hang(Duration::from_millis(300)), async {
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        let answer = caller.hang(Duration::from_millis(30)).await;
        (answer, started.elapsed())
    });
    assert_eq!((long, short.0), (Err(CallError::Deadline), Err(CallError::Deadline)));
    assert!(short.1 < Duration::from_millis(250), "{:?}", short.1);
}

#[tokio::test]
async fn a_deadline_holds_while_the_server_takes_nothing() {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let (large, first) = (caller.clone(), caller.clone());
    // More than the socket takes: the task waits for the server, with its timer set for a later call.
    let large = tokio::spawn(async move { large.echo(Blob::of_size(2 * WRITE_QUEUE)).await });
    let _server = Raw::accept_as(&listener, "server").await;
    let first = tokio::spawn(async move { first.hang(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = tokio::time::Instant::now();
    assert_eq!(caller.hang(Duration::from_millis(100)).await, Err(CallError::Deadline));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    large.abort();
    first.abort();
}

#[tokio::test]
async fn server_that_only_stops_reading_is_left() {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let opening = async { caller.count(1, 0).await };
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let other = std::os::unix::net::UnixStream::from(stream.as_fd().try_clone_to_owned().unwrap());
        let mut server = Raw::over(stream);
        server.receive().await.unwrap();
        server.send(hello(&TEST, "server")).await;
        server.requested().await;
        other.shutdown(Shutdown::Read).unwrap();
        server
    };
    let (mut stream, _server) = tokio::join!(opening, serving);
    let started = tokio::time::Instant::now();
    assert_eq!(caller.hang(Duration::from_millis(100)).await, Err(CallError::Deadline));
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.next()).await;
    let error = ended.expect("the connection ends").unwrap().unwrap_err();
    assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
}

#[tokio::test]
async fn the_server_is_told_what_is_left_after_the_wait_for_a_place() {
    let mut bus = Bus::up(link_for_all());
    let caller = bus.caller();
    let (one, other) = (caller.clone(), caller.clone());
    let hanging =
        async { tokio::join!(one.hang(Duration::from_millis(300)), other.hang(Duration::from_millis(300))) };
    let late = async {
        bus.see(Seen::Hanging).await;
        bus.see(Seen::Hanging).await;
        caller.hang(Duration::from_secs(1)).await
    };
    tokio::join!(hanging, late).1.unwrap_err();
    let told = bus.service.deadlines.lock().unwrap().pop().expect("the call had a deadline");
    assert!(told < Duration::from_millis(850), "{told:?} left");
}

#[tokio::test]
async fn requests_given_up_do_not_pile_up_before_a_server_that_takes_nothing() {
    let bus = Bus::down();
    let listener = UnixListener::bind(bus.path()).unwrap();
    let caller = bus.caller();
    let connecting = async { caller.hang(Duration::from_millis(100)).await };
    let (_, mut server) = tokio::join!(connecting, Raw::accept_as(&listener, "server"));
    let blob = Blob::of_size(PART / 2);
    for _ in 0..200 {
        let answer: Result<Blob, CallError<TestError>> =
            caller.unary(&TEST.methods[ECHO], &blob, Duration::from_millis(2)).await;
        assert_eq!(answer, Err(CallError::Deadline));
    }
    // Once the server reads there is room again: the last request follows what was queued.
    let last = Blob::number(7);
    let reading = async {
        let mut bytes = 0;
        loop {
            let got = server.receive().await.expect("the last request");
            bytes += got.payload.len();
            if got.payload.len() == last.encoded_len() {
                server.send(message(Kind::Reply, got.call, &last)).await;
                return bytes;
            }
        }
    };
    let (answer, bytes) = tokio::join!(caller.echo(last.clone()), reading);
    assert_eq!(answer.unwrap().number, 7);
    assert!(bytes < 2 * WRITE_QUEUE, "{bytes} bytes were queued");
}
