//! What was measured, as figures beside their goals.

use harness::Figure;

use crate::rounds::{AT_ONCE, AT_ONCE_SIZE, Measured, Quantiles, SIZES, Series};
use crate::server::Kind;

/// The size the design gives absolute goals for. Of a large message a round trip is mostly copying.
const SMALL: usize = 256;
/// Microseconds, at [`SMALL`].
const RTT_P50: f64 = 20.0;
const RTT_P99: f64 = 40.0;
/// Times the floor's median, at every size.
const RTT_OVER_FLOOR: f64 = 1.3;
/// A second, at [`SMALL`].
const ONE_WAY: f64 = 3_000_000.0;
/// A second.
const IN_FLIGHT: f64 = 1_000_000.0;

/// All figures of what was measured.
pub(crate) fn figures(measured: &Measured) -> Vec<Figure> {
    let mut figures = Vec::new();
    for bytes in SIZES {
        round_trips(&measured.round_trips, bytes, &mut figures);
    }
    for bytes in SIZES {
        let goal = (bytes == SMALL).then_some(ONE_WAY);
        rates(&measured.one_way, &format!("oneway.{bytes}"), bytes, goal, &mut figures);
    }
    let in_flight = format!("inflight{AT_ONCE}.{AT_ONCE_SIZE}");
    rates(&measured.in_flight, &in_flight, AT_ONCE_SIZE, Some(IN_FLIGHT), &mut figures);
    figures.push(Figure::new("ipc.lost", count(measured.lost), "messages").at_most(0.0));
    figures
}

/// What stands between `ipc.` and the name of the figure. The bus is what it is about, so it has no name.
fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Bus => "ipc",
        Kind::Bare => "ipc.floor",
        Kind::Blocking => "ipc.blocking",
        Kind::Grpc => "ipc.tonic",
        Kind::Dbus => "ipc.zbus",
    }
}

fn round_trips(series: &Series<Quantiles>, bytes: usize, figures: &mut Vec<Figure>) {
    for kind in [Kind::Bus, Kind::Bare, Kind::Blocking, Kind::Grpc, Kind::Dbus] {
        let Some(rounds) = series.get(&(kind, bytes)) else { continue };
        let figure = |quantile, of: fn(&Quantiles) -> f64| {
            let name = format!("{}.rtt.{bytes}.{quantile}_us", prefix(kind));
            Figure::new(name, median(rounds.iter().map(of)), "us")
        };
        let (p50, p99) = (figure("p50", |found| found.p50), figure("p99", |found| found.p99));
        let has_goals = kind == Kind::Bus && bytes == SMALL;
        figures.push(if has_goals { p50.at_most(RTT_P50) } else { p50 });
        figures.push(if has_goals { p99.at_most(RTT_P99) } else { p99 });
        figures.push(figure("p999", |found| found.p999));
    }
    let others =
        [(Kind::Bare, "floor"), (Kind::Blocking, "blocking"), (Kind::Grpc, "tonic"), (Kind::Dbus, "zbus")];
    for (other, name) in others {
        let (Some(ours), Some(theirs)) = (series.get(&(Kind::Bus, bytes)), series.get(&(other, bytes)))
        else {
            continue;
        };
        // Round by round: what disturbed a round disturbed both.
        let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.p50 / theirs.p50));
        let figure = Figure::new(format!("ipc.rtt.{bytes}.p50_over_{name}"), ratio, "times");
        figures.push(if other == Kind::Bare { figure.at_most(RTT_OVER_FLOOR) } else { figure });
    }
}

fn rates(series: &Series<u32>, what: &str, bytes: usize, goal: Option<f64>, figures: &mut Vec<Figure>) {
    for kind in [Kind::Bus, Kind::Bare, Kind::Grpc] {
        let Some(rounds) = series.get(&(kind, bytes)) else { continue };
        let rate = median(rounds.iter().copied().map(f64::from));
        let figure = Figure::new(format!("{}.{what}.per_s", prefix(kind)), rate, "1/s");
        figures.push(match goal {
            Some(goal) if kind == Kind::Bus => figure.at_least(goal),
            _ => figure,
        });
    }
    if let (Some(ours), Some(floor)) = (series.get(&(Kind::Bus, bytes)), series.get(&(Kind::Bare, bytes))) {
        let shares = ours.iter().zip(floor).map(|(ours, floor)| f64::from(*ours) / f64::from(*floor));
        figures.push(Figure::new(format!("ipc.{what}.over_floor"), median(shares), "times"));
    }
}

/// The upper one of two. There is at least one round.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// More than the other type holds is as bad.
fn count(lost: u64) -> f64 {
    f64::from(u32::try_from(lost).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(measured: &Measured, metric: &str) -> Figure {
        figures(measured).into_iter().find(|figure| figure.metric == metric).unwrap()
    }

    fn rounds(p50: [f64; 3]) -> Vec<Quantiles> {
        p50.map(|p50| Quantiles { p50, p99: 2.0 * p50, p999: 3.0 * p50 }).into()
    }

    #[test]
    fn ratio_is_taken_round_by_round() {
        let mut measured = Measured::default();
        // The second round was disturbed, for both alike.
        measured.round_trips.insert((Kind::Bus, 256), rounds([12.0, 60.0, 12.0]));
        measured.round_trips.insert((Kind::Bare, 256), rounds([10.0, 50.0, 10.0]));
        let ratio = figure(&measured, "ipc.rtt.256.p50_over_floor");
        assert!((ratio.value - 1.2).abs() < 1e-9 && ratio.ok, "{ratio:?}");
        assert!((figure(&measured, "ipc.rtt.256.p50_us").value - 12.0).abs() < 1e-9);
    }

    #[test]
    fn slow_round_trip_misses_its_goals_at_the_small_size_only() {
        let mut measured = Measured::default();
        measured.round_trips.insert((Kind::Bus, 256), rounds([30.0; 3]));
        measured.round_trips.insert((Kind::Bus, 65_536), rounds([30.0; 3]));
        assert!(!figure(&measured, "ipc.rtt.256.p50_us").ok);
        assert!(!figure(&measured, "ipc.rtt.256.p99_us").ok);
        assert!(figure(&measured, "ipc.rtt.65536.p50_us").ok);
    }

    #[test]
    fn one_lost_message_is_a_missed_goal() {
        let measured = Measured { lost: 1, ..Measured::default() };
        assert!(!figure(&measured, "ipc.lost").ok);
        assert!(figure(&Measured::default(), "ipc.lost").ok);
    }

    #[test]
    fn what_was_not_measured_is_not_printed() {
        assert_eq!(figures(&Measured::default()).len(), 1);
    }
}
