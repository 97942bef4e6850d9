//! How much memory a process takes, shared pages counted in parts.

/// Proportional set size in KiB; 0 for a process that is gone or that we may not look at.
pub fn pss_kib(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .ok()
        .and_then(|text| parse(&text))
        .unwrap_or(0)
}

fn parse(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_read_from_the_kernels_text() {
        let text = "55d0-7fff ---p 00000000 00:00 0    [rollup]\nRss:    1884 kB\nPss:     373 kB\nPss_Dirty:  8 kB\n";
        assert_eq!(parse(text), Some(373));
        assert_eq!(parse("Rss: 1 kB"), None);
    }

    #[test]
    fn process_that_is_gone_takes_nothing() {
        assert!(pss_kib(std::process::id()) > 0);
        assert_eq!(pss_kib(u32::MAX), 0);
    }
}
