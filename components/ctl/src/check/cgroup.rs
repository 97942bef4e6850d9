//! Where limits are enforced.

use std::collections::BTreeSet;

use super::finding::Finding;

/// What limits need.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

/// The control groups of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cgroup {
    /// The unified hierarchy and its controllers.
    V2(BTreeSet<String>),
    /// Each controller in a hierarchy of its own; with `hybrid` an empty v2 tree beside them.
    V1 {
        controllers: BTreeSet<String>,
        hybrid: bool,
    },
    None,
}

/// From `/proc/self/mountinfo`, and the text of `cgroup.controllers` at the root of a v2 mount, which `controllers_at` reads.
pub(super) fn parse(mountinfo: &str, controllers_at: impl Fn(&str) -> Option<String>) -> Cgroup {
    let mut v1 = BTreeSet::new();
    let mut v2: Option<BTreeSet<String>> = None;
    for line in mountinfo.lines() {
        // …: mount point is the fifth field; behind " - " come type, source and the options of the file system.
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        let mut kind = kind.split(' ');
        match kind.next() {
            Some("cgroup2") => {
                let there = controllers_at(point).unwrap_or_default();
                v2.get_or_insert_default().extend(there.split_whitespace().map(str::to_owned));
            }
            Some("cgroup") => {
                let options = kind.nth(1).unwrap_or_default();
                v1.extend(options.split(',').filter(|name| NEEDED.contains(name)).map(str::to_owned));
            }
            _ => {}
        }
    }
    match (v2, v1.is_empty()) {
        (Some(controllers), true) => Cgroup::V2(controllers),
        (hybrid, false) => Cgroup::V1 { controllers: v1, hybrid: hybrid.is_some() },
        (None, true) => Cgroup::None,
    }
}

pub(super) fn judge(cgroup: &Cgroup) -> Vec<Finding> {
    let (mode, controllers) = match cgroup {
        Cgroup::V2(controllers) => ("v2", controllers),
        Cgroup::V1 { controllers, hybrid: false } => ("v1", controllers),
        Cgroup::V1 { controllers, hybrid: true } => ("v1, with an empty v2 beside it", controllers),
        Cgroup::None => {
            return vec![Finding::warning(
                "cgroup.mode",
                "no cgroup is mounted",
                "neither components nor pods can be held to their memory: one of them can take all of it",
                "mount -t cgroup2 none /sys/fs/cgroup, or boot with an init that does",
            )];
        }
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|needed| !controllers.contains(*needed)).collect();
    let controllers = if missing.is_empty() {
        Finding::ok("cgroup.controllers", NEEDED.join(", "))
    } else {
        let fix = if missing.contains(&"memory") {
            "add `cgroup_enable=memory cgroup_memory=1` to the kernel's command line (on a Raspberry Pi \
             /boot/firmware/cmdline.txt) and reboot"
        } else {
            "install a kernel with CONFIG_CGROUP_PIDS and CONFIG_CGROUP_SCHED"
        };
        Finding::warning(
            "cgroup.controllers",
            format!("no controller for {}", missing.join(", ")),
            "that limit holds neither components, which are then degraded, nor pods",
            fix,
        )
    };
    vec![Finding::ok("cgroup.mode", format!("cgroup {mode}")), controllers]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn modes_are_told_apart() {
        assert_eq!(
            parse(V1, |_| Some(String::new())),
            Cgroup::V1 { controllers: set(&["cpu", "memory", "pids"]), hybrid: true }
        );
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let read = |point: &str| (point == "/sys/fs/cgroup").then(|| "cpuset cpu memory pids\n".to_owned());
        assert_eq!(parse(v2, read), Cgroup::V2(set(&["cpuset", "cpu", "memory", "pids"])));
        assert_eq!(parse("broken line\n", |_| None), Cgroup::None);
    }

    #[test]
    fn raspberry_pi_without_memory_controller_is_told_the_parameter() {
        let findings = judge(&Cgroup::V2(set(&["cpu", "pids"])));
        assert_eq!(findings[1].severity, Severity::Warning);
        assert!(findings[1].fix.contains("cgroup_enable=memory"));
    }

    #[test]
    fn no_cgroup_is_a_warning() {
        assert_eq!(judge(&Cgroup::None)[0].severity, Severity::Warning);
        let all = judge(&Cgroup::V1 { controllers: set(&NEEDED), hybrid: false });
        assert!(all.iter().all(|finding| finding.severity == Severity::Ok));
    }
}
