//! `cargo xtask test`: the suites, and one line of verdict for each.

mod fuzz;
mod manifest;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use harness::{interrupt, machine};

use crate::cargo::{self, Profile};
use crate::distribution;
use crate::progress::Progress;

/// The version of cargo-deny that is installed where none is; its configuration format changes between versions.
const CARGO_DENY: &str = "0.20.2";

/// Something that passes or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The source is formatted
    Fmt,
    /// No lint of clippy or the compiler
    Clippy,
    /// Licences, sources and banned crates of all dependencies
    Deny,
    /// The supervisor's own check of both built-in manifests and their policies
    Manifest,
    /// The checked-in Rust of proto/ is what its files say
    Generated,
    /// Tests inside the crates; need no root
    Unit,
    /// Decoders of outside bytes against made-up ones, a few seconds each
    Fuzz,
    /// What a probe can reach under each component's profile
    Sandbox,
    /// Real kubectl and containerd against the built programs
    E2e,
    /// Processes killed, stopped, slowed and starved while pods run and start
    Chaos,
}

impl Suite {
    fn name(self) -> String {
        self.to_possible_value().expect("no suite is hidden").get_name().to_owned()
    }
}

/// What to run, and how.
#[derive(Debug, Default, Args)]
pub(crate) struct Choice {
    /// Suites to run, in the order of `--list` whatever the order here
    suites: Vec<Suite>,
    /// List the suites
    #[arg(long)]
    pub(crate) list: bool,
    /// Run only the cases of sandbox, e2e and chaos whose name contains this
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// How long chaos does harm at random [default: 3]
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Repeats the order of a chaos run, which prints its number
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

impl Choice {
    /// What needs no root and no cluster, and no more than building.
    pub(crate) fn of_check() -> Self {
        let suites = vec![Suite::Fmt, Suite::Clippy, Suite::Deny, Suite::Manifest, Suite::Generated];
        Self { suites, ..Self::default() }
    }

    /// What the program of a suite is told.
    fn words(&self, suite: Suite) -> Vec<String> {
        let mut words = Vec::from_iter(self.only.clone());
        if suite == Suite::Chaos {
            words.extend(self.minutes.map(|minutes| format!("--minutes={minutes}")));
            words.extend(self.seed.map(|seed| format!("--seed={seed}")));
        }
        words
    }
}

/// How many tests a suite ran. A suite without countable tests is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
    }
}

/// Prints the suites and what they are.
pub(crate) fn list() {
    for suite in Suite::value_variants() {
        let value = suite.to_possible_value().expect("no suite is hidden");
        println!("{:<9} {}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default());
    }
}

/// Runs the suites (all when none is named) to the end whatever fails, and returns whether all passed.
pub(crate) fn run(progress: &Progress, choice: &Choice) -> Result<bool> {
    let wanted = |suite: &Suite| choice.suites.is_empty() || choice.suites.contains(suite);
    let suites: Vec<Suite> = Suite::value_variants().iter().copied().filter(wanted).collect();
    let mut built = None;
    if suites.iter().any(|suite| needs_cluster(*suite)) {
        distribution::ensure_cluster(progress)?;
    }
    let mut verdicts = Vec::new();
    for suite in suites {
        if interrupt::requested() {
            break;
        }
        let began = Instant::now();
        let name = suite.name();
        eprintln!("── {name}");
        let counts = run_suite(progress, suite, choice, &mut built).unwrap_or_else(|error| {
            eprintln!("{name}: {error:#}");
            Counts { passed: 0, failed: 1 }
        });
        verdicts.push((name, counts, began.elapsed().as_secs_f64()));
    }
    println!();
    let mut sum = Counts::default();
    for (name, counts, seconds) in verdicts {
        let verdict = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "{name:<9} {verdict:<6} {:>4} passed {:>3} failed {seconds:>7.1} s",
            counts.passed, counts.failed
        );
        sum.add(counts);
    }
    interrupt::check()?;
    println!("{} passed, {} failed", sum.passed, sum.failed);
    Ok(sum.failed == 0)
}

