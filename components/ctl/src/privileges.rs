//! `privileges`: what each process was granted, what holds it to that, and what it used.

use anyhow::bail;
use proto::control::{
    ControlClient, Exposure, Privilege, PrivilegesReply, PrivilegesRequest, ProcessPrivileges,
};
use serde::Serialize;
use std::fmt::Write as _;

use crate::cli::Format;
use crate::control::explain;
use crate::output::{Cell, Look, Paint, Table, harmless, plural, print, print_json};

pub(crate) async fn privileges(
    control: &ControlClient,
    component: Option<String>,
    verbose: bool,
    format: Format,
) -> anyhow::Result<()> {
    let mut reply = control.privileges(PrivilegesRequest {}).await.map_err(explain)?;
    if let Some(name) = &component {
        let there: Vec<String> = reply.processes.iter().map(|process| process.component.clone()).collect();
        reply.processes.retain(|process| process.component == *name);
        if reply.processes.is_empty() {
            bail!("no component {name:?}; there are {}", harmless(&there.join(", ")));
        }
    }
    match format {
        Format::Json => print_json(&Report::from(&reply)),
        Format::Table => {
            let paint = Paint::of_stdout();
            let text = match component {
                None if !verbose => overview(&reply, paint),
                _ => {
                    let one = |process| detail(process, verbose, paint);
                    reply.processes.iter().map(one).collect::<Vec<_>>().join("\n")
                }
            };
            Ok(print(&text)?)
        }
    }
}

/// What a score means, in the words and with the bounds of `systemd-analyze security`.
fn rating(score: f64) -> (&'static str, Look) {
    match score {
        10.0.. => ("DANGEROUS", Look::Bad),
        9.0.. => ("UNSAFE", Look::Bad),
        7.5.. => ("EXPOSED", Look::Warning),
        5.0.. => ("MEDIUM", Look::Warning),
        1.0.. => ("OK", Look::Plain),
        0.1.. => ("PERFECT", Look::Good),
        _ => ("SAFE", Look::Good),
    }
}

/// Granted, and nothing keeps the process to it. Of a process that does not run nothing is known.
fn unenforced(process: &ProcessPrivileges, privilege: &Privilege) -> bool {
    process.pid != 0 && privilege.enforced_by.trim().is_empty()
}

fn unexplained(privilege: &Privilege) -> bool {
    privilege.why.trim().is_empty()
}

/// One line per process, and below it what should not be.
fn overview(reply: &PrivilegesReply, paint: Paint) -> String {
    let mut table = Table::new(&["COMPONENT", "PID", "SCORE", "RATING", "GRANTS", "NEVER-USED", "MARKED"]);
    let mut notes = Vec::new();
    for process in &reply.processes {
        let marked: Vec<_> =
            process.privileges.iter().filter_map(|privilege| mark(process, privilege)).collect();
        let unused = process.privileges.iter().filter(|privilege| privilege.used == "never").count();
        let (rating, look) = rating(process.score);
        let running = process.pid != 0;
        table.row(vec![
            Cell::new(&process.component),
            Cell::number(if running { process.pid.to_string() } else { "-".to_owned() }),
            Cell::number(if running { format!("{:.1}", process.score) } else { "-".to_owned() }).look(look),
            Cell::new(if running { rating } else { "-" }).look(look),
            Cell::number(process.privileges.len().to_string()),
            Cell::number(unused.to_string()),
            Cell::number(marked.len().to_string()).look(if marked.is_empty() {
                Look::Plain
            } else {
                Look::Bad
            }),
        ]);
        notes.extend(marked);
    }
    let mut text = table.render(paint, None);
    if notes.is_empty() {
        let all = "every grant has a reason, and something that holds the process to it";
        let running = reply.processes.iter().any(|process| process.pid != 0);
        if running {
            let _ = writeln!(text, "\n{all}");
        }
    } else {
        text.push('\n');
    }
    for note in notes {
        text.push_str(&paint.text(Look::Bad, "marked: "));
        text.push_str(&harmless(&note));
        text.push('\n');
    }
    text
}

