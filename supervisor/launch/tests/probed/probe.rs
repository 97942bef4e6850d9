//! What the launched copies of a test program do: one task, whose result they say.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;

use rustix::process::Pid;

/// Does what the environment says; nothing in an ordinary test run.
pub(crate) fn run() {
    let Ok(task) = std::env::var("PROBE") else { return };
    let argument = std::env::var("PROBE_ARGUMENT").unwrap_or_default();
    let number = || argument.parse().expect("a number");
    say(match task.as_str() {
        "read" => std::fs::read(argument).map(drop),
        "list" => std::fs::read_dir(argument).map(drop),
        "write" => std::fs::write(argument, "x"),
        "truncate" => File::options().write(true).truncate(true).open(argument).map(drop),
        "make directory" => std::fs::create_dir(argument),
        "make link" => std::os::unix::fs::symlink("/etc", argument),
        "remove" => std::fs::remove_file(argument),
        "run" => Command::new(argument).status().map(drop),
        "connect" => TcpStream::connect(argument).map(drop),
        "connect to itself" => TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| TcpStream::connect(listener.local_addr()?))
            .map(drop),
        "bind" => TcpListener::bind(argument).map(drop),
        "connect path" => UnixStream::connect(argument).map(drop),
        "connect abstract" => SocketAddr::from_abstract_name(argument)
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(drop),
        "signal" => rustix::process::test_kill_process(Pid::from_raw(number()).expect("a pid"))
            .map_err(io::Error::from),
        "host name" => call(libc::SYS_uname, [0; 3]),
        "executable memory" => executable_memory(),
        "message queue" => {
            let mut room = [0_u64; 64];
            let [id, stat] = [number().into(), libc::IPC_STAT.into()];
            call(libc::SYS_msgctl, [id, stat, room.as_mut_ptr() as libc::c_long])
        }
        "find key" => find_key(&argument),
        "secure bits" => {
            // SAFETY: integers only.
            let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) };
            println!("\nsecure bits: {bits:#x}");
            Ok(())
        }
        other => panic!("unknown task {other}"),
    });
}

/// The error number, on a line that the reader finds between those of the test harness.
fn say(result: io::Result<()>) {
    let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(i32::MAX), |()| super::DONE);
    println!("\nprobe says: {errno}");
}

/// A system call by number; arguments that are addresses belong to live buffers large enough, or are 0.
fn call(number: libc::c_long, [a, b, c]: [libc::c_long; 3]) -> io::Result<()> {
    // SAFETY: see above.
    if unsafe { libc::syscall(number, a, b, c) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn executable_memory() -> io::Result<()> {
    // SAFETY: a fresh private mapping, which nothing refers to.
    let answer = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if answer == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SESSION_KEYRING: libc::c_long = -3;

/// Looks for a key of that name in the session keyring.
fn find_key(name: &str) -> io::Result<()> {
    const SEARCH: libc::c_long = 10;
    let name = std::ffi::CString::new(name)?;
    // SAFETY: both strings are NUL-terminated and alive.
    let answer = unsafe {
        libc::syscall(libc::SYS_keyctl, SEARCH, SESSION_KEYRING, c"user".as_ptr(), name.as_ptr(), 0_i32)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a key into this thread's session keyring, which it makes first: nothing is left of it after the thread.
pub(crate) fn add_key_to_own_keyring(name: &str) {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name = std::ffi::CString::new(name).expect("a name");
    call(libc::SYS_keyctl, [JOIN_SESSION_KEYRING, 0, 0]).expect("keyring");
    // SAFETY: the strings are NUL-terminated, and the payload is one byte long.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            c"x".as_ptr(),
            1_usize,
            SESSION_KEYRING,
        )
    };
    assert!(answer >= 0, "{}", io::Error::last_os_error());
}

/// A System V message queue, removed at the end.
pub(crate) struct Queue(pub(crate) libc::c_int);

impl Queue {
    pub(crate) fn new() -> Self {
        // SAFETY: integers only.
        let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
        assert!(id >= 0, "{}", io::Error::last_os_error());
        Self(id)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: removal takes no buffer.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}
