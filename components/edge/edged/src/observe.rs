//! The runtime's answers as edged's records, last words included.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cri::runtime as v1;
use jiff::Timestamp;

use crate::inventory::Container;
use crate::labels;
use crate::model::{ContainerRecord, ContainerState, PodKey};
use crate::runtime::time;

/// Kubernetes' bound of a termination message.
const MAX_MESSAGE: u64 = 4096;
/// The same where it comes from the log.
const MAX_LOG_MESSAGE: u64 = 2048;
/// And its bound in lines.
const MAX_LOG_LINES: usize = 80;

/// Which pod a sandbox or container belongs to, by its labels; `None` for what no node agent made.
pub(crate) fn owner(labels: &std::collections::HashMap<String, String>) -> Option<(String, PodKey)> {
    let uid = labels.get(labels::POD_UID).filter(|uid| crate::model::is_segment(uid))?;
    let namespace = labels.get(labels::POD_NAMESPACE).filter(|n| crate::model::is_segment(n))?;
    let name = labels.get(labels::POD_NAME).filter(|n| crate::model::is_segment(n))?;
    Some((uid.clone(), PodKey { namespace: namespace.clone(), name: name.clone() }))
}

/// A container's status as a record. Reads the termination message of one that ended.
pub(crate) fn container(status: v1::ContainerStatus, sandbox: Option<String>) -> Container {
    let metadata = status.metadata.clone().unwrap_or_default();
    let annotation = |name: &str| status.annotations.get(name);
    let created_at = time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let started_at = time(status.started_at);
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => {
            ContainerState::Running { started_at: started_at.unwrap_or(created_at) }
        }
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited {
            started_at,
            finished_at: time(status.finished_at).unwrap_or(created_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: message(&status),
        },
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    };
    let hash = annotation(labels::CONTAINER_HASH).cloned();
    let grace = annotation(labels::GRACE_PERIOD).and_then(|grace| grace.parse().ok());
    let attempt = annotation(labels::RESTART_COUNT).and_then(|count| count.parse().ok());
    let record = ContainerRecord {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        id: status.id,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: status.image_ref,
        attempt: attempt.unwrap_or(metadata.attempt),
        created_at,
        state,
    };
    let log = Some(status.log_path).filter(|path| !path.is_empty());
    Container { record, hash, sandbox, grace, log }
}

/// What the runtime says of the end, and what the container said itself.
fn message(status: &v1::ContainerStatus) -> String {
    let own = termination_message(status);
    match (status.message.is_empty(), own.is_empty()) {
        (false, false) => format!("{}: {own}", status.message),
        (false, true) => status.message.clone(),
        (true, _) => own,
    }
}

fn termination_message(status: &v1::ContainerStatus) -> String {
    let Some(path) = status.annotations.get(labels::TERMINATION_MESSAGE_PATH) else { return String::new() };
    let file = status.mounts.iter().find(|mount| mount.container_path == *path).map(|mount| &mount.host_path);
    let said = file.and_then(|file| tail(Path::new(file), MAX_MESSAGE).ok()).unwrap_or_default();
    let policy = status.annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str);
    if said.is_empty() && policy == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        let log = tail(Path::new(&status.log_path), 4 * MAX_LOG_MESSAGE).unwrap_or_default();
        return log_text(&log);
    }
    said
}

/// The end of a file a container may have written: it is opened without following links, and only as a plain file.
fn tail(path: &Path, most: u64) -> io::Result<String> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    file.seek(SeekFrom::Start(meta.len().saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text of CRI log lines (`<time> <stream> <F|P> <text>`).
fn log_text(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let text = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
    let most = usize::try_from(MAX_LOG_MESSAGE).unwrap_or(usize::MAX);
    let start = (text.len().saturating_sub(most)..=text.len()).find(|at| text.is_char_boundary(*at));
    text[start.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(dir: &Path, policy: &str) -> v1::ContainerStatus {
        let annotations = [
            (labels::TERMINATION_MESSAGE_PATH, "/dev/termination-log"),
            (labels::TERMINATION_MESSAGE_POLICY, policy),
            (labels::RESTART_COUNT, "7"),
        ];
        v1::ContainerStatus {
            state: v1::ContainerState::ContainerExited.into(),
            exit_code: 3,
            finished_at: 2_000_000_000,
            annotations: annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            mounts: vec![v1::Mount {
                container_path: "/dev/termination-log".into(),
                host_path: dir.join("t").display().to_string(),
                ..Default::default()
            }],
            log_path: dir.join("0.log").display().to_string(),
            ..Default::default()
        }
    }

    fn message_of(status: v1::ContainerStatus) -> String {
        match container(status, None).record.state {
            ContainerState::Exited { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn last_words_come_from_the_file_or_else_from_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("t"), "").expect("written");
        fs::write(dir.path().join("0.log"), "2026 stdout F one\n2026 stderr F two words\n").expect("written");
        assert_eq!(message_of(exited(dir.path(), "File")), "");
        assert_eq!(message_of(exited(dir.path(), "FallbackToLogsOnError")), "one\ntwo words");
        fs::write(dir.path().join("t"), "x".repeat(5000)).expect("written");
        assert_eq!(message_of(exited(dir.path(), "FallbackToLogsOnError")).len(), 4096);
    }

    #[test]
    fn a_planted_link_is_not_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("t")).expect("linked");
        assert_eq!(message_of(exited(dir.path(), "File")), "");
    }

    #[test]
    fn attempt_comes_from_the_annotation() {
        assert_eq!(container(exited(Path::new("/nonexistent"), "File"), None).record.attempt, 7);
    }
}
