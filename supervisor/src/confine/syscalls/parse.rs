//! From text to policies.

use std::collections::BTreeMap;

use super::{Condition, Policy, Rule, Test, names};
use crate::manifest::Finding;

/// Most conditions on a line; a call has six arguments.
const MOST_CONDITIONS: usize = 6;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Another file's lines.
    Include(&'a str),
    /// An allowed call.
    Call { call: &'a str, conditions: Vec<Condition>, reason: &'a str },
}

/// Parses every file, given by name and text, and resolves what they include.
pub fn all(files: &[(&str, &str)]) -> (BTreeMap<String, Policy>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut own: BTreeMap<&str, Policy> = BTreeMap::new();
    let mut includes: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    for (name, text) in files {
        let policy = own.entry(name).or_default();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{name}.policy:{}", number + 1);
            let mut report = |key: &str, problem: String| findings.push(finding(&place, key, problem));
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some(Line::Include(other))) => {
                    if files.iter().any(|(known, _)| *known == other) && other != *name {
                        includes.entry(name).or_default().push((other, place));
                    } else {
                        report("include", format!("there is no other file {other}.policy"));
                    }
                }
                Ok(Some(Line::Call { call, conditions, reason })) => {
                    let rule = Rule { conditions, reason: reason.to_owned(), place: place.clone() };
                    let rules = policy.calls.entry(call.to_owned()).or_default();
                    if let Some(other) =
                        rules.iter().find(|other| covers(other, &rule) || covers(&rule, other))
                    {
                        let problem = format!("says more or less than {}: keep one of them", other.place);
                        report(call, problem);
                    }
                    rules.push(rule);
                }
                Err((key, problem)) => report(key, problem),
            }
        }
    }
    let mut policies = BTreeMap::new();
    for (name, policy) in &own {
        let mut whole = policy.clone();
        for (other, place) in includes.get(name).into_iter().flatten() {
            if includes.contains_key(other) {
                findings.push(finding(place, "include", format!("{other}.policy includes others itself")));
            }
            for (call, rules) in own.get(other).into_iter().flat_map(|other| &other.calls) {
                for rule in rules {
                    let mine = whole.calls.entry(call.clone()).or_default();
                    if let Some(double) = mine.iter().find(|mine| covers(rule, mine)) {
                        let problem = format!("{} allows it already", rule.place);
                        findings.push(finding(&double.place, call, problem));
                    }
                    mine.push(rule.clone());
                }
            }
        }
        policies.insert((*name).to_owned(), whole);
    }
    (policies, findings)
}

/// Whether everything `narrow` allows is allowed by `wide`, as far as that shows.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    wide.conditions.iter().all(|condition| narrow.conditions.contains(condition))
}

fn finding(place: &str, key: &str, problem: String) -> Finding {
    Finding {
        file: format!("policy/{place}"),
        component: String::new(),
        key: key.to_owned(),
        value: String::new(),
        problem,
    }
}

/// One line; `None` for an empty one. The error is what it is about, and what is wrong with it.
fn parse_line(line: &str) -> Result<Option<Line<'_>>, (&str, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if let Some(other) = line.strip_prefix("include ") {
        return Ok(Some(Line::Include(other.trim())));
    }
    // Conditions hold no colon.
    let (allowed, reason) =
        line.split_once(':').ok_or_else(|| (line, "must be `call: reason`, one a line".to_owned()))?;
    let (allowed, reason) = (allowed.trim(), reason.trim());
    let (call, conditions) = match allowed.split_once('(') {
        None => (allowed, Vec::new()),
        Some((call, inner)) => {
            let inner =
                inner.strip_suffix(')').ok_or_else(|| (call, "the conditions end in `)`".to_owned()))?;
            let conditions = inner.split(',').map(|condition| parse_condition(call, condition.trim()));
            (call, conditions.collect::<Result<Vec<_>, _>>().map_err(|problem| (call, problem))?)
        }
    };
    if !names::is_call(call) {
        return Err((call, "is a system call of no architecture we know".to_owned()));
    }
    if reason.is_empty() {
        return Err((call, "has no reason".to_owned()));
    }
    if conditions.len() > MOST_CONDITIONS {
        return Err((call, format!("has more than {MOST_CONDITIONS} conditions")));
    }
    Ok(Some(Line::Call { call, conditions, reason }))
}

