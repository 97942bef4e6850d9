//! What a process uses, as the kernel tells. Reading it takes the kernel up to milliseconds (it walks page tables), so
//! never on the event loop.

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Proportional set size (shared pages counted in parts) in KiB; 0 for a process that is gone or that we may not look at.
pub fn pss_kib(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|text| pss(&text)).unwrap_or(0)
}

/// CPU time of all threads so far, in nanoseconds; 0 for a process that is gone.
pub fn cpu_ns(pid: u32) -> u64 {
    let Ok(pid) = i32::try_from(pid) else { return 0 };
    // Process 0 would be ourselves, and numbers past the kernel's largest would lose their upper bits.
    let clock = Some(pid)
        .filter(|pid| (1..=1 << 22).contains(pid))
        .map(|pid| clock_getcpuclockid(Pid::from_raw(pid)));
    let Some(time) = clock.and_then(Result::ok).and_then(|clock| clock_gettime(clock).ok()) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// Threads; 0 for a process that is gone.
pub fn threads(pid: u32) -> u32 {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| threads_of(&text)).unwrap_or(0)
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// `proc_pid_stat(5)`, field 20. The name before it may hold anything, also brackets and spaces.
fn threads_of(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(17)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_read_from_the_kernels_text() {
        let text = "55d0-7fff ---p 00000000 00:00 0    [rollup]\nRss:    1884 kB\nPss:     373 kB\nPss_Dirty:  8 kB\n";
        assert_eq!(pss(text), Some(373));
        assert_eq!(pss("Rss: 1 kB"), None);
    }

    #[test]
    fn threads_are_read_behind_a_name_with_brackets() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 12 0 99 1 2";
        assert_eq!(threads_of(stat), Some(12));
        assert_eq!(threads_of("7 (a) S 1"), None);
    }

    #[test]
    fn process_that_runs_uses_something_and_one_that_is_gone_nothing() {
        let own = std::process::id();
        assert!(pss_kib(own) > 0 && cpu_ns(own) > 0 && threads(own) > 0);
        for gone in [0, u32::MAX, i32::MAX.unsigned_abs()] {
            assert_eq!((pss_kib(gone), cpu_ns(gone), threads(gone)), (0, 0, 0), "{gone}");
        }
    }
}
