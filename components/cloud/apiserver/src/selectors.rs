//! Label and field selectors, as in `?labelSelector=` and `?fieldSelector=`. Grammar and meaning are
//! `apimachinery/pkg/labels` and `pkg/fields`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ApiError;
use crate::names;
use crate::object;
use crate::resources::Resource;

/// 16 KiB: longer than any real selector.
const SELECTOR_LIMIT: usize = 16 * 1024;

/// The parts of an object that selectors look at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facets {
    labels: BTreeMap<String, String>,
    fields: BTreeMap<String, String>,
}

impl Facets {
    pub(crate) fn of(resource: &Resource, value: &Value) -> Self {
        let labels = value
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let mut fields = BTreeMap::from([
            ("metadata.name".to_owned(), object::name(value).to_owned()),
            ("metadata.namespace".to_owned(), object::namespace(value).to_owned()),
        ]);
        for (label, pointer) in resource.selectable {
            let text = match value.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                _ if matches!(*label, "spec.hostNetwork" | "spec.unschedulable") => "false".to_owned(),
                _ => String::new(),
            };
            fields.insert((*label).to_owned(), text);
        }
        Self { labels, fields }
    }
}

/// Both selectors of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    field: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Parses both texts; a field that the resource cannot select by is an error that names it.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        if labels.len() > SELECTOR_LIMIT || fields.len() > SELECTOR_LIMIT {
            return Err(ApiError::bad_request(format!("selector is longer than {SELECTOR_LIMIT} bytes")));
        }
        let labels = parse_labels(labels)
            .map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = parse_fields(fields).map_err(ApiError::bad_request)?;
        for requirement in &fields {
            let known = matches!(requirement.field.as_str(), "metadata.name" | "metadata.namespace")
                || resource.selectable.iter().any(|(label, _)| *label == requirement.field);
            if !known {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {}",
                    requirement.field
                )));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether every object matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, facets: &Facets) -> bool {
        self.labels.iter().all(|r| r.matches(facets.labels.get(&r.key).map(String::as_str)))
            && self
                .fields
                .iter()
                .all(|r| (facets.fields.get(&r.field).map_or("", String::as_str) == r.value) == r.equal)
    }

    /// Narrows it to one name.
    pub(crate) fn require_name(&mut self, name: &str) {
        let field = "metadata.name".to_owned();
        self.fields.push(FieldRequirement { field, value: name.to_owned(), equal: true });
    }
}

impl Requirement {
    /// An absent key satisfies `!=` and `notin`, as in Kubernetes.
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|n| n > *bound),
            Test::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_u32, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split(text).into_iter().map(|part| parse_requirement(part.trim())).collect()
}

fn parse_requirement(term: &str) -> Result<Requirement, String> {
    let (key, test) = if let Some(key) = term.strip_prefix('!') {
        (key.trim(), Test::Absent)
    } else if let Some(at) = term.find(['=', '!', '<', '>']) {
        let (key, rest) = (term[..at].trim(), &term[at..]);
        let test = if let Some(value) = rest.strip_prefix("!=") {
            Test::NotIn(vec![label_value(value)?])
        } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            Test::In(vec![label_value(value)?])
        } else if let Some(value) = rest.strip_prefix('>') {
            Test::Greater(number(value)?)
        } else if let Some(value) = rest.strip_prefix('<') {
            Test::Less(number(value)?)
        } else {
            return Err(format!("{term:?}: expected one of =, ==, !=, >, <, in, notin"));
        };
        (key, test)
    } else if let Some((key, rest)) = term.split_once(char::is_whitespace) {
        let rest = rest.trim();
        let (set, negated) = match (rest.strip_prefix("notin"), rest.strip_prefix("in")) {
            (Some(set), _) => (set, true),
            (None, Some(set)) => (set, false),
            (None, None) => return Err(format!("{term:?}: expected in or notin")),
        };
        let inner = set
            .trim()
            .strip_prefix('(')
            .and_then(|set| set.strip_suffix(')'))
            .ok_or_else(|| format!("{term:?}: expected values in parentheses"))?;
        let values = inner.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
        (key, if negated { Test::NotIn(values) } else { Test::In(values) })
    } else {
        (term, Test::Exists)
    };
    names::label_key(key).map_err(|why| format!("{key:?}: {why}"))?;
    Ok(Requirement { key: key.to_owned(), test })
}

