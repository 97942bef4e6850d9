//! How long a client waits before it connects again.

use std::time::Duration;

/// 10 ms: a restarted component is usually back by then, and 100 attempts a second cost little.
const FLOOR: Duration = Duration::from_millis(10);
/// 1 s: a component that stays away is looked for once a second.
const CEILING: Duration = Duration::from_secs(1);

/// The wait after `failures` failed attempts in a row (none after none), doubling from [`FLOOR`] to [`CEILING`].
///
/// `jitter` in `0.0..1.0` takes off up to half, so that the clients of one server do not come back in phase.
pub(crate) fn wait(failures: u32, jitter: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let full = FLOOR.saturating_mul(1 << doublings.min(10)).min(CEILING);
    full.mul_f64(1.0 - jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_attempt_does_not_wait() {
        assert_eq!(wait(0, 0.5), Duration::ZERO);
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let waits: Vec<u128> = (1..10).map(|n| wait(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(wait(u32::MAX, 0.0), CEILING);
    }

    #[test]
    fn jitter_takes_off_at_most_half() {
        assert_eq!(wait(3, 1.0), Duration::from_millis(20));
    }
}
