//! What the operator sees of the link: one status line, and a log line when it changes.

use std::sync::{Mutex, PoisonError};

use tracing::{debug, error, info};

/// Kinds of trouble remembered, so that attempts that fail in turns do not log a line each.
const REMEMBERED: usize = 8;

/// Keeps the status line true without flooding the log: trouble that was logged since all was well is repeated at debug level.
pub struct Report {
    show: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settled: String,
    /// Since all was well; the last is on show.
    troubles: Vec<String>,
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
        *self.lock() = State { settled: text.to_owned(), troubles: Vec::new() };
    }

    /// Something is wrong, in words.
    ///
    /// The words may quote what a stranger sent: control characters, which end a field of the status protocol or colour a terminal, become spaces.
    pub(crate) fn trouble(&self, text: &str) {
        let text = &text.replace(char::is_control, " ");
        let mut state = self.lock();
        if let Some(index) = state.troubles.iter().position(|known| known == text) {
            debug!("still: {text}");
            state.troubles.remove(index);
        } else {
            error!("{text}");
        }
        if state.troubles.len() == REMEMBERED {
            state.troubles.remove(0);
        }
        state.troubles.push(text.to_owned());
        (self.show)(text);
    }

    /// What was wrong is over.
    pub(crate) fn fine(&self) {
        let mut state = self.lock();
        if !std::mem::take(&mut state.troubles).is_empty() {
            (self.show)(&state.settled);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Plain strings: a panic elsewhere cannot leave them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn report() -> (Report, Arc<Mutex<Vec<String>>>) {
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let show = Arc::clone(&shown);
        (Report::new(move |text| show.lock().unwrap().push(text.to_owned())), shown)
    }

    #[test]
    fn the_status_line_returns_to_what_it_was_when_trouble_is_over() {
        let (report, shown) = report();
        report.settled("connected");
        report.trouble("odd");
        report.fine();
        report.fine();
        assert_eq!(*shown.lock().unwrap(), ["connected", "odd", "connected"]);
    }

    #[test]
    fn quoted_line_breaks_cannot_add_a_line_to_the_status_protocol() {
        let (report, shown) = report();
        report.trouble("refused: \nREADY=1");
        assert_eq!(*shown.lock().unwrap(), ["refused:  READY=1"]);
    }
}
