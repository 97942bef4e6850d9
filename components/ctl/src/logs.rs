//! `logs`: what a component wrote.

use std::fmt::Write as _;

use jiff::Timestamp;
use proto::control::{ControlClient, LogLine, LogsRequest};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::Format;
use crate::control::explain;
use crate::output::{harmless, print, print_json};

pub(crate) async fn logs(
    control: &ControlClient,
    component: String,
    follow: bool,
    tail: Option<u32>,
    format: Format,
) -> anyhow::Result<()> {
    let request = LogsRequest { component, follow, tail: tail.unwrap_or(0) };
    let mut lines = control.logs(request).await.map_err(explain)?;
    while let Some(line) = lines.next().await {
        let line = line.map_err(explain)?;
        match format {
            Format::Json => print_json(&Record::from(&line))?,
            Format::Table => print(&readable(&line))?,
        }
    }
    Ok(())
}

/// A line for programs: what the component wrote, as JSON where it is JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    component: &'a str,
    pid: u32,
    generation: u64,
    time_ms: u64,
    line: Value,
}

impl<'a> From<&'a LogLine> for Record<'a> {
    fn from(line: &'a LogLine) -> Self {
        let LogLine { component, pid, generation, time_ms, line } = line;
        let line = parse(line).map_or_else(|| Value::String(line.clone()), Value::Object);
        Self { component, pid: *pid, generation: *generation, time_ms: *time_ms, line }
    }
}

fn parse(line: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(line).ok()
}

/// A line for people: time, level, message, then the other fields. What is not JSON is shown as it is.
fn readable(line: &LogLine) -> String {
    let received = || {
        let milliseconds = i64::try_from(line.time_ms).unwrap_or_default();
        Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
    };
    let Some(mut fields) = parse(&line.line) else {
        return format!("{} {}\n", received(), harmless(&line.line));
    };
    let mut take = |name: &str| fields.remove(name).map(|value| plain(&value));
    let time = take("timestamp").unwrap_or_else(received);
    let level = take("level").unwrap_or_default();
    let message = take("message").unwrap_or_default();
    let mut text = format!("{time} {level:5} {message}");
    for (name, value) in fields.iter().filter(|(name, value)| *name != "target" && !value.is_null()) {
        let _ = write!(text, " {name}={}", plain(value));
    }
    format!("{}\n", harmless(&text))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { component: "edged".into(), pid: 7, generation: 1, time_ms: 1000, line: text.into() }
    }

    #[test]
    fn structured_line_is_shown_in_order() {
        let text = r#"{"timestamp":"2026-11-21T04:00:00Z","level":"INFO","message":"pod ready","pod":"a/b","ms":12,"target":"edged"}"#;
        assert_eq!(readable(&line(text)), "2026-11-21T04:00:00Z INFO  pod ready ms=12 pod=a/b\n");
    }

    #[test]
    fn other_line_is_shown_with_the_time_it_came() {
        assert_eq!(readable(&line("segfault at 0")), "1970-01-01T00:00:01Z segfault at 0\n");
    }

    #[test]
    fn escape_sequences_in_a_message_do_not_reach_the_terminal() {
        let shown = readable(&line(r#"{"level":"INFO","message":"\u001b[2Jgone"}"#));
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn json_keeps_structured_lines_structured() {
        let json = serde_json::to_value(Record::from(&line(r#"{"level":"INFO"}"#))).unwrap();
        assert_eq!(json["line"]["level"], "INFO");
        assert_eq!(json["timeMs"], 1000);
        let json = serde_json::to_value(Record::from(&line("text"))).unwrap();
        assert_eq!(json["line"], "text");
    }
}
