//! A program that replaces itself with a newer one, and descriptors that pass from the one to the other.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Becomes `program`: same process id, same children, same rights. The descriptors in `keep` stay open under their
/// numbers, beside standard input, output and error; `args` begins with `argv[0]`; `env` is the whole environment.
///
/// Returns only when it could not, with everything as it was. Call it from the thread that launches: the children's
/// parent-death signal is tied to it, and another thread's exec ends it.
pub fn exec_self(
    program: &Path,
    args: &[OsString],
    env: &[(OsString, OsString)],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    match exec_keeping(program, args, env, keep) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn exec_keeping(
    program: &Path,
    args: &[OsString],
    env: &[(OsString, OsString)],
    keep: &[BorrowedFd<'_>],
) -> io::Result<std::convert::Infallible> {
    let program = CString::new(program.as_os_str().as_bytes())?;
    let args = args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let entry = |(name, value): &(OsString, OsString)| {
        CString::new([name.as_os_str(), OsStr::new("="), value].map(OsStr::as_bytes).concat())
    };
    let env = env.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let pointers = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arg_list, env_list) = (pointers(&args), pointers(&env));
    let _kept = Kept::new(keep)?;
    // SAFETY: `program` is NUL-terminated; both arrays end with a null pointer, and what they point to lives in `args`
    // and `env`.
    unsafe { libc::execve(program.as_ptr(), arg_list.as_ptr(), env_list.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Descriptors that stay open over an exec, until dropped.
struct Kept<'a>(Vec<(BorrowedFd<'a>, FdFlags)>);

impl<'a> Kept<'a> {
    fn new(keep: &[BorrowedFd<'a>]) -> io::Result<Self> {
        let mut kept = Self(Vec::with_capacity(keep.len()));
        for fd in keep {
            let flags = fcntl_getfd(fd)?;
            fcntl_setfd(fd, flags.difference(FdFlags::CLOEXEC))?;
            kept.0.push((*fd, flags));
        }
        Ok(kept)
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        // The other way round, for a descriptor that was listed twice.
        for (fd, flags) in self.0.iter().rev() {
            // It worked with the same descriptor a moment ago.
            let _ = fcntl_setfd(fd, *flags);
        }
    }
}

/// Takes ownership of a descriptor that came through exec, by its number, and makes it close-on-exec.
///
/// Refuses with `InvalidInput` standard input, output and error, and every descriptor that is close-on-exec: this
/// process opened that one itself (the standard library and tokio open no other kind) or took it before. Call it before
/// other threads start.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends in this function. That the number may not be open is an error of the call, not undefined.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is open, and nobody in this process owns it: all that is opened here is close-on-exec, and so is what
    // was taken before. So this is its only owner.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, flags.union(FdFlags::CLOEXEC))?;
    Ok(fd)
}
