//! Log lines a peer can cause are limited in number.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// 10 lines at once, then 2 a second: an operator sees each of a few, and a flood costs nothing.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_millis(500);

/// A token bucket for log lines.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug)]
struct State {
    tokens: u32,
    refilled: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { tokens: BURST, refilled: None, left_out: 0 }))
    }

    /// Whether to log now, and then how many lines were left out since the last one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = *state.refilled.get_or_insert(now);
        let earned = now.saturating_duration_since(refilled).as_millis() / REFILL.as_millis();
        if earned > 0 {
            state.tokens = BURST.min(state.tokens.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            state.refilled = Some(now);
        }
        if state.tokens == 0 {
            state.left_out += 1;
            return None;
        }
        state.tokens -= 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

/// Logs a warning about a peer, within the limit all peers share.
macro_rules! peer_warning {
    ($($arguments:tt)+) => {{
        static THROTTLE: $crate::throttle::Throttle = $crate::throttle::Throttle::new();
        if let Some(left_out) = THROTTLE.admit(std::time::Instant::now()) {
            tracing::warn!(left_out, $($arguments)+);
        }
    }};
}
pub(crate) use peer_warning;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let throttle = Throttle::new();
        let start = Instant::now();
        let admitted = (0..100).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!(admitted, 10);
        assert_eq!(throttle.admit(start + REFILL), Some(90));
        assert_eq!(throttle.admit(start + REFILL), None);
    }
}