/// What is wrong with a grant, in words.
fn mark(process: &ProcessPrivileges, privilege: &Privilege) -> Option<String> {
    let wrong = match (unexplained(privilege), unenforced(process, privilege)) {
        (true, true) => "has no reason, and nothing holds the process to it",
        (true, false) => "has no reason",
        (false, true) => "is not enforced: nothing holds the process to it",
        (false, false) => return None,
    };
    Some(format!("{}: {} {} {wrong}", process.component, privilege.kind, privilege.grant))
}

/// Every grant of one process, then its score.
fn detail(process: &ProcessPrivileges, verbose: bool, paint: Paint) -> String {
    let mut text = paint.text(Look::Strong, &harmless(&process.component));
    if process.pid == 0 {
        text.push_str(": does not run, so nothing is known of what is enforced\n");
    } else {
        let _ = writeln!(text, ", pid {}", process.pid);
    }
    let mut table = Table::new(&["KIND", "GRANT", "ENFORCED-BY", "USED", "WHY"]);
    for privilege in &process.privileges {
        let enforced = match privilege.enforced_by.trim() {
            "" if process.pid == 0 => Cell::new("?").look(Look::Faint),
            "" => Cell::new("(nothing)").look(Look::Bad),
            by => Cell::new(by),
        };
        let why = if unexplained(privilege) {
            Cell::new("(no reason)").look(Look::Bad)
        } else {
            Cell::new(privilege.why.trim())
        };
        let used = Cell::or_dash(&privilege.used);
        table.row(vec![
            Cell::new(&privilege.kind),
            Cell::new(&privilege.grant),
            enforced,
            if privilege.used == "never" { used.look(Look::Warning) } else { used },
            why,
        ]);
    }
    text.push_str(&table.render(paint, None));
    if process.pid == 0 {
        return text;
    }
    let (rating, look) = rating(process.score);
    let _ = write!(text, "\nexposure {:.1} of 10: {}", process.score, paint.text(look, rating));
    if !verbose {
        let open = process.exposures.iter().filter(|exposure| exposure.exposure > 0.0).count();
        let _ = writeln!(text, " ({}; --verbose names them)", plural(open, "open item"));
        return text;
    }
    text.push('\n');
    text.push_str(&exposures(&process.exposures, paint));
    text
}

/// What adds to the score, the largest first; JSON has also what is closed.
fn exposures(exposures: &[Exposure], paint: Paint) -> String {
    let (mut open, closed): (Vec<&Exposure>, Vec<_>) =
        exposures.iter().partition(|exposure| exposure.exposure > 0.0);
    open.sort_by(|a, b| b.exposure.total_cmp(&a.exposure));
    let mut table = Table::new(&["EXPOSURE", "NAME", "DESCRIPTION"]);
    for exposure in open {
        let points = match exposure.exposure {
            ..0.05 => "<0.1".to_owned(),
            points => format!("{points:.1}"),
        };
        table.row(vec![Cell::number(points), Cell::new(&exposure.name), Cell::new(&exposure.description)]);
    }
    let mut text = table.render(paint, None);
    let _ = writeln!(text, "closed: {}", plural(closed.len(), "item"));
    text
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    processes: Vec<Process<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    component: &'a str,
    pid: u32,
    score: f64,
    rating: &'static str,
    privileges: Vec<Grant<'a>>,
    exposures: Vec<Open<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the interface's names")]
struct Grant<'a> {
    kind: &'a str,
    grant: &'a str,
    why: &'a str,
    enforced_by: Vec<&'a str>,
    used: &'a str,
    /// Without a reason, or without anything that holds the process to it.
    marked: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Open<'a> {
    name: &'a str,
    description: &'a str,
    exposure: f64,
    weight: f64,
}

impl<'a> From<&'a PrivilegesReply> for Report<'a> {
    fn from(reply: &'a PrivilegesReply) -> Self {
        Self { processes: reply.processes.iter().map(Process::from).collect() }
    }
}

