//! What happens between fork and exec, in the order of the crate's list. Nothing here allocates, locks, or calls
//! anything but async-signal-safe functions: another thread may have held any lock at the time of the fork. What rustix
//! offers counts as such: on paths with a NUL it is the bare system call.

mod credentials;
pub(crate) mod landlock;
mod path;
pub(crate) mod view;

use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;

pub(crate) use credentials::keyring;

use crate::prepared::{LISTEN_PID, PID_DIGITS, Prepared};
use crate::{Instruction, Limit, Step};

/// Step (1 byte), padding, subject (2 bytes), errno (4 bytes), native order. Less than `PIPE_BUF`, so written whole.
pub(crate) const REPORT_LEN: usize = 8;

/// "The step has no subject", in a report.
const NO_SUBJECT: u16 = u16::MAX;

/// First number for inherited descriptors (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: RawFd = 3;

/// What a failed child exits with; nobody looks, the report says more.
const EXIT_LAUNCH_FAILED: libc::c_int = 125;

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    /// Number of the mount or rule.
    pub(crate) subject: Option<usize>,
    pub(crate) errno: Errno,
}

impl Failure {
    const fn new(step: Step, errno: Errno) -> Self {
        Self { step, subject: None, errno }
    }

    fn encode(&self) -> [u8; REPORT_LEN] {
        let mut report = [0; REPORT_LEN];
        let subject = self.subject.and_then(|subject| u16::try_from(subject).ok()).unwrap_or(NO_SUBJECT);
        report[0] = self.step as u8;
        report[2..4].copy_from_slice(&subject.to_ne_bytes());
        report[4..].copy_from_slice(&self.errno.raw_os_error().to_ne_bytes());
        report
    }

    pub(crate) fn decode(report: [u8; REPORT_LEN]) -> Option<Self> {
        let [step, _, subject @ .., e0, e1, e2, e3] = report;
        Some(Self {
            step: Step::from_code(step)?,
            subject: Some(u16::from_ne_bytes(subject)).filter(|n| *n != NO_SUBJECT).map(usize::from),
            errno: Errno::from_io_error(&io::Error::from_raw_os_error(i32::from_ne_bytes([e0, e1, e2, e3])))?,
        })
    }
}

/// Goes through the steps and becomes the program, or reports the step that failed and ends.
pub(crate) fn run(plan: &mut Prepared) -> ! {
    let failure = match steps(plan) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let report = failure.encode();
    // SAFETY: `report` is valid for REPORT_LEN bytes; `write` and `_exit` are async-signal-safe.
    unsafe {
        libc::write(plan.status, report.as_ptr().cast(), REPORT_LEN);
        libc::_exit(EXIT_LAUNCH_FAILED);
    }
}

fn steps(plan: &mut Prepared) -> Result<std::convert::Infallible, Failure> {
    session()?;
    die_with_parent(plan.parent)?;
    descriptors(plan)?;
    cgroups(plan)?;
    if !plan.namespaces.is_empty() {
        namespaces(plan)?;
    }
    if let Some(view) = &mut plan.view {
        view::apply(view)?;
    }
    limits(plan)?;
    if let Some(user) = &plan.user {
        credentials::become_user(user)?;
        die_with_parent(plan.parent)?;
    }
    if plan.keyring {
        keyring()?;
    }
    if plan.user.is_some() {
        credentials::bounding_set(plan)?;
    }
    credentials::capabilities(plan)?;
    no_new_privs()?;
    if plan.write_xor_execute {
        write_xor_execute()?;
    }
    if let Some(domain) = &plan.landlock {
        landlock::restrict(domain)?;
    }
    signals()?;
    for program in &plan.filters {
        filter(program)?;
    }
    exec(plan)
}

fn session() -> Result<(), Failure> {
    // SAFETY: no pointers but a static string; all three are async-signal-safe.
    unsafe {
        check(Step::Session, libc::setsid())?;
        check(Step::Session, libc::chdir(c"/".as_ptr()))?;
        libc::umask(0o022);
    }
    Ok(())
}

