//! How long to wait before the next attempt to reach the hub. Pure: the caller brings the random number.

use std::time::Duration;

/// Ceiling of the first wait: a hub that restarts is back within it, and its nodes do not return in one instant.
const FIRST: Duration = Duration::from_millis(200);

/// Ceiling while nobody answers at the hub's address: an attempt costs the cloud nothing, and the median wait for a hub that
/// comes back at a random instant is 0.3 of the ceiling, 1.5 s.
const CEILING_UNREACHABLE: Duration = Duration::from_secs(5);

/// Ceiling once a hub answers and turns us away: each attempt costs it a TLS handshake.
const CEILING_REFUSED: Duration = Duration::from_secs(30);

/// A session that lived this long was a good one: the next break starts from [`FIRST`] again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// What the last attempt met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nobody: no route, connection refused, time-out before TLS.
    Nobody,
    /// A hub that refused, or that is not ours.
    Refusal,
    /// A session, which lasted this long.
    Session(Duration),
}

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt. `random` is uniform in 0..1.
    pub(crate) fn next(&mut self, met: Met, random: f64) -> Duration {
        let ceiling = match met {
            Met::Session(lived) if lived >= GOOD_SESSION => {
                self.failures = 0;
                CEILING_UNREACHABLE
            }
            Met::Session(_) | Met::Refusal => CEILING_REFUSED,
            Met::Nobody => CEILING_UNREACHABLE,
        };
        // 200 ms · 2^8 is above every ceiling.
        let wait = (FIRST * (1 << self.failures.min(8))).min(ceiling);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_of_what_was_met() {
        let mut unreachable = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| unreachable.next(Met::Nobody, 1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(unreachable.next(Met::Refusal, 1.0), CEILING_REFUSED);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().next(Met::Nobody, 0.0), Duration::ZERO);
        assert_eq!(Backoff::default().next(Met::Nobody, 0.5), FIRST / 2);
    }

    #[test]
    fn a_good_session_starts_over_and_a_short_one_does_not() {
        let mut backoff = Backoff { failures: 6 };
        assert_eq!(backoff.next(Met::Session(GOOD_SESSION), 1.0), FIRST);
        let mut backoff = Backoff { failures: 6 };
        assert!(backoff.next(Met::Session(Duration::from_secs(1)), 1.0) > CEILING_UNREACHABLE);
    }

    #[test]
    fn the_median_wait_for_a_hub_that_comes_back_is_under_two_seconds() {
        // 2 000 hubs come back at random instants of a long outage; each waits for its node's next attempt.
        fastrand::seed(7);
        let mut waits: Vec<f64> = (0..2000)
            .map(|_| {
                let mut backoff = Backoff::default();
                let back_at = 100.0 + 200.0 * fastrand::f64();
                let mut now = 0.0;
                while now < back_at {
                    now += backoff.next(Met::Nobody, fastrand::f64()).as_secs_f64();
                }
                now - back_at
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        assert!(waits[1000] < 2.0, "median {}", waits[1000]);
    }
}
