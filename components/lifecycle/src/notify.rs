//! What the supervisor, or systemd, is told: datagrams of the `sd_notify` protocol to `NOTIFY_SOCKET`.
//!
//! No send waits. A supervisor that does not read for a while has room for ten datagrams
//! (`net.unix.max_dgram_qlen`), and a component that stopped there would stop as a whole: it has one thread.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Until what must arrive is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Tells what the next message of its kind says again: a status, a report, a sign of life. It is dropped when there is no
/// room for it.
pub(crate) fn notify(message: &str) {
    if let Err(error) = send(message) {
        unheard(&error);
    }
}

/// Tells what is said only once, ready and stopping: waits in a task of its own until there is room. Needs a runtime.
pub(crate) fn notify_surely(message: &'static str) {
    match send(message) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            drop(tokio::spawn(retry(move || send(message))));
        }
        Err(error) => unheard(&error),
        Ok(()) => {}
    }
}

async fn retry(send: impl Fn() -> io::Result<()>) {
    loop {
        tokio::time::sleep(RETRY).await;
        match send() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return unheard(&error),
            Ok(()) => return,
        }
    }
}

/// A supervisor that is gone is no reason to stop working: it will end us itself.
fn unheard(error: &io::Error) {
    tracing::debug!(%error, "could not notify the supervisor");
}

/// Does nothing without NOTIFY_SOCKET.
fn send(message: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => send_to(&socket, message),
        None => Ok(()),
    }
}

fn send_to(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let ours = UnixDatagram::unbound()?;
    ours.set_nonblocking(true)?;
    // A datagram goes as a whole or not at all.
    ours.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// More than any queue has room for.
    fn fill(socket: &OsStr) -> usize {
        let count = (0..100_000).take_while(|_| send_to(socket, "WATCHDOG=1\n").is_ok()).count();
        assert_eq!(send_to(socket, "WATCHDOG=1\n").unwrap_err().kind(), ErrorKind::WouldBlock);
        count
    }

    fn read(supervisor: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = supervisor.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn supervisor_that_does_not_read_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        let start = Instant::now();
        let held = fill(path.as_os_str());
        assert!(start.elapsed() < Duration::from_secs(5));
        for _ in 0..held {
            assert_eq!(read(&supervisor), "WATCHDOG=1\n");
        }
        send_to(path.as_os_str(), "READY=1\n").unwrap();
        assert_eq!(read(&supervisor), "READY=1\n");
    }

    #[tokio::test]
    async fn ready_waits_for_room_while_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        let held = fill(path.as_os_str());
        let ready = tokio::spawn(retry(move || send_to(path.as_os_str(), "READY=1\n")));
        // This task has the only thread, and gets it back.
        tokio::time::sleep(3 * RETRY).await;
        assert!(!ready.is_finished());
        for _ in 0..held {
            assert_eq!(read(&supervisor), "WATCHDOG=1\n");
        }
        ready.await.unwrap();
        assert_eq!(read(&supervisor), "READY=1\n");
    }

    #[test]
    fn abstract_socket_is_found() {
        let name = format!("apiary-lifecycle-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let supervisor = UnixDatagram::bind_addr(&address).unwrap();
        send_to(OsStr::new(&format!("@{name}")), "READY=1\n").unwrap();
        assert_eq!(read(&supervisor), "READY=1\n");
    }

    #[test]
    fn supervisor_that_is_gone_is_an_error() {
        assert_eq!(send_to(OsStr::new("/nowhere"), "x").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