/// A parent that died before the request took effect sends no signal: hence the look at who our parent is.
fn die_with_parent(parent: libc::pid_t) -> Result<(), Failure> {
    prctl(Step::ParentDeath, libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0)?;
    // SAFETY: getppid has no precondition and cannot fail.
    if unsafe { libc::getppid() } == parent {
        Ok(())
    } else {
        Err(Failure::new(Step::ParentDeath, Errno::SRCH))
    }
}

/// Copies every source above all target numbers first, so that no target overwrites a source not yet moved. What the
/// child itself still needs, the status pipe and the control groups, comes after the inherited ones, close-on-exec.
fn descriptors(plan: &mut Prepared) -> Result<(), Failure> {
    let number =
        |count: usize| RawFd::try_from(count).map_err(|_| Failure::new(Step::Descriptors, Errno::MFILE));
    let status_target = FIRST_INHERITED + number(plan.inherited.len())?;
    let first_cgroup = status_target + 1;
    let above = first_cgroup + number(plan.cgroups.len())?;
    let sources = plan.inherited.iter_mut().chain(&mut plan.cgroups);
    for fd in sources.chain([&mut plan.null, &mut plan.output, &mut plan.status]) {
        // SAFETY: plain integers; a bad descriptor is an error, not undefined behaviour.
        *fd = check(Step::Descriptors, unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above) })?;
    }
    let standard = [(plan.null, 0), (plan.output, 1), (plan.output, 2)];
    let inherited = plan.inherited.iter().copied().zip(FIRST_INHERITED..);
    for (source, target) in standard.into_iter().chain(inherited) {
        // SAFETY: as above. dup2 leaves close-on-exec off on the copy.
        check(Step::Descriptors, unsafe { libc::dup2(source, target) })?;
    }
    for (source, target) in
        plan.cgroups.iter_mut().zip(first_cgroup..).chain([(&mut plan.status, status_target)])
    {
        // SAFETY: as above.
        *source = check(Step::Descriptors, unsafe { libc::dup3(*source, target, libc::O_CLOEXEC) })?;
    }
    // SAFETY: closes descriptors this process no longer names anywhere: `plan` names only the copies below `above`.
    check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, 0) })?;
    Ok(())
}

/// "0" is the writer itself. The descriptors are closed, since they are a way back to the host's file system.
fn cgroups(plan: &mut Prepared) -> Result<(), Failure> {
    for fd in plan.cgroups.drain(..) {
        // SAFETY: the string is valid for one byte; `fd` is this function's, taken off the plan.
        unsafe {
            check(Step::Cgroup, libc::write(fd, c"0".as_ptr().cast(), 1) as libc::c_long)?;
            libc::close(fd);
        }
    }
    Ok(())
}

fn namespaces(plan: &Prepared) -> Result<(), Failure> {
    // SAFETY: integers only. This process has one thread, so no other shares what is made apart.
    check(Step::Namespaces, unsafe { libc::unshare(plan.namespaces.flags()) })?;
    Ok(())
}

fn limits(plan: &Prepared) -> Result<(), Failure> {
    for (limit, value) in &plan.limits {
        let (resource, value) = match (limit, *value) {
            (Limit::Nofile, value) => (libc::RLIMIT_NOFILE, value),
            // Where a program takes the dumps (`core_pattern` begins with a pipe), the kernel does not look at 0 and takes
            // exactly 1 for "none at all". Where they are files, both are too small for one.
            (Limit::Core, 0) => (libc::RLIMIT_CORE, 1),
            (Limit::Core, value) => (libc::RLIMIT_CORE, value),
        };
        // rlim_t is 32 bits wide on some targets: there, the largest value means "no limit", as it should.
        let value = libc::rlim_t::try_from(value).unwrap_or(libc::RLIM_INFINITY);
        let both = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: `both` is a valid rlimit.
        check(Step::Limits, unsafe { libc::setrlimit(resource, &raw const both) })?;
    }
    Ok(())
}

