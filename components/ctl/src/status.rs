//! `status`: every component on a line.

use std::fmt::Write as _;
use std::time::Duration;

use proto::control::{Component, ControlClient, StatusReply, StatusRequest};
use serde::Serialize;

use crate::cli::Format;
use crate::control::explain;
use crate::output::{
    Cell, Look, Paint, Table, brief, cpu_time, harmless, live, now_ms, on_terminal, print, print_json, size,
    span,
};

/// Of what a component says of itself; JSON has all of it.
const LONGEST_SAID: usize = 100;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn once(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    let reply = control.status(StatusRequest {}).await.map_err(explain)?;
    show(&reply, format)
}

/// Redraws a terminal; elsewhere prints whenever something happened.
pub(crate) async fn watch(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    if format == Format::Table && on_terminal() {
        return live(async |paint, width| {
            let reply = control.status(StatusRequest {}).await.map_err(explain)?;
            Ok(table(&reply, now_ms(), paint, Some(width)))
        })
        .await;
    }
    let mut last = None;
    loop {
        let reply = control.status(StatusRequest {}).await.map_err(explain)?;
        let happened = without_gauges(&reply);
        if last.as_ref() != Some(&happened) {
            show(&reply, format)?;
        }
        last = Some(happened);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// The reply without what moves while nothing happens.
fn without_gauges(reply: &StatusReply) -> StatusReply {
    let steady = |component: &Component| Component {
        pss_kib: 0,
        memory_kib: 0,
        cpu_ns: 0,
        threads: 0,
        next_start_ms: 0,
        ..component.clone()
    };
    StatusReply { components: reply.components.iter().map(steady).collect(), ..reply.clone() }
}

fn show(reply: &StatusReply, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => print_json(&Status::from(reply)),
        Format::Table => Ok(print(&table(reply, now_ms(), Paint::of_stdout(), None))?),
    }
}

/// The table, and below it what concerns all components.
fn table(reply: &StatusReply, now_ms: u64, paint: Paint, width: Option<usize>) -> String {
    let says = reply.components.iter().any(|component| !component.status_text.is_empty());
    let mut header =
        vec!["COMPONENT", "STATE", "PID", "USER", "RESTARTS", "MEMORY", "LIMIT", "CPU", "UP", "LAST-EXIT"];
    header.extend(says.then_some("SAYS"));
    let mut table = Table::new(&header);
    for component in &reply.components {
        let mut row = row(component, now_ms);
        row.extend(says.then(|| Cell::or_dash(&brief(&component.status_text, LONGEST_SAID))));
        table.row(row);
    }
    let mut text = table.render(paint, width);
    text.push('\n');
    text.push_str(&headline(reply, now_ms));
    for note in notes(reply) {
        text.push_str(&paint.text(Look::Warning, "note: "));
        text.push_str(&harmless(&note));
        text.push('\n');
    }
    text
}

/// `edgecore 0.1.0, pid 812, up 3h 1m, limits by cgroup v1`
fn headline(reply: &StatusReply, now_ms: u64) -> String {
    let mut parts = vec![format!("{} {}", reply.supervisor, reply.version), format!("pid {}", reply.pid)];
    if reply.started_ms != 0 {
        parts.push(format!("up {}", span(now_ms.saturating_sub(reply.started_ms) / 1000)));
    }
    match reply.cgroup.as_str() {
        "" => {}
        "none" => parts.push("no cgroup".to_owned()),
        version => parts.push(format!("limits by cgroup {version}")),
    }
    match reply.reexecs {
        0 => {}
        1 => parts.push("replaced once under its components".to_owned()),
        times => parts.push(format!("replaced {times} times under its components")),
    }
    format!("{}\n", harmless(&parts.join(", ")))
}

fn notes(reply: &StatusReply) -> Vec<String> {
    let mut notes = Vec::new();
    if reply.single_uid {
        notes.push(format!(
            "{} was not started as root: all components run as one user and can do what each other may",
            reply.supervisor
        ));
    }
    for component in &reply.components {
        let name = &component.name;
        if component.rolled_back {
            notes.push(format!(
                "{name} runs the program kept beside the installed one ({}), which did not become ready; see \
                 `{} logs {name}`",
                component.exec,
                if reply.supervisor == "cloudcore" { "cloudctl" } else { "edgectl" }
            ));
        }
        if !component.degraded.is_empty() {
            notes.push(format!("{name} runs without {}", component.degraded.join(", ")));
        }
        if component.memory_kills > 0 {
            notes.push(format!("{name} reached its memory ceiling {}", times(component.memory_kills)));
        }
        if component.hang_kills > 0 {
            notes.push(format!("{name} was killed for hanging {}", times(component.hang_kills)));
        }
    }
    notes
}

fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

fn row(component: &Component, now_ms: u64) -> Vec<Cell> {
    let running = component.pid != 0;
    let while_running = |text: String| Cell::number(if running { text } else { "-".to_owned() });
    let up = match component.ready_since_ms {
        0 => "-".to_owned(),
        since => span(now_ms.saturating_sub(since) / 1000),
    };
    vec![
        Cell::new(&component.name),
        state(component),
        while_running(component.pid.to_string()),
        Cell::new(format!("{} ({})", component.user, component.uid)),
        Cell::number(component.restarts.to_string()),
        while_running(size(component.pss_kib)),
        limit(component),
        while_running(cpu_time(component.cpu_ns)),
        while_running(up),
        Cell::or_dash(&component.last_exit),
    ]
}

/// The state in words, with what a person would ask next: when it is tried again, whether all is as it should be.
pub(crate) fn state(component: &Component) -> Cell {
    let mut text = component.state.clone();
    if component.next_start_ms > 0 {
        let _ = write!(text, " ({}s)", component.next_start_ms.div_ceil(1000));
    }
    let less = component.rolled_back || !component.degraded.is_empty();
    if component.rolled_back {
        text.push_str(" (rolled back)");
    } else if less && component.pid != 0 {
        text.push_str(" (degraded)");
    }
    Cell::new(text).look(match component.state.as_str() {
        "ready" if less => Look::Warning,
        "ready" => Look::Good,
        "starting" | "stopping" | "backoff" => Look::Warning,
        "failed" => Look::Bad,
        _ => Look::Faint,
    })
}

/// How much of its memory ceiling a component uses: that of its cgroup, which includes the page cache. Red from 90 % on.
pub(crate) fn limit(component: &Component) -> Cell {
    if component.memory_limit_kib == 0 {
        return Cell::number("-");
    }
    let ceiling = size(component.memory_limit_kib);
    if component.pid == 0 {
        return Cell::number(ceiling);
    }
    let percent = u128::from(component.memory_kib) * 100 / u128::from(component.memory_limit_kib);
    Cell::number(format!("{percent}% of {ceiling}")).look(match percent {
        0..75 => Look::Plain,
        75..90 => Look::Warning,
        _ => Look::Bad,
    })
}

/// The reply as JSON; names are the interface's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    supervisor: &'a str,
    version: &'a str,
    pid: u32,
    single_uid: bool,
    reexecs: u64,
    cgroup: &'a str,
    started_ms: u64,
    components: Vec<ComponentStatus<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ComponentStatus<'a> {
    name: &'a str,
    state: &'a str,
    pid: u32,
    uid: u32,
    user: &'a str,
    generation: u64,
    restarts: u64,
    pss_kib: u64,
    ready_since_ms: u64,
    last_exit: &'a str,
    next_start_ms: u64,
    status_text: &'a str,
    degraded: &'a [String],
    memory_kib: u64,
    memory_limit_kib: u64,
    cpu_ns: u64,
    threads: u32,
    pids_limit: u32,
    ready_us: u64,
    exec: &'a str,
    rolled_back: bool,
    memory_kills: u64,
    hang_kills: u64,
}

