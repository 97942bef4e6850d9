//! `status`: every component on a line.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use proto::control::{Component, ControlClient, StatusReply, StatusRequest};
use serde::Serialize;

use crate::cli::Format;
use crate::output::{harmless, print, print_json, size, span};
use crate::supervisor::explain;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A generation's low bits count starts; the rest is when the supervisor started, which only has to differ.
const COUNTER: u64 = 0xffff;

pub(crate) async fn once(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    let reply = control.status(StatusRequest {}).await.map_err(explain)?;
    show(&reply, format)
}

/// Clears a terminal before each table; elsewhere prints only what differs from the last.
pub(crate) async fn watch(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    /// Cursor home, clear to the end of the screen.
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let live = format == Format::Table && io::stdout().is_terminal();
    let mut last = None;
    loop {
        let reply = control.status(StatusRequest {}).await.map_err(explain)?;
        if live {
            print(CLEAR)?;
        }
        if live || last.as_ref() != Some(&reply) {
            show(&reply, format)?;
        }
        last = Some(reply);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn show(reply: &StatusReply, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => print_json(&Status::from(reply)),
        Format::Table => Ok(print(&table(reply, now_ms()))?),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The table, and below it what concerns all components.
fn table(reply: &StatusReply, now_ms: u64) -> String {
    let says = reply.components.iter().any(|component| !component.status_text.is_empty());
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header =
        vec!["COMPONENT", "STATE", "PID", "USER", "GENERATION", "RESTARTS", "MEMORY", "UP", "LAST-EXIT"];
    header.extend(says.then_some("SAYS"));
    table.set_header(header);
    for component in &reply.components {
        let mut row = row(component, now_ms);
        row.extend(says.then(|| or_dash(&component.status_text)));
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    if reply.single_uid {
        text.push_str("note: ");
        text.push_str(&harmless(&reply.supervisor));
        text.push_str(" was not started as root: all components run as one user and are not confined\n");
    }
    for component in reply.components.iter().filter(|component| !component.degraded.is_empty()) {
        let line = format!("note: {} runs without {}\n", component.name, component.degraded.join(", "));
        text.push_str(&harmless(line.trim_end()));
        text.push('\n');
    }
    text
}

fn row(component: &Component, now_ms: u64) -> Vec<String> {
    let running = component.pid != 0;
    let dash = || "-".to_owned();
    let state = match component.next_start_ms {
        0 => component.state.clone(),
        wait => format!("{} ({}s)", component.state, wait.div_ceil(1000)),
    };
    let up = match component.ready_since_ms {
        0 => dash(),
        since if running => span(now_ms.saturating_sub(since) / 1000),
        _ => dash(),
    };
    vec![
        harmless(&component.name),
        harmless(&state),
        if running { component.pid.to_string() } else { dash() },
        harmless(&format!("{} ({})", component.user, component.uid)),
        (component.generation & COUNTER).to_string(),
        component.restarts.to_string(),
        if running { size(component.pss_kib) } else { dash() },
        up,
        or_dash(&component.last_exit),
    ]
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { harmless(text) }
}

/// The reply as JSON; names are the interface's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    supervisor: &'a str,
    version: &'a str,
    pid: u32,
    single_uid: bool,
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
}

impl<'a> From<&'a StatusReply> for Status<'a> {
    fn from(reply: &'a StatusReply) -> Self {
        Self {
            supervisor: &reply.supervisor,
            version: &reply.version,
            pid: reply.pid,
            single_uid: reply.single_uid,
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
            ..StatusReply::default()
        }
    }

    #[test]
    fn table_is_for_people() {
        let text = table(&reply(), 1_725_000);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            lines[0],
            ["COMPONENT", "STATE", "PID", "USER", "GENERATION", "RESTARTS", "MEMORY", "UP", "LAST-EXIT"]
        );
        assert_eq!(
            lines[1],
            [
                "edgehub",
                "ready",
                "812",
                "edge-hub (990)",
                "2",
                "1",
                "4.2 MiB",
                "12m 5s",
                "killed by signal 9"
            ]
        );
        assert_eq!(
            lines[2],
            ["edged", "backoff (2s)", "-", "root (0)", "0", "0", "-", "-", "exit code 1\\u{1b}[0m"]
        );
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn what_a_component_says_gets_a_column_when_one_does() {
        let mut reply = reply();
        reply.components[1].status_text = "waiting for containerd".into();
        let text = table(&reply, 0);
        assert!(text.lines().next().unwrap().contains("SAYS"), "{text}");
        assert!(text.contains("waiting for containerd"), "{text}");
    }

    #[test]
    fn missing_confinement_is_noted_below() {
        let mut reply = reply();
        reply.single_uid = true;
        reply.components[0].degraded = vec!["landlock".into(), "cgroup".into()];
        let text = table(&reply, 0);
        assert!(text.contains("note: edgecore was not started as root"), "{text}");
        assert!(text.contains("note: edgehub runs without landlock, cgroup"), "{text}");
    }

    #[test]
    fn json_uses_camel_case() {
        let json = serde_json::to_value(Status::from(&reply())).unwrap();
        assert_eq!(json["singleUid"], false);
        assert_eq!(json["components"][0]["pssKib"], 4301);
        assert_eq!(json["components"][1]["nextStartMs"], 1500);
    }
}
