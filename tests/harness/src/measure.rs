//! Memory and CPU of a process, as the kernel counts them.

use std::fs;

use anyhow::{Context as _, Result};

/// Proportional set size in KiB: private memory, plus each shared page divided by the processes that share it.
pub fn pss_kib(pid: i32) -> Result<u32> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .with_context(|| format!("no Pss in {path}"))?;
    line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("no number in {path}: {line}"))
}

/// Time all threads of the process have run so far, in nanoseconds. Finer than the clock ticks of `/proc/PID/stat`.
pub fn cpu_nanoseconds(pid: i32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("could not read {tasks}"))? {
        let path = task.with_context(|| format!("could not read {tasks}"))?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let ran = text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        sum += ran.with_context(|| format!("no number in {}", path.display()))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_and_cpu_can_be_read() {
        let own = i32::try_from(std::process::id()).expect("a process id is an i32");
        assert!(pss_kib(own).expect("PSS") > 0);
        assert!(cpu_nanoseconds(own).expect("CPU") > 0);
    }
}
