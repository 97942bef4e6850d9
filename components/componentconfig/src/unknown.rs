//! Which keys of a file have no effect and should have one: those that are missing when the parsed configuration is
//! written out again, and that ask for something else than KubeEdge does by default.

use serde_json::Value;

/// Paths (`a.b.c`) of keys in `given` that `known` does not have, except where KubeEdge's `default` says the same and
/// where a whole part is switched off (`enable: false`).
///
/// A part that is switched on is named once, with its default values too: somebody may rely on it. Keys below a map of
/// free names (labels) are known because the parsed map holds them too. A `null` counts as absent.
pub(crate) fn keys(given: &Value, known: &Value, default: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(given, Some(known), Some(default), "", &mut found);
    found
}

fn walk(given: &Value, known: Option<&Value>, default: Option<&Value>, path: &str, found: &mut Vec<String>) {
    if given.is_null() {
        return;
    }
    if known.is_none() {
        match given.get("enable").and_then(Value::as_bool) {
            Some(false) => return,
            Some(true) => return found.push(path.to_owned()),
            None if default == Some(given) => return,
            None => {}
        }
    }
    let (Value::Object(members), Some(Value::Object(_))) = (given, known.or(default)) else {
        if known.is_none() {
            found.push(path.to_owned());
        }
        return;
    };
    for (key, value) in members {
        let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let below = |parent: Option<&Value>| parent.and_then(|parent| parent.get(key)).cloned();
        walk(value, below(known).as_ref(), below(default).as_ref(), &here, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unsupported_key_is_named_unless_it_says_what_kubeedge_does_anyway() {
        let default = json!({"a": {"x": 1, "y": 2}});
        assert_eq!(
            keys(&json!({"a": {"x": 1, "y": 3, "z": 4}}), &json!({"a": {}}), &default),
            ["a.y", "a.z"]
        );
        assert_eq!(keys(&json!({"a": {"x": 1, "y": 3}}), &json!({}), &default), ["a.y"]);
        assert!(keys(&json!({"a": {"x": null}}), &json!({"a": {}}), &default).is_empty());
    }

    #[test]
    fn part_that_is_switched_on_is_named_once_and_one_that_is_off_not_at_all() {
        let default = json!({"bus": {"enable": true, "port": 1}});
        assert_eq!(keys(&json!({"bus": {"enable": true, "port": 9}}), &json!({}), &default), ["bus"]);
        assert!(keys(&json!({"bus": {"enable": false, "port": 9}}), &json!({}), &default).is_empty());
    }

    #[test]
    fn supported_key_is_never_named() {
        assert!(keys(&json!({"a": {"x": 5}}), &json!({"a": {"x": 5}}), &json!({})).is_empty());
    }
}
