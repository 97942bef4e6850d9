//! The service users of `packaging/sysusers.d/apiary.conf`.

use anyhow::{Context as _, Result};
use nix::unistd::{Group, User};

use crate::{Run, machine};

/// Makes the users, groups and memberships that are missing; with systemd-sysusers where it is installed.
pub fn ensure() -> Result<()> {
    machine::require_root()?;
    let path = machine::repository().join("packaging/sysusers.d/apiary.conf");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let entries: Vec<Entry> = text.lines().filter_map(entry).collect();
    if entries.iter().all(Entry::exists) {
        return Ok(());
    }
    if let Some(sysusers) = machine::find_program("systemd-sysusers") {
        Run::new(sysusers).arg(&path).output()?;
        return Ok(());
    }
    for entry in entries.iter().filter(|entry| !entry.exists()) {
        match entry {
            Entry::User(name) => {
                let shell = "/usr/sbin/nologin";
                let options = [
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--home-dir",
                    "/",
                    "--shell",
                    shell,
                    name,
                ];
                Run::new(machine::program("useradd")?).args(options).output()?;
            }
            Entry::Group(name) => {
                Run::new(machine::program("groupadd")?).args(["--system", name]).output()?;
            }
            Entry::Member { user, group } => {
                Run::new(machine::program("usermod")?)
                    .args(["--append", "--groups", group, user])
                    .output()?;
            }
        }
    }
    Ok(())
}

/// A line of sysusers.d, as far as ours use them. In the file groups come before their members.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    User(String),
    Group(String),
    Member { user: String, group: String },
}

impl Entry {
    fn exists(&self) -> bool {
        match self {
            Self::User(name) => matches!(User::from_name(name), Ok(Some(_))),
            Self::Group(name) => matches!(Group::from_name(name), Ok(Some(_))),
            Self::Member { user, group } => {
                matches!(Group::from_name(group), Ok(Some(group)) if group.mem.contains(user))
            }
        }
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let (kind, name) = (words.next()?, words.next()?.to_owned());
    match kind {
        "u" => Some(Entry::User(name)),
        "g" => Some(Entry::Group(name)),
        "m" => Some(Entry::Member { user: name, group: words.next()?.to_owned() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysusers_lines_are_understood() {
        assert_eq!(entry("u edge-hub - \"Apiary: link\" - -"), Some(Entry::User("edge-hub".into())));
        assert_eq!(
            entry("m cloud-api cloud-kube"),
            Some(Entry::Member { user: "cloud-api".into(), group: "cloud-kube".into() })
        );
        assert_eq!(entry("# u comment"), None);
    }
}
