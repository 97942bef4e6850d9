//! What the machine says of itself: sizes, names, addresses. Read from /proc, /etc and the kernel; nothing is cached.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Identity and sizes of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Online processors.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of the file system below the kubelet's root directory.
    pub storage: i64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// SMBIOS UUID, else the machine id (as cAdvisor does on boards without one).
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// Go's name of the architecture.
    pub arch: &'static str,
}

/// What may be running short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    /// Less than the kubelet's `memory.available` default, 100 MiB.
    pub memory: bool,
    /// Less than the kubelet's `nodefs.available` (10 %) or `nodefs.inodesFree` (5 %).
    pub disk: bool,
    /// Fewer than a tenth of the pids are left.
    pub pid: bool,
}

impl Host {
    /// Reads everything; what cannot be read is empty or 0, as on hosts without SMBIOS.
    pub(crate) fn read(root: &Path) -> Self {
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        let storage = statvfs(existing(root)).map_or(0, |s| bytes(s.blocks(), s.fragment_size()));
        Self {
            cpus: nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
                .ok()
                .flatten()
                .unwrap_or(1),
            memory: meminfo("MemTotal:"),
            storage,
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(),
            arch: arch(),
        }
    }
}

impl Pressure {
    /// Looks now.
    pub(crate) fn read(root: &Path) -> Self {
        let (disk, inodes) = statvfs(existing(root)).map_or((false, false), |s| {
            (s.blocks_available() * 10 < s.blocks(), s.files() > 0 && s.files_available() * 20 < s.files())
        });
        let available = meminfo("MemAvailable:");
        let tasks: u64 = line("/proc/loadavg")
            .split_whitespace()
            .nth(3)
            .and_then(|t| t.split('/').nth(1)?.parse().ok())
            .unwrap_or(0);
        let most: u64 = line("/proc/sys/kernel/pid_max").parse().unwrap_or(u64::MAX);
        Self {
            memory: available > 0 && available < 100 << 20,
            disk: disk || inodes,
            pid: tasks > most / 10 * 9,
        }
    }
}

/// The address other machines know this one by: that of the route to the outside, else loopback. Nothing is sent:
/// connecting a UDP socket only asks the kernel for a route (RFC 5737 addresses lead to the default one).
pub(crate) fn primary_address() -> IpAddr {
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    route().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The nearest directory that is there: the root directory is made with the first pod.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

#[allow(clippy::useless_conversion, reason = "statvfs counts are 32 bits wide on some architectures")]
fn bytes(blocks: nix::libc::fsblkcnt_t, size: nix::libc::c_ulong) -> i64 {
    i64::try_from(u64::from(blocks).saturating_mul(u64::from(size))).unwrap_or(i64::MAX)
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Bytes.
fn meminfo(field: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value =
        text.lines().find_map(|l| l.strip_prefix(field)?.split_whitespace().next()?.parse::<i64>().ok());
    value.unwrap_or(0).saturating_mul(1024)
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_describes_itself() {
        let host = Host::read(Path::new("/nonexistent/kubelet"));
        assert!(host.cpus >= 1 && host.memory > 0 && host.storage > 0, "{host:?}");
        assert!(!host.kernel.is_empty() && !host.boot_id.is_empty());
    }
}
