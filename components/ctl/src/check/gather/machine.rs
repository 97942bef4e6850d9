//! Kernel, clock, disk, processes and settings of the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use componentconfig::edgecore::EdgeCore;
use launch::{Namespaces, Support};
use rustix::fs::StatVfsMountFlags;
use supervisor::cli::Settings;
use supervisor::manifest::Manifest;

use super::{read, read_or_empty, seen};
use crate::check::agents::{self, Agents};
use crate::check::cgroup::{self, Cgroup};
use crate::check::clock::{Certificate, Clock, Kind, Validity};
use crate::check::disk::{self, Room, Space};
use crate::check::finding::Seen;
use crate::check::host::{self, Host};
use crate::check::kernel::Kernel;
use crate::cli::Side;

/// 64 KiB: certificates are a few.
const LONGEST_PEM: u64 = 64 << 10;

pub(super) fn kernel() -> Kernel {
    let support = Support::probe().unwrap_or_default();
    let namespaces = [
        ("mount", "mnt", Namespaces::MOUNT),
        ("ipc", "ipc", Namespaces::IPC),
        ("uts", "uts", Namespaces::UTS),
        ("net", "net", Namespaces::NET),
    ];
    let root = rustix::process::geteuid().is_root();
    // Without root none can be made, whatever the kernel has.
    let missing = |(_, file, namespace): &(&str, &str, Namespaces)| {
        let has = Path::new("/proc/self/ns").join(file).exists();
        let none_allowed = read_or_empty(&format!("/proc/sys/user/max_{file}_namespaces")).trim() == "0";
        !has || none_allowed || root && !support.namespaces.contains(*namespace)
    };
    let own = rustix::process::getpid();
    Kernel {
        release: read_or_empty("/proc/sys/kernel/osrelease").trim().to_owned(),
        pidfd: rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).is_ok(),
        landlock_abi: support.landlock_abi,
        seccomp: support.seccomp,
        namespaces_missing: namespaces.iter().filter(|one| missing(one)).map(|(name, ..)| *name).collect(),
    }
}

pub(super) fn cgroup() -> Cgroup {
    cgroup::parse(&read_or_empty("/proc/self/mountinfo"), |point| {
        match read(&Path::new(point).join("cgroup.controllers")) {
            Seen::Yes(text) => Some(text),
            Seen::Absent | Seen::Hidden | Seen::Damaged(_) => None,
        }
    })
}

pub(super) fn clock(side: Side, state_dir: &Path) -> Clock {
    let files: &[(Kind, &str)] = match side {
        Side::Edge => &[(Kind::Node, "edgehub/node.pem")],
        Side::Cloud => &[(Kind::Authority, "authority/rootCA.crt"), (Kind::Hub, "cloudhub/server.crt")],
    };
    let certificate = |(kind, file): &(Kind, &str)| {
        let path = state_dir.join(file);
        Certificate { kind: *kind, validity: validity(&path), path }
    };
    Clock { now: SystemTime::now(), keeper: keeper(), certificates: files.iter().map(certificate).collect() }
}

/// Of the first certificate in a PEM file.
fn validity(path: &Path) -> Seen<Validity> {
    // A directory that is not ours to enter hides whether there is a file.
    let pem = match seen(std::fs::metadata(path)) {
        Seen::Yes(_) => match pki::read_bounded(path, LONGEST_PEM) {
            Ok(Some(pem)) => pem,
            Ok(None) => return Seen::Absent,
            Err(pki::ReadError::Io { source, .. }) => return seen(Err(source)),
            Err(error) => return Seen::Damaged(error.to_string()),
        },
        Seen::Absent => return Seen::Absent,
        Seen::Hidden => return Seen::Hidden,
        Seen::Damaged(error) => return Seen::Damaged(error),
    };
    let info = pki::pem_certificates(&pem).and_then(|certificates| {
        certificates.first().and_then(|first| pki::CertificateInfo::from_der(first))
    });
    match info {
        Some(info) => Seen::Yes(Validity {
            name: info.common_name,
            not_before: info.not_before,
            not_after: info.not_after,
        }),
        None => Seen::Damaged("no PEM certificate in it".to_owned()),
    }
}

/// A program that sets the clock.
fn keeper() -> Option<String> {
    const KEEPERS: [&str; 6] = ["systemd-timesyn", "chronyd", "ntpd", "ntpsec-ntpd", "ptp4l", "VBoxService"];
    let found = processes().into_iter().find(|process| KEEPERS.contains(&process.name.as_str()));
    found
        .map(|process| if process.name == KEEPERS[0] { "systemd-timesyncd".to_owned() } else { process.name })
}

