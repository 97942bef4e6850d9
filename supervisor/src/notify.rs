//! What components say of themselves: the `sd_notify` protocol, one datagram socket per component.
//!
//! The socket a datagram came in on says which component it is about, its file's owner who may write to it, and the
//! kernel's note of the sender which process it was: news of an earlier process is told apart.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use prost::Message as _;
use proto::control::LinkReport;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::links::one_line;
use crate::reexec::Kept;

/// Longest datagram that is read: a status line, a few keys, and a report of links of at most 12 KiB. A longer one is not
/// of this protocol.
const LONGEST: usize = 16 * 1024;
/// Longest status text that is kept, in bytes.
const LONGEST_STATUS: usize = 512;

/// One datagram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notice {
    /// `READY=1`
    pub ready: bool,
    /// `WATCHDOG=1`
    pub alive: bool,
    /// `STOPPING=1`
    pub stopping: bool,
    /// `STATUS=…`, one line without control characters.
    pub status: Option<String>,
    /// `X_APIARY_LINKS=…`: what a server counted on its links.
    pub links: Option<LinkReport>,
}

/// Reads a datagram; what it does not know it skips, as the protocol asks.
pub fn parse(datagram: &[u8]) -> Notice {
    let mut notice = Notice::default();
    for line in String::from_utf8_lossy(datagram).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => notice.ready = true,
            Some(("WATCHDOG", "1")) => notice.alive = true,
            Some(("STOPPING", "1")) => notice.stopping = true,
            Some(("STATUS", text)) => notice.status = Some(one_line(text, LONGEST_STATUS)),
            Some(("X_APIARY_LINKS", text)) => notice.links = report(text),
            _ => {}
        }
    }
    notice
}

/// A report that cannot be read is none: its sender is our own lifecycle crate, and nothing depends on it but a display.
fn report(text: &str) -> Option<LinkReport> {
    LinkReport::decode(BASE64_STANDARD.decode(text).ok()?.as_slice()).ok()
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Socket(UnixDatagram);

impl Socket {
    /// The socket at `path` that an earlier program of this process kept, or a new one.
    pub fn open(path: &Path, uid: u32, gid: u32, kept: &mut Kept) -> io::Result<Self> {
        match kept.take(&path.to_string_lossy()) {
            Some(socket) => Ok(Self(UnixDatagram::from_std(socket.into())?)),
            None => Self::bind(path, uid, gid),
        }
    }

    /// Binds `path` anew; only `uid` (and root) can send to it.
    pub fn bind(path: &Path, uid: u32, gid: u32) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
        Ok(Self(socket))
    }

    /// The next datagram and the process that sent it.
    pub async fn receive(&self) -> io::Result<(u32, Notice)> {
        loop {
            self.0.readable().await?;
            match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `None` for a datagram that is too long or of an unknown sender.
fn receive(socket: &UnixDatagram) -> io::Result<Option<(u32, Notice)>> {
    let mut buffer = [0; LONGEST];
    // Room for the sender's ids only: descriptors sent along find none, and the kernel closes them. Then it says that
    // something was cut off, which is an error to nix, and the datagram is passed over.
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let Ok(mut ancillary) = message.cmsgs() else { return Ok(None) };
    let sender = ancillary.find_map(|part| match part {
        ControlMessageOwned::ScmCredentials(credentials) => u32::try_from(credentials.pid()).ok(),
        _ => None,
    });
    let (length, truncated) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
    Ok(sender.filter(|_| !truncated).map(|pid| (pid, parse(&buffer[..length]))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{own_gid, own_uid};

    #[test]
    fn known_keys_are_read_and_others_skipped() {
        let notice = parse(b"READY=1\nSTATUS=serving 3\tlinks\nMAINPID=7\nWATCHDOG=1\nnonsense\nSTOPPING=0");
        let expected = Notice {
            ready: true,
            alive: true,
            status: Some("serving 3 links".to_owned()),
            ..Notice::default()
        };
        assert_eq!(notice, expected);
    }

    #[test]
    fn bytes_that_are_not_text_do_no_harm() {
        assert_eq!(parse(b"\xff\xfe=\0\nREADY=1\xff"), Notice::default());
    }

    #[test]
    fn link_report_is_decoded_and_a_broken_one_skipped() {
        let link =
            proto::control::Link { client: "edgehub".to_owned(), received_bytes: 7, ..Default::default() };
        let report = LinkReport { links: vec![link] };
        let text = BASE64_STANDARD.encode(report.encode_to_vec());
        assert_eq!(parse(format!("X_APIARY_LINKS={text}").as_bytes()).links, Some(report));
        for broken in [&text[1..], "AAAA", "%"] {
            assert_eq!(parse(format!("READY=1\nX_APIARY_LINKS={broken}").as_bytes()).links, None);
        }
    }

    #[test]
    fn long_status_is_cut_at_a_character() {
        let notice = parse(format!("STATUS={}", "é".repeat(400)).as_bytes());
        assert_eq!(notice.status.map(|text| text.len()), Some(512));
    }

    #[tokio::test]
    async fn datagram_names_its_sender_and_an_overlong_one_is_skipped() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("a.sock");
        let socket = Socket::bind(&path, own_uid(), own_gid()).expect("bound");
        let client = UnixDatagram::unbound().expect("client");
        client.send_to(&vec![b'x'; 2 * LONGEST], &path).await.expect("sent");
        client.send_to(b"READY=1", &path).await.expect("sent");
        let (pid, notice) = socket.receive().await.expect("received");
        assert_eq!(pid, std::process::id());
        assert!(notice.ready);
    }

    #[tokio::test]
    async fn binding_replaces_what_an_earlier_supervisor_left() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("a.sock");
        drop(Socket::bind(&path, own_uid(), own_gid()).expect("bound"));
        Socket::bind(&path, own_uid(), own_gid()).expect("bound again");
    }
}
