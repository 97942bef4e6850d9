//! What can be asked of the kernel, found out by asking.

use std::io;

use rustix::process::{Pid, WaitOptions};

use crate::child::{landlock, view};
use crate::{BlockedSignals, Namespaces};

/// What this kernel, with the rights this process has now, can do for a [`Confinement`](crate::Confinement).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent mechanisms")]
pub struct Support {
    /// Landlock's ABI version; 0 without Landlock. 1: files; 2: renames between directories; 3: truncation; 4: TCP;
    /// 5: device ioctls; 6: signals and abstract Unix sockets.
    pub landlock_abi: u32,
    /// System call filters with the actions "error" and "kill the process".
    pub seccomp: bool,
    /// The namespaces it may make.
    pub namespaces: Namespaces,
    /// A private root can be made.
    pub private_root: bool,
    /// Mounts can be restricted together with those below them (Linux 5.12).
    pub recursive_mounts: bool,
    /// Session keyrings.
    pub keyring: bool,
    /// `PR_SET_MDWE` (Linux 6.3).
    pub write_xor_execute: bool,
}

/// What only a child can try, as bits of its exit code; those of [`Namespaces`] come first.
const PRIVATE_ROOT: u8 = 1 << 4;
const KEYRING: u8 = 1 << 5;
const WRITE_XOR_EXECUTE: u8 = 1 << 6;

impl Support {
    /// Asks the kernel, in part through a child that tries and ends. Takes a few milliseconds; the answer does not
    /// change while the process keeps its rights.
    pub fn probe() -> io::Result<Self> {
        let tried = ask_child()?;
        Ok(Self {
            landlock_abi: landlock::abi(),
            seccomp: has_action(libc::SECCOMP_RET_KILL_PROCESS) && has_action(libc::SECCOMP_RET_ERRNO),
            namespaces: Namespaces::from_bits(tried),
            private_root: tried & PRIVATE_ROOT != 0,
            recursive_mounts: view::can_set_attributes(),
            keyring: tried & KEYRING != 0,
            write_xor_execute: tried & WRITE_XOR_EXECUTE != 0,
        })
    }
}

fn has_action(action: u32) -> bool {
    // SAFETY: the action is read from a live local.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, &raw const action) == 0 }
}

fn ask_child() -> io::Result<u8> {
    let mask = BlockedSignals::all()?;
    // SAFETY: as in `launch`: the child makes only system calls, allocates nothing and does not return.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child, without running anything of the parent's.
        unsafe { libc::_exit(try_all().into()) };
    }
    let error = io::Error::last_os_error();
    drop(mask);
    let child = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(error)?;
    let (_, status) =
        rustix::process::waitpid(Some(child), WaitOptions::empty())?.ok_or(io::ErrorKind::WouldBlock)?;
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    code.ok_or_else(|| io::Error::other("the child that tries what the kernel supports was killed"))
}

/// In the child.
fn try_all() -> u8 {
    let mut possible = 0;
    for kind in [Namespaces::MOUNT, Namespaces::IPC, Namespaces::UTS, Namespaces::NET] {
        // SAFETY: integers only; this process has one thread.
        if unsafe { libc::unshare(kind.flags()) } == 0 {
            possible |= kind.bits();
        }
    }
    // A container may let us have the namespace and forbid every mount in it.
    if possible & Namespaces::MOUNT.bits() != 0 && view::try_host_root().is_err() {
        possible &= !Namespaces::MOUNT.bits();
    }
    if possible & Namespaces::MOUNT.bits() != 0 && view::try_private_root().is_ok() {
        possible |= PRIVATE_ROOT;
    }
    if crate::child::keyring().is_ok() {
        possible |= KEYRING;
    }
    if crate::child::write_xor_execute().is_ok() {
        possible |= WRITE_XOR_EXECUTE;
    }
    possible
}
