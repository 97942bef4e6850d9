//! Room for state and containers.

use std::path::PathBuf;

use super::finding::Finding;
use crate::output::size;

/// 50 MiB: less does not hold the store's log and what the next days bring.
const STATE_LEAST: u64 = 50 << 10;
/// 200 MiB.
const STATE_ENOUGH: u64 = 200 << 10;
/// Percent. The kubelet's own bounds, below which it ends pods: nodefs.available and nodefs.inodesFree.
const CONTAINERS_ENOUGH: u64 = 10;
const INODES_ENOUGH: u64 = 5;
/// 100 MiB: the smallest images do not fit any more.
const CONTAINERS_LEAST: u64 = 100 << 10;

/// One file system, by what we keep on it.
#[derive(Debug, Clone)]
pub(super) struct Space {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
    /// What was looked at: the path, or the nearest folder above it that is there; `None` when it could not be.
    pub(super) room: Option<Room>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What must survive: small, but nothing works without it.
    State,
    /// Images, containers, volumes, logs of pods.
    Containers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free_kib: u64,
    pub(super) total_kib: u64,
    pub(super) free_inodes: u64,
    /// 0 where the file system makes them as it goes.
    pub(super) inodes: u64,
    pub(super) read_only: bool,
}

fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

pub(super) fn judge(spaces: &[Space]) -> Vec<Finding> {
    spaces.iter().map(one).collect()
}

fn one(space: &Space) -> Finding {
    let Space { kind, path, room } = space;
    let path = path.display();
    let (id, why, fix) = match kind {
        Kind::State => (
            "disk.state",
            "what the cloud sends could not be kept, so it would not be acknowledged",
            format!(
                "du -xh --max-depth=2 {path} | sort -h | tail, and free room, or move it with --state-dir"
            ),
        ),
        Kind::Containers => (
            "disk.containers",
            "images are not pulled, and pods fail when they write",
            format!("crictl rmi --prune, or give {path} a file system of its own"),
        ),
    };
    let Some(room) = room else {
        return Finding::unseen(id, format!("the file system of {path} could not be looked at"));
    };
    let inodes = percent(room.free_inodes, room.inodes);
    let found = format!(
        "{path}: {} free of {} ({} %){}",
        size(room.free_kib),
        size(room.total_kib),
        percent(room.free_kib, room.total_kib),
        if room.inodes == 0 { String::new() } else { format!(", {inodes} % of the inodes") }
    );
    let (least, enough) = match kind {
        Kind::State => (STATE_LEAST, STATE_ENOUGH),
        Kind::Containers => (CONTAINERS_LEAST, room.total_kib / 100 * CONTAINERS_ENOUGH),
    };
    if room.read_only {
        return Finding::error(
            id,
            format!("{path} is mounted read-only"),
            why,
            format!(
                "mount -o remount,rw $(findmnt -nT {path} -o TARGET); dmesg says whether the disk has errors"
            ),
        );
    }
    let no_inode = room.inodes > 0 && room.free_inodes == 0;
    if room.free_kib < least || no_inode {
        return Finding::error(id, found, why, fix);
    }
    if room.free_kib < enough || room.inodes > 0 && inodes < INODES_ENOUGH {
        return Finding::warning(id, found, why, fix);
    }
    Finding::ok(id, found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn space(kind: Kind, free_kib: u64, free_inodes: u64) -> Space {
        let room = Room { free_kib, total_kib: 10 << 20, free_inodes, inodes: 1000, read_only: false };
        Space { kind, path: "/x".into(), room: Some(room) }
    }

    #[test]
    fn enough_is_fine_and_told() {
        let finding = one(&space(Kind::State, 5 << 20, 900));
        assert_eq!(finding.severity, Severity::Ok);
        assert_eq!(finding.found, "/x: 5.0 GiB free of 10 GiB (50 %), 90 % of the inodes");
    }

    #[test]
    fn little_is_a_warning_and_almost_nothing_an_error() {
        assert_eq!(one(&space(Kind::State, 199 << 10, 900)).severity, Severity::Warning);
        assert_eq!(one(&space(Kind::State, 49 << 10, 900)).severity, Severity::Error);
        assert_eq!(one(&space(Kind::Containers, 1 << 19, 900)).severity, Severity::Warning);
        assert_eq!(one(&space(Kind::Containers, 99 << 10, 900)).severity, Severity::Error);
    }

    #[test]
    fn inodes_run_out_too() {
        assert_eq!(one(&space(Kind::State, 5 << 20, 49)).severity, Severity::Warning);
        assert_eq!(one(&space(Kind::State, 5 << 20, 0)).severity, Severity::Error);
        let mut without = space(Kind::State, 5 << 20, 0);
        without.room.as_mut().unwrap().inodes = 0;
        assert_eq!(one(&without).severity, Severity::Ok, "btrfs has no number of them");
    }

    #[test]
    fn read_only_and_unseen_are_told() {
        let mut space = space(Kind::State, 5 << 20, 900);
        space.room.as_mut().unwrap().read_only = true;
        assert_eq!(one(&space).severity, Severity::Error);
        space.room = None;
        assert_eq!(one(&space).severity, Severity::Unseen);
    }
}