fn label_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    names::label_value(value).map_err(|why| format!("{value:?}: {why}"))?;
    Ok(value.to_owned())
}

fn number(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("{:?}: for < and > the value must be an integer", text.trim()))
}

/// Backslash escapes `\`, `,` and `=` in values.
fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>, String> {
    let (mut terms, mut term, mut chars) = (Vec::new(), String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                term.push(c);
                term.extend(chars.next());
            }
            ',' => terms.push(std::mem::take(&mut term)),
            _ => term.push(c),
        }
    }
    terms.push(term);
    terms.iter().filter(|term| !term.is_empty()).map(|term| parse_field(term)).collect()
}

fn parse_field(term: &str) -> Result<FieldRequirement, String> {
    let bad = || format!("invalid field selector: {term:?}; can't understand it");
    let at = term.find(['=', '!']).ok_or_else(bad)?;
    let (field, rest) = term.split_at(at);
    let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
        (value, false)
    } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        (value, true)
    } else {
        return Err(bad());
    };
    let (mut plain, mut chars) = (String::new(), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '=')).ok_or_else(bad)?),
            '=' => return Err(bad()),
            _ => plain.push(c),
        }
    }
    Ok(FieldRequirement { field: field.to_owned(), value: plain, equal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(labels: &str, fields: &str) -> bool {
        let pods = resources::find("", "v1", "pods").unwrap();
        let pod = json!({
            "metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web", "tier": "3"}},
            "spec": {"nodeName": "edge-1"}, "status": {"phase": "Running"},
        });
        Selector::parse(pods, labels, fields).unwrap().matches(&Facets::of(pods, &pod))
    }

    #[test]
    fn equality_and_sets() {
        for yes in [
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "app in (db, web)",
            "app notin (db)",
            "app",
            "!other",
            "tier>2",
            "tier<4",
            "app=web,tier in (1,3),!x",
            " app = web ",
            "",
        ] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in [
            "app=db",
            "app!=web",
            "app in (db)",
            "app notin (web)",
            "other",
            "!app",
            "tier>3",
            "app=web,tier=4",
        ] {
            assert!(!matches(no, ""), "{no}");
        }
    }

    #[test]
    fn fields_of_the_kind_and_of_every_kind() {
        assert!(matches("", "metadata.name=web-0,spec.nodeName=edge-1"));
        assert!(matches("", "status.phase!=Failed,status.phase!=Succeeded"));
        assert!(matches("", "spec.hostNetwork=false"));
        assert!(!matches("", "metadata.namespace=other"));
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let pods = resources::find("", "v1", "pods").unwrap();
        for (labels, fields) in [
            ("app in web", ""),
            ("app ~ x", ""),
            ("a b c", ""),
            ("app=a b", ""),
            ("=x", ""),
            ("", "spec.image=x"),
            ("", "metadata.name"),
            ("", "metadata.name=a=b"),
        ] {
            assert!(Selector::parse(pods, labels, fields).is_err(), "{labels:?} {fields:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(labels in ".{0,60}", fields in ".{0,60}") {
            let pods = resources::find("", "v1", "pods").unwrap();
            let _ = Selector::parse(pods, &labels, &fields);
        }

        #[test]
        fn in_and_notin_are_opposites(key in "[a-z]{1,5}", values in prop::collection::vec("[a-z]{1,3}", 1..4), own in prop::option::of("[a-z]{1,3}")) {
            let set = values.join(",");
            let yes = parse_requirement(&format!("{key} in ({set})")).unwrap();
            let no = parse_requirement(&format!("{key} notin ({set})")).unwrap();
            prop_assert_ne!(yes.matches(own.as_deref()), no.matches(own.as_deref()));
        }
    }
}
