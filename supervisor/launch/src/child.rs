//! What happens between fork and exec, in the order of the crate's list. Nothing here allocates, locks, or calls
//! anything but async-signal-safe functions: another thread may have held any lock at the time of the fork.

use std::io;
use std::os::fd::RawFd;

use crate::{LISTEN_PID, Limit, PID_DIGITS, Prepared, Step};

/// Step (1 byte), padding, errno (4 bytes, native order). Less than `PIPE_BUF`, so written whole.
pub(crate) const REPORT_LEN: usize = 8;

/// First number for inherited descriptors (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: RawFd = 3;

/// What a failed child exits with; nobody looks, the report says more.
const EXIT_LAUNCH_FAILED: libc::c_int = 125;

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

pub(crate) fn decode_report(report: [u8; REPORT_LEN]) -> Option<(Step, io::Error)> {
    let [step, _, _, _, errno @ ..] = report;
    Some((Step::from_code(step)?, io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
}

/// Goes through the steps and becomes the program, or reports the step that failed and ends.
pub(crate) fn run(plan: &mut Prepared) -> ! {
    let (step, errno) = match steps(plan) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let mut report = [0; REPORT_LEN];
    report[0] = step as u8;
    report[4..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: `report` is valid for REPORT_LEN bytes; `write` and `_exit` are async-signal-safe.
    unsafe {
        libc::write(plan.status, report.as_ptr().cast(), REPORT_LEN);
        libc::_exit(EXIT_LAUNCH_FAILED);
    }
}

type Failure = (Step, i32);

fn steps(plan: &mut Prepared) -> Result<std::convert::Infallible, Failure> {
    session()?;
    die_with_parent(plan.parent)?;
    descriptors(plan)?;
    // cgroup; namespaces, private /tmp, read-only root and the state directory: here.
    limits(plan)?;
    if plan.identity.is_some() {
        identity(plan)?;
        die_with_parent(plan.parent)?;
        bounding_set(plan)?;
    }
    capabilities(plan)?;
    no_new_privs()?;
    // Landlock, then seccomp: here, when nothing but the next two steps needs a right any more.
    signals()?;
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
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err((Step::ParentDeath, libc::ESRCH)) }
}

/// Copies every source above all target numbers first, so that no target overwrites a source not yet moved.
fn descriptors(plan: &mut Prepared) -> Result<(), Failure> {
    let count = RawFd::try_from(plan.inherited.len()).map_err(|_| (Step::Descriptors, libc::EMFILE))?;
    let status_target = FIRST_INHERITED + count;
    let above = status_target + 1;
    for fd in plan.inherited.iter_mut().chain([&mut plan.null, &mut plan.output, &mut plan.status]) {
        // SAFETY: plain integers; a bad descriptor is an error, not undefined behaviour.
        *fd = check(Step::Descriptors, unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above) })?;
    }
    let standard = [(plan.null, 0), (plan.output, 1), (plan.output, 2)];
    let inherited = plan.inherited.iter().copied().zip(FIRST_INHERITED..);
    for (source, target) in standard.into_iter().chain(inherited) {
        // SAFETY: as above. dup2 leaves close-on-exec off on the copy.
        check(Step::Descriptors, unsafe { libc::dup2(source, target) })?;
    }
    // SAFETY: as above.
    plan.status =
        check(Step::Descriptors, unsafe { libc::dup3(plan.status, status_target, libc::O_CLOEXEC) })?;
    // SAFETY: closes descriptors this process no longer names anywhere: `plan`'s copies above were the last use.
    check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, 0) })?;
    Ok(())
}

fn limits(plan: &Prepared) -> Result<(), Failure> {
    for (limit, value) in &plan.limits {
        let resource = match limit {
            Limit::Nofile => libc::RLIMIT_NOFILE,
            Limit::Core => libc::RLIMIT_CORE,
        };
        // rlim_t is 32 bits wide on some targets: there, the largest value means "no limit", as it should.
        let value = libc::rlim_t::try_from(*value).unwrap_or(libc::RLIM_INFINITY);
        let both = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: `both` is a valid rlimit.
        check(Step::Limits, unsafe { libc::setrlimit(resource, &raw const both) })?;
    }
    Ok(())
}

