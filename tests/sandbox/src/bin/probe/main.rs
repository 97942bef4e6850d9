//! Tries one thing and says in one word how it went: `allowed`, or the name of the error.
//!
//! The sandbox suite starts it in place of a component, under the component's profile. It does nothing but what its
//! arguments say, so that every system call it makes besides is one that any program makes.

#[expect(unsafe_code, reason = "system calls that no library makes for one")]
mod raw;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    println!("{}", attempt(&words));
}

fn attempt(words: &[&str]) -> String {
    match words {
        ["read", path] => told(std::fs::File::open(path).and_then(|mut file| file.read(&mut [0]))),
        ["list", path] => told(std::fs::read_dir(path).map(Iterator::count)),
        ["beside", path] => beside(Path::new(path)),
        ["make", path] => told(make(path)),
        ["leave", path] => told(leave(path)),
        ["append", path] => {
            told(std::fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write(b"x")))
        }
        ["connect", path] => told(UnixStream::connect(path)),
        ["send", path] => told(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"X_PROBE=1", path))),
        ["abstract", name] => {
            told(SocketAddr::from_abstract_name(name).and_then(|name| UnixStream::connect_addr(&name)))
        }
        ["tcp", address] => told(TcpStream::connect(address)),
        ["listen", address] => told(TcpListener::bind(address)),
        ["udp", address] => told(udp(address)),
        ["run", program, arguments @ ..] => told::<()>(Err(Command::new(program).args(arguments).exec())),
        ["copy-and-run", from, to] => {
            told::<()>(copy(from, to).and_then(|()| Err(Command::new(to).arg("say").exec())))
        }
        ["say"] => "allowed".to_owned(),
        ["others"] => others(),
        ["call", number, arguments @ ..] => told(raw::call(number, arguments)),
        ["take", pid] => told(number(pid).and_then(raw::take_descriptor)),
        ["raise"] => told(raw::raise()),
        ["write-then-execute"] => told(raw::write_then_execute()),
        ["foreign"] => told(raw::foreign()),
        ["descriptors"] => descriptors(),
        ["environment"] => environment(),
        ["core"] => core_limit(),
        ["threads", most] => told(threads(most)),
        ["memory", bytes] => told(memory(bytes)),
        ["files", most] => told(files(most)),
        ["sit"] => {
            println!("sitting");
            std::thread::sleep(Duration::from_hours(1));
            "left".to_owned()
        }
        _ => format!("unknown attempt {words:?}"),
    }
}

fn told<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "allowed".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => name(errno),
            None => format!("{:?}", error.kind()),
        },
    }
}

fn name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::ENOEXEC => "ENOEXEC",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        libc::E2BIG => "E2BIG",
        libc::ENOKEY => "ENOKEY",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EPROTOTYPE => "EPROTOTYPE",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        other => return format!("errno-{other}"),
    };
    name.to_owned()
}

/// Whether anything lies beside what is at `path`.
fn beside(path: &Path) -> String {
    let folder = path.parent().unwrap_or(path);
    match std::fs::read_dir(folder) {
        Err(error) => told::<()>(Err(error)),
        Ok(mut entries) => {
            let others = entries.any(|entry| entry.is_ok_and(|entry| entry.path() != path));
            if others { "allowed" } else { "none" }.to_owned()
        }
    }
}

/// Sends a datagram without binding a port first, as a look-up of names does.
fn udp(address: &str) -> io::Result<()> {
    let address: SocketAddrV4 = address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    raw::udp(*address.ip(), address.port())
}

/// Copies a program with no call but those of reading and writing.
fn copy(from: &str, to: &str) -> io::Result<()> {
    let mut copy =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(to)?;
    copy.write_all(&std::fs::read(from)?)
}

/// Makes a file and removes it again; the suite removes it, too, for those that may not.
fn make(path: &str) -> io::Result<()> {
    leave(path)?;
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn leave(path: &str) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(b"x")
}

/// Whether processes other than this one can be seen.
fn others() -> String {
    let own = std::process::id();
    match std::fs::read_dir("/proc") {
        Err(error) => told::<()>(Err(error)),
        Ok(entries) => {
            let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            if pids.filter(|pid| *pid != own).count() > 0 { "allowed" } else { "none" }.to_owned()
        }
    }
}

/// Whether anything is open but input, output, errors and the announced listeners.
fn descriptors() -> String {
    let announced: i32 =
        std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or_default();
    let mut extra = Vec::new();
    for number in 3 + announced..4096 {
        if raw::is_open(number) {
            extra.push(number.to_string());
        }
    }
    if extra.is_empty() { "announced".to_owned() } else { format!("also-{}", extra.join("-")) }
}

/// Whether any variable is there that the components are not documented to get.
fn environment() -> String {
    const DOCUMENTED: [&str; 16] = [
        "PATH",
        "LANG",
        "RUST_BACKTRACE",
        "RUST_LOG",
        "APIARY_COMPONENT",
        "APIARY_GENERATION",
        "APIARY_CONFIG",
        "APIARY_CALLS",
        "APIARY_LINKS",
        "STATE_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    // Of the manifest, and for who shares mounts with the host.
    const OWN: [&str; 2] = ["KUBECONFIG", "APIARY_SHARED"];
    let extra: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .filter(|name| !DOCUMENTED.contains(&name.as_str()) && !OWN.contains(&name.as_str()))
        .collect();
    if extra.is_empty() { "documented".to_owned() } else { format!("also-{}", extra.join("-")) }
}

/// The largest core dump.
fn core_limit() -> String {
    match raw::core_limit() {
        // The kernel takes 1 for "not even to a program that collects dumps".
        Ok(0 | 1) => "none".to_owned(),
        limit => told(limit),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn threads(most: &str) -> io::Result<()> {
    for _ in 0..number(most)? {
        std::thread::Builder::new().stack_size(64 << 10).spawn(std::thread::park)?;
    }
    Ok(())
}

fn memory(bytes: &str) -> io::Result<()> {
    let mut kept = Vec::new();
    for _ in 0..number(bytes)? >> 20 {
        kept.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
    std::hint::black_box(kept);
    Ok(())
}

fn files(most: &str) -> io::Result<()> {
    let mut kept = Vec::new();
    for _ in 0..number(most)? {
        kept.push(std::fs::File::open("/dev/null")?);
    }
    Ok(())
}