impl<'a> From<&'a ProcessPrivileges> for Process<'a> {
    fn from(process: &'a ProcessPrivileges) -> Self {
        let grant = |privilege: &'a Privilege| Grant {
            kind: &privilege.kind,
            grant: &privilege.grant,
            why: &privilege.why,
            enforced_by: privilege
                .enforced_by
                .split(',')
                .map(str::trim)
                .filter(|mechanism| !mechanism.is_empty())
                .collect(),
            used: &privilege.used,
            marked: mark(process, privilege).is_some(),
        };
        let open = |exposure: &'a Exposure| Open {
            name: &exposure.name,
            description: &exposure.description,
            exposure: exposure.exposure,
            weight: exposure.weight,
        };
        Self {
            component: &process.component,
            pid: process.pid,
            score: process.score,
            rating: rating(process.score).0,
            privileges: process.privileges.iter().map(grant).collect(),
            exposures: process.exposures.iter().map(open).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privilege(grant: &str, why: &str, enforced_by: &str, used: &str) -> Privilege {
        Privilege {
            kind: "capability".into(),
            grant: grant.into(),
            why: why.into(),
            enforced_by: enforced_by.into(),
            used: used.into(),
        }
    }

    fn edged() -> ProcessPrivileges {
        let exposure = |name: &str, exposure| Exposure { name: name.into(), exposure, ..Exposure::default() };
        ProcessPrivileges {
            component: "edged".into(),
            pid: 9,
            score: 4.2,
            privileges: vec![
                privilege("CAP_CHOWN", "fsGroup", "capabilities, seccomp", "never"),
                privilege("CAP_FOWNER", "", "capabilities", ""),
                privilege("/proc", "node status", "", "open now"),
            ],
            exposures: vec![
                exposure("PrivateTmp=", 0.0),
                exposure("User=", 0.2),
                exposure("PrivateNetwork=", 0.5),
            ],
        }
    }

    #[test]
    fn overview_marks_what_has_no_reason_or_is_not_enforced() {
        let text = overview(&PrivilegesReply { processes: vec![edged()] }, Paint::NONE);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["edged", "9", "4.2", "OK", "3", "1", "2"]);
        assert!(text.contains("marked: edged: capability CAP_FOWNER has no reason\n"), "{text}");
        assert!(text.contains("marked: edged: capability /proc is not enforced"), "{text}");
    }

    #[test]
    fn nothing_marked_is_said() {
        let mut process = edged();
        process.privileges.truncate(1);
        let text = overview(&PrivilegesReply { processes: vec![process] }, Paint::NONE);
        assert!(text.ends_with("holds the process to it\n"), "{text}");
    }

    #[test]
    fn detail_shows_grants_then_the_score() {
        let text = detail(&edged(), false, Paint::NONE);
        assert!(text.starts_with("edged, pid 9\nKIND"), "{text}");
        assert!(text.contains("(nothing)") && text.contains("(no reason)"), "{text}");
        assert!(text.ends_with("exposure 4.2 of 10: OK (2 open items; --verbose names them)\n"), "{text}");
    }

    #[test]
    fn exposures_come_largest_first_and_closed_ones_are_counted() {
        let text = exposures(&edged().exposures, Paint::NONE);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("PrivateNetwork=") < at("User=") && !text.contains("PrivateTmp="), "{text}");
        assert!(text.ends_with("closed: 1 item\n"), "{text}");
    }

    #[test]
    fn process_that_does_not_run_is_not_accused() {
        let mut process = edged();
        process.pid = 0;
        assert!(mark(&process, &process.privileges[2]).is_none());
        assert!(detail(&process, true, Paint::NONE).contains("does not run"));
    }

    #[test]
    fn ratings_are_systemds() {
        let words = [0.0, 0.6, 1.3, 4.5, 5.0, 8.0, 9.6, 10.0].map(|score| rating(score).0);
        assert_eq!(words, ["SAFE", "PERFECT", "OK", "OK", "MEDIUM", "EXPOSED", "UNSAFE", "DANGEROUS"]);
    }

    #[test]
    fn json_lists_mechanisms_apart() {
        let json = serde_json::to_value(Process::from(&edged())).unwrap();
        assert_eq!(json["privileges"][0]["enforcedBy"], serde_json::json!(["capabilities", "seccomp"]));
        assert_eq!(json["privileges"][1]["marked"], true);
        assert_eq!(json["rating"], "OK");
    }
}
