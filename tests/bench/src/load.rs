//! What is sent, and what a client of any kind can do with it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::bench::Message;

/// Calls before the clock starts: both processes are awake then, and their buffers as large as they become.
const WARM_UP: u64 = 100;

/// Messages of one size.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Of the whole encoded message.
    pub(crate) bytes: usize,
    /// What is in it beside its number.
    pub(crate) body: Bytes,
}

impl Load {
    /// `bytes` is at least 32, and not where the length of a length changes.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let around = |body: usize| Message { number: 1, body: vec![0; body].into() }.encoded_len() - body;
        let body = bytes.checked_sub(around(bytes)).context("a message has a number and a body")?;
        let load = Self { bytes, body: vec![0x5a; body].into() };
        ensure!(load.message(1).encoded_len() == bytes, "no message is exactly {bytes} bytes");
        Ok(load)
    }

    /// The message of this number, counted from 1.
    pub(crate) fn message(&self, number: u64) -> Message {
        Message { number, body: self.body.clone() }
    }
}

/// A client that calls and waits for the reply.
pub(crate) trait Call {
    /// Whether the reply was the message that was sent. An error is for what makes going on useless.
    fn call(&mut self, load: &Load, number: u64) -> impl Future<Output = Result<bool>> + Send;
}

/// A client that can do more than one thing at a time, too.
pub(crate) trait Client: Call {
    /// Reads a stream of `count` messages to its end: how many came, each once and in order.
    async fn receive(&mut self, load: &Load, count: u64) -> Result<u64>;

    /// Keeps `at_once` calls in flight for this long.
    async fn keep_calling(&mut self, load: &Load, at_once: usize, slice: Duration) -> Result<Calls>;
}

/// How calls in flight ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls {
    /// With what was sent.
    pub(crate) answered: u64,
    /// With anything else.
    pub(crate) lost: u64,
}

/// [`Client::keep_calling`] for a client whose clones share a connection: as many tasks, each calling in turn, which is
/// how a component comes to have calls in flight.
pub(crate) async fn keep_calling(
    client: &(impl Call + Clone + Send + 'static),
    load: &Load,
    at_once: usize,
    slice: Duration,
) -> Result<Calls> {
    let end = Instant::now() + slice;
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let (mut client, load) = (client.clone(), load.clone());
        callers.spawn(async move {
            let mut calls = Calls::default();
            while Instant::now() < end {
                let came = client.call(&load, calls.answered + 1).await?;
                *(if came { &mut calls.answered } else { &mut calls.lost }) += 1;
            }
            anyhow::Ok(calls)
        });
    }
    let mut sum = Calls::default();
    while let Some(calls) = callers.join_next().await {
        let Calls { answered, lost } = calls.context("a caller panicked")??;
        sum.answered += answered;
        sum.lost += lost;
    }
    Ok(sum)
}

/// Round trips of one slice.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    /// In nanoseconds.
    pub(crate) taken: Histogram<u64>,
    /// Replies that did not come, or not as sent.
    pub(crate) lost: u64,
}

/// Of durations up to 10 s, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 10_000_000_000, 3)?)
}

/// A longer one counts as the longest.
pub(crate) fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

/// Calls one at a time for as long as the slice is.
pub(crate) async fn round_trips(client: &mut impl Call, load: &Load, slice: Duration) -> Result<RoundTrips> {
    let mut found = RoundTrips { taken: histogram()?, lost: 0 };
    for number in 1..=WARM_UP {
        found.lost += u64::from(!client.call(load, number).await?);
    }
    let mut before = Instant::now();
    let end = before + slice;
    let mut number = WARM_UP;
    while before < end {
        number += 1;
        found.lost += u64::from(!client.call(load, number).await?);
        let after = Instant::now();
        record(&mut found.taken, after - before);
        before = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_exactly_its_size_whatever_its_number() {
        for bytes in crate::rounds::SIZES {
            let load = Load::new(bytes).unwrap();
            assert_eq!(load.message(1).encoded_len(), bytes);
            assert_eq!(load.message(u64::MAX).encoded_len(), bytes);
        }
    }

    #[test]
    fn size_that_no_message_has_is_refused() {
        assert!(Load::new(3).is_err());
    }
}
