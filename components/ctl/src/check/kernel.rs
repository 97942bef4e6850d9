//! What confinement and supervision need of the kernel.

use super::finding::Finding;

/// The first with `pidfd_open(2)`, by which the supervisor learns that a component ended.
const OLDEST: (u32, u32) = (5, 3);
/// The first Landlock ABI that also holds TCP.
const LANDLOCK_TCP: u32 = 4;
/// The first that also keeps signals and abstract sockets in.
const LANDLOCK_SCOPES: u32 = 6;

/// As the kernel tells it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    /// `6.1.0-32-amd64`
    pub(super) release: String,
    pub(super) pidfd: bool,
    /// 0: none.
    pub(super) landlock_abi: u32,
    pub(super) seccomp: bool,
    /// Those of mount, ipc, uts, net that it cannot make.
    pub(super) namespaces_missing: Vec<&'static str>,
}

/// Major and minor version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn judge(kernel: &Kernel) -> Vec<Finding> {
    let release = &kernel.release;
    let newer = "install a newer kernel: `apt install linux-image-generic`, or your distribution's package";
    let mut findings = vec![match version(release) {
        Some(version) if version < OLDEST => Finding::error(
            "kernel.version",
            format!("Linux {release}"),
            format!("components are watched by means that came with Linux {}.{}", OLDEST.0, OLDEST.1),
            newer,
        ),
        Some(_) => Finding::ok("kernel.version", format!("Linux {release}")),
        None => Finding::warning(
            "kernel.version",
            format!("a kernel that calls itself {release:?}"),
            "whether it can do what is needed shows only when it is needed",
            newer,
        ),
    }];
    findings.push(if kernel.pidfd {
        Finding::ok("kernel.pidfd", "processes can be watched")
    } else {
        Finding::error(
            "kernel.pidfd",
            "pidfd_open(2) is missing or forbidden",
            "the supervisor could not see that a component ended",
            format!("{newer}; in a container, allow the call in its seccomp profile"),
        )
    });
    findings.push(match kernel.landlock_abi {
        0 => Finding::warning(
            "kernel.landlock",
            "no Landlock",
            "components are degraded: one that is taken over is held back by its user and its mounts only",
            "add `landlock` to the lsm= parameter of the kernel's command line (CONFIG_SECURITY_LANDLOCK)",
        ),
        abi @ 1..LANDLOCK_TCP => Finding::warning(
            "kernel.landlock",
            format!("Landlock ABI {abi}: files, not TCP"),
            "components are degraded: which may connect and which may listen is not held by the kernel",
            "install Linux 6.7 or newer",
        ),
        abi @ LANDLOCK_TCP..LANDLOCK_SCOPES => {
            Finding::ok("kernel.landlock", format!("Landlock ABI {abi}: files and TCP"))
        }
        abi => Finding::ok("kernel.landlock", format!("Landlock ABI {abi}: files, TCP and signals")),
    });
    findings.push(if kernel.seccomp {
        Finding::ok("kernel.seccomp", "system call filters")
    } else {
        Finding::warning(
            "kernel.seccomp",
            "no system call filters",
            "components are degraded: each can try every system call of the kernel",
            "install a kernel with CONFIG_SECCOMP_FILTER",
        )
    });
    findings.push(if kernel.namespaces_missing.is_empty() {
        Finding::ok("kernel.namespaces", "mount, ipc, uts and net namespaces")
    } else {
        Finding::warning(
            "kernel.namespaces",
            format!("no {} namespaces", kernel.namespaces_missing.join(", ")),
            "components are degraded: they see more of the machine than they need",
            "sysctl -w user.max_mnt_namespaces=1024 user.max_ipc_namespaces=1024 user.max_uts_namespaces=1024 \
             user.max_net_namespaces=1024; if they are there, install a kernel with CONFIG_NAMESPACES",
        )
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn good() -> Kernel {
        Kernel {
            release: "6.18.5-1-amd64".into(),
            pidfd: true,
            landlock_abi: 7,
            seccomp: true,
            namespaces_missing: Vec::new(),
        }
    }

    fn severity(kernel: &Kernel, id: &str) -> Severity {
        judge(kernel).into_iter().find(|finding| finding.id == id).unwrap().severity
    }

    #[test]
    fn current_kernel_is_fine() {
        assert!(judge(&good()).iter().all(|finding| finding.severity == Severity::Ok));
    }

    #[test]
    fn kernel_without_pidfd_is_too_old() {
        let old = Kernel { release: "4.19.0".into(), pidfd: false, ..good() };
        assert_eq!(severity(&old, "kernel.version"), Severity::Error);
        assert_eq!(severity(&old, "kernel.pidfd"), Severity::Error);
    }

    #[test]
    fn odd_release_is_no_panic() {
        for release in ["", "x", "6", "6.x", "99999999999999.1"] {
            let odd = Kernel { release: release.into(), ..good() };
            assert_eq!(severity(&odd, "kernel.version"), Severity::Warning, "{release}");
        }
    }

    #[test]
    fn missing_confinement_is_a_warning() {
        let less = Kernel { landlock_abi: 3, seccomp: false, namespaces_missing: vec!["net"], ..good() };
        for id in ["kernel.landlock", "kernel.seccomp", "kernel.namespaces"] {
            assert_eq!(severity(&less, id), Severity::Warning, "{id}");
        }
        assert_eq!(severity(&Kernel { landlock_abi: 0, ..good() }, "kernel.landlock"), Severity::Warning);
    }
}
