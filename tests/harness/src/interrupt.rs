//! Ctrl-C and SIGTERM end a run in order: whatever waits gives up, and dropped values clean up.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

static REQUESTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread is cleaning up.
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on the first SIGINT or SIGTERM only sets the flag behind [`requested`]; the second one ends the process
/// at once with status 130 and leaves the cleaning to the next run.
pub fn install() -> Result<()> {
    // tokio is here because a signal handler cannot be installed without unsafe code otherwise.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("could not start the signal watcher")?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("could not watch SIGINT")?,
            signal(SignalKind::terminate()).context("could not watch SIGTERM")?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if REQUESTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                eprintln!("\nstopping and cleaning up (once more to leave at once)");
            }
        });
    });
    Ok(())
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// An error when the user asked to stop; every bounded wait calls this.
pub fn check() -> Result<()> {
    if requested() && !SHIELDED.get() {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs `work` as if nobody had asked to stop: cleaning up waits for processes too.
pub(crate) fn shielded<T>(work: impl FnOnce() -> T) -> T {
    let outer = SHIELDED.replace(true);
    let result = work();
    SHIELDED.set(outer);
    result
}
