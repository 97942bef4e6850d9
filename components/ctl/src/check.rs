//! `check`: is this machine fit?
//!
//! Facts are gathered first, each for itself ([`gather`]): nothing there judges, and what cannot be seen is a fact, too.
//! What they mean is decided by one pure function per subject, from facts to findings.
//!
//! Exit codes: 0 all is well, 1 warnings, 2 errors, [`USAGE`], [`FAILED`].

mod accounts;
mod agents;
mod cgroup;
mod clock;
mod cluster;
mod cni;
mod configuration;
mod disk;
mod files;
mod finding;
mod gather;
mod host;
mod hub;
mod kernel;
mod ports;
mod running;
mod runtime;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use self::finding::{Finding, Severity};
use crate::cli::{CheckOptions, Format, Side};
use crate::output::{Look, Paint, plural, print, print_json};

/// Wrong usage, as sysexits(3) has it: 2 would look like errors that were found.
pub(crate) const USAGE: u8 = 64;
/// The check itself could not be carried out, as sysexits(3) has it.
pub(crate) const FAILED: u8 = 70;

/// Everything that was gathered. What concerns one side only is absent on the other.
struct Facts {
    running: running::Running,
    configuration: configuration::Configuration,
    kernel: kernel::Kernel,
    cgroup: cgroup::Cgroup,
    runtime: Option<runtime::Runtime>,
    cni: Option<cni::Cni>,
    clock: clock::Clock,
    hub: Option<hub::Hub>,
    cluster: Option<cluster::Cluster>,
    ports: Vec<ports::Port>,
    disk: Vec<disk::Space>,
    accounts: accounts::Accounts,
    files: Vec<files::Entry>,
    agents: agents::Agents,
    host: Option<host::Host>,
}

pub(crate) async fn check(
    side: Side,
    socket: Option<PathBuf>,
    options: &CheckOptions,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let facts = gather::facts(side, socket, &options.places).await?;
    let findings = judge(side, &facts);
    let report = Report::of(side, findings);
    match format {
        Format::Json => print_json(&report)?,
        Format::Table => print(&report.readable(options.quiet, Paint::of_stdout()))?,
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// All findings, in the order in which a person would mend them.
fn judge(side: Side, facts: &Facts) -> Vec<Finding> {
    let mut findings = configuration::judge(side, &facts.configuration);
    findings.extend(running::judge(side, &facts.running));
    findings.extend(kernel::judge(&facts.kernel));
    findings.extend(cgroup::judge(&facts.cgroup));
    findings.extend(facts.runtime.iter().flat_map(runtime::judge));
    findings.extend(facts.cni.iter().flat_map(cni::judge));
    findings.extend(clock::judge(side, &facts.clock));
    findings.extend(facts.hub.iter().flat_map(hub::judge));
    findings.extend(facts.cluster.iter().flat_map(cluster::judge));
    findings.extend(ports::judge(side, &facts.ports));
    findings.extend(disk::judge(&facts.disk));
    findings.extend(accounts::judge(&facts.accounts));
    findings.extend(files::judge(&facts.files));
    findings.extend(agents::judge(side, &facts.agents));
    findings.extend(facts.host.iter().flat_map(host::judge));
    findings
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    side: &'static str,
    ok: usize,
    warnings: usize,
    errors: usize,
    /// What could not be seen without root.
    unseen: usize,
    findings: Vec<Finding>,
}

impl Report {
    fn of(side: Side, findings: Vec<Finding>) -> Self {
        let count =
            |severity| findings.iter().filter(|finding: &&Finding| finding.severity == severity).count();
        Self {
            side: match side {
                Side::Edge => "edge",
                Side::Cloud => "cloud",
            },
            ok: count(Severity::Ok),
            warnings: count(Severity::Warning),
            errors: count(Severity::Error),
            unseen: count(Severity::Unseen),
            findings,
        }
    }

    fn exit_code(&self) -> u8 {
        match (self.errors, self.warnings) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        }
    }

    fn readable(&self, quiet: bool, paint: Paint) -> String {
        let mut text = String::new();
        let shown = self.findings.iter().filter(|finding| !quiet || finding.severity > Severity::Unseen);
        let width = self.findings.iter().map(|finding| finding.id.len()).max().unwrap_or_default();
        for finding in shown {
            finding.write(&mut text, width, paint);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let look = match self.exit_code() {
            0 => Look::Good,
            1 => Look::Warning,
            _ => Look::Bad,
        };
        let sum =
            format!("{} ok, {}, {}", self.ok, plural(self.warnings, "warning"), plural(self.errors, "error"));
        text.push_str(&paint.text(look, &sum));
        if self.unseen > 0 {
            let _ = write!(text, "; {} not seen: run this with sudo", self.unseen);
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        Report::of(Side::Edge, findings)
    }

    #[test]
    fn worst_finding_decides_the_exit_code() {
        let warning = || Finding::warning("a", "x", "y", "z");
        let error = || Finding::error("b", "x", "y", "z");
        assert_eq!(report(vec![Finding::ok("c", "x"), Finding::unseen("d", "x")]).exit_code(), 0);
        assert_eq!(report(vec![warning()]).exit_code(), 1);
        assert_eq!(report(vec![error(), warning()]).exit_code(), 2);
    }

    #[test]
    fn quiet_shows_what_is_not_well_only() {
        let report = report(vec![
            Finding::ok("a", "fine"),
            Finding::warning("b.c", "bad", "it matters", "mend it"),
            Finding::unseen("d", "hidden"),
        ]);
        let text = report.readable(true, Paint::NONE);
        assert_eq!(
            text,
            "warning  b.c  bad\n              why: it matters\n              fix: mend it\n\n1 ok, 1 warning, 0 \
             errors; 1 not seen: run this with sudo\n"
        );
        assert!(report.readable(false, Paint::NONE).contains("ok       a    fine"));
    }
}
