//! One component's line as one line of ours: a JSON object with component, pid and generation.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::own::timestamp;

/// The keys the supervisor adds. Where a line brings one of them it is renamed, so that no component speaks for another.
const OURS: [&str; 3] = ["component", "pid", "generation"];

/// The line for our standard error, with its line break.
pub(super) fn annotate(component: &str, pid: u32, generation: u64, now: SystemTime, text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 128);
    line.push('{');
    // Writing to a String cannot fail, here and below.
    match structured(text) {
        Some(members) => {
            for (key, value) in &members.0 {
                let renamed = if OURS.contains(&key.as_ref()) { "said_" } else { "" };
                let _ = write!(line, "{}:{},", quoted(&format!("{renamed}{key}")), value.get());
            }
        }
        None => {
            let _ = write!(line, "\"timestamp\":\"{}\",\"message\":{},", timestamp(now), quoted(text));
        }
    }
    let _ = writeln!(line, "\"component\":{},\"pid\":{pid},\"generation\":{generation}}}", quoted(component));
    line
}

/// A JSON string literal.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The members of a line that is a JSON object.
fn structured(text: &str) -> Option<Members<'_>> {
    if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

/// An object's members as they are written, in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            members.push((key, value));
        }
        Ok(Members(members))
    }
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
    fn line_that_claims_to_be_of_another_component_does_not_pass_for_it() {
        let value = annotated(r#"{"component":"edged","compon\u0065nt":"x","pid":1}"#);
        assert_eq!((&value["component"], &value["pid"]), (&json!("edgehub"), &json!(7)));
        assert_eq!(value["said_pid"], 1);
    }

    #[test]
    fn line_that_is_only_nearly_an_object_becomes_the_message() {
        for text in ["{\"a\":1} {\"b\":2}", "{\"a\":", "[1]", "{a}"] {
            assert_eq!(annotated(text)["message"], text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_becomes_one_json_object_of_its_component(text in "[^\n]{0,60}|\\{[ -~]{0,60}\\}") {
            let value = annotated(&text);
            assert_eq!((&value["component"], &value["pid"]), (&json!("edgehub"), &json!(7)));
        }
    }
}
