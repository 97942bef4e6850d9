//! Reaching the supervisor, and saying what to do when that fails.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use ipc::{CallError, Channel, Identity};
use nix::unistd::{Gid, Group};
use proto::control::{ControlClient, ControlError};

use crate::cli::Side;
use crate::output::brief;

/// For ending and starting a component: longer than a drain deadline and a ready time-out together; the supervisor
/// answers by then.
pub(crate) const CHANGE_DEADLINE: Duration = Duration::from_mins(3);

/// Longest text of the supervisor that is shown.
const LONGEST_TEXT: usize = 4096;

/// A client of the control socket. The channel underneath would go on trying for a supervisor that restarts; whether one
/// is there at all is tried here, once, because a person waits.
pub(crate) fn connect(socket: &Path, side: Side) -> anyhow::Result<ControlClient> {
    if let Err(error) = UnixStream::connect(socket) {
        return Err(unreachable(&error, socket, side));
    }
    Ok(ControlClient::new(Channel::new(socket, Identity::new(side.program(), 0))))
}

fn unreachable(error: &io::Error, socket: &Path, side: Side) -> anyhow::Error {
    let (supervisor, path) = (side.supervisor(), socket.display());
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{supervisor} is not running: there is no {path} (start it with `systemctl start {supervisor}`, or name \
             another socket with --socket)"
        ),
        io::ErrorKind::ConnectionRefused => anyhow!(
            "{supervisor} is not running: nobody listens on {path} (start it with `systemctl start {supervisor}`)"
        ),
        io::ErrorKind::PermissionDenied => anyhow!("you may not use {path} ({})", admission(group(socket))),
        _ => anyhow!("could not connect to {supervisor} at {path}: {error}"),
    }
}

/// The group whose members may use the socket; none when it is root's.
fn group(socket: &Path) -> Option<String> {
    let gid = std::fs::metadata(socket).ok()?.gid();
    if gid == 0 {
        return None;
    }
    let known = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    Some(known.map_or_else(|| gid.to_string(), |group| group.name))
}

fn admission(group: Option<String>) -> String {
    match group {
        Some(group) => format!(
            "run this with sudo, or become a member of group {group} with `usermod -aG {group} $USER` and a new login"
        ),
        None => "run this with sudo; once there is a group apiary, its members may, too: `groupadd --system apiary` \
                 and restart the supervisor"
            .to_owned(),
    }
}

/// A failed call in words, on one line.
pub(crate) fn explain(error: CallError<ControlError>) -> anyhow::Error {
    let brief = |text: &str| brief(text, LONGEST_TEXT);
    match error {
        CallError::Failed { message, .. } => anyhow!("{}", brief(&message)),
        CallError::Disconnected(reason) => anyhow!("lost the supervisor: {}", brief(&reason)),
        CallError::Deadline => anyhow!("the supervisor did not answer in time"),
        CallError::Refused(reason) => anyhow!(
            "the supervisor refused the request: {} (is this program of the same release as the supervisor?)",
            brief(&reason)
        ),
        CallError::Malformed(reason) => {
            anyhow!("could not read the supervisor's answer: {}", brief(&reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_socket_names_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&dir.path().join("none.sock"), Side::Cloud).unwrap_err().to_string();
        assert!(error.contains("none.sock") && error.contains("systemctl start cloudcore"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn socket_nobody_listens_on_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = connect(&path, Side::Edge).unwrap_err().to_string();
        assert!(error.contains("nobody listens"), "{error}");
    }

    #[test]
    fn who_may_not_is_told_how_to_be_one_who_may() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = unreachable(&denied, Path::new("/nonexistent"), Side::Edge).to_string();
        assert!(error.contains("sudo"), "{error}");
        assert!(admission(Some("apiary".into())).contains("usermod -aG apiary $USER"));
    }

    #[test]
    fn words_of_the_supervisor_stay_on_one_line() {
        let error = CallError::Failed { code: ControlError::Unsuitable, message: "a\nb\x1b[2J".to_owned() };
        assert_eq!(explain(error).to_string(), "a\\nb\\u{1b}[2J");
    }
}
