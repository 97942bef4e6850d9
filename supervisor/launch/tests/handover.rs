//! A program that becomes its successor: what it keeps, what it does not, and its children.

mod probed;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use launch::{CapabilitySet, Child, Exit, Process, exec_self, launch, take_inherited};
use probed::{finish, probe, shell};

/// Not a test: the program, first as the predecessor and then as the successor. Run with one test thread, so it is on the
/// main thread, as the supervisor is.
#[test]
fn probe_task() {
    match std::env::var("PROBE").as_deref() {
        Ok("predecessor") => predecessor(),
        Ok("successor") => successor(),
        _ => {}
    }
}

fn become_successor(keep: &[BorrowedFd<'_>], numbers: &str) -> std::io::Error {
    let args: Vec<_> = std::env::args_os().collect();
    let env = [("PROBE", "successor"), ("PROBE_ARGUMENT", numbers)]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    exec_self(&std::env::current_exe().expect("own path"), &args, &env, keep)
}

fn predecessor() {
    let child = launch(&shell("echo started; exec sleep 600")).expect("launch");
    let mut state =
        File::from(rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd"));
    state.write_all(b"what it knew").expect("write");
    let forgotten = File::open("/proc/version").expect("open");
    let numbers = format!(
        "{} {} {} {} {} {}",
        std::process::id(),
        state.as_raw_fd(),
        child.pid,
        child.pidfd.as_raw_fd(),
        child.output.as_raw_fd(),
        forgotten.as_raw_fd()
    );
    let error = become_successor(&[state.as_fd(), child.pidfd.as_fd(), child.output.as_fd()], &numbers);
    panic!("still the predecessor: {error}");
}

fn successor() {
    let numbers = std::env::var("PROBE_ARGUMENT").expect("numbers");
    let numbers: Vec<u32> = numbers.split(' ').map(|word| word.parse().expect("a number")).collect();
    let [me, state, pid, pidfd, output, forgotten] = numbers[..] else { panic!("{numbers:?}") };
    let take = |number: u32| take_inherited(RawFd::try_from(number).expect("a descriptor"));
    assert_eq!(std::process::id(), me);
    assert!(take(forgotten).is_err(), "closed by the exec");

    let mut state = File::from(take(state).expect("state"));
    let mut text = String::new();
    std::io::Seek::rewind(&mut state).expect("rewind");
    state.read_to_string(&mut text).expect("read");
    println!("\nknows {text}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let process = Process::adopt(pid, take(pidfd).expect("pidfd")).expect("adopt");
        let mut line = [0; 8];
        File::from(take(output).expect("output")).read_exact(&mut line).expect("output");
        println!("\nchild {}", String::from_utf8_lossy(&line));
        process.terminate().expect("terminate");
        println!("\nended {:?}", process.ended().await.expect("ended") == Exit::Signal(libc::SIGTERM));
    });
}

#[test]
fn successor_keeps_process_id_state_and_running_children() {
    let plan = probe("predecessor", "");
    let (text, status) = finish(launch(&plan).expect("launch"));
    assert_eq!(status.exit_status(), Some(0), "{text}");
    for line in ["\nknows what it knew\n", "\nchild started\n", "\nended true\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn failed_exec_leaves_descriptors_close_on_exec() {
    let file = File::open("/proc/version").expect("open");
    let error = exec_self("/nonexistent".as_ref(), &["x".into()], &[], &[file.as_fd(), file.as_fd()]);
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(rustix::io::fcntl_getfd(&file).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn descriptor_this_process_opened_is_not_taken() {
    let file = File::open("/proc/version").expect("open");
    for number in [0, 1, 2, -1, file.as_raw_fd()] {
        assert!(take_inherited(number).is_err(), "{number}");
    }
}

#[test]
fn inherited_descriptor_is_taken_once() {
    let file = File::open("/proc/version").expect("open");
    // As exec would leave it; not close-on-exec, and owned by nobody.
    let number =
        rustix::io::fcntl_dupfd_cloexec(&file, 100).map(std::os::fd::IntoRawFd::into_raw_fd).expect("dup");
    // SAFETY: open, and the borrow ends with the call.
    rustix::io::fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, rustix::io::FdFlags::empty())
        .expect("flags");
    let taken: OwnedFd = take_inherited(number).expect("taken");
    assert_eq!(taken.as_raw_fd(), number);
    assert!(take_inherited(number).is_err());
}

#[test]
fn adopted_process_hands_its_pidfd_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let Child { pid, pidfd, output: _output } = launch(&shell("exec sleep 600")).expect("launch");
        let process = Process::adopt(pid, pidfd).expect("adopt");
        rustix::process::pidfd_send_signal(process.as_fd(), rustix::process::Signal::KILL).expect("signal");
        assert_eq!(process.ended().await.expect("ended"), Exit::Signal(libc::SIGKILL));
    });
}

#[test]
fn capabilities_given_up_do_not_come_back() {
    if !probed::is_root() {
        return;
    }
    // Capabilities are this thread's.
    std::thread::spawn(|| {
        let keep = CapabilitySet::for_launching();
        let held = CapabilitySet::held().expect("held");
        assert_eq!(keep.keep_only().expect("keep"), keep.intersection(held));
        assert_eq!(CapabilitySet::held().expect("held"), keep.intersection(held));
        // A program started by root has all of the bounding set again, but for what was dropped from it.
        let status = std::process::Command::new("cat").arg("/proc/self/status").output().expect("cat").stdout;
        let status = String::from_utf8(status).expect("text");
        let set = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a set");
            u64::from_str_radix(value.trim(), 16).expect("hexadecimal")
        };
        assert_eq!(set("CapBnd:"), set("CapPrm:"));
        let names: Vec<_> = keep.intersection(held).names().collect();
        assert_eq!(set("CapBnd:").count_ones() as usize, names.len(), "{names:?}");
        // And is still enough for a launch with everything.
        let place = probed::place();
        let mut plan = shell("true");
        probed::private(&mut plan, place.path(), []);
        plan.identity = Some(probed::nobody());
        probed::output(&plan);
    })
    .join()
    .expect("join");
}
