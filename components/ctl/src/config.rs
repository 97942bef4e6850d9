//! `config check`: the configuration file and the manifest, all findings at once.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use componentconfig::Examined;
use serde::Serialize;
use supervisor::cli::Settings;
use supervisor::setup::{self, StartError};

use crate::cli::{Format, ManifestPlaces, Places, Side};
use crate::output::{Look, Paint, harmless, plural, print, print_json};
use crate::places;

pub(crate) fn check(
    side: Side,
    file: Option<PathBuf>,
    places: &ManifestPlaces,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let places = Places { config: file.clone(), manifest: places.clone(), ..Places::default() };
    let settings = places::settings(side, &places, None).map_err(|error| anyhow!(error))?;
    // A file that is named is meant to be there; a default one need not be.
    let absent = file.filter(|file| !file.exists());
    let report = Report::of(&settings, absent, examine(side, &settings), manifest_errors(&settings));
    match format {
        Format::Json => print_json(&report)?,
        Format::Table => print(&report.readable(Paint::of_stdout()))?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn examine(side: Side, settings: &Settings) -> Examined {
    match side {
        Side::Edge => componentconfig::edgecore::examine(&settings.config),
        Side::Cloud => componentconfig::cloudcore::examine(&settings.config),
    }
}

/// What the supervisor would refuse the manifest for. Its users are looked up as root only, as the supervisor does.
pub(crate) fn manifest_errors(settings: &Settings) -> Vec<Mistake> {
    match setup::checked_manifest(settings) {
        Ok(_) => Vec::new(),
        Err(StartError::Manifest(findings)) => findings.into_iter().map(Mistake::from).collect(),
        Err(other) => vec![Mistake {
            file: settings.manifest_name.clone(),
            problem: other.to_string(),
            ..Mistake::default()
        }],
    }
}

/// One thing that is wrong, or that has no effect.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mistake {
    /// Where.
    file: String,
    /// Of a manifest; else empty.
    component: String,
    /// Of a manifest; else part of the problem.
    key: String,
    value: String,
    problem: String,
}

impl From<supervisor::manifest::Finding> for Mistake {
    fn from(finding: supervisor::manifest::Finding) -> Self {
        let supervisor::manifest::Finding { file, component, key, value, problem } = finding;
        Self { file, component, key, value, problem }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, component, key, value, problem } = self;
        if file.is_empty() {
            return out.write_str(problem);
        }
        if component.is_empty() && key.is_empty() {
            return write!(out, "{file}: {problem}");
        }
        let finding = supervisor::manifest::Finding {
            file: file.clone(),
            component: component.clone(),
            key: key.clone(),
            value: value.clone(),
            problem: problem.clone(),
        };
        finding.fmt(out)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    ok: bool,
    configuration: String,
    manifest: String,
    errors: Vec<Mistake>,
    /// Keys without effect and the like.
    notes: Vec<String>,
}

impl Report {
    fn of(settings: &Settings, absent: Option<PathBuf>, examined: Examined, manifest: Vec<Mistake>) -> Self {
        let Examined { errors, warnings } = examined;
        let file = settings.config.display().to_string();
        // The error names the file itself.
        let own = |problem: String| Mistake { problem, ..Mistake::default() };
        let absent = absent.map(|file| own(format!("there is no {}", file.display())));
        let notes = if absent.is_some() { Vec::new() } else { warnings };
        let errors: Vec<Mistake> =
            absent.into_iter().chain(errors.iter().map(|error| own(chain(error)))).chain(manifest).collect();
        Self {
            ok: errors.is_empty(),
            configuration: file,
            manifest: settings.manifest_name.clone(),
            errors,
            notes,
        }
    }

    fn readable(&self, paint: Paint) -> String {
        let mut text = String::new();
        let mut line = |look, word, said: &str| {
            text.push_str(&paint.text(look, word));
            text.push_str(": ");
            text.push_str(&harmless(said));
            text.push('\n');
        };
        for mistake in &self.errors {
            line(Look::Bad, "error", &mistake.to_string());
        }
        for note in &self.notes {
            line(Look::Warning, "note", note);
        }
        let (configuration, manifest) = (&self.configuration, &self.manifest);
        let found = if self.ok { "no errors".to_owned() } else { plural(self.errors.len(), "error") };
        text.push_str(&harmless(&format!("{configuration} and manifest {manifest}: {found}")));
        text.push('\n');
        text
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, manifest: &str) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let (config, toml) = (dir.path().join("edgecore.yaml"), dir.path().join("m.toml"));
        std::fs::write(&config, text).unwrap();
        std::fs::write(&toml, manifest).unwrap();
        let mut places = Places { config: Some(config), ..Places::default() };
        places.manifest.manifest = Some(toml);
        let settings = places::settings(Side::Edge, &places, None).unwrap();
        Report::of(&settings, None, examine(Side::Edge, &settings), manifest_errors(&settings))
    }

    #[test]
    fn errors_of_both_files_are_told_at_once() {
        let config = "modules: {edgeHub: {heartbeat: 0, hertbeat: 1}, edged: {nodeIP: x}}";
        let report = report(config, "[component.a]\nrank = 1\n[component.b]\nrank = 2\nx = 1");
        assert!(!report.ok);
        let text = report.readable(Paint::NONE);
        for words in ["heartbeat is 0", "nodeIP is", "component a: ", "component b: x", "note: ", "hertbeat"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn named_file_that_is_absent_is_an_error() {
        let settings = places::settings(Side::Edge, &Places::default(), None).unwrap();
        let report = Report::of(&settings, Some("/x.yaml".into()), Examined::default(), Vec::new());
        assert!(report.readable(Paint::NONE).starts_with("error: there is no /x.yaml\n"));
    }
}
