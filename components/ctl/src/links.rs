//! `links`: who calls whom, how often, how fast.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proto::control::{ControlClient, Link, LinksRequest};
use serde::Serialize;

use crate::cli::Format;
use crate::control::explain;
use crate::output::{
    Cell, Look, Paint, Table, count, harmless, live, now_ms, on_terminal, print, print_json, size,
};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Upper bounds of the latency buckets, microseconds; one more bucket holds the rest. As in `control.proto`.
const BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

pub(crate) async fn once(control: &ControlClient, verbose: bool, format: Format) -> anyhow::Result<()> {
    let links = read(control).await?;
    let links: Vec<Use<'_>> = links.iter().map(Use::total).collect();
    match format {
        Format::Json => print_json(&Report { time_ms: now_ms(), interval_ms: None, links: &links }),
        Format::Table => Ok(print(&table(&links, verbose, Paint::of_stdout(), None))?),
    }
}

pub(crate) async fn watch(control: &ControlClient, verbose: bool, format: Format) -> anyhow::Result<()> {
    let mut last = Sample::default();
    if format == Format::Table && on_terminal() {
        return live(async |paint, width| {
            let sample = Sample { taken: Some(Instant::now()), links: read(control).await? };
            let text = table(&sample.since(&last), verbose, paint, Some(width));
            last = sample;
            Ok(text)
        })
        .await;
    }
    loop {
        let sample = Sample { taken: Some(Instant::now()), links: read(control).await? };
        let links = sample.since(&last);
        match format {
            Format::Json => {
                let interval = sample.interval(&last);
                let interval_ms =
                    interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
                print_json(&Report { time_ms: now_ms(), interval_ms, links: &links })?;
            }
            Format::Table => print(&table(&links, verbose, Paint::of_stdout(), None))?,
        }
        last = sample;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn read(control: &ControlClient) -> anyhow::Result<Vec<Link>> {
    Ok(control.links(LinksRequest {}).await.map_err(explain)?.links)
}

/// The counters at one time.
#[derive(Debug, Default)]
struct Sample {
    /// None before the first.
    taken: Option<Instant>,
    links: Vec<Link>,
}

impl Sample {
    fn interval(&self, before: &Self) -> Option<Duration> {
        Some(self.taken?.saturating_duration_since(before.taken?))
    }

    fn since<'a>(&'a self, before: &Self) -> Vec<Use<'a>> {
        let earlier: BTreeMap<_, _> =
            before.links.iter().map(|link| ((&link.server, &link.client), link)).collect();
        let interval = self.interval(before);
        let rated = |link: &'a Link| match (interval, earlier.get(&(&link.server, &link.client))) {
            (Some(interval), Some(before)) => Use::between(before, link, interval),
            _ => Use::total(link),
        };
        self.links.iter().map(rated).collect()
    }
}

/// One link as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Use<'a> {
    server: &'a str,
    client: &'a str,
    socket: &'a str,
    connections_total: u64,
    connections_open: u32,
    calls_total: u64,
    failures_total: u64,
    received_bytes: u64,
    sent_bytes: u64,
    refusals_total: u64,
    last_refusal: &'a str,
    methods: Vec<Method<'a>>,
    /// Of all calls, or of those since the last look where there was one.
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<PerSecond>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Method<'a> {
    name: &'a str,
    calls_total: u64,
    failures_total: u64,
}

/// Since the last look.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PerSecond {
    calls: f64,
    failures: f64,
    received_bytes: f64,
    sent_bytes: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Latency {
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    mean_us: Option<u64>,
    /// Calls by upper bound; not cumulative, the last is the rest.
    buckets: Vec<u64>,
}

impl Latency {
    fn of(buckets: Vec<u64>, sum_us: u64) -> Self {
        let calls: u64 = buckets.iter().fold(0, |sum, calls| sum.saturating_add(*calls));
        Self {
            p50_us: quantile(&buckets, 0.5),
            p99_us: quantile(&buckets, 0.99),
            mean_us: sum_us.checked_div(calls),
            buckets,
        }
    }
}

/// Where the share `q` of calls was answered, microseconds: a straight line within a bucket, as Prometheus draws it. What
/// lies beyond the last bound is that bound: at least so long. `None` without calls.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate between bounds below 2^53"
)]
fn quantile(buckets: &[u64], q: f64) -> Option<u64> {
    let total: f64 = buckets.iter().map(|calls| *calls as f64).sum();
    if total == 0.0 {
        return None;
    }
    let wanted = q * total;
    let (mut below, mut lower) = (0.0, 0.0);
    for (calls, upper) in buckets.iter().zip(BOUNDS_US) {
        let (calls, upper) = (*calls as f64, upper as f64);
        if below + calls >= wanted && calls > 0.0 {
            return Some((lower + (upper - lower) * (wanted - below) / calls).round() as u64);
        }
        below += calls;
        lower = upper;
    }
    Some(BOUNDS_US[BOUNDS_US.len() - 1])
}

