//! The manifests that are built into the supervisor, checked by itself as it does at its start.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::{Side, machine, program_names, users};

use super::{Counts, one};
use crate::cargo;
use crate::progress::Progress;

/// Each side is one test.
pub(super) fn run(progress: &Progress) -> Result<Counts> {
    // The whole workspace's choice of features, as the unit tests have it, so that nothing is compiled for this alone.
    let arguments = ["build", "--quiet", "--workspace", "--bin", "edgecore"];
    progress.noisy_step("building the supervisor (dev)", || cargo::run(&arguments))?;
    if machine::require_root().is_ok() {
        // As root it looks its users up: those of packaging/sysusers.d must be all it needs.
        users::ensure()?;
    }
    let target = cargo::target_folder()?;
    let programs = target.join("manifest");
    stage(&target.join("debug/edgecore"), &programs)?;
    let mut counts = Counts::default();
    for (side, mode) in [(Side::Edge, None), (Side::Cloud, Some("--standalone"))] {
        counts.add(one(Command::new(programs.join(side.program())).arg("--check").args(mode))?);
    }
    Ok(counts)
}

/// The supervisor under every name an installation has: whether a program is there is part of the check, and which one
/// it is does not matter to it.
fn stage(supervisor: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    for name in program_names() {
        let link = folder.join(name);
        fs::hard_link(supervisor, &link).with_context(|| format!("could not link {}", link.display()))?;
    }
    Ok(())
}
