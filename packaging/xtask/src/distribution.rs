//! What comes from the distribution.

use anyhow::{Context as _, Result, bail};
use harness::{Run, machine};
use std::path::Path;
use std::time::Duration;

use crate::progress::Progress;

/// A mirror may be slow, and kubectl is a large package.
const LIMIT: Duration = Duration::from_mins(10);

/// A program or file that must be there, and the Debian package that brings it.
type Need = (&'static str, &'static str);

/// What a cluster on one machine needs, and building its programs.
const CLUSTER: [Need; 11] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("busybox", "busybox-static"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("kubectl", "kubernetes-client"),
    ("cc", "gcc"),
    ("curl", "curl"),
    ("openssl", "openssl"),
];

/// libFuzzer's runtime is C++.
const FUZZING: [Need; 1] = [("c++", "g++")];

/// Installs what is missing for a cluster, which needs root in any case.
pub(crate) fn ensure_cluster(progress: &Progress) -> Result<()> {
    machine::require_root()?;
    ensure(progress, &CLUSTER)
}

/// Installs what is missing for fuzzing.
pub(crate) fn ensure_fuzzing(progress: &Progress) -> Result<()> {
    ensure(progress, &FUZZING)
}

/// Installs the packages of what is missing. Only that needs root, and without it apt-get says so.
fn ensure(progress: &Progress, needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let Some(apt) = machine::find_program("apt-get") else {
        bail!("this machine lacks {} (names of Debian packages) and has no apt-get", missing.join(", "));
    };
    progress.step("refreshing the package lists", || {
        Run::new(&apt).args(["update", "--quiet"]).limit(LIMIT).output().map(drop)
    })?;
    progress.step(&format!("installing {}", missing.join(", ")), || {
        Run::new(&apt)
            .args(["install", "--quiet", "--yes", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(LIMIT)
            .output()
            .map(drop)
            .context("the distribution's packages could not be installed")
    })
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        needs.iter().filter(|(what, _)| !is_there(what)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn is_there(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { machine::find_program(what).is_some() }
}
