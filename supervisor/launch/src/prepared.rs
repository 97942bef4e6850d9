//! A [`Launch`] laid out for the child: every string NUL-terminated, every list a C array, nothing left to allocate.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::{Gid, Uid};

use crate::{CapabilitySet, Filter, Identity, Instruction, Landlock, Launch, Limit, Namespaces, view};

pub(crate) const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Digits of the largest pid (2^22 on 64-bit kernels, `i32::MAX` by type).
pub(crate) const PID_DIGITS: usize = 10;
/// `BPF_MAXINSNS`, the kernel's bound on a filter's length.
const MAX_INSTRUCTIONS: usize = 4096;

/// Everything the child needs, allocated before the fork. The pointers point into the other fields, whose heap memory
/// does not move.
pub(crate) struct Prepared {
    pub(crate) exec: CString,
    _strings: Vec<CString>,
    pub(crate) argv: Vec<*const libc::c_char>,
    pub(crate) envp: Vec<*const libc::c_char>,
    /// `LISTEN_PID=` and room for the child's own pid and a NUL; in `envp` when there are inherited descriptors.
    pub(crate) listen_pid: Vec<u8>,
    /// Sources of the inherited descriptors, then, in the child, their copies above the target numbers. The same for
    /// the next four.
    pub(crate) inherited: Vec<RawFd>,
    pub(crate) cgroups: Vec<RawFd>,
    pub(crate) null: RawFd,
    pub(crate) output: RawFd,
    pub(crate) status: RawFd,
    pub(crate) namespaces: Namespaces,
    pub(crate) view: Option<view::Plan>,
    pub(crate) user: Option<User>,
    pub(crate) keyring: bool,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) limits: Vec<(Limit, u64)>,
    pub(crate) write_xor_execute: bool,
    pub(crate) landlock: Option<Domain>,
    pub(crate) filters: Vec<Vec<Instruction>>,
    pub(crate) parent: libc::pid_t,
}

/// An [`Identity`] in the kernel's types.
pub(crate) struct User {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// A [`Landlock`] with its paths laid out, in the order of its rules.
pub(crate) struct Domain {
    pub(crate) asked: Landlock,
    pub(crate) paths: Vec<CString>,
}

impl Prepared {
    pub(crate) fn new(
        plan: &Launch<'_>,
        null: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        status: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let mut strings = Vec::with_capacity(2 + plan.args.len() + plan.env.len() + 2);
        strings.push(CString::new(plan.argv0)?);
        for arg in &plan.args {
            strings.push(CString::new(arg.as_bytes())?);
        }
        let arguments = strings.len();
        for (name, value) in &plan.env {
            let mut entry = Vec::with_capacity(name.len() + 1 + value.len());
            entry.extend_from_slice(name.as_bytes());
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            strings.push(CString::new(entry)?);
        }
        if !plan.inherited.is_empty() {
            let names: Vec<&str> = plan.inherited.iter().map(|inherited| inherited.name).collect();
            strings.push(CString::new(format!("LISTEN_FDS={}", names.len()))?);
            strings.push(CString::new(format!("LISTEN_FDNAMES={}", names.join(":")))?);
        }
        let mut listen_pid = LISTEN_PID.to_vec();
        listen_pid.resize(LISTEN_PID.len() + PID_DIGITS + 1, 0);

        let mut argv: Vec<_> = strings[..arguments].iter().map(|string| string.as_ptr()).collect();
        argv.push(ptr::null());
        let mut envp: Vec<_> = strings[arguments..].iter().map(|string| string.as_ptr()).collect();
        if !plan.inherited.is_empty() {
            envp.push(listen_pid.as_ptr().cast());
        }
        envp.push(ptr::null());

        let confinement = &plan.confinement;
        if confinement.view.is_some() && !confinement.namespaces.contains(Namespaces::MOUNT) {
            return Err(invalid("a view without a mount namespace of its own would change the host's"));
        }
        Ok(Self {
            exec: path(&plan.exec)?,
            _strings: strings,
            argv,
            envp,
            listen_pid,
            inherited: plan.inherited.iter().map(|inherited| inherited.fd.as_raw_fd()).collect(),
            cgroups: confinement.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
            null: null.as_raw_fd(),
            output: output.as_raw_fd(),
            status: status.as_raw_fd(),
            namespaces: confinement.namespaces,
            view: confinement.view.as_ref().map(view::Plan::new).transpose()?,
            user: plan.identity.as_ref().map(User::new).transpose()?,
            keyring: confinement.keyring,
            capabilities: plan.capabilities,
            limits: plan.limits.clone(),
            write_xor_execute: confinement.write_xor_execute,
            landlock: confinement.landlock.as_ref().map(Domain::new).transpose()?,
            filters: confinement.filters.iter().map(program).collect::<io::Result<_>>()?,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        })
    }
}

impl User {
    fn new(identity: &Identity) -> io::Result<Self> {
        // To the kernel, all ones means "leave it as it is".
        if identity.groups.iter().chain([&identity.uid, &identity.gid]).any(|id| *id == u32::MAX) {
            return Err(invalid("4294967295 is no user or group"));
        }
        Ok(Self {
            uid: Uid::from_raw(identity.uid),
            gid: Gid::from_raw(identity.gid),
            groups: identity.groups.iter().copied().map(Gid::from_raw).collect(),
        })
    }
}

impl Domain {
    pub(crate) fn new(landlock: &Landlock) -> io::Result<Self> {
        let paths = landlock.rules.iter().map(|(below, ..)| path(below)).collect::<io::Result<_>>()?;
        Ok(Self { asked: landlock.clone(), paths })
    }
}

fn program(filter: &Filter) -> io::Result<Vec<Instruction>> {
    match filter.program.len() {
        1..=MAX_INSTRUCTIONS => Ok(filter.program.clone()),
        len => {
            Err(invalid(format!("a system call filter of {len} instructions; 1 to {MAX_INSTRUCTIONS} fit")))
        }
    }
}

pub(crate) fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub(crate) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
