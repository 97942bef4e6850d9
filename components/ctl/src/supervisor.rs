//! Reaching the supervisor, and saying what to do when that fails.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::anyhow;
use ipc::{CallError, Channel, Identity};
use proto::control::{ControlClient, ControlError};

use crate::cli::Side;

/// A client of the control socket. The channel underneath would go on trying for a supervisor that restarts; whether one
/// is there at all is tried here, once, because a person waits.
pub(crate) fn connect(socket: &Path, side: Side) -> anyhow::Result<ControlClient> {
    if let Err(error) = UnixStream::connect(socket) {
        return Err(unreachable(&error, socket, side));
    }
    Ok(ControlClient::new(Channel::new(socket, Identity::new(side.program(), 0))))
}

fn unreachable(error: &io::Error, socket: &Path, side: Side) -> anyhow::Error {
    let (supervisor, socket) = (side.supervisor(), socket.display());
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{supervisor} is not running: there is no {socket} (start it with `systemctl start {supervisor}`, or name \
             another socket with --socket)"
        ),
        io::ErrorKind::ConnectionRefused => anyhow!(
            "{supervisor} is not running: nobody listens on {socket} (start it with `systemctl start {supervisor}`)"
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("you may not use {socket} (run this as root or as a member of the socket's group)")
        }
        _ => anyhow!("could not connect to {supervisor} at {socket}: {error}"),
    }
}

/// A failed call in words.
pub(crate) fn explain(error: CallError<ControlError>) -> anyhow::Error {
    match error {
        CallError::Failed { message, .. } => anyhow!("{message}"),
        CallError::Disconnected(reason) => anyhow!("lost the supervisor: {reason}"),
        CallError::Deadline => anyhow!("the supervisor did not answer in time"),
        CallError::Refused(reason) => anyhow!(
            "the supervisor refused the request: {reason} (is this program of the same release as the supervisor?)"
        ),
        CallError::Malformed(reason) => anyhow!("could not read the supervisor's answer: {reason}"),
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
}
