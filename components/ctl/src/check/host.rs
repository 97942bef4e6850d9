//! Settings of the host that pods need.

use super::finding::Finding;

#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Devices and files swapped to.
    pub(super) swaps: Vec<String>,
    /// `net.ipv4.ip_forward`; unknown without the file.
    pub(super) ip_forward: Option<bool>,
    /// `net.bridge.bridge-nf-call-iptables`; unknown while the module is not loaded.
    pub(super) bridge_filtered: Option<bool>,
}

pub(super) fn judge(host: &Host) -> Vec<Finding> {
    let swap = if host.swaps.is_empty() {
        Finding::ok("host.swap", "none")
    } else {
        Finding::warning(
            "host.swap",
            format!("swaps to {}", host.swaps.join(", ")),
            "a pod over its memory request slows the whole node down instead of being ended; the kubelet refuses it",
            "swapoff -a, and remove the swap lines of /etc/fstab",
        )
    };
    let forward = match host.ip_forward {
        Some(true) => Finding::ok("host.ip_forward", "on"),
        Some(false) | None => Finding::warning(
            "host.ip_forward",
            if host.ip_forward.is_none() { "not known" } else { "off" },
            "pods reach nothing outside this node, and nothing reaches them",
            "echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-apiary.conf && sysctl --system",
        ),
    };
    let fix = "echo br_netfilter > /etc/modules-load.d/apiary.conf && modprobe br_netfilter && sysctl -w \
               net.bridge.bridge-nf-call-iptables=1";
    let bridge = match host.bridge_filtered {
        Some(true) => Finding::ok("host.br_netfilter", "bridged traffic passes iptables"),
        Some(false) | None => Finding::warning(
            "host.br_netfilter",
            if host.bridge_filtered.is_none() {
                "br_netfilter is not loaded (it may be built in, and not in use yet)"
            } else {
                "net.bridge.bridge-nf-call-iptables is off"
            },
            "host ports and service addresses do not work between two pods of this node",
            fix,
        ),
    };
    vec![swap, forward, bridge]
}

/// The devices of `/proc/swaps`.
pub(super) fn swaps(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn hints_are_warnings() {
        let good = Host { swaps: Vec::new(), ip_forward: Some(true), bridge_filtered: Some(true) };
        assert!(judge(&good).iter().all(|finding| finding.severity == Severity::Ok));
        let bad = Host { swaps: vec!["/dev/sda2".into()], ip_forward: Some(false), bridge_filtered: None };
        assert!(judge(&bad).iter().all(|finding| finding.severity == Severity::Warning));
    }

    #[test]
    fn swap_devices_are_read() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0  partition\t1\t0\t100\n";
        assert_eq!(swaps(text), ["/dev/zram0"]);
        assert!(swaps("").is_empty());
    }
}
