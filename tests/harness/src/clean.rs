//! Ending and removing everything a run started, and finding what is left.
//!
//! Nothing is matched by a broad name: a process belongs to a slot when its program lies below the slot's root, when it
//! is a containerd process that was given a path below it, or when its root file system is a snapshot below it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::slot::Slot;
use crate::wait::until;
use crate::{Run, machine};

/// Killed processes are gone long before; mounts and cgroups follow them.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends every process of the slot and removes its mounts, cgroups, network and files. Idempotent.
pub fn remove(slot: &Slot) -> Result<()> {
    let cgroups = cgroups(slot);
    let shim_sockets = shim_sockets(slot);
    until(LIMIT, "the end of all processes of a run", || {
        let found = processes(slot);
        for process in &found {
            // It may have ended since it was seen.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        Ok(found.is_empty().then_some(()))
    })?;
    for mount in mounts(slot).iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH)
            .with_context(|| format!("could not unmount {}", mount.display()))?;
    }
    until(LIMIT, "the removal of the pods' cgroups", || {
        Ok(cgroups.iter().all(|cgroup| remove_cgroup(cgroup)).then_some(()))
    })?;
    remove_network(slot)?;
    for socket in shim_sockets {
        // A shim that ended in order has removed it.
        let _ = fs::remove_file(socket);
    }
    match fs::remove_dir_all(slot.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", slot.root().display()))
        }
        _ => Ok(()),
    }
}

/// Fails with a list of what is left of the run that held this slot.
pub fn assert_clean(slot: &Slot, cgroups: &BTreeSet<PathBuf>) -> Result<()> {
    let mut left = Vec::new();
    left.extend(
        processes(slot).into_iter().map(|found| format!("process {} ({})", found.pid, found.command)),
    );
    left.extend(mounts(slot).into_iter().map(|mount| format!("mount {}", mount.display())));
    left.extend(cgroups.iter().filter(|path| path.exists()).map(|path| format!("cgroup {}", path.display())));
    left.extend(nat_rules(slot)?.into_iter().map(|rule| format!("NAT rule {rule}")));
    left.extend(cni_results(slot).into_iter().map(|path| format!("CNI result {}", path.display())));
    if Path::new("/sys/class/net").join(slot.bridge()).exists() {
        left.push(format!("network device {}", slot.bridge()));
    }
    if slot.root().exists() {
        left.push(format!("directory {}", slot.root().display()));
    }
    if !left.is_empty() {
        bail!("a run left behind: {}", left.join("; "));
    }
    Ok(())
}

/// A process of a slot.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, joined by blanks.
    pub command: String,
}

/// All processes that belong to the slot.
pub fn processes(slot: &Slot) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| belonging(pid, slot.root()))
        .collect()
}

/// `None` when the process is another's, or has ended.
fn belonging(pid: i32, root: &Path) -> Option<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let arguments = fs::read(proc.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&arguments).replace('\0', " ").trim_end().to_owned();
    // A process that is being reaped has neither command line nor program.
    let program = fs::read_link(proc.join("exe")).ok()?;
    let inside = root.to_str()?;
    let is_runtime = program
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("containerd") || name == "runc" || name == "ctr");
    let belongs = program.starts_with(root)
        || is_runtime && mentions(&command, inside)
        || fs::read_to_string(proc.join("mountinfo")).is_ok_and(|mounts| has_root_below(&mounts, inside));
    belongs.then_some(Process { pid, command })
}

/// Whether `path` or something below it stands in `text`: `/tmp/apiary-1` must not find `/tmp/apiary-12`.
fn mentions(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let after = text[at + path.len()..].chars().next();
        after.is_none_or(|next| !next.is_ascii_alphanumeric())
    })
}

/// Whether the mount on `/`, as the process sees it, comes from below `path`.
fn has_root_below(mountinfo: &str, path: &str) -> bool {
    mountinfo.lines().any(|line| line.split(' ').nth(4) == Some("/") && mentions(line, path))
}

/// Mounts below the slot's root, in the order in which they were made.
fn mounts(slot: &Slot) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(slot.root())).collect()
}

/// The kernel writes blanks, tabs, line ends and backslashes of a mount point as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let plain =
        field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(plain)
}

/// The cgroup directories of the slot's containers, in every hierarchy.
pub fn cgroups(slot: &Slot) -> BTreeSet<PathBuf> {
    let own = cgroup_paths("self");
    let mut found = BTreeSet::new();
    for process in processes(slot) {
        for path in cgroup_paths(&process.pid.to_string()).difference(&own) {
            found.extend(hierarchies().into_iter().map(|top| top.join(path)).filter(|dir| dir.exists()));
        }
    }
    found
}

