//! The manifests that are built into the supervisor, checked by itself as it does at its start.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::{Side, machine, program_names, users};

use super::{Counts, one};
use crate::cargo::{self, Profile};
use crate::progress::Progress;

/// Each side is one test.
pub(super) fn run(progress: &Progress) -> Result<Counts> {
    let built = cargo::build_packages(progress, "the supervisor", &["supervisor"], Profile::Dev)?;
    if machine::require_root().is_ok() {
        // As root it looks its users up: those of packaging/sysusers.d must be all it needs.
        users::ensure()?;
    }
    let programs = cargo::target_folder()?.join("manifest");
    stage(&built.join("edgecore"), &programs)?;
    let mut counts = Counts::default();
    for side in [Side::Edge, Side::Cloud] {
        counts.add(one(Command::new(programs.join(side.program())).arg("--check"))?);
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
