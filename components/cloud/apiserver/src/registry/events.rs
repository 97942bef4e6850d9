//! Events are the one kind that nobody deletes: they expire.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::error::ApiError;
use crate::object;
use crate::resources;
use crate::store::Work;

/// 1 h, kube-apiserver's `--event-ttl`.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// 5 min between sweeps: a sweep reads all events.
const SWEEP_EVERY: i64 = 300;
/// Events kept at most; a crash loop writes its events with counts, so only a flood gets here.
const LIMIT: usize = 5000;

/// Removes old events, now and then, when a new one is written: without new events there is nothing to make room for.
pub(super) fn expire(work: &mut Work<'_>, newest: &Value) -> Result<(), ApiError> {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Timestamp::now();
    if now.as_second() - LAST.load(Ordering::Relaxed) < SWEEP_EVERY {
        return Ok(());
    }
    LAST.store(now.as_second(), Ordering::Relaxed);
    let Some(events) = resources::find("", "v1", "events") else { return Ok(()) };
    let age = |event: &Value| {
        let at = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
            .iter()
            .find_map(|field| object::text(event, field).parse::<Timestamp>().ok());
        at.map_or(SignedDuration::MAX, |at| now.duration_since(at))
    };
    let mut all = work.all(events, None)?;
    all.sort_by_key(age);
    for (index, event) in all.iter().enumerate() {
        if (age(event) > LIFETIME || index >= LIMIT) && object::uid(event) != object::uid(newest) {
            work.remove(events, event)?;
        }
    }
    Ok(())
}
