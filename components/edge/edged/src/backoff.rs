//! Back-off by key, as `client-go/util/flowcontrol/backoff.go` counts it: the first failure costs nothing, the second
//! the initial delay, then it doubles; a key that was quiet for twice the longest delay starts over.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// The kubelet's delays for restarts of containers and for image pulls.
const INITIAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// The delays of one pod's containers or images. Pure: the clock is handed in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    entries: BTreeMap<String, Entry>,
}

impl Backoff {
    /// When `key` may be tried again after what happened at `since`, and the delay; `None` when it may be at once.
    pub(crate) fn until(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let entry = self.entries.get(key)?;
        if expired(entry, since) {
            return None;
        }
        let until = since.saturating_add(signed(entry.delay)).ok()?;
        (now < until).then_some((until, entry.delay))
    }

    /// Counts a try after what happened at `since`.
    pub(crate) fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !expired(entry, since) => (entry.delay * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key: what was wrong is right.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

fn expired(entry: &Entry, since: Timestamp) -> bool {
    since.duration_since(entry.updated) > signed(LONGEST * 2)
}

fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

/// `10s`, `1m20s`, `5m0s`: a delay as Go prints it, which is how it stands in messages people search for.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn first_restart_is_at_once_then_the_delay_doubles_to_its_bound() {
        let mut backoff = Backoff::default();
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..8 {
            if let Some((until, delay)) = backoff.until("c", now, now) {
                delays.push(delay.as_secs());
                now = until;
            } else {
                delays.push(0);
            }
            backoff.next("c", now, now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_over() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(0), at(0));
        assert!(backoff.until("c", at(5), at(5)).is_some());
        assert!(backoff.until("c", at(601), at(601)).is_none());
        backoff.next("c", at(601), at(601));
        assert_eq!(backoff.until("c", at(602), at(602)).map(|(_, d)| d.as_secs()), Some(10));
    }

    #[test]
    fn delays_print_as_in_go() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
