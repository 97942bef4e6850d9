//! Calls of cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use harness::machine;

use crate::progress::Progress;

/// The packages whose programs make up an installation.
const PACKAGES: [&str; 5] = ["supervisor", "keyholder", "edge-roles", "cloud-roles", "ctl"];

/// A cargo profile that programs are built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What is shipped and measured.
    Release,
    /// Optimised, but without the link-time optimisation that takes minutes on two cores: for the suites.
    Tested,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Tested => "tested",
        }
    }
}

/// cargo in the repository, with nothing on standard input.
pub(crate) fn command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(machine::repository()).stdin(Stdio::null());
    cargo
}

/// Runs cargo to its end, with its outputs where ours go.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let status = command().args(arguments).status().context("could not start cargo")?;
    if !status.success() {
        bail!("`cargo {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Builds the programs of an installation and returns the folder they are in.
pub(crate) fn build(progress: &Progress, profile: Profile) -> Result<PathBuf> {
    build_packages(progress, "the programs", &PACKAGES, profile)
}

/// Builds the programs of these packages and returns the folder they are in.
pub(crate) fn build_packages(
    progress: &Progress,
    what: &str,
    packages: &[&str],
    profile: Profile,
) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--profile", profile.name(), "--bins"];
    for package in packages {
        arguments.extend(["--package", package]);
    }
    if !progress.is_terminal() {
        arguments.push("--quiet");
    }
    progress.noisy_step(&format!("building {what} ({})", profile.name()), || run(&arguments))?;
    Ok(target_folder()?.join(profile.name()))
}

/// The target directory this program was built in: `<target>/<profile>/xtask`.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("could not find this program")?;
    program.ancestors().nth(2).map(Path::to_owned).context("this program is not in a target directory")
}