fn no_new_privs() -> Result<(), Failure> {
    prctl(Step::NoNewPrivs, libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

pub(crate) fn write_xor_execute() -> Result<(), Failure> {
    /// `PR_SET_MDWE` and `PR_MDWE_REFUSE_EXEC_GAIN`, of `linux/prctl.h`; kept over exec.
    const SET_MDWE: libc::c_int = 65;
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    prctl(Step::WriteXorExecute, SET_MDWE, REFUSE_EXEC_GAIN, 0)
}

/// All signals were blocked before the fork. Dispositions first, or a signal let in would run the supervisor's handler.
fn signals() -> Result<(), Failure> {
    // SAFETY: sigaction and sigset_t are plain data for which all zeroes is valid (SIG_DFL, no flags, empty mask);
    // pointers are to live locals. Signals that cannot be changed (SIGKILL, SIGSTOP, libc's own) answer EINVAL.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(Step::Signals, libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
    }
    Ok(())
}

/// After this, only what the filter lets pass: the next filter, exec, and on failure the report.
fn filter(program: &[Instruction]) -> Result<(), Failure> {
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        instructions: *const Instruction,
    }
    let len = program.len().try_into().map_err(|_| Failure::new(Step::Seccomp, Errno::INVAL))?;
    let program = Program { len, instructions: program.as_ptr() };
    // SAFETY: `program` is a live struct of the kernel's layout, and points to as many instructions as it says.
    check(Step::Seccomp, unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program)
    })?;
    Ok(())
}

fn exec(plan: &mut Prepared) -> Result<std::convert::Infallible, Failure> {
    // SAFETY: getpid has no precondition and cannot fail.
    write_decimal(&mut plan.listen_pid[LISTEN_PID.len()..], unsafe { libc::getpid() }.unsigned_abs());
    // SAFETY: `exec` is NUL-terminated; `argv` and `envp` are null-terminated arrays of pointers to NUL-terminated
    // strings that `plan` owns (`listen_pid` keeps at least one NUL after its digits).
    unsafe { libc::execve(plan.exec.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
    Err(Failure::new(Step::Exec, errno()))
}

/// Writes `value` left-aligned; the rest of `slot` keeps its NULs.
fn write_decimal(slot: &mut [u8], mut value: u32) {
    let mut digits = [0_u8; PID_DIGITS];
    let mut first = PID_DIGITS;
    loop {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    let digits = &digits[first..];
    slot[..digits.len()].copy_from_slice(digits);
}

fn prctl(
    step: Step,
    option: libc::c_int,
    second: libc::c_ulong,
    third: libc::c_ulong,
) -> Result<(), Failure> {
    // SAFETY: every option used here takes integers only; the unused arguments must be zero.
    check(step, unsafe { libc::prctl(option, second, third, 0 as libc::c_ulong, 0 as libc::c_ulong) })?;
    Ok(())
}

/// The call's answer, or the step with errno when the answer is negative.
fn check<T: Copy + Into<i64>>(step: Step, answer: T) -> Result<T, Failure> {
    if answer.into() < 0 { Err(Failure::new(step, errno())) } else { Ok(answer) }
}

fn errno() -> Errno {
    // SAFETY: the location is this thread's own and always valid.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_says_what_failed() {
        for subject in [None, Some(0), Some(300)] {
            let failure = Failure { step: Step::View, subject, errno: Errno::NOENT };
            let decoded = Failure::decode(failure.encode()).expect("a step");
            assert_eq!((decoded.step, decoded.subject, decoded.errno), (Step::View, subject, Errno::NOENT));
        }
        assert!(Failure::decode([0xff; REPORT_LEN]).is_none());
    }
}
