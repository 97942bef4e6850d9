//! A component for the tests of the supervisor. `PROBE`, from its manifest block, says how it behaves.

use std::process::ExitCode;
use std::time::Duration;

use ipc::{Channel, Identity};
use proto::control::{ControlClient, LinksRequest, StatusRequest};
use sd_notify::NotifyState::{Custom, Ready, Status, Watchdog};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    println!("{name} was started with {:?}", std::env::var("LISTEN_FDNAMES").unwrap_or_default());
    eprintln!("{{\"level\":\"INFO\",\"message\":\"hello from {name}\"}}");
    let mut terminate = signal(SignalKind::terminate()).expect("signal handler");
    let ready = || sd_notify::notify(&[Status("serving"), Ready]).expect("notify");
    match std::env::var("PROBE").as_deref() {
        Ok("mute") => {}
        Ok("config") => return ExitCode::from(78),
        Ok("crash") => return ExitCode::FAILURE,
        Ok("silent") => ready(),
        // What a server tells of its links: one from `b`, 7 bytes received.
        Ok("links") => {
            ready();
            sd_notify::notify(&[Custom("X_APIARY_LINKS=CgUSAWI4Bw==")]).expect("notify");
        }
        Ok("greedy") => {
            ready();
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1_u8; 1024 * 1024]));
            }
        }
        // Writes numbered lines in pieces, the next piece always before the line before is read.
        Ok("chatty") => {
            ready();
            tokio::task::spawn_blocking(|| {
                for n in 0_u64.. {
                    print!("line {n} ");
                    // A flush in the middle of a line.
                    std::io::Write::flush(&mut std::io::stdout()).expect("flushed");
                    println!("is whole");
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
        // Asks its supervisor something it may ask, and something it may not.
        Ok("asks") => {
            let calls = std::env::var("APIARY_CALLS").expect("calls");
            let path = calls.strip_prefix("supervisor=").expect("one link");
            let client = ControlClient::new(Channel::new(path, Identity::new(&name, 1)));
            let there = client.status(StatusRequest {}).await.map(|status| status.components.len());
            println!("sees {there:?}");
            let refused = client.links(LinksRequest {}).await.expect_err("not granted");
            println!("refused: {refused}");
            ready();
        }
        Ok("stubborn") => {
            ready();
            terminate.recv().await;
        }
        _ => {
            ready();
            if let Some(limit) = sd_notify::watchdog_enabled() {
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(limit / 3).await;
                        sd_notify::notify(&[Watchdog]).expect("notify");
                    }
                });
            }
        }
    }
    // Nobody waits an hour: the test or the supervisor ends it.
    tokio::select! {
        _ = terminate.recv() => {}
        () = tokio::time::sleep(Duration::from_hours(1)) => {}
    }
    println!("{name} drained");
    ExitCode::SUCCESS
}
