//! How long the caller of the call that is being handled still waits.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    /// Of the handler this thread is polling.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When the caller of the handler this runs in gives up; `None` outside a handler, and in one whose caller waits without
/// end (a stream's).
///
/// Calls made from within a handler end by then at the latest, without its doing: nobody would see their answer. Work it
/// hands to another task or thread is on its own.
pub fn deadline() -> Option<Instant> {
    UNTIL.get()
}

/// What is left of it, for work that is bounded by other means.
pub fn remaining() -> Option<Duration> {
    deadline().map(|until| until.saturating_duration_since(Instant::now()))
}

/// The earlier of a call's own deadline and that of the handler it is made in.
pub(crate) fn inherited(own: Instant) -> Instant {
    deadline().map_or(own, |outer| outer.min(own))
}

/// A handler with its deadline. Does not end it: that is the session's timer.
#[derive(Debug)]
pub(crate) struct Within<F> {
    pub(crate) until: Option<Instant>,
    pub(crate) handling: F,
}

impl<F: Future + Unpin> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        /// Also when the handler panics: the thread polls others after it.
        struct Restore(Option<Instant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                UNTIL.set(self.0);
            }
        }
        let _restore = Restore(UNTIL.replace(self.until));
        Pin::new(&mut self.handling).poll(cx)
    }
}
