//! Reading and writing the parts of an object that every kind has. Objects are `serde_json::Value`: fields newer than
//! this program survive, and a missing or odd part reads as empty instead of failing.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// The string at `pointer` (RFC 6901), or "".
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `pointer`, or an empty one.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `metadata.resourceVersion`, "" when absent.
pub(crate) fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
}

pub(crate) fn has_finalizers(object: &Value) -> bool {
    !list(object, "/metadata/finalizers").is_empty()
}

/// The map under `key`, made if absent or of another type. Anything but an object as `parent` becomes one: callers
/// hold values whose shape was checked.
pub(crate) fn child<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let slot = &mut fields(parent)[key];
    fields(slot);
    slot.as_object_mut().expect("made an object by fields()")
}

/// The object's own map; anything else becomes an empty one.
pub(crate) fn fields(value: &mut Value) -> &mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value
}

pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Sets `key` unless it has a value.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// RFC 3339 with whole seconds, as `metav1.Time` is written.
pub(crate) fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn now() -> String {
    timestamp(Timestamp::now())
}

/// Sets `status.conditions[type]`; `lastTransitionTime` moves only when the status does.
pub(crate) fn set_condition(
    object: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    at: &str,
) {
    let conditions = child(object, "status").entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let conditions = conditions.as_array_mut().expect("made an array just above");
    let position = conditions.iter().position(|c| c["type"] == kind);
    let since = position
        .map(|at| &conditions[at])
        .filter(|c| c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str())
        .unwrap_or(at)
        .to_owned();
    let mut condition = serde_json::json!({
        "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
    });
    if !reason.is_empty() {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    match position {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn condition_keeps_its_transition_time_while_the_status_is_the_same() {
        let mut pod = json!({});
        set_condition(&mut pod, "PodScheduled", "False", "Unschedulable", "no nodes", "2026-01-01T00:00:00Z");
        set_condition(&mut pod, "PodScheduled", "False", "Unschedulable", "still", "2026-01-02T00:00:00Z");
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        set_condition(&mut pod, "PodScheduled", "True", "", "", "2026-01-03T00:00:00Z");
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], "2026-01-03T00:00:00Z");
    }

    #[test]
    fn odd_shapes_read_as_empty() {
        let object = json!({"metadata": "nonsense"});
        assert_eq!(name(&object), "");
        assert!(!is_terminating(&object));
    }
}
