use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Child, give_up};

/// A child under watch. Here because tokio's registration of a descriptor is unsafe.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Process {
    /// Registers the child's pidfd with the current tokio runtime, and gives its output back. A child that cannot be
    /// watched is [given up](crate::give_up).
    pub fn watch(child: Child) -> io::Result<(Self, OwnedFd)> {
        let process = Self::adopt(child.pid, child.pidfd).inspect_err(|_| give_up(child.pid))?;
        Ok((process, child.output))
    }

    /// [Gives it up](crate::give_up). Not for one whose end was waited for.
    pub fn give_up(self) {
        give_up(self.pid());
    }

    /// Watches a child that was launched before this program replaced its predecessor ([`exec_self`](crate::exec_self)):
    /// same as [`watch`](Self::watch), from its process id and pidfd.
    pub fn adopt(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor must stay open and the same while registered. The AsyncFd owns it, `OwnedFd::as_raw_fd`
        // always answers the same, and nothing here takes it out again.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = registered.map_err(|error| error.into_parts().1)?;
        Ok(Self { pid, pidfd })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to end (SIGTERM). One that has ended already is no error.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it (SIGKILL).
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for its end and reaps it, once. What it started in its own process group ends with it, so that nothing of
    /// one run is there during the next.
    pub async fn ended(&self) -> io::Result<Exit> {
        let child = || WaitId::PidFd(self.pidfd.get_ref().as_fd());
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            let mut ready = self.pidfd.readable().await?;
            if rustix::process::waitid(child(), look | WaitIdOptions::NOWAIT)?.is_some() {
                break;
            }
            ready.clear_ready();
        }
        // Not reaped yet, so the number still names its group and no other.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let status = rustix::process::waitid(child(), look)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        })
    }
}

/// Its pidfd, for the hand-over to a program that will [`adopt`](Process::adopt) it.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match name(*signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// The signals processes usually end by.
fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
