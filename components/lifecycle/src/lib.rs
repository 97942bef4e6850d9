//! What every supervised process does first and last: logs, links, readiness, drain, exit code.
//!
//! **What it holds:** the listeners the process inherited and its shutdown token. **Which untrusted bytes it touches:**
//! none; its environment comes from the supervisor or systemd. **What keeps it safe:** the environment is parsed once,
//! before anything else runs, and what does not parse ends the process with a sentence and exit code 78.
//!
//! A component's main is one line:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     lifecycle::run("example", |ctx| async move {
//!         ctx.ready();
//!         ctx.shutdown().cancelled().await;
//!         Ok(())
//!     })
//! }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod context;
mod environment;
mod error;
mod listener;
mod logs;
mod notify;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use context::Context;
pub use error::{ConfigError, LinkError, WithHint};
pub use listener::InheritedListener;

use environment::Environment;

/// The component may take this long to end after SIGTERM: 5 s. The supervisor's drain deadline is longer.
const DRAIN: Duration = Duration::from_secs(5);

/// `EX_CONFIG` of sysexits: not restarted until asked, since the next start would fail the same way.
pub const EXIT_CONFIG: u8 = 78;

/// Runs a component until it returns, or until its drain time after SIGTERM or SIGINT is over.
///
/// Sets up logs, a current_thread runtime, and the [`Context`] from the environment. An error is logged once, as one
/// line. Exit codes: 0 when the component returned in good order, 78 when its error contains a [`ConfigError`], else 1.
pub fn run<F, Fut>(name: &'static str, component: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    logs::init();
    match start(name, component) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error::hint(&error);
            tracing::error!(error = format!("{error:#}"), hint, "ended with an error");
            if error::is_config(&error) { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn start<F, Fut>(name: &'static str, component: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let environment = Environment::from_process(name).map_err(ConfigError::new)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("could not start the runtime: {error}"))?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        spawn_signals(shutdown.clone())?;
        let context = Context::new(environment, shutdown.clone());
        tracing::info!("started");
        tokio::select! {
            result = component(context) => result,
            () = overdue(&shutdown) => Err(anyhow::anyhow!("did not end within {} s of being asked to", DRAIN.as_secs())),
        }
    });
    // Not awaited: a blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    if result.is_ok() {
        tracing::info!("ended");
    }
    result
}

fn spawn_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let could_not = |error| anyhow::anyhow!("could not listen for signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(could_not)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(could_not)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify::notify_surely("STOPPING=1\n");
        shutdown.cancel();
    });
    Ok(())
}

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}
