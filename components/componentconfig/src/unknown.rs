//! Which keys of a file nobody reads: those that are missing when the parsed configuration is written out again.

use serde_json::Value;

/// Paths (`a.b.c`) of keys in `given` that `known` does not have. Keys below a map of free names (labels) are known
/// because the parsed map holds them too. A `null` counts as absent.
pub(crate) fn keys(given: &Value, known: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(given, known, "", &mut found);
    found
}

fn walk(given: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    let (Value::Object(given), Value::Object(known)) = (given, known) else {
        return;
    };
    for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
        let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match known.get(key) {
            Some(below) => walk(value, below, &here, found),
            None => found.push(here),
        }
    }
}
