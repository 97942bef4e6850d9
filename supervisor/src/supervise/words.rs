//! How a process ended and what a component waits for, in an operator's words.

use launch::Exit;
use nix::sys::signal::Signal;

use crate::policy::{EXIT_CONFIG, Machine, State};

/// How a process ended. The table of exit codes and signals that mean something here; the README has it, too.
pub(super) fn exit(exit: Exit) -> String {
    /// What Rust's runtime exits with when the main thread panics and unwinds.
    const EXIT_PANIC: i32 = 101;
    const SIGABRT: i32 = Signal::SIGABRT as i32;
    const SIGSYS: i32 = Signal::SIGSYS as i32;
    let meaning = match exit {
        Exit::Code(EXIT_CONFIG) => ": bad configuration, see its log",
        Exit::Code(EXIT_PANIC) | Exit::Signal(SIGABRT) => ": it panicked or aborted, see its log",
        Exit::Signal(SIGSYS) => ": a system call its policy forbids",
        Exit::Code(_) | Exit::Signal(_) => "",
    };
    format!("{exit}{meaning}")
}

/// How a process ended that the kernel killed at its memory ceiling.
pub(super) fn memory(ceiling: Option<u64>, exit: &str) -> String {
    let mebibytes = ceiling.unwrap_or(0) / (1024 * 1024);
    format!("memory ceiling of {mebibytes} MiB reached ({exit})")
}

/// The word for a state in `edgectl status`.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Starting { .. } => "starting",
        State::Ready { .. } => "ready",
        State::Ending { .. } => "stopping",
        State::Backoff { .. } => "backoff",
        State::Failed => "failed",
    }
}

/// Why a component without a process has none; empty for one with a process. `by` is who asked last; `hopeless` says that
/// its program was never ready.
pub(super) fn rest(machine: &Machine, by: &str, hopeless: bool) -> String {
    match machine.state() {
        State::Stopped if !machine.settled() => "waits for its turn: lower ranks start first".to_owned(),
        State::Stopped if by.is_empty() => "stopped with the supervisor".to_owned(),
        State::Stopped => format!("stopped by {by} until it is started"),
        State::Backoff { .. } => match machine.strikes() {
            0 | 1 => "waits after a failure".to_owned(),
            strikes if hopeless => {
                format!("waits after {strikes} failures in a row; its program was never ready")
            }
            strikes => format!("waits after {strikes} failures in a row"),
        },
        State::Failed => "left alone until it is started or restarted".to_owned(),
        State::Starting { .. } | State::Ready { .. } | State::Ending { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_that_mean_something_say_so() {
        assert_eq!(exit(Exit::Code(78)), "exit code 78: bad configuration, see its log");
        assert_eq!(exit(Exit::Signal(31)), "killed by SIGSYS: a system call its policy forbids");
        assert_eq!(exit(Exit::Signal(6)), "killed by SIGABRT: it panicked or aborted, see its log");
        assert_eq!(exit(Exit::Code(1)), "exit code 1");
    }
}