fn calls(link: &Link) -> u64 {
    link.methods.iter().fold(0, |sum, method| sum.saturating_add(method.calls_total))
}

fn failures(link: &Link) -> u64 {
    link.methods.iter().fold(0, |sum, method| sum.saturating_add(method.failures_total))
}

/// How far a counter went; one that is smaller than before began anew with its process.
fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

impl<'a> Use<'a> {
    fn total(link: &'a Link) -> Self {
        let method = |method: &'a proto::control::MethodUse| Method {
            name: &method.name,
            calls_total: method.calls_total,
            failures_total: method.failures_total,
        };
        Self {
            server: &link.server,
            client: &link.client,
            socket: &link.socket,
            connections_total: link.connections_total,
            connections_open: link.connections_open,
            calls_total: calls(link),
            failures_total: failures(link),
            received_bytes: link.received_bytes,
            sent_bytes: link.sent_bytes,
            refusals_total: link.refusals_total,
            last_refusal: &link.last_refusal,
            methods: link.methods.iter().map(method).collect(),
            latency: Latency::of(link.latency.clone(), link.latency_sum_us),
            per_second: None,
        }
    }

    fn between(before: &Link, link: &'a Link, interval: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = |before, now| grown(before, now) as f64 / interval.as_secs_f64().max(0.001);
        let anew = link.latency.iter().zip(&before.latency).any(|(now, before)| now < before);
        let buckets = link.latency.iter().enumerate().map(|(at, now)| {
            grown(before.latency.get(at).copied().filter(|_| !anew).unwrap_or_default(), *now)
        });
        let per_second = PerSecond {
            calls: rate(calls(before), calls(link)),
            failures: rate(failures(before), failures(link)),
            received_bytes: rate(before.received_bytes, link.received_bytes),
            sent_bytes: rate(before.sent_bytes, link.sent_bytes),
        };
        let sum_us =
            if anew { link.latency_sum_us } else { grown(before.latency_sum_us, link.latency_sum_us) };
        Self {
            latency: Latency::of(buckets.collect(), sum_us),
            per_second: Some(per_second),
            ..Self::total(link)
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    time_ms: u64,
    /// Since the last look; absent in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_ms: Option<u64>,
    links: &'a [Use<'a>],
}

/// `250 µs`, `1.2 ms`, `≥1 s`
fn latency(us: Option<u64>) -> Cell {
    Cell::number(match us {
        None => "-".to_owned(),
        Some(us) if us >= BOUNDS_US[BOUNDS_US.len() - 1] => "≥1 s".to_owned(),
        Some(us @ 0..1000) => format!("{us} µs"),
        Some(us) => format!("{}.{} ms", us / 1000, us / 100 % 10),
    })
}

fn rate(per_second: f64) -> Cell {
    Cell::number(match per_second {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{per_second:.1}"),
        _ => format!("{per_second:.0}"),
    })
}

/// Rounded up: what was sent is never shown as nothing.
fn bytes(bytes: u64) -> Cell {
    Cell::number(if bytes < 1024 { format!("{bytes} B") } else { size(bytes.div_ceil(1024)) })
}

