//! Starts one confined process.
//!
//! What it holds: nothing; it is called by the supervisor, with the supervisor's rights. Untrusted bytes: none; a
//! [`Launch`] comes from a checked manifest. What keeps it safe: everything is allocated before `fork`, the child makes
//! only system calls that are allowed between `fork` and `exec` (`signal-safety(7)`), and it does nothing else.
//!
//! The launch sequence. The code in `child.rs` goes in the same order; a step that fails is reported by name. Steps 4, 5,
//! 6, 9, 12, 13 and 15 are taken where the [`Confinement`] asks for them; whether the kernel can is [`Support`]'s answer.
//!
//! 1. new session, `/` as working directory, umask 022
//! 2. parent-death signal (SIGKILL), so that no component outlives its supervisor
//! 3. descriptors: standard input from `/dev/null`, output and errors to the supervisor, the inherited ones from 3 on,
//!    everything else closed
//! 4. control groups: from here on, what it uses counts as its own
//! 5. namespaces: mount, ipc, uts, net
//! 6. the file system view: a private read-only root with what was granted, or the host's with parts hidden
//! 7. resource limits
//! 8. supplementary groups, group id, user id; then the parent-death signal again, since a change of user clears it, and
//!    the check that the parent is still there
//! 9. a session keyring of the new user's
//! 10. capabilities: bounding set, permitted and inheritable, ambient; what is not granted is gone, and secure bits keep
//!     user id 0 from meaning anything
//! 11. `no_new_privs`
//! 12. no memory both writable and executable
//! 13. Landlock
//! 14. signal dispositions and mask back to the default
//! 15. system call filters
//! 16. exec
//!
//! The order follows from what each step needs: mounts need capabilities, so they come before the change of user;
//! Landlock and filters need none but `no_new_privs`, so they come last, and the filters need not let the steps before
//! them pass.
//!
//! The thread that calls [`launch`] is the parent in the sense of step 2: when it ends, the child is killed. Call it from
//! the main thread.

mod capabilities;
mod child;
mod confinement;
mod error;
mod handover;
mod left;
mod prepared;
mod process;
mod support;
mod view;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

pub use capabilities::CapabilitySet;
pub use confinement::{Access, Confinement, Filter, Instruction, Landlock, Mount, Namespaces, Root, View};
pub use error::{Error, Step};
pub use handover::{exec_self, take_inherited};
pub use left::give_up;
pub use process::{Exit, Process};
pub use support::Support;

use prepared::Prepared;

/// What to start, and with which rights. A plain description: making one has no effect.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Name for error messages.
    pub component: &'a str,
    /// The program file.
    pub exec: PathBuf,
    /// `argv[0]`; multi-call programs pick their role by it.
    pub argv0: &'a str,
    /// Further arguments.
    pub args: Vec<OsString>,
    /// The whole environment, except `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, which follow from `inherited`.
    pub env: Vec<(&'a str, OsString)>,
    /// Descriptors handed over as numbers 3, 4, …, in this order, with their names.
    pub inherited: Vec<Inherited<'a>>,
    /// Whom to become. `None` keeps the caller's ids and bounding set, for a supervisor without root.
    pub identity: Option<Identity>,
    /// The capabilities the process keeps; the empty set for nearly all. Must be held by the caller.
    pub capabilities: CapabilitySet,
    /// Resource limits; soft and hard are set to the same value.
    pub limits: Vec<(Limit, u64)>,
    /// What it is kept from, beyond that.
    pub confinement: Confinement<'a>,
}

/// A descriptor for the child, in the `LISTEN_FDS` convention.
#[derive(Clone, Copy, Debug)]
pub struct Inherited<'a> {
    /// Its name in `LISTEN_FDNAMES`. Must not hold a colon.
    pub name: &'a str,
    /// The descriptor; the caller keeps it.
    pub fd: BorrowedFd<'a>,
}

/// The ids of the new process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub groups: Vec<u32>,
}

/// A resource limit (`setrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Open descriptors.
    Nofile,
    /// Size of a core dump, in bytes; 0 for none.
    Core,
}

/// A started process.
#[derive(Debug)]
pub struct Child {
    /// Its process id. Names it only until it is reaped: prefer `pidfd`.
    pub pid: u32,
    /// Names this process and no other; readable when it has ended.
    pub pidfd: OwnedFd,
    /// What it writes to standard output and standard error.
    pub output: OwnedFd,
}

