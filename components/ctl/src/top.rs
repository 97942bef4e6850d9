//! `top`: what the components cost.

use std::time::{Duration, Instant};

use proto::control::{Component, ControlClient, StatusReply, StatusRequest};
use serde::Serialize;

use crate::cli::Format;
use crate::control::explain;
use crate::output::{Cell, Look, Paint, Table, live, now_ms, on_terminal, print, print_json, size, span};
use crate::status::{limit, state};

/// Between the two looks of a single answer: long enough for a share of the processor with one decimal.
const ONCE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn top(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    let mut last = look(control).await?;
    if format == Format::Table && on_terminal() {
        return live(async |paint, width| {
            let now = look(control).await?;
            let costs = costs(&last, &now);
            let text = table(&now.status, &costs, now_ms(), paint, Some(width));
            last = now;
            Ok(text)
        })
        .await;
    }
    tokio::time::sleep(ONCE_INTERVAL).await;
    let now = look(control).await?;
    let costs = costs(&last, &now);
    match format {
        Format::Json => print_json(&Report::of(&costs, now.taken - last.taken)),
        Format::Table => Ok(print(&table(&now.status, &costs, now_ms(), Paint::of_stdout(), None))?),
    }
}

/// What the supervisor said, and when.
struct Sample {
    taken: Instant,
    status: StatusReply,
}

async fn look(control: &ControlClient) -> anyhow::Result<Sample> {
    let status = control.status(StatusRequest {}).await.map_err(explain)?;
    Ok(Sample { taken: Instant::now(), status })
}

/// One component and its share of one processor since the look before; none when its process was not there then.
struct Cost<'a> {
    component: &'a Component,
    cpu_percent: Option<f64>,
}

fn costs<'a>(before: &Sample, now: &'a Sample) -> Vec<Cost<'a>> {
    let interval = now.taken.saturating_duration_since(before.taken);
    let cost = |component: &'a Component| {
        let earlier = before.status.components.iter().find(|earlier| {
            component.pid != 0 && (&earlier.name, earlier.pid) == (&component.name, component.pid)
        });
        let cpu_percent = earlier.map(|earlier| percent(earlier.cpu_ns, component.cpu_ns, interval));
        Cost { component, cpu_percent }
    };
    now.status.components.iter().map(cost).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share for the eye")]
fn percent(before_ns: u64, now_ns: u64, interval: Duration) -> f64 {
    let spent = now_ns.saturating_sub(before_ns) as f64;
    100.0 * spent / (interval.as_nanos() as f64).max(1e6)
}

fn share(percent: Option<f64>) -> Cell {
    match percent {
        None => Cell::number("-"),
        Some(percent) => Cell::number(format!("{percent:.1}")).look(match percent {
            ..50.0 => Look::Plain,
            ..90.0 => Look::Warning,
            _ => Look::Bad,
        }),
    }
}

fn table(reply: &StatusReply, costs: &[Cost<'_>], now_ms: u64, paint: Paint, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        "COMPONENT",
        "PID",
        "STATE",
        "CPU%",
        "MEMORY",
        "LIMIT",
        "THREADS",
        "RESTARTS",
        "STARTED-IN",
        "UP",
    ]);
    for Cost { component, cpu_percent } in costs {
        let running = component.pid != 0;
        let while_running = |text: String| Cell::number(if running { text } else { "-".to_owned() });
        let threads = match component.pids_limit {
            0 => component.threads.to_string(),
            most => format!("{}/{most}", component.threads),
        };
        let up = match component.ready_since_ms {
            0 => "-".to_owned(),
            since => span(now_ms.saturating_sub(since) / 1000),
        };
        let started_in = match component.ready_us {
            0 => "-".to_owned(),
            us => format!("{}.{} ms", us / 1000, us / 100 % 10),
        };
        table.row(vec![
            Cell::new(&component.name),
            while_running(component.pid.to_string()),
            state(component),
            share(*cpu_percent),
            while_running(size(component.pss_kib)),
            limit(component),
            while_running(threads),
            Cell::number(component.restarts.to_string()),
            Cell::number(started_in),
            while_running(up),
        ]);
    }
    let total = Total::of(costs);
    let strong = |cell: Cell| cell.look(Look::Strong);
    table.row(vec![
        strong(Cell::new(format!("all of {}", reply.supervisor))),
        Cell::default(),
        Cell::default(),
        strong(Cell::number(format!("{:.1}", total.cpu_percent))),
        strong(Cell::number(size(total.pss_kib))),
        Cell::default(),
        strong(Cell::number(total.threads.to_string())),
        strong(Cell::number(total.restarts.to_string())),
    ]);
    table.render(paint, width)
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Total {
    cpu_percent: f64,
    pss_kib: u64,
    threads: u64,
    restarts: u64,
}