pub(super) fn disk(settings: &Settings, edge: Option<&EdgeCore>) -> Vec<Space> {
    let mut places = vec![(disk::Kind::State, settings.state_dir.clone())];
    if let Some(edge) = edge {
        let edged = &edge.modules.edged;
        places.push((disk::Kind::Containers, edged.root_directory.clone()));
        places.push((disk::Kind::Containers, edged.tailored_kubelet_config.pod_logs_dir.clone()));
        // Where containerd keeps images, unless it was told otherwise: that cannot be asked for over CRI.
        places.push((disk::Kind::Containers, PathBuf::from("/var/lib/containerd")));
    }
    // One line for each file system and kind.
    let mut seen = BTreeMap::new();
    for (kind, path) in places {
        let there = nearest(&path);
        let device = there.as_ref().and_then(|there| rustix::fs::stat(there).ok()).map(|stat| stat.st_dev);
        let key = (kind == disk::Kind::State, device, device.is_none().then(|| path.clone()));
        seen.entry(key).or_insert_with(|| Space { kind, room: there.as_deref().and_then(room), path });
    }
    // What must survive comes first.
    seen.into_values().rev().collect()
}

/// The path, or the nearest folder above it that is there.
fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.exists()).map(Path::to_owned)
}

fn room(path: &Path) -> Option<Room> {
    let room = rustix::fs::statvfs(path).ok()?;
    let kib = |blocks: u64| {
        u64::try_from(u128::from(blocks) * u128::from(room.f_frsize) / 1024).unwrap_or(u64::MAX)
    };
    Some(Room {
        free_kib: kib(room.f_bavail),
        total_kib: kib(room.f_blocks),
        free_inodes: room.f_favail,
        inodes: room.f_files,
        read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

pub(super) fn agents(side: Side, manifest: &Manifest) -> Agents {
    let mut processes = processes();
    for process in processes.iter_mut().filter(|process| process.name == side.supervisor()) {
        let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid));
        let folder = exe.ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let has = |folder: &PathBuf| {
            manifest.components.values().any(|component| folder.join(&component.exec).exists())
        };
        process.beside_ours = folder.as_ref().is_some_and(has);
    }
    Agents { processes, components: manifest.components.keys().cloned().collect() }
}

pub(super) fn processes() -> Vec<agents::Process> {
    let Ok(proc) = std::fs::read_dir("/proc") else { return Vec::new() };
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.parse::<u32>().ok()?;
        match read(&path.join("stat")) {
            Seen::Yes(stat) => agents::process(&stat),
            Seen::Absent | Seen::Hidden | Seen::Damaged(_) => None,
        }
    };
    proc.filter_map(one).collect()
}

pub(super) fn host() -> Host {
    let switch = |path: &str| match read(Path::new(path)) {
        Seen::Yes(text) => Some(text.trim() != "0"),
        Seen::Absent | Seen::Hidden | Seen::Damaged(_) => None,
    };
    Host {
        swaps: host::swaps(&read_or_empty("/proc/swaps")),
        ip_forward: switch("/proc/sys/net/ipv4/ip_forward"),
        bridge_filtered: switch("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        assert!(!kernel().release.is_empty());
        let own = std::process::id();
        assert!(processes().iter().any(|process| process.pid == own));
        assert!(room(Path::new("/")).unwrap().total_kib > 0);
    }

    #[test]
    fn absent_folder_is_judged_by_what_it_will_lie_on() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b/c")).unwrap(), dir.path());
    }

    #[test]
    fn damaged_certificate_is_told_from_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pem");
        assert_eq!(validity(&path), Seen::Absent);
        std::fs::write(&path, "no PEM").unwrap();
        assert!(matches!(validity(&path), Seen::Damaged(_)));
    }

    #[test]
    fn certificates_dates_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootCA.crt");
        let ca = pki::CertificateAuthority::create("KubeEdge").unwrap();
        std::fs::write(&path, ca.certificate_pem()).unwrap();
        let Seen::Yes(validity) = validity(&path) else { panic!("a certificate") };
        assert!(validity.not_before <= SystemTime::now() && validity.not_after > SystemTime::now());
        assert_eq!(validity.name, "KubeEdge");
    }
}
