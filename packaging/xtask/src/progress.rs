//! What is being done and for how long, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often the clock of a running step moves.
const TICK: Duration = Duration::from_millis(200);

/// Prints steps: with a moving clock on a terminal, one line each in a pipe.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Whether a person is watching.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Does `work` and prints what it is and how long it took.
    pub(crate) fn step<T: Send>(&self, what: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let began = Instant::now();
        let result = if self.terminal { tick_during(what, work) } else { work() };
        self.ended(what, began, result.is_ok());
        result
    }

    /// As [`Self::step`], for work that prints to the terminal itself.
    pub(crate) fn noisy_step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        eprintln!("  … {what}");
        let result = work();
        self.ended(what, began, result.is_ok());
        result
    }

    fn ended(&self, what: &str, began: Instant, succeeded: bool) {
        let seconds = began.elapsed().as_secs_f64();
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let mark = if succeeded { "✓" } else { "✗" };
        eprintln!("{clear}  {mark} {what} ({seconds:.1} s)");
    }
}

fn tick_during<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (done, ticks) = channel::<()>();
        scope.spawn(move || {
            while ticks.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let mut out = std::io::stderr().lock();
                // A terminal that went away is no reason to stop working.
                let _ = write!(out, "\r\x1b[K  … {what} ({} s)", began.elapsed().as_secs());
                let _ = out.flush();
            }
        });
        let result = work();
        drop(done);
        result
    })
}
