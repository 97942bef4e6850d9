//! Bounded waiting.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::interrupt;

/// How long to sleep between two looks at a condition: short beside what is waited for, long beside the look itself.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Repeats `look` until it returns a value. An error is kept as the reason and looked past, since what is waited for is
/// often the end of errors; after `limit` the last reason is in the message.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut reason = String::from("not yet true");
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "not yet true".clone_into(&mut reason),
            Err(error) => reason = format!("{error:#}"),
        }
        interrupt::check()?;
        if Instant::now() >= deadline {
            bail!("waited {} s in vain: {what}: {reason}", limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Now, as components report times: milliseconds since 1970.
pub(crate) fn millis_since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_names_what_it_waited_for_and_the_last_reason() {
        let error =
            until(Duration::from_millis(1), "the sun", || -> Result<Option<()>> { bail!("it is night") })
                .expect_err("never true");
        assert_eq!(error.to_string(), "waited 0 s in vain: the sun: it is night");
    }

    #[test]
    fn until_returns_what_the_look_found() {
        let mut looks = 0;
        let found = until(Duration::from_secs(5), "third look", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.expect("third look"), 3);
    }
}
