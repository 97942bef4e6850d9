//! What the test programs share: launching a shell or this very program, and reading what it says.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod probe;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use launch::{
    Access, CapabilitySet, Child, Confinement, Error, Identity, Launch, Mount, Namespaces, Root, Step, View,
    launch,
};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

pub(crate) fn shell(script: &str) -> Launch<'static> {
    Launch {
        component: "probe",
        exec: PathBuf::from("/bin/sh"),
        argv0: "probe",
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH", OsString::from("/usr/bin:/bin:/usr/sbin:/sbin"))],
        inherited: Vec::new(),
        identity: None,
        capabilities: CapabilitySet::EMPTY,
        limits: Vec::new(),
        confinement: Confinement::default(),
    }
}

/// Runs the test named `probe_task` of this very program, told what to do by the environment.
pub(crate) fn probe(task: &str, argument: &str) -> Launch<'static> {
    let mut plan = shell("");
    plan.exec = std::env::current_exe().expect("own path");
    plan.args = ["--exact", "probe_task", "--nocapture", "--test-threads=1"].map(OsString::from).to_vec();
    plan.env = vec![("PROBE", task.into()), ("PROBE_ARGUMENT", argument.into())];
    plan
}

/// What a probe says that could do its task.
pub(crate) const DONE: i32 = 0;

/// The error number the probe said; [`DONE`] for none.
pub(crate) fn said(plan: &Launch<'_>) -> i32 {
    let (text, status) = finish(launch(plan).expect("launch"));
    let number = text.lines().find_map(|line| line.strip_prefix("probe says: ")?.parse().ok());
    number.unwrap_or_else(|| panic!("nothing said ({status:?}): {text}"))
}

/// Everything the child writes, and how it ended.
pub(crate) fn finish(child: Child) -> (String, WaitIdStatus) {
    let mut text = String::new();
    File::from(child.output).read_to_string(&mut text).expect("output is text");
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .expect("the child is ours")
        .expect("it has ended");
    (text, status)
}

pub(crate) fn output(plan: &Launch<'_>) -> String {
    let (text, status) = finish(launch(plan).expect("launch"));
    assert_eq!(status.exit_status(), Some(0), "{text}");
    text
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not run: needs root");
    }
    root
}

pub(crate) fn step_of(result: Result<Child, Error>) -> (Step, std::io::Error) {
    match result {
        Err(Error::Step { step, source, .. }) => (step, source),
        other => panic!("expected a failed step, got {other:?}"),
    }
}

/// A user that is nobody else's, without capabilities.
pub(crate) fn nobody() -> Identity {
    Identity { uid: 65_533, gid: 65_533, groups: Vec::new() }
}

/// A directory everyone may enter, below which the new root is staged and granted places are made.
pub(crate) fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    allow(dir.path(), 0o755);
    std::fs::create_dir(dir.path().join("staging")).expect("staging");
    dir
}

pub(crate) fn allow(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

pub(crate) fn bind(path: impl Into<PathBuf>, access: Access) -> Mount {
    let path = path.into();
    Mount::Bind { source: path.clone(), path, access, exec: false, optional: false }
}

/// What a shell needs.
pub(crate) fn system() -> Vec<Mount> {
    let mut mounts: Vec<_> = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache"]
        .into_iter()
        .map(|path| Mount::Bind {
            source: path.into(),
            path: path.into(),
            access: Access::ReadOnly,
            exec: true,
            optional: true,
        })
        .collect();
    mounts.push(bind("/proc", Access::ReadOnly));
    mounts.push(Mount::Device { path: "/dev/null".into() });
    mounts
}

/// A private root below `place` with the system and `more`.
pub(crate) fn private(plan: &mut Launch<'_>, place: &Path, more: impl IntoIterator<Item = Mount>) {
    plan.confinement.namespaces = Namespaces::MOUNT;
    let mounts = system().into_iter().chain(more).collect();
    plan.confinement.view = Some(View { root: Root::Private { staging: place.join("staging") }, mounts });
}

/// In a mount namespace of a thread's own, which ends with it: what a test mounts, the machine does not see.
pub(crate) fn in_own_mount_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: only this thread's view of the file system changes; nothing else depends on it.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
                    .expect("mount namespace");
                let flags =
                    rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
                rustix::mount::mount_change("/", flags).expect("private mounts");
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A program that answers one system call with `action` and lets every other pass.
pub(crate) fn filter(call: libc::c_long, action: u32) -> launch::Filter {
    let instruction =
        |code: u32, jt, jf, k| launch::Instruction { code: u16::try_from(code).expect("a code"), jt, jf, k };
    launch::Filter {
        program: vec![
            // The number is the first field of `struct seccomp_data`.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                0,
                1,
                u32::try_from(call).expect("a call"),
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ],
    }
}

/// Makes this thread, and what it launches, live on a kernel without that call.
pub(crate) fn without_system_call(call: libc::c_long) {
    refusing(call, libc::ENOSYS);
}

/// Makes this thread, and what it launches, live on a kernel that always refuses that call.
pub(crate) fn refusing(call: libc::c_long, errno: i32) {
    #[repr(C)]
    struct Program {
        len: u16,
        instructions: *const launch::Instruction,
    }
    let filter = filter(call, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let program = Program { len: 4, instructions: filter.program.as_ptr() };
    // SAFETY: the program is alive and as long as it says; root may load it without more.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program) };
    assert_eq!(answer, 0);
}
