//! libFuzzer on every target of `tests/fuzz` for a few seconds, from its seeds and what earlier runs found.
//!
//! Stable Rust: the compiler's coverage passes are asked for by `RUSTFLAGS`. With `--target`, these reach neither build
//! scripts nor macros, and the programs get a folder of their own below the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::{Run, interrupt, machine};

use super::Counts;
use crate::progress::Progress;
use crate::{cargo, distribution};

/// Of each target, in seconds: enough to run every seed and some ten thousand children of them.
const SECONDS: u64 = 5;
/// Of each target: far above what a decoder with bounds needs, far below what one without takes.
const MEMORY_MIB: u32 = 512;
/// One input must not take longer, in seconds.
const SLOW: u32 = 5;
/// Start, seeds and end beside [`SECONDS`]; a busy machine included.
const MARGIN: Duration = Duration::from_mins(1);
/// What libFuzzer says last is what it found.
const TAIL: usize = 30;

/// LLVM's coverage: a counter for each edge, and comparisons, which let it find the values that are compared with.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Each target is one test.
pub(super) fn run(progress: &Progress) -> Result<Counts> {
    distribution::ensure_fuzzing(progress)?;
    let program = progress.noisy_step("building the fuzzer", build)?;
    let found = cargo::target_folder()?.join("fuzz-found");
    let mut counts = Counts::default();
    for target in targets()? {
        interrupt::check()?;
        let began = Instant::now();
        let outcome = fuzz(&program, &target, &found);
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("test {target} ... ok ({seconds:.1} s)");
                counts.passed += 1;
            }
            Err(error) => {
                println!("test {target} ... FAILED ({seconds:.1} s)");
                eprintln!("{error:#}");
                counts.failed += 1;
            }
        }
    }
    Ok(counts)
}

fn build() -> Result<PathBuf> {
    let triple = host()?;
    let arguments = ["build", "--quiet", "--profile", "fuzz", "--package", "fuzz", "--bin", "fuzz"];
    let status = cargo::command()
        .args(arguments)
        .args(["--features", "libfuzzer", "--target", &triple])
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("could not start cargo")?;
    if !status.success() {
        bail!("the fuzzer could not be built: cargo ended with {status}");
    }
    Ok(cargo::target_folder()?.join(triple).join("fuzz/fuzz"))
}

/// The compiler's own triple.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Run::new(rustc).arg("-vV").output()?;
    let line = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("`rustc -vV` names no host")?.to_owned())
}

fn seeds() -> PathBuf {
    machine::repository().join("tests/fuzz/corpus")
}

/// Every target has a folder of seeds with its name; a unit test there sees to it.
fn targets() -> Result<Vec<String>> {
    let folders = fs::read_dir(seeds()).context("could not list tests/fuzz/corpus")?;
    let mut names = folders
        .map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Inputs that reach new code stay in `found`, and what made the target fail beside them.
fn fuzz(program: &Path, target: &str, found: &Path) -> Result<()> {
    let kept = found.join(target);
    fs::create_dir_all(&kept).with_context(|| format!("could not make {}", kept.display()))?;
    let finished = Run::new(program)
        .arg(format!("--target={target}"))
        .arg(format!("-max_total_time={SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={SLOW}"))
        .arg(format!("-artifact_prefix={}-", kept.display()))
        .arg(&kept)
        .arg(seeds().join(target))
        // A stack would bury what the target said.
        .env("RUST_BACKTRACE", "0")
        .limit(Duration::from_secs(SECONDS) + MARGIN)
        .finish()?;
    if !finished.status.success() {
        bail!("{target} ended with {}:\n{}", finished.status, last_lines(&finished.stderr, TAIL));
    }
    Ok(())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_folders_of_seeds() {
        let targets = targets().expect("in the source tree");
        assert!(targets.iter().any(|target| target == "wire"), "{targets:?}");
    }

    #[test]
    fn last_lines_of_a_short_text_are_all_of_it() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
