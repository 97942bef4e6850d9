//! `logs`: what a component wrote.

use std::fmt::Write as _;

use ipc::CallError;
use jiff::Timestamp;
use proto::control::{ControlClient, LogLine, LogsRequest};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::Format;
use crate::control::explain;
use crate::output::{harmless, print, print_json};

/// Follows over a supervisor that is replaced or started again: what was shown is not shown twice.
pub(crate) async fn logs(
    control: &ControlClient,
    component: String,
    follow: bool,
    tail: Option<u32>,
    format: Format,
) -> anyhow::Result<()> {
    let mut request = LogsRequest { component, follow, tail: tail.unwrap_or(0) };
    let mut shown = Shown::default();
    'connection: loop {
        let mut lines = control.logs(request.clone()).await.map_err(explain)?;
        while let Some(line) = lines.next().await {
            let line = match line {
                Ok(line) => line,
                Err(CallError::Disconnected(_)) if follow => {
                    if shown.begin_again() {
                        // All that is kept: what came in between is among it.
                        request.tail = 0;
                    }
                    continue 'connection;
                }
                Err(error) => return Err(explain(error)),
            };
            if shown.has(&line) {
                continue;
            }
            match format {
                Format::Json => print_json(&Record::from(&line))?,
                Format::Table => print(&readable(&line))?,
            }
        }
        return Ok(());
    }
}

/// Which lines were shown: all up to a time, and so many of exactly that time.
#[derive(Debug, Default)]
struct Shown {
    time_ms: u64,
    of_that_time: usize,
    /// Of a new connection that still repeats: how many of exactly that time it had so far.
    repeated: Option<usize>,
}

impl Shown {
    /// The next lines come from a new connection. False when none was shown yet.
    fn begin_again(&mut self) -> bool {
        self.repeated = (self.of_that_time > 0).then_some(0);
        self.repeated.is_some()
    }

    /// Whether this line, the next of its connection, was shown already; if not, it is shown now.
    fn has(&mut self, line: &LogLine) -> bool {
        if let Some(repeated) = &mut self.repeated {
            if line.time_ms < self.time_ms {
                return true;
            }
            if line.time_ms == self.time_ms && *repeated < self.of_that_time {
                *repeated += 1;
                return true;
            }
            self.repeated = None;
        }
        if line.time_ms != self.time_ms {
            (self.time_ms, self.of_that_time) = (line.time_ms, 0);
        }
        self.of_that_time += 1;
        false
    }
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
    fn line_is_shown_once_over_connections() {
        let at = |time_ms| LogLine { time_ms, ..LogLine::default() };
        let mut shown = Shown::default();
        let mut pass = |times: &[u64], again: bool| -> Vec<u64> {
            if again {
                shown.begin_again();
            }
            times.iter().copied().filter(|time| !shown.has(&at(*time))).collect()
        };
        assert_eq!(pass(&[5, 7, 7], false), [5, 7, 7]);
        assert_eq!(pass(&[5, 7, 7, 7, 9], true), [7, 9], "one line of that time came in between");
        assert_eq!(pass(&[8], false), [8], "a clock that was set back hides nothing");
        assert_eq!(pass(&[9, 10], true), [9, 10], "a new supervisor has new lines only");
        assert_eq!(pass(&[], true), [0_u64; 0]);
    }

    #[test]
    fn nothing_shown_yet_hides_nothing() {
        let mut shown = Shown::default();
        assert!(!shown.begin_again());
        assert!(!shown.has(&LogLine::default()));
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