impl Total {
    fn of(costs: &[Cost<'_>]) -> Self {
        let sum = |value: fn(&Component) -> u64| {
            costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(value(cost.component)))
        };
        Self {
            cpu_percent: costs.iter().filter_map(|cost| cost.cpu_percent).sum(),
            pss_kib: sum(|component| component.pss_kib),
            threads: sum(|component| component.threads.into()),
            restarts: sum(|component| component.restarts),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    time_ms: u64,
    interval_ms: u64,
    components: Vec<ComponentCost<'a>>,
    total: Total,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComponentCost<'a> {
    name: &'a str,
    state: &'a str,
    pid: u32,
    cpu_percent: Option<f64>,
    cpu_ns: u64,
    pss_kib: u64,
    memory_kib: u64,
    memory_limit_kib: u64,
    threads: u32,
    pids_limit: u32,
    restarts: u64,
    ready_us: u64,
}

impl<'a> Report<'a> {
    fn of(costs: &[Cost<'a>], interval: Duration) -> Self {
        let one = |cost: &Cost<'a>| {
            let component = cost.component;
            ComponentCost {
                name: &component.name,
                state: &component.state,
                pid: component.pid,
                cpu_percent: cost.cpu_percent,
                cpu_ns: component.cpu_ns,
                pss_kib: component.pss_kib,
                memory_kib: component.memory_kib,
                memory_limit_kib: component.memory_limit_kib,
                threads: component.threads,
                pids_limit: component.pids_limit,
                restarts: component.restarts,
                ready_us: component.ready_us,
            }
        };
        Self {
            time_ms: now_ms(),
            interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            components: costs.iter().map(one).collect(),
            total: Total::of(costs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(taken: Instant, components: &[(&str, u32, u64)]) -> Sample {
        let component = |(name, pid, cpu_ms): &(&str, u32, u64)| Component {
            name: (*name).into(),
            state: "ready".into(),
            pid: *pid,
            cpu_ns: cpu_ms * 1_000_000,
            pss_kib: 2048,
            threads: 3,
            pids_limit: 16,
            ready_us: 4321,
            ..Component::default()
        };
        let components = components.iter().map(component).collect();
        Sample {
            taken,
            status: StatusReply { components, supervisor: "edgecore".into(), ..StatusReply::default() },
        }
    }

    fn samples() -> [Sample; 2] {
        let began = Instant::now();
        [
            sample(began, &[("metamanager", 3, 100), ("edged", 4, 900)]),
            sample(began + Duration::from_secs(2), &[("metamanager", 3, 200), ("edged", 9, 10)]),
        ]
    }

    #[test]
    fn share_is_of_one_processor_over_the_interval() {
        let [before, now] = samples();
        assert_eq!(costs(&before, &now)[0].cpu_percent, Some(5.0));
    }

    #[test]
    fn new_process_has_no_share_yet() {
        let [before, now] = samples();
        assert_eq!(costs(&before, &now)[1].cpu_percent, None);
    }

    #[test]
    fn last_line_is_the_sum() {
        let [before, now] = samples();
        let text = table(&now.status, &costs(&before, &now), 0, Paint::NONE, None);
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["all", "of", "edgecore", "5.0", "4.0", "MiB", "6", "0"]);
        assert!(text.contains("3/16") && text.contains("4.3 ms"), "{text}");
    }
}
