//! Facts about this machine that tests and the demo depend on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{self, FsType};
use nix::sys::statvfs::{FsFlags, statvfs};

/// Linux's number for CAP_SYS_RESOURCE, without which runc may not lower a process's `oom_score_adj`.
const CAP_SYS_RESOURCE: u32 = 24;

/// The top of the source tree these tests were built from.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of the recorded KubeEdge traffic, which lives beside the source tree.
pub fn fixture(name: &str) -> Result<PathBuf> {
    let path = repository().join("../shared/fixtures/kubeedge-1.23").join(name);
    path.canonicalize()
        .with_context(|| format!("the recorded KubeEdge traffic is missing: {}", path.display()))
}

/// A program in PATH or where Debian keeps system programs, which not every user's PATH names.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Like [`find_program`]; a missing one is an error that names it.
pub fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("`{name}` is not installed"))
}

/// Containers, mounts and service users need root.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this runs containers and needs root");
    }
    Ok(())
}

/// Whether this process holds CAP_SYS_RESOURCE. Virtual machines and CI containers may not.
pub fn may_lower_oom_score() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("could not read /proc/self/status")?;
    has_capability(&status, CAP_SYS_RESOURCE).context("no effective capabilities in /proc/self/status")
}

fn has_capability(proc_status: &str, number: u32) -> Option<bool> {
    let hex = proc_status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    Some(u64::from_str_radix(hex.trim(), 16).ok()? >> number & 1 == 1)
}

/// Where run directories go: the first of `/tmp` and `/var/tmp` that programs may be started from. `/run` is often
/// mounted `noexec`, and a checkout below `/root` cannot be reached by the service users.
pub fn temporary_folder() -> Result<&'static Path> {
    for folder in ["/tmp", "/var/tmp"] {
        let flags = statvfs(folder).with_context(|| format!("could not look at {folder}"))?.flags();
        if !flags.contains(FsFlags::ST_NOEXEC) {
            return Ok(Path::new(folder));
        }
    }
    bail!("both /tmp and /var/tmp are mounted noexec: no place to start programs from")
}

/// containerd's snapshotter for a root in `folder`: an overlay cannot lie on an overlay, as in a CI container.
pub fn snapshotter(folder: &Path) -> Result<&'static str> {
    /// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
    const OVERLAY: FsType = FsType(0x794c_7630);
    let kind = statfs::statfs(folder).with_context(|| format!("could not look at {}", folder.display()))?;
    Ok(if kind.filesystem_type() == OVERLAY { "native" } else { "overlayfs" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_is_read_from_the_effective_set() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n";
        assert_eq!(has_capability(status, CAP_SYS_RESOURCE), Some(false));
        assert_eq!(has_capability(status, CAP_SYS_RESOURCE - 1), Some(true));
        assert_eq!(has_capability("", 0), None);
    }
}