fn table(links: &[Use<'_>], verbose: bool, paint: Paint, width: Option<usize>) -> String {
    let rated = links.iter().any(|link| link.per_second.is_some());
    let mut header = vec!["CLIENT", "SERVER", "OPEN", "CALLS"];
    header.extend(rated.then_some("CALLS/S"));
    header.extend(["FAILED", "REFUSED", "IN", "OUT", "P50", "P99"]);
    let mut table = Table::new(&header);
    for link in links {
        let alarming =
            |number: u64| Cell::number(count(number)).look(if number == 0 { Look::Plain } else { Look::Bad });
        let mut row = vec![
            Cell::new(link.client),
            Cell::new(link.server),
            Cell::number(link.connections_open.to_string()),
            Cell::number(count(link.calls_total)),
        ];
        row.extend(
            rated.then(|| link.per_second.as_ref().map_or(Cell::number("-"), |rates| rate(rates.calls))),
        );
        row.extend([
            Cell::number(count(link.failures_total)),
            alarming(link.refusals_total),
            bytes(link.received_bytes),
            bytes(link.sent_bytes),
            latency(link.latency.p50_us),
            latency(link.latency.p99_us),
        ]);
        table.row(row);
        for method in link.methods.iter().filter(|_| verbose) {
            let mut row = vec![
                Cell::new(format!("  {}", method.name)).look(Look::Faint),
                Cell::new(""),
                Cell::new(""),
                Cell::number(count(method.calls_total)).look(Look::Faint),
            ];
            row.extend(rated.then(Cell::default));
            row.push(Cell::number(count(method.failures_total)).look(Look::Faint));
            table.row(row);
        }
    }
    let mut text = table.render(paint, width);
    let refused = links.iter().filter(|link| link.refusals_total > 0);
    for link in refused {
        let (client, server) = (harmless(link.client), harmless(link.server));
        let reason = if link.last_refusal.is_empty() { "no reason given" } else { link.last_refusal };
        text.push_str(&paint.text(Look::Warning, "note: "));
        let _ = writeln!(text, "{server} last refused {client}: {}", harmless(reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use proto::control::MethodUse;

    use super::*;

    fn link(calls: u64, latency: Vec<u64>) -> Link {
        let method =
            |name: &str, calls_total| MethodUse { name: name.into(), calls_total, failures_total: 0 };
        Link {
            server: "metamanager".into(),
            client: "edgehub".into(),
            methods: vec![method("Apply", calls), method("Get", 0)],
            connections_open: 1,
            received_bytes: 1,
            sent_bytes: 1 << 20,
            latency,
            latency_sum_us: calls * 40,
            ..Link::default()
        }
    }

    fn sample(seconds: u64, link: Link) -> Sample {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let began = *BEGAN.get_or_init(Instant::now);
        Sample { taken: Some(began + Duration::from_secs(seconds)), links: vec![link] }
    }

    fn per_second(link: &Use<'_>) -> String {
        format!("{:.1}", link.per_second.as_ref().unwrap().calls)
    }

    #[test]
    fn quantile_lies_within_its_bucket() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[0; 13], 0.5), None);
        assert_eq!(quantile(&[100], 0.5), Some(25));
        assert_eq!(quantile(&[50, 50], 0.99), Some(99));
        assert_eq!(quantile(&[0, 0, 10], 0.5), Some(175));
        assert_eq!(quantile(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], 0.5), Some(1_000_000));
    }

    #[test]
    fn rates_are_of_the_interval() {
        let (before, now) = (sample(0, link(100, vec![100])), sample(2, link(150, vec![100, 50])));
        let links = now.since(&before);
        assert_eq!(per_second(&links[0]), "25.0");
        assert_eq!(links[0].calls_total, 150);
        assert_eq!(links[0].latency.p50_us, Some(75), "only the new calls count");
        assert_eq!(links[0].latency.mean_us, Some(40));
    }

    #[test]
    fn counters_of_a_new_process_begin_anew() {
        let (before, now) = (sample(0, link(100, vec![100])), sample(1, link(5, vec![5])));
        let links = now.since(&before);
        assert_eq!(per_second(&links[0]), "5.0");
        assert_eq!(links[0].latency.buckets, [5]);
    }

    #[test]
    fn first_look_has_totals_only() {
        let now = sample(0, link(5, vec![5]));
        assert!(now.since(&Sample::default())[0].per_second.is_none());
    }

    #[test]
    fn table_notes_the_last_refusal() {
        let mut link = link(1234, vec![1234]);
        link.refusals_total = 2;
        link.last_refusal = "method Delete is not granted".into();
        let text = table(&[Use::total(&link)], true, Paint::NONE, None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("1\u{a0}234") && lines[1].contains("1.0 MiB"), "{text}");
        assert!(lines[2].starts_with("  Apply"), "{text}");
        assert_eq!(lines[4], "note: metamanager last refused edgehub: method Delete is not granted");
    }

    #[test]
    fn json_has_rates_only_when_there_are_some() {
        let (before, now) = (sample(0, link(1, vec![1])), sample(1, link(1, vec![1])));
        let json = serde_json::to_value(Use::total(&now.links[0])).unwrap();
        assert_eq!(json["latency"]["p50Us"], 25);
        assert!(json.get("perSecond").is_none());
        let json = serde_json::to_value(&now.since(&before)[0]).unwrap();
        assert_eq!(json["perSecond"]["calls"], 0.0);
        assert_eq!(json["latency"]["p50Us"], serde_json::Value::Null);
    }
}