/// Whether it starts the built programs as root, on a container runtime of its own.
fn needs_cluster(suite: Suite) -> bool {
    matches!(suite, Suite::Sandbox | Suite::E2e | Suite::Chaos)
}

fn run_suite(
    progress: &Progress,
    suite: Suite,
    choice: &Choice,
    built: &mut Option<PathBuf>,
) -> Result<Counts> {
    match suite {
        Suite::Fmt => one(cargo::command().args(["fmt", "--all", "--check"])),
        Suite::Clippy => one(cargo::command()
            // `--all-targets` passes by the suites, which are no tests of a plain `cargo test`.
            .args(["clippy", "--quiet", "--workspace", "--all-targets", "--test", "*"])
            .args(["--", "--deny", "warnings"])),
        Suite::Deny => one(Command::new(cargo_deny(progress)?)
            .args(["--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
            .current_dir(machine::repository())),
        Suite::Unit => counted(cargo::command().args(["test", "--quiet", "--workspace", "--no-fail-fast"])),
        Suite::Manifest => manifest::run(progress),
        Suite::Generated => {
            counted(cargo::command().args(["test", "--quiet", "--workspace", "--test", "checked_in"]))
        }
        Suite::Fuzz => fuzz::run(progress),
        Suite::Sandbox | Suite::E2e | Suite::Chaos => {
            let built = match built {
                Some(folder) => folder,
                None => built.insert(cargo::build(progress, Profile::Tested)?),
            };
            let name = suite.name();
            let mut cargo = cargo::command();
            // Found in the workspace, not in its package: dependencies have the features of the unit tests then, and
            // are not compiled again.
            cargo.args(["test", "--quiet", "--workspace", "--test", &name, "--"]);
            counted(cargo.args(choice.words(suite)).env("APIARY_BIN_DIR", built))
        }
    }
}

/// A program that is one test by its exit status.
fn one(command: &mut Command) -> Result<Counts> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    let passed = usize::from(status.success());
    Ok(Counts { passed, failed: 1 - passed })
}

/// Test programs that say how many tests passed and failed; what they print is passed on.
fn counted(command: &mut Command) -> Result<Counts> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("could not start {command:?}"))?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        counts.add(verdict(&line).unwrap_or_default());
        // Every crate without documentation tests says so in four lines; they would bury the rest.
        let says_nothing =
            line.is_empty() || line == "running 0 tests" || line.starts_with("test result: ok. 0 passed");
        if !says_nothing {
            println!("{line}");
        }
    }
    let status = child.wait().context("could not wait for cargo")?;
    if !status.success() && counts.failed == 0 {
        bail!("cargo ended with {status} before every test had run");
    }
    Ok(counts)
}

/// The counts in a line as the standard test harness ends with: `test result: ok. 3 passed; 0 failed; …`.
fn verdict(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")? })
}

/// The installed cargo-deny, or one of our own below the target directory.
fn cargo_deny(progress: &Progress) -> Result<PathBuf> {
    if let Some(installed) = machine::find_program("cargo-deny") {
        return Ok(installed);
    }
    let tools = cargo::target_folder()?.join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        let root = tools.to_str().context("the target directory is not UTF-8")?;
        let arguments =
            ["install", "--quiet", "--locked", "--root", root, "cargo-deny", "--version", CARGO_DENY];
        progress.noisy_step("building cargo-deny, once", || cargo::run(&arguments))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chaos_is_told_how_long() {
        let choice = Choice { only: Some("kill".into()), minutes: Some(60.0), ..Choice::default() };
        assert_eq!(choice.words(Suite::Chaos), ["kill", "--minutes=60"]);
        assert_eq!(choice.words(Suite::E2e), ["kill"]);
    }

    #[test]
    fn last_line_of_a_test_program_is_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(verdict(line), Some(Counts { passed: 12, failed: 1 }));
        assert_eq!(verdict("test a ... ok"), None);
    }
}
