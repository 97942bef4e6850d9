//! Children that are given up. One that waits in the kernel, say for a file server, does not end even when it is killed:
//! it is reaped when it has ended, at a later launch, so that none counts as a process for ever.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, waitpid,
};

use crate::is_readable;

/// For a killed child to end.
const MOMENT: Duration = Duration::from_secs(1);

/// Killed and not reaped, so their numbers still name them.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills and reaps a child that nobody will wait for, with what it started in its process group. It must be a child of
/// this process, and not be reaped.
pub fn give_up(pid: u32) {
    let Some(child) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty()) {
        end(child, &pidfd, MOMENT);
    } else {
        // Out of descriptors, perhaps.
        kill(child);
        leave(child);
    }
}

/// The same of one whose pidfd is known, waiting for so long and no longer than a moment.
pub(crate) fn end(child: Pid, pidfd: &OwnedFd, patience: Duration) {
    kill(child);
    is_readable(pidfd, patience.min(MOMENT));
    leave(child);
}

fn kill(child: Pid) {
    // The group is there once the child has a session of its own.
    let _ = kill_process_group(child, Signal::KILL);
    let _ = kill_process(child, Signal::KILL);
}

fn leave(child: Pid) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    reap();
}

/// Reaps those that have ended meanwhile.
pub(crate) fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    // An error: it is not ours any more.
    left.retain(|child| matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(None)));
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    fn exists(pid: u32) -> bool {
        std::fs::exists(format!("/proc/{pid}")).expect("looked up")
    }

    #[test]
    fn child_that_is_given_up_is_killed_and_reaped() {
        let pid = Command::new("sleep").arg("1000").spawn().expect("sleep").id();
        give_up(pid);
        assert!(!exists(pid));
    }

    #[test]
    fn child_that_ends_later_is_reaped_by_a_later_launch() {
        let pid = Command::new("sleep").arg("0.1").spawn().expect("sleep").id();
        leave(Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid"));
        assert!(exists(pid));
        let begin = Instant::now();
        while exists(pid) {
            assert!(begin.elapsed() < Duration::from_secs(20));
            reap();
        }
    }
}
