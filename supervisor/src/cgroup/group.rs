//! One component's groups.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Ceilings, Controller, write};

/// How often the processes of a group are looked for and killed before it is left as it is: a process that forks
/// meanwhile is found the next time.
const SWEEPS: usize = 8;

/// The groups of one component, one in each hierarchy that holds it to something. Kept from start to start.
#[derive(Debug, Default)]
pub struct Group {
    /// Files that take in the process that writes `0`. Opened once: a launch only writes.
    join: Vec<File>,
    directories: Vec<PathBuf>,
    /// Files with the memory in use, in bytes, and with the count of processes killed at the ceiling.
    memory: Option<(PathBuf, PathBuf)>,
    /// `cgroup.kill` of the unified hierarchy, since Linux 5.14.
    kill: Option<PathBuf>,
    /// The ceilings that are enforced.
    pub enforced: Ceilings,
}

impl Group {
    /// For the launch.
    pub fn join(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.join.iter().map(AsFd::as_fd)
    }

    /// Memory in use, in KiB, page cache included; 0 when unknown.
    pub fn memory_kib(&self) -> u64 {
        let bytes = self.memory.as_ref().and_then(|(usage, _)| fs::read_to_string(usage).ok());
        bytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// How many processes were killed at the memory ceiling since the group was made.
    pub fn memory_kills(&self) -> u64 {
        let events = self.memory.as_ref().and_then(|(_, events)| fs::read_to_string(events).ok());
        events.and_then(|text| oom_kills(&text)).unwrap_or(0)
    }

    /// Kills what an ended process has left behind, also what has a session of its own.
    pub fn sweep(&self) {
        for _ in 0..SWEEPS {
            let left: Vec<i32> =
                self.directories.first().map(|directory| members(directory)).unwrap_or_default();
            if left.is_empty() {
                return;
            }
            if self.kill.as_ref().is_some_and(|file| write(file, "1").is_ok()) {
                return;
            }
            for pid in left {
                // It may have ended meanwhile; its number is not taken again so soon.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Removes the groups. One that is not empty yet stays, and is used again.
    pub fn remove(&self) {
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }

    #[cfg(test)]
    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Makes the group in a unified hierarchy, below `base`.
    pub(super) fn unified(
        base: &Path,
        component: &str,
        available: &[Controller],
        wanted: &Ceilings,
        missing: &mut Vec<String>,
    ) -> Self {
        let directory = base.join(component);
        let mut group = Self::default();
        if let Err(error) = make(&directory) {
            missing.extend(wanted.words(&error.to_string()));
            return group;
        }
        let set = |file: &str, value: String| write(&directory.join(file), &value);
        let offered = |controller| available.contains(&controller);
        if let Some(bytes) = wanted.memory {
            match offered(Controller::Memory).then(|| set("memory.max", bytes.to_string())) {
                Some(Ok(())) => {
                    group.enforced.memory = wanted.memory;
                    // All of a component or nothing; and what would be written to a swap device stays in memory, where
                    // the ceiling is. Older kernels lack the one, machines without swap the other.
                    let _ = set("memory.oom.group", "1".to_owned());
                    let _ = set("memory.swap.max", "0".to_owned());
                    group.memory = Some((directory.join("memory.current"), directory.join("memory.events")));
                }
                other => missing.push(Ceilings::MEMORY.lacking(&why(other))),
            }
        }
        if let Some(pids) = wanted.pids {
            match offered(Controller::Pids).then(|| set("pids.max", pids.to_string())) {
                Some(Ok(())) => group.enforced.pids = wanted.pids,
                other => missing.push(Ceilings::PIDS.lacking(&why(other))),
            }
        }
        if let Some(weight) = wanted.cpu_weight {
            match offered(Controller::Cpu).then(|| set("cpu.weight", weight.to_string())) {
                Some(Ok(())) => group.enforced.cpu_weight = wanted.cpu_weight,
                other => missing.push(Ceilings::CPU.lacking(&why(other))),
            }
        }
        group.kill = Some(directory.join("cgroup.kill")).filter(|file| file.exists());
        // Also without any controller: its processes can be found and killed. The one that joins pays 10 ms, since the
        // kernel stops every fork on the machine meanwhile; v1's cheaper way (see below) does not exist here.
        group.join_through(directory, "cgroup.procs");
        group
    }

    /// Adds the group of one controller that has a hierarchy of its own, below `base`.
    pub(super) fn add_v1(
        &mut self,
        base: &Path,
        component: &str,
        controller: Controller,
        wanted: &Ceilings,
    ) -> io::Result<()> {
        let directory = base.join(component);
        make(base)?;
        make(&directory)?;
        let set = |file: &str, value: String| write(&directory.join(file), &value);
        match controller {
            Controller::Memory => {
                let Some(bytes) = wanted.memory else { return Ok(()) };
                // With swap counted, where the kernel does: never below the ceiling without, so it is lifted first.
                let _ = set("memory.memsw.limit_in_bytes", "-1".to_owned());
                set("memory.limit_in_bytes", bytes.to_string())?;
                let _ = set("memory.memsw.limit_in_bytes", bytes.to_string());
                self.enforced.memory = wanted.memory;
                self.memory =
                    Some((directory.join("memory.usage_in_bytes"), directory.join("memory.oom_control")));
            }
            Controller::Pids => {
                let Some(pids) = wanted.pids else { return Ok(()) };
                set("pids.max", pids.to_string())?;
                self.enforced.pids = wanted.pids;
            }
            Controller::Cpu => {
                let Some(weight) = wanted.cpu_weight else { return Ok(()) };
                set("cpu.shares", shares(weight).to_string())?;
                self.enforced.cpu_weight = wanted.cpu_weight;
            }
        }
        // `cgroup.procs` would move all threads of a process and to that end stops every fork on the machine, which
        // takes 11 ms at first. The process that joins has one thread.
        self.join_through(directory, "tasks");
        Ok(())
    }

    fn join_through(&mut self, directory: PathBuf, file: &str) {
        if let Ok(file) = File::options().write(true).open(directory.join(file)) {
            self.join.push(file);
        }
        self.directories.push(directory);
    }
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        // Of an earlier run, which could not remove it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn members(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// `memory.events` of v2 and `memory.oom_control` of v1 have this line in common.
fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// 1 to 10 000 with 100 in the middle becomes 2 to 262 144 with 1024 in the middle, as systemd converts it.
fn shares(weight: u32) -> u32 {
    (weight.saturating_mul(1024) / 100).clamp(2, 262_144)
}

fn why(result: Option<io::Result<()>>) -> String {
    match result {
        Some(Err(error)) => error.to_string(),
        _ => "the controller is not available here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_the_texts_of_both_versions() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        // Linux before 4.13.
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn weights_become_shares() {
        assert_eq!([1, 100, 200, 10_000, u32::MAX].map(shares), [10, 1024, 2048, 102_400, 262_144]);
    }
}