impl<'a> From<&'a StatusReply> for Status<'a> {
    fn from(reply: &'a StatusReply) -> Self {
        Self {
            supervisor: &reply.supervisor,
            version: &reply.version,
            pid: reply.pid,
            single_uid: reply.single_uid,
            reexecs: reply.reexecs,
            cgroup: &reply.cgroup,
            started_ms: reply.started_ms,
            components: reply.components.iter().map(ComponentStatus::from).collect(),
        }
    }
}

impl<'a> From<&'a Component> for ComponentStatus<'a> {
    fn from(component: &'a Component) -> Self {
        Self {
            name: &component.name,
            state: &component.state,
            pid: component.pid,
            uid: component.uid,
            user: &component.user,
            generation: component.generation,
            restarts: component.restarts,
            pss_kib: component.pss_kib,
            ready_since_ms: component.ready_since_ms,
            last_exit: &component.last_exit,
            next_start_ms: component.next_start_ms,
            status_text: &component.status_text,
            degraded: &component.degraded,
            memory_kib: component.memory_kib,
            memory_limit_kib: component.memory_limit_kib,
            cpu_ns: component.cpu_ns,
            threads: component.threads,
            pids_limit: component.pids_limit,
            ready_us: component.ready_us,
            exec: &component.exec,
            rolled_back: component.rolled_back,
            memory_kills: component.memory_kills,
            hang_kills: component.hang_kills,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> StatusReply {
        let ready = Component {
            name: "edgehub".into(),
            state: "ready".into(),
            pid: 812,
            uid: 990,
            user: "edge-hub".into(),
            generation: (1_700_000_000_000 << 16) + 2,
            restarts: 1,
            pss_kib: 4301,
            memory_kib: 6553,
            memory_limit_kib: 65_536,
            cpu_ns: 1_250_000_000,
            ready_since_ms: 1_000_000,
            last_exit: "killed by signal 9".into(),
            ..Component::default()
        };
        let waiting = Component {
            name: "edged".into(),
            state: "backoff".into(),
            user: "root".into(),
            next_start_ms: 1500,
            last_exit: "exit code 1\u{1b}[0m".into(),
            ready_since_ms: 1,
            ..Component::default()
        };
        StatusReply {
            components: vec![ready, waiting],
            supervisor: "edgecore".into(),
            version: "0.1.0".into(),
            pid: 800,
            ..StatusReply::default()
        }
    }

    fn plain(reply: &StatusReply, now_ms: u64) -> String {
        table(reply, now_ms, Paint::NONE, None)
    }

    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn table_is_for_people() {
        let text = plain(&reply(), 1_725_000);
        let lines: Vec<_> = text.lines().map(cells).collect();
        assert_eq!(
            lines[0],
            ["COMPONENT", "STATE", "PID", "USER", "RESTARTS", "MEMORY", "LIMIT", "CPU", "UP", "LAST-EXIT"]
        );
        assert_eq!(
            lines[1],
            [
                "edgehub",
                "ready",
                "812",
                "edge-hub (990)",
                "1",
                "4.2 MiB",
                "9% of 64 MiB",
                "1.25s",
                "12m 5s",
                "killed by signal 9"
            ]
        );
        assert_eq!(
            lines[2],
            ["edged", "backoff (2s)", "-", "root (0)", "0", "-", "-", "-", "-", "exit code 1\\u{1b}[0m"]
        );
        assert_eq!(lines[4], ["edgecore 0.1.0, pid 800"]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn headline_says_what_holds_for_all() {
        let reply = StatusReply { cgroup: "v1".into(), reexecs: 1, started_ms: 1000, ..reply() };
        assert_eq!(
            headline(&reply, 62_000),
            "edgecore 0.1.0, pid 800, up 1m 1s, limits by cgroup v1, replaced once under its components\n"
        );
    }

    #[test]
    fn what_a_component_says_gets_a_column_when_one_does() {
        let mut reply = reply();
        reply.components[1].status_text = "waiting for containerd".into();
        let text = plain(&reply, 0);
        assert!(text.lines().next().unwrap().contains("SAYS"), "{text}");
        assert!(text.contains("waiting for containerd"), "{text}");
    }

    #[test]
    fn missing_confinement_is_noted_below_and_in_the_state() {
        let mut reply = reply();
        reply.single_uid = true;
        reply.components[0].degraded = vec!["landlock".into(), "cgroup".into()];
        let text = plain(&reply, 0);
        assert!(text.contains("note: edgecore was not started as root"), "{text}");
        assert!(text.contains("note: edgehub runs without landlock, cgroup"), "{text}");
        assert!(text.contains("ready (degraded)"), "{text}");
    }

    #[test]
    fn older_program_and_kills_are_noted() {
        let mut reply = reply();
        reply.components[0].rolled_back = true;
        reply.components[0].exec = "/usr/lib/apiary/edgehub.previous".into();
        reply.components[1].memory_kills = 2;
        let text = plain(&reply, 0);
        assert!(text.contains("ready (rolled back)"), "{text}");
        assert!(text.contains("(/usr/lib/apiary/edgehub.previous), which did not become ready"), "{text}");
        assert!(text.contains("note: edged reached its memory ceiling twice"), "{text}");
    }

    #[test]
    fn memory_near_its_ceiling_stands_out() {
        let with =
            |memory_kib| Component { pid: 1, memory_kib, memory_limit_kib: 1000, ..Component::default() };
        assert_eq!(limit(&with(899)), Cell::number("89% of 1000 KiB").look(Look::Warning));
        assert_eq!(limit(&with(900)), Cell::number("90% of 1000 KiB").look(Look::Bad));
    }

    #[test]
    fn time_and_memory_passing_is_nothing_that_happened() {
        let (mut later, earlier) = (reply(), reply());
        later.components[0].cpu_ns += 1;
        later.components[0].pss_kib += 1;
        later.components[1].next_start_ms -= 1000;
        assert_eq!(without_gauges(&later), without_gauges(&earlier));
        later.components[0].restarts += 1;
        assert_ne!(without_gauges(&later), without_gauges(&earlier));
    }

    #[test]
    fn json_uses_camel_case() {
        let json = serde_json::to_value(Status::from(&reply())).unwrap();
        assert_eq!(json["singleUid"], false);
        assert_eq!(json["components"][0]["pssKib"], 4301);
        assert_eq!(json["components"][0]["memoryLimitKib"], 65_536);
        assert_eq!(json["components"][1]["nextStartMs"], 1500);
    }
}
