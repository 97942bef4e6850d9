//! `cargo xtask test`: the suites, and one line of verdict for each.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
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
    /// Tests inside the crates; need no root
    Unit,
    /// Real kubectl and containerd against the built programs
    E2e,
    /// Every process killed in turn while pods run and start
    Chaos,
}

/// How many tests a suite ran. A suite without countable tests is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

/// Prints the suites and what they are.
pub(crate) fn list() {
    for suite in Suite::value_variants() {
        let value = suite.to_possible_value().expect("no suite is hidden");
        println!("{:<8} {}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default());
    }
}

/// Runs the suites (all when none is named) to the end whatever fails, and returns whether all passed.
pub(crate) fn run(progress: &Progress, wanted: &[Suite], only: Option<&str>) -> Result<bool> {
    let wanted = |suite: &Suite| wanted.is_empty() || wanted.contains(suite);
    let suites: Vec<Suite> = Suite::value_variants().iter().copied().filter(wanted).collect();
    let mut built = None;
    if suites.iter().any(|suite| needs_cluster(*suite)) {
        distribution::ensure(progress)?;
    }
    let mut verdicts = Vec::new();
    for suite in suites {
        if interrupt::requested() {
            break;
        }
        let began = Instant::now();
        let name = suite.to_possible_value().expect("no suite is hidden").get_name().to_owned();
        eprintln!("── {name}");
        let counts = run_suite(progress, suite, only, &mut built).unwrap_or_else(|error| {
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
            "{name:<8} {verdict:<6} {:>4} passed {:>3} failed {seconds:>7.1} s",
            counts.passed, counts.failed
        );
        sum.passed += counts.passed;
        sum.failed += counts.failed;
    }
    interrupt::check()?;
    println!("{} passed, {} failed", sum.passed, sum.failed);
    Ok(sum.failed == 0)
}

fn needs_cluster(suite: Suite) -> bool {
    matches!(suite, Suite::E2e | Suite::Chaos)
}

fn run_suite(
    progress: &Progress,
    suite: Suite,
    only: Option<&str>,
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
        Suite::E2e | Suite::Chaos => {
            let built = match built {
                Some(folder) => folder,
                None => built.insert(cargo::build(progress, Profile::Tested)?),
            };
            let name = if suite == Suite::E2e { "e2e" } else { "chaos" };
            let mut cargo = cargo::command();
            cargo.args(["test", "--quiet", "--package", "e2e", "--test", name, "--"]).args(only);
            counted(cargo.env("APIARY_BIN_DIR", built))
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
        let of_program = verdict(&line).unwrap_or_default();
        counts.passed += of_program.passed;
        counts.failed += of_program.failed;
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
    fn last_line_of_a_test_program_is_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(verdict(line), Some(Counts { passed: 12, failed: 1 }));
        assert_eq!(verdict("test a ... ok"), None);
    }
}
