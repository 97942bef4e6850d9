//! What the operator sees of the link: one status line, and a log line when it changes.

use std::sync::{Mutex, PoisonError};

use tracing::{debug, error, info};

/// Keeps the status line true without flooding the log: the same trouble again is logged at debug level.
pub struct Report {
    show: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settled: String,
    trouble: Option<String>,
}

impl Report {
    /// `show` puts a line where `edgectl status` finds it.
    pub fn new(show: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { show: Box::new(show), state: Mutex::default() }
    }

    /// All is well, in words.
    pub(crate) fn settled(&self, text: &str) {
        info!("{text}");
        (self.show)(text);
        *self.lock() = State { settled: text.to_owned(), trouble: None };
    }

    /// Something is wrong, in words.
    pub(crate) fn trouble(&self, text: &str) {
        if self.lock().trouble.as_deref() == Some(text) {
            debug!("still: {text}");
            return;
        }
        error!("{text}");
        (self.show)(text);
        self.lock().trouble = Some(text.to_owned());
    }

    /// What was wrong is over.
    pub(crate) fn fine(&self) {
        let mut state = self.lock();
        if state.trouble.take().is_some() {
            (self.show)(&state.settled);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Plain strings: a panic elsewhere cannot leave them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
