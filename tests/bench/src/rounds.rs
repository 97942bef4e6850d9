//! The order of measuring: every round everything once, a slice of time each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use crate::Subject;
use crate::bare::Bare;
use crate::blocking::Blocking;
use crate::bus::Typed;
use crate::dbus::Dbus;
use crate::grpc::Grpc;
use crate::load::{Client, Load, round_trips};
use crate::server::{Kind, Server};

/// Of the messages: a status, a small object, a large one.
pub(crate) const SIZES: [usize; 3] = [256, 3072, 65_536];
/// Calls at once where more than one is.
pub(crate) const AT_ONCE: usize = 64;
/// Of each of them.
pub(crate) const AT_ONCE_SIZE: usize = 256;

/// One measurement of ours, and of the floor that its ratio is taken with. Fifteen rounds of all stay below a minute.
const SLICE: Duration = Duration::from_millis(120);
/// One measurement of what only stands beside them.
const SHORT_SLICE: Duration = Duration::from_millis(60);
/// Bytes of the first stream of each, whose rate is not known: 8 MiB.
const FIRST_STREAM: u64 = 8 * 1024 * 1024;

/// What is measured of a kind at one size, in the order of the rounds.
pub(crate) type Series<T> = BTreeMap<(Kind, usize), Vec<T>>;

/// Of the round trips of one slice, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Quantiles {
    fn of(taken: &Histogram<u64>) -> Self {
        let micros = |q| Duration::from_nanos(taken.value_at_quantile(q)).as_secs_f64() * 1e6;
        Self { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999) }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) round_trips: Series<Quantiles>,
    /// Messages a second.
    pub(crate) one_way: Series<u32>,
    /// Calls a second.
    pub(crate) in_flight: Series<u32>,
    /// Of our bus: calls and messages that did not arrive, or not as they were sent.
    pub(crate) lost: u64,
}

impl Measured {
    fn add_lost(&mut self, kind: Kind, lost: u64) -> Result<()> {
        ensure!(kind == Kind::Bus || lost == 0, "the {kind:?} server lost {lost} messages");
        self.lost += lost;
        Ok(())
    }
}

/// Starts a server of each kind and measures.
pub(crate) async fn measure(rounds: usize, wanted: impl Fn(Subject) -> bool) -> Result<Measured> {
    let folder = tempfile::tempdir().context("could not make a folder for the sockets")?;
    let start = |kind| Server::start(kind, folder.path());
    let (bus, bare, blocking) = (start(Kind::Bus)?, start(Kind::Bare)?, start(Kind::Blocking)?);
    let (grpc, dbus) = (start(Kind::Grpc)?, start(Kind::Dbus)?);
    let mut clients = Clients {
        bus: Typed::new(bus.socket()),
        bare: Bare::connect(bare.socket()).await?,
        blocking: Blocking::connect(blocking.socket())?,
        grpc: Grpc::new(grpc.socket())?,
        dbus: Dbus::connect(dbus.socket()).await?,
    };
    let mut measured = Measured::default();
    for _ in 0..rounds {
        for bytes in SIZES {
            let load = Load::new(bytes)?;
            if wanted(Subject::Rtt) {
                clients.round_trips(&load, &mut measured).await?;
            }
            if wanted(Subject::Oneway) {
                clients.one_way(&load, &mut measured).await?;
            }
        }
        if wanted(Subject::Inflight) {
            clients.in_flight(&mut measured).await?;
        }
    }
    Ok(measured)
}

struct Clients<'a> {
    bus: Typed,
    bare: Bare<'a>,
    blocking: Blocking,
    grpc: Grpc,
    dbus: Dbus,
}

impl Clients<'_> {
    async fn round_trips(&mut self, load: &Load, measured: &mut Measured) -> Result<()> {
        for (kind, found) in [
            (Kind::Bus, round_trips(&mut self.bus, load, SLICE).await?),
            (Kind::Bare, round_trips(&mut self.bare, load, SLICE).await?),
            (Kind::Blocking, round_trips(&mut self.blocking, load, SHORT_SLICE).await?),
            (Kind::Grpc, round_trips(&mut self.grpc, load, SHORT_SLICE).await?),
            (Kind::Dbus, round_trips(&mut self.dbus, load, SHORT_SLICE).await?),
        ] {
            measured.add_lost(kind, found.lost)?;
            let quantiles = Quantiles::of(&found.taken);
            measured.round_trips.entry((kind, load.bytes)).or_default().push(quantiles);
        }
        Ok(())
    }

    async fn one_way(&mut self, load: &Load, measured: &mut Measured) -> Result<()> {
        stream(Kind::Bus, &mut self.bus, load, SLICE, measured).await?;
        stream(Kind::Bare, &mut self.bare, load, SHORT_SLICE, measured).await?;
        stream(Kind::Grpc, &mut self.grpc, load, SHORT_SLICE, measured).await
    }

    async fn in_flight(&mut self, measured: &mut Measured) -> Result<()> {
        let load = Load::new(AT_ONCE_SIZE)?;
        at_once(Kind::Bus, &mut self.bus, &load, SLICE, measured).await?;
        at_once(Kind::Bare, &mut self.bare, &load, SHORT_SLICE, measured).await?;
        at_once(Kind::Grpc, &mut self.grpc, &load, SHORT_SLICE, measured).await
    }
}

/// Reads a stream to its end. Its length is agreed on when it is opened: what the last one let expect of a slice.
async fn stream(
    kind: Kind,
    client: &mut impl Client,
    load: &Load,
    slice: Duration,
    measured: &mut Measured,
) -> Result<()> {
    let rates = measured.one_way.entry((kind, load.bytes)).or_default();
    let count = rates.last().map_or(FIRST_STREAM / load.bytes as u64, |rate| in_slice(*rate, slice));
    let began = Instant::now();
    let came = client.receive(load, count).await?;
    rates.push(per_second(came, began.elapsed()));
    measured.add_lost(kind, count - came)
}

async fn at_once(
    kind: Kind,
    client: &mut impl Client,
    load: &Load,
    slice: Duration,
    measured: &mut Measured,
) -> Result<()> {
    let began = Instant::now();
    let calls = client.keep_calling(load, AT_ONCE, slice).await?;
    let rate = per_second(calls.answered, began.elapsed());
    measured.in_flight.entry((kind, load.bytes)).or_default().push(rate);
    measured.add_lost(kind, calls.lost)
}

/// No rate here is above 4 G/s.
fn per_second(count: u64, took: Duration) -> u32 {
    let rate = u128::from(count) * 1_000_000_000 / took.as_nanos().max(1);
    u32::try_from(rate).unwrap_or(u32::MAX)
}

fn in_slice(rate: u32, slice: Duration) -> u64 {
    let count = u128::from(rate) * slice.as_nanos() / 1_000_000_000;
    u64::try_from(count).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{histogram, record};

    #[test]
    fn stream_is_as_long_as_the_last_rate_lets_expect() {
        let rate = per_second(100_000, Duration::from_millis(50));
        assert_eq!(rate, 2_000_000);
        assert_eq!(in_slice(rate, Duration::from_millis(200)), 400_000);
        assert_eq!(in_slice(0, Duration::from_millis(200)), 1);
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut taken = histogram().unwrap();
        for number in 0..1000 {
            record(&mut taken, Duration::from_micros(if number < 995 { 10 } else { 50 }));
        }
        let found = Quantiles::of(&taken);
        assert!((found.p50 - 10.0).abs() < 0.1 && (found.p99 - 10.0).abs() < 0.1, "{found:?}");
        assert!((found.p999 - 50.0).abs() < 0.1, "{found:?}");
    }
}
