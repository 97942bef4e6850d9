//! One component's line as one line of ours: a JSON object with component, pid and generation.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::own::timestamp;

/// The keys the supervisor adds. A line that brings one of them is quoted whole, so that no component speaks for another.
#[derive(Deserialize)]
struct OurKeys {
    component: Option<IgnoredAny>,
    pid: Option<IgnoredAny>,
    generation: Option<IgnoredAny>,
}

/// The line for our standard error, with its line break.
pub(super) fn annotate(component: &str, pid: u32, generation: u64, now: SystemTime, text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 128);
    match open_object(text) {
        Some(open) => line.push_str(open),
        None => {
            let _ = write!(line, "{{\"timestamp\":\"{}\",\"message\":{}", timestamp(now), quoted(text));
        }
    }
    let _ =
        writeln!(line, ",\"component\":{},\"pid\":{pid},\"generation\":{generation}}}", quoted(component));
    line
}

/// A JSON string literal.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The text without its closing brace, when it is an object with members, none of them ours.
fn open_object(text: &str) -> Option<&str> {
    let open = text.strip_suffix('}')?;
    let keys: OurKeys = serde_json::from_str(text).ok()?;
    let foreign = keys.component.is_none() && keys.pid.is_none() && keys.generation.is_none();
    let empty = open.trim_start().strip_prefix('{')?.trim().is_empty();
    (foreign && !empty).then_some(open)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn annotated(text: &str) -> Value {
        let line = annotate("edgehub", 7, 9, SystemTime::UNIX_EPOCH, text);
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        serde_json::from_str(&line).expect("JSON")
    }

    #[test]
    fn structured_line_keeps_its_members() {
        assert_eq!(
            annotated(r#"{"level":"INFO","message":"up"}"#),
            json!({"level": "INFO", "message": "up", "component": "edgehub", "pid": 7, "generation": 9})
        );
    }

    #[test]
    fn plain_line_becomes_the_message() {
        let value = annotated("thread 'main' panicked: \"x\"");
        assert_eq!(value["message"], "thread 'main' panicked: \"x\"");
        assert_eq!(value["timestamp"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn line_that_claims_to_be_of_another_component_is_quoted() {
        for text in [
            r#"{"component":"edged","message":"x"}"#,
            r#"{"pid":1}"#,
            r#"{"component":null,"generation":2}"#,
            r#"{"component":1,"component":2}"#,
            "{}",
            "{\"a\":1} {\"b\":2}",
            "{\"a\":",
        ] {
            let value = annotated(text);
            assert_eq!(
                (value["component"].as_str(), value["message"].as_str()),
                (Some("edgehub"), Some(text))
            );
        }
    }
}