/// Relative to the hierarchy's top; the top itself is left out.
fn cgroup_paths(pid: &str) -> BTreeSet<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths = table.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.map(|path| path.trim_start_matches('/').to_owned()).filter(|path| !path.is_empty()).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup_mounts = table.lines().filter(|line| line.contains(" - cgroup"));
    cgroup_mounts.filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Removes an empty cgroup and its parents that became empty with it; false while a process is still in it.
fn remove_cgroup(path: &Path) -> bool {
    if path.exists() && fs::remove_dir(path).is_err() {
        return false;
    }
    let tops = hierarchies();
    for parent in path.ancestors().skip(1).take_while(|parent| !tops.iter().any(|top| top == parent)) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    true
}

/// Sockets the shims made outside the slot's root: containerd 1.6 has a fixed place for them.
fn shim_sockets(slot: &Slot) -> Vec<PathBuf> {
    let bundles = slot.root().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    let bundles = fs::read_dir(bundles).into_iter().flatten().flatten();
    let addresses = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("address")).ok());
    addresses.filter_map(|address| Some(PathBuf::from(address.strip_prefix("unix://")?))).collect()
}

fn remove_network(slot: &Slot) -> Result<()> {
    if Path::new("/sys/class/net").join(slot.bridge()).exists() {
        Run::new(machine::program("ip")?).args(["link", "delete", &slot.bridge()]).output()?;
    }
    for rule in nat_rules(slot)? {
        let mut words = split_quoted(&rule);
        if words.first().is_some_and(|word| word == "-A") {
            "-D".clone_into(&mut words[0]);
            nat(&words)?;
        }
        // portmap gives each pod a chain of its own and jumps to it from the shared one.
        if let Some(chain) =
            words.iter().skip_while(|word| *word != "-j").nth(1).filter(|name| name.starts_with("CNI-DN-"))
        {
            for action in ["-F", "-X"] {
                nat(&[action.to_owned(), chain.clone()])?;
            }
        }
    }
    for result in cni_results(slot) {
        fs::remove_file(&result).with_context(|| format!("could not remove {}", result.display()))?;
    }
    Ok(())
}

/// NAT rules whose comment names this run's network, as `iptables -S` prints them.
fn nat_rules(slot: &Slot) -> Result<Vec<String>> {
    if machine::find_program("iptables").is_none() {
        return Ok(Vec::new());
    }
    let rules = nat(&["-S".to_owned()])?;
    let network = format!("\"{}\\\"", slot.network());
    Ok(rules.lines().filter(|line| line.contains(&network)).map(str::to_owned).collect())
}

fn nat(arguments: &[String]) -> Result<String> {
    Run::new(machine::program("iptables")?).args(["-w", "-t", "nat"]).args(arguments).output()
}

/// libcni keeps what it did for each container in one fixed place, named by network.
fn cni_results(slot: &Slot) -> Vec<PathBuf> {
    let prefix = format!("{}-", slot.network());
    let results = fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten();
    let ours = results.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// Splits a line of `iptables -S` into arguments: blanks separate, double quotes group, a backslash quotes one character.
fn split_quoted(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("starts with one word and only grows");
        match character {
            '"' => quoted = !quoted,
            '\\' => word.extend(characters.next()),
            ' ' if !quoted => words.push(String::new()),
            _ => word.push(character),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_mentioned_only_as_a_whole_name() {
        assert!(mentions("containerd --config /tmp/apiary-1/c.toml", "/tmp/apiary-1"));
        assert!(!mentions("containerd --config /tmp/apiary-12/c.toml", "/tmp/apiary-1"));
    }

    #[test]
    fn container_is_known_by_its_root_file_system() {
        let overlay = "31 20 0:27 / / rw - overlay overlay rw,upperdir=/tmp/apiary-3/containerd/root/7/fs";
        let volume = "40 31 254:0 /tmp/apiary-3/x /etc/hosts rw - ext4 /dev/vda rw";
        assert!(has_root_below(overlay, "/tmp/apiary-3"));
        assert!(!has_root_below(volume, "/tmp/apiary-3"));
    }

    #[test]
    fn iptables_rule_splits_at_blanks_outside_quotes() {
        let rule =
            r#"-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"apiary-0\" id: \"ab\"" -j CNI-DN-1"#;
        let words = split_quoted(rule);
        assert_eq!(words[5], "dnat name: \"apiary-0\" id: \"ab\"");
        assert_eq!(words.last().map(String::as_str), Some("CNI-DN-1"));
    }
}