/// How long a child may take from fork to exec. The steps take milliseconds; a path on a file server that does not answer
/// may take for ever, and the supervisor has other children.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the process and returns once it runs its program, or says which step failed.
///
/// Blocks for as long as the kernel takes to run the steps and open the program file: about 0.2 ms for a plain process,
/// 1.5 ms with every step, and up to a tick of the kernel's clock (4 ms) more for control groups (`examples/cost.rs`).
pub fn launch(plan: &Launch<'_>) -> Result<Child, Error> {
    launch_within(plan, PATIENCE)
}

fn launch_within(plan: &Launch<'_>, patience: Duration) -> Result<Child, Error> {
    left::reap();
    let prepare = |what: &'static str| {
        move |source: io::Error| Error::Prepare { component: plan.component.to_owned(), what, source }
    };
    let null = File::open("/dev/null").map_err(prepare("open /dev/null"))?;
    let (output, output_write) = pipe().map_err(prepare("make the output pipe"))?;
    let (status, status_write) = pipe().map_err(prepare("make the status pipe"))?;
    let mut prepared = Prepared::new(plan, null.as_fd(), output_write.as_fd(), status_write.as_fd())
        .map_err(prepare("lay out the plan"))?;

    // Handlers of ours must not run in the child, whose copies of our descriptors they would write to.
    let mask = BlockedSignals::all().map_err(prepare("block signals"))?;
    // SAFETY: `fork` itself has no precondition. The child branch calls only `child::run`, which keeps to
    // async-signal-safe calls, allocates nothing and does not return, so a lock another thread held at the time of the
    // fork is never waited for.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child::run(&mut prepared);
    }
    let fork_error = io::Error::last_os_error();
    drop(mask);
    let Some(child) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
        return Err(prepare("fork")(fork_error));
    };
    drop((output_write, status_write));

    // Nobody but us reaps this child, so its pid still names it here even if it has already ended.
    let pidfd = pidfd_open(child, PidfdFlags::empty()).map_err(|errno| {
        let _ = kill_process(child, Signal::KILL);
        let _ = waitpid(Some(child), WaitOptions::empty());
        prepare("open a pidfd")(errno.into())
    })?;
    if !is_readable(&status, patience) {
        left::end(child, &pidfd, patience);
        return Err(Error::Stuck { component: plan.component.to_owned(), after: patience });
    }
    if let Some(failure) = read_failure(status) {
        // It exits at once after reporting, so this wait is short.
        let _ = waitpid(Some(child), WaitOptions::empty());
        let subject = failure.subject.and_then(|n| plan.confinement.subject(failure.step, n));
        return Err(Error::Step {
            component: plan.component.to_owned(),
            step: failure.step,
            exec: plan.exec.clone(),
            subject: subject.map(Path::to_owned),
            source: failure.errno.into(),
        });
    }
    Ok(Child { pid: pid.unsigned_abs(), pidfd, output })
}

/// Waits until there is something to read, or the end.
fn is_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            // An error is left to the reader to find.
            answer => return answer != Ok(0),
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// The failure the child reported; `None` once exec has closed the pipe. A child killed before exec looks like a
/// success here and then like an exit, which is what it is.
fn read_failure(status: OwnedFd) -> Option<child::Failure> {
    let mut report = [0; child::REPORT_LEN];
    File::from(status).read_exact(&mut report).ok()?;
    child::Failure::decode(report)
}

/// Blocks every signal of this thread until dropped.
struct BlockedSignals {
    previous: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> io::Result<Self> {
        // SAFETY: a sigset_t is plain data, for which all zeroes is valid; the calls get pointers to live locals.
        unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            let mut previous: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut every);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut previous) {
                0 => Ok(Self { previous }),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `previous` was filled by the successful call in `all`. Restoring a mask cannot fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.previous, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_that_is_stuck_in_a_step_is_given_up() {
        // Writing its "0" blocks: the pipe is full.
        let (read, write) = pipe().expect("pipe");
        rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::NONBLOCK).expect("flags");
        while rustix::io::write(&write, &[0; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::empty()).expect("flags");
        let plan = Launch {
            component: "probe",
            exec: "/bin/true".into(),
            argv0: "true",
            args: Vec::new(),
            env: Vec::new(),
            inherited: Vec::new(),
            identity: None,
            capabilities: CapabilitySet::EMPTY,
            limits: Vec::new(),
            confinement: Confinement { cgroups: vec![write.as_fd()], ..Confinement::default() },
        };
        let error = launch_within(&plan, Duration::from_millis(20)).expect_err("stuck");
        assert_eq!(
            error.to_string(),
            "component probe: no step failed, but its program does not run after 20ms"
        );
        drop(read);
    }
}