/// `argument = value`, `argument != value`, `argument & mask = value`, or `argument & mask`: all of its bits.
fn parse_condition(call: &str, text: &str) -> Result<Condition, String> {
    let of = |argument: &str| names::argument(call, argument.trim());
    if let Some((argument, bits)) = text.split_once('&') {
        let (mask, value) = match bits.split_once('=') {
            None => (number(bits)?, number(bits)?),
            Some((mask, value)) => (number(mask)?, number(value)?),
        };
        if mask == 0 || value & !mask != 0 {
            return Err(format!("{text:?} can never hold, or always does"));
        }
        return Ok(Condition { argument: of(argument)?, test: Test::Bits { mask, value } });
    }
    if let Some((argument, value)) = text.split_once("!=") {
        return Ok(Condition { argument: of(argument)?, test: Test::IsNot(number(value)?) });
    }
    if let Some((argument, value)) = text.split_once('=') {
        return Ok(Condition { argument: of(argument)?, test: Test::Is(number(value)?) });
    }
    Err(format!(
        "{text:?} is not `argument = value`, `argument != value`, `argument & mask` or `argument & mask = value`"
    ))
}

/// Names and numbers, joined by `|`.
fn number(text: &str) -> Result<u32, String> {
    text.split('|').map(str::trim).try_fold(0, |sum, part| {
        let value = match part.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => part.parse().ok().or_else(|| names::constant(part)),
        };
        Ok(sum | value.ok_or_else(|| format!("{part:?} is no constant we know"))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        all(files).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn line_is_a_call_and_its_reason() {
        assert_eq!(
            parse_line("  read: frames from links "),
            Ok(Some(Line::Call { call: "read", conditions: vec![], reason: "frames from links" }))
        );
        assert_eq!(parse_line("include runtime"), Ok(Some(Line::Include("runtime"))));
        assert_eq!(parse_line("# read: no"), Ok(None));
        assert_eq!(parse_line(""), Ok(None));
    }

    #[test]
    fn conditions_compare_named_arguments_with_named_values() {
        for (text, argument, test) in [
            ("socket(domain = AF_UNIX): x", 0, Test::Is(1)),
            ("socket(type != 5): x", 1, Test::IsNot(5)),
            ("clone(flags & CLONE_THREAD): x", 0, Test::Bits { mask: 0x10000, value: 0x10000 }),
            ("mmap(prot & PROT_WRITE|PROT_EXEC = PROT_EXEC): x", 2, Test::Bits { mask: 6, value: 4 }),
            ("mprotect(prot & 0x4 = 0): x", 2, Test::Bits { mask: 4, value: 0 }),
        ] {
            let Ok(Some(Line::Call { conditions, .. })) = parse_line(text) else { panic!("{text}") };
            assert_eq!(conditions, [Condition { argument, test }], "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_file_and_line() {
        let text = "read: ok\n\nfrob: x\nwrite\nwrite:\nsocket(domain = AF_MOON): x\nsocket(colour = 1): x\n\
                    clone(flags & 0): x\nsocket(domain = 1: x\ninclude nothing";
        assert_eq!(
            findings(&[("a", text)]),
            [
                "policy/a.policy:3: frob: is a system call of no architecture we know",
                "policy/a.policy:4: write: must be `call: reason`, one a line",
                "policy/a.policy:5: write: has no reason",
                "policy/a.policy:6: socket: \"AF_MOON\" is no constant we know",
                "policy/a.policy:7: socket: socket has no argument colour that may be compared; there are domain, type, protocol",
                "policy/a.policy:8: clone: \"flags & 0\" can never hold, or always does",
                "policy/a.policy:9: socket: the conditions end in `)`",
                "policy/a.policy:10: include: there is no other file nothing.policy",
            ]
        );
    }

    #[test]
    fn line_that_adds_nothing_is_a_finding() {
        let base = ("base", "read: x\nsocket(domain = AF_UNIX): links");
        assert_eq!(
            findings(&[base, ("a", "include base\nread: again\nwrite: x\nwrite: y")]),
            [
                "policy/a.policy:4: write: says more or less than a.policy:3: keep one of them",
                "policy/a.policy:2: read: base.policy:1 allows it already",
            ]
        );
        assert!(findings(&[base, ("a", "include base\nsocket(domain = AF_INET): cloud")]).is_empty());
    }

    #[test]
    fn include_is_one_level_deep() {
        let found = findings(&[("a", "include b"), ("b", "include c"), ("c", "read: x")]);
        assert_eq!(found, ["policy/a.policy:1: include: b.policy includes others itself"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_lines_or_findings_and_no_panic(text in "[ -~\n]{0,120}", inner in "[ -~]{0,30}") {
            all(&[("a", &text)]);
            all(&[("a", &format!("socket({inner}): x"))]);
        }

        #[test]
        fn printed_conditions_are_read_as_they_were(mask in 1_u32.., value: u32) {
            let text = format!("clone(flags & {mask:#x} = {}): x", value & mask);
            let Ok(Some(Line::Call { conditions, .. })) = parse_line(&text) else { panic!("{text}") };
            assert_eq!(conditions[0].test, Test::Bits { mask, value: value & mask });
        }
    }
}
