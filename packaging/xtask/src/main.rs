//! Build, demo, test and bench: the commands of the README.
//!
//! Standard output carries results only (the demo's JSON object, the benchmark's lines, the tests' verdicts); progress
//! goes to standard error, with a moving clock on a terminal and as plain lines in a pipe. Exit status: 0 success,
//! 1 failure, 2 wrong usage.

mod bench;
mod cargo;
mod demo;
mod distribution;
mod progress;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use harness::interrupt;

use crate::bench::Area;
use crate::progress::Progress;

/// Builds, shows, tests and measures Apiary. Needs Debian 12 (or a machine with the same programs), and root for
/// whatever runs a cluster.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cloud and an edge node side by side with a sample pod, until Ctrl-C.
    ///
    /// Installs what is missing from the distribution, builds release programs, starts containerd, cloudcore and
    /// edgecore of its own with fresh state, joins the node, applies packaging/demo/sample.yaml and prints where to
    /// look. Ctrl-C ends and removes all of it.
    Demo {
        /// Do not stay: assert that the sample works, clean up, print one JSON object with the timings.
        #[arg(long)]
        check: bool,
    },
    /// Run the test suites, all unless some are named.
    Test(test::Choice),
    /// Measure memory, CPU and latency of the release programs, in all areas unless some are named.
    ///
    /// Prints every figure beside its goal; a missed one fails nothing.
    Bench {
        /// What to measure
        areas: Vec<Area>,
        /// One JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Generate the checked-in Rust of proto/ again.
    Codegen,
    /// Formatting, lints, licences, manifests and generated code: what to run before a commit.
    Check,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it succeeded; an error is for what kept it from finding out.
fn run(command: &Command) -> Result<bool> {
    interrupt::install()?;
    let progress = Progress::new();
    match command {
        Command::Demo { check } => demo::run(&progress, *check).map(|()| true),
        Command::Test(choice) if choice.list => {
            test::list();
            Ok(true)
        }
        Command::Test(choice) => test::run(&progress, choice),
        Command::Bench { areas, json } => bench::run(&progress, areas, *json).map(|()| true),
        Command::Codegen => cargo::run(&["run", "--quiet", "--package", "proto-codegen"]).map(|()| true),
        Command::Check => test::run(&progress, &test::Choice::of_check()),
    }
}
