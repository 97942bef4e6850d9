//! A process that is stopped, continued and killed by its descriptor, so that no other is met when its id is used again.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::interrupt;

/// A running process. Dropping it lets it go on when it was stopped.
#[derive(Debug)]
pub struct Victim {
    process: OwnedFd,
    stopped: bool,
}

impl Victim {
    /// `None` when there is no such process (any more).
    pub fn open(pid: i32) -> Result<Option<Self>> {
        let pid = Pid::from_raw(pid).context("0 is no process")?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Self { process, stopped: false })),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error).context("could not open a process"),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGSTOP.
    pub fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn go_on(&mut self) -> Result<()> {
        self.stopped = false;
        self.signal(Signal::CONT)
    }

    /// Waits until it has ended: whether it did within `limit`.
    pub fn ends_within(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            let left = Timespec::try_from(left).context("200 ms at most")?;
            // Readable when the process has ended.
            match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) if Instant::now() < deadline => {}
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(error) => bail!("could not wait for a process: {error}"),
            }
        }
    }

    /// A process that has ended needs no signal.
    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("could not send a signal"),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.stopped
            && let Err(error) = self.signal(Signal::CONT)
        {
            eprintln!("a process stays stopped: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stopped_process_ends_when_it_is_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a process id is an i32");
        let mut victim = Victim::open(pid).expect("pidfd").expect("it runs");
        victim.stop().expect("SIGSTOP");
        assert!(!victim.ends_within(Duration::from_millis(10)).expect("poll"));
        victim.kill().expect("SIGKILL");
        assert!(victim.ends_within(Duration::from_secs(5)).expect("poll"));
        child.wait().expect("ours");
        victim.go_on().expect("nobody is there to be met");
        assert!(Victim::open(pid).expect("pidfd").is_none());
    }
}