/// Raw system calls: libc's versions first stop every thread of the process, by records that do not describe this child.
fn identity(plan: &Prepared) -> Result<(), Failure> {
    let Some(identity) = &plan.identity else { return Ok(()) };
    let (uid, gid) = (identity.uid, identity.gid);
    // Without this, the change of user would drop the granted capabilities too.
    prctl(Step::Uid, libc::PR_SET_KEEPCAPS, 1, 0)?;
    // SAFETY: the pointer and length are of a live Vec<u32>, and gid_t is u32; the others pass integers.
    unsafe {
        check(
            Step::Groups,
            libc::syscall(libc::SYS_setgroups, identity.groups.len(), identity.groups.as_ptr()),
        )?;
        check(Step::Gid, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(Step::Uid, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    prctl(Step::Uid, libc::PR_SET_KEEPCAPS, 0, 0)
}

/// Drops what is not granted from the bounding set, so that no exec brings it back. Capabilities the set lacks already
/// are left alone: a container may run us without them, and without the right to drop them.
fn bounding_set(plan: &Prepared) -> Result<(), Failure> {
    // The change of user emptied the effective set; dropping needs CAP_SETPCAP in it.
    let permitted = permitted(Step::Bounding)?;
    capset(Step::Bounding, permitted, permitted, [0, 0])?;
    for capability in 0..64_usize {
        // SAFETY: prctl with integers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) } {
            1 if !plan.capabilities.has(capability) => {
                prctl(Step::Bounding, libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0)?;
            }
            0 | 1 => {}
            // Past the last capability of this kernel.
            _ => break,
        }
    }
    Ok(())
}

/// Permitted, effective and inheritable become the granted set; ambient too, so that it survives the exec of a plain
/// program file by a user that is not root.
fn capabilities(plan: &Prepared) -> Result<(), Failure> {
    prctl(Step::Capabilities, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)?;
    let granted = plan.capabilities.words();
    capset(Step::Capabilities, granted, granted, granted)?;
    for capability in (0..64_usize).filter(|capability| plan.capabilities.has(*capability)) {
        prctl(
            Step::Capabilities,
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            capability as libc::c_ulong,
        )?;
    }
    Ok(())
}

fn no_new_privs() -> Result<(), Failure> {
    prctl(Step::NoNewPrivs, libc::PR_SET_NO_NEW_PRIVS, 1, 0)
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

fn exec(plan: &mut Prepared) -> Result<std::convert::Infallible, Failure> {
    // SAFETY: getpid has no precondition and cannot fail.
    write_decimal(&mut plan.listen_pid[LISTEN_PID.len()..], unsafe { libc::getpid() }.unsigned_abs());
    // SAFETY: `exec` is NUL-terminated; `argv` and `envp` are null-terminated arrays of pointers to NUL-terminated
    // strings that `plan` owns (`listen_pid` keeps at least one NUL after its digits).
    unsafe { libc::execve(plan.exec.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
    Err((Step::Exec, errno()))
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

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn permitted(step: Step) -> Result<[u32; 2], Failure> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityWord { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes exactly two words; both pointers are to live locals of the kernel's layout.
    check(step, unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok([data[0].permitted, data[1].permitted])
}

fn capset(
    step: Step,
    effective: [u32; 2],
    permitted: [u32; 2],
    inheritable: [u32; 2],
) -> Result<(), Failure> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |n: usize| CapabilityWord {
        effective: effective[n],
        permitted: permitted[n],
        inheritable: inheritable[n],
    };
    let data = [word(0), word(1)];
    // SAFETY: version 3 reads exactly two words; both pointers are to live locals of the kernel's layout.
    check(step, unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
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
    if answer.into() < 0 { Err((step, errno())) } else { Ok(answer) }
}

fn errno() -> i32 {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_fills_the_slot_from_the_left_and_keeps_a_nul() {
        for value in [0, 7, 4_194_304, u32::MAX] {
            let mut slot = [0; PID_DIGITS + 1];
            write_decimal(&mut slot, value);
            let text: Vec<u8> = slot.iter().copied().take_while(|byte| *byte != 0).collect();
            assert_eq!(text, value.to_string().into_bytes());
        }
    }
}
