//! Structured lines on stderr, which the supervisor annotates and keeps.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::stderr;

use tracing_subscriber::EnvFilter;

/// JSON under a supervisor, plain lines for a person. `RUST_LOG` filters; without it, `info`.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Fails only when a test has set a subscriber before.
    let _ = if std::env::var_os("APIARY_COMPONENT").is_some() {
        lines.json().flatten_event(true).with_span_list(false).try_init()
    } else {
        lines.with_target(false).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("");
        let location = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(location, backtrace, "panicked: {message}");
    }));
}
