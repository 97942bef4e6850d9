//! A process's memory ceiling, lowered under it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How far the limit goes down at a time: little enough to end close to what the process cannot give up.
const STEP: u64 = 256 * 1024;
/// The kernel counts in pages.
const PAGE: u64 = 4096;

/// The memory limit of the cgroup a process is in. Dropping it sets the limit back.
#[derive(Debug)]
pub struct MemoryCeiling {
    limit: PathBuf,
    usage: PathBuf,
    before: String,
    /// cgroup v2 kills at once when the limit falls below what is used; v1 refuses, and kills at the next allocation.
    kills_at_once: bool,
}

impl MemoryCeiling {
    /// `None` when the process has no cgroup of its own that counts memory.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let groups =
            fs::read_to_string(format!("/proc/{pid}/cgroup")).context("could not read its cgroups")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("could not read our cgroups")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("could not read the mounts")?;
        let Some(group) =
            groups.lines().find(|line| counts_memory(line) && !own.lines().any(|ours| ours == *line))
        else {
            return Ok(None);
        };
        let Some((folder, is_v2)) = folder(group, &mounts) else { return Ok(None) };
        let (limit, usage) = if is_v2 {
            ("memory.max", "memory.current")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
        };
        let (limit, usage) = (folder.join(limit), folder.join(usage));
        if !limit.exists() {
            return Ok(None);
        }
        let before = read(&limit)?;
        Ok(Some(Self { limit, usage, before, kills_at_once: is_v2 }))
    }

    /// Takes the process all memory but what it cannot give up; what it asks for next, it does not get.
    pub fn lower(&self) -> Result<()> {
        if self.kills_at_once {
            // A page: no process runs in it.
            return set(&self.limit, PAGE);
        }
        let mut limit = self.used()?;
        while limit > STEP && fs::write(&self.limit, limit.to_string()).is_ok() {
            limit = self.used()?.min(limit).saturating_sub(STEP);
        }
        // Reclaiming has failed: this is what it needs. It may have allocated since it was read.
        let _ = fs::write(&self.limit, self.used()?.next_multiple_of(PAGE).to_string());
        Ok(())
    }

    fn used(&self) -> Result<u64> {
        let text = read(&self.usage)?;
        text.parse().with_context(|| format!("no number in {}: {text}", self.usage.display()))
    }
}

impl Drop for MemoryCeiling {
    fn drop(&mut self) {
        // A group that is gone needs no limit.
        let _ = fs::write(&self.limit, &self.before);
    }
}

fn set(path: &Path, value: u64) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("could not write {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A line of `/proc/PID/cgroup`: the memory hierarchy of v1, or v2's only one.
fn counts_memory(line: &str) -> bool {
    let controllers = line.split(':').nth(1).unwrap_or_default();
    controllers.split(',').any(|controller| controller == "memory") || line.starts_with("0::")
}

/// Where the group of that line is seen, and whether it is v2's. The mount may show a part of the hierarchy only.
fn folder(line: &str, mountinfo: &str) -> Option<(PathBuf, bool)> {
    let path = line.splitn(3, ':').nth(2)?;
    let is_v2 = line.starts_with("0::");
    mountinfo.lines().find_map(|mount| {
        let (head, tail) = mount.split_once(" - ")?;
        let (mut head, mut tail) = (head.split(' ').skip(3), tail.split(' '));
        let (root, point) = (head.next()?, head.next()?);
        let (kind, options) = (tail.next()?, tail.nth(1)?);
        let wanted = if is_v2 {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        };
        let below = Path::new(path).strip_prefix(root).ok()?;
        wanted.then(|| (Path::new(point).join(below), is_v2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
         31 25 0:27 /box /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
         32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";

    #[test]
    fn group_is_found_below_its_hierarchy_s_mount() {
        let found = folder("4:memory:/box/apiary-edge/edged", MOUNTS);
        assert_eq!(found, Some(("/sys/fs/cgroup/memory/apiary-edge/edged".into(), false)));
        let found = folder("0::/apiary-edge/edged", MOUNTS);
        assert_eq!(found, Some(("/sys/fs/cgroup/unified/apiary-edge/edged".into(), true)));
    }

    #[test]
    fn hierarchy_that_counts_no_memory_is_looked_past() {
        assert!(counts_memory("4:memory:/a") && counts_memory("0::/a"));
        assert!(!counts_memory("8:pids:/memory"));
    }

    #[test]
    fn own_process_has_no_group_of_its_own() {
        let own = i32::try_from(std::process::id()).expect("a process id is an i32");
        assert!(MemoryCeiling::of(own).expect("readable").is_none());
    }
}
