//! Owners and modes of every file and directory of ours.

use std::path::{Path, PathBuf};

use super::finding::{Finding, Seen};
use crate::output::plural;

/// One path and what it should be.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) wanted: Wanted,
    pub(super) found: Seen<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: FileKind,
    /// Uid and its name; none where any owner is right.
    pub(super) owner: Option<(u32, String)>,
    /// Mode bits that must not be set.
    pub(super) forbidden: u32,
    /// What `chmod` is told.
    pub(super) mode: u32,
    pub(super) matters: Matters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Directory,
    File,
    Socket,
    /// Any but a symbolic link.
    Any,
}

/// What happens when others get at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matters {
    /// A component's own directory or file.
    Own,
    /// A private key, or a store that holds Secrets.
    Secret,
    /// What root runs or believes.
    Trusted,
    /// Who may command the supervisor, or call a component.
    Door,
    /// Pods write into what is below.
    Pods,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: Option<FileKind>,
    pub(super) uid: u32,
    /// Its name, or its number.
    pub(super) owner: String,
    pub(super) mode: u32,
}

impl Wanted {
    pub(super) fn directory(owner: Option<(u32, String)>, mode: u32, matters: Matters) -> Self {
        Self { kind: FileKind::Directory, owner, forbidden: !mode & 0o777, mode, matters }
    }

    /// What a component keeps in its state directory. Keys and stores are its own alone, also where the directory is not.
    pub(super) fn kept(name: &str, owner: (u32, String)) -> Self {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        let secret = matches!(extension, Some("key" | "kubeconfig"))
            || name.contains(".key.")
            || name.starts_with("state.db")
            || name.starts_with("store.db");
        let (forbidden, mode, matters) =
            if secret { (0o077, 0o600, Matters::Secret) } else { (0o022, 0o644, Matters::Own) };
        Self { kind: FileKind::Any, owner: Some(owner), forbidden, mode, matters }
    }

    /// What root runs or believes: nobody else may change it.
    pub(super) fn trusted(kind: FileKind, owner: (u32, String), mode: u32) -> Self {
        Self { kind, owner: Some(owner), forbidden: 0o022, mode, matters: Matters::Trusted }
    }
}

impl Matters {
    fn why(self) -> &'static str {
        match self {
            Self::Own => {
                "other users of this machine, or other components, could change what this one relies on"
            }
            Self::Secret => "others could take the identity of this machine, or read Secrets",
            Self::Trusted => "whoever can change it can become root here",
            Self::Door => "others could command the supervisor, or call what they were not granted",
            Self::Pods => "other users of this machine could reach into volumes and logs of pods",
        }
    }

    /// The supervisor sets right what it makes itself; the rest is for a person.
    fn is_grave(self) -> bool {
        matches!(self, Self::Secret | Self::Trusted)
    }
}

const ID: &str = "files.permissions";

pub(super) fn judge(entries: &[Entry]) -> Vec<Finding> {
    /// More of them say nothing new.
    const MOST: usize = 20;
    let mut findings = Vec::new();
    let (mut right, mut hidden) = (0_usize, Vec::new());
    for entry in entries {
        match &entry.found {
            Seen::Absent => {}
            Seen::Hidden => hidden.push(entry.path.display().to_string()),
            Seen::Damaged(error) => findings.push(Finding::warning(
                ID,
                format!("could not look at {}: {error}", entry.path.display()),
                entry.wanted.matters.why(),
                format!("ls -ld {}", entry.path.display()),
            )),
            Seen::Yes(found) => match wrong(entry, found) {
                Some(finding) => findings.push(finding),
                None => right += 1,
            },
        }
    }
    if findings.len() > MOST {
        let more = findings.len() - MOST;
        findings.truncate(MOST);
        let fix = "mend these, then run the check again";
        findings.push(Finding::warning(ID, format!("{more} more"), Matters::Own.why(), fix));
    }
    if right > 0 || findings.is_empty() && hidden.is_empty() {
        let found = match right {
            0 => "nothing is there yet".to_owned(),
            _ => format!("owner and mode are right on {}", plural(right, "path")),
        };
        findings.insert(0, Finding::ok(ID, found));
    }
    if let Some(first) = hidden.first() {
        let others = match hidden.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        findings.push(Finding::unseen(ID, format!("what is in {first}{others}")));
    }
    findings
}

fn wrong(entry: &Entry, found: &Found) -> Option<Finding> {
    let Wanted { kind, owner, forbidden, mode, matters } = &entry.wanted;
    let path = quoted(&entry.path);
    let (problem, fix) = if found.kind.is_none_or(|there| *kind != FileKind::Any && there != *kind) {
        let noun = match kind {
            FileKind::Directory => "no directory",
            FileKind::File => "no file",
            FileKind::Socket => "no socket",
            FileKind::Any => "a symbolic link or a device",
        };
        (format!("is {noun}"), format!("mv {path} {path}.aside"))
    } else if let Some((uid, name)) = owner.as_ref().filter(|(uid, _)| *uid != found.uid) {
        let deep = if *kind == FileKind::Directory && *matters == Matters::Own { "-R " } else { "" };
        (format!("belongs to {}, not {name} ({uid})", found.owner), format!("chown {deep}{name}: {path}"))
    } else if found.mode & forbidden != 0 {
        let now = found.mode & 0o7777;
        (format!("has mode {now:04o}"), format!("chmod {mode:04o} {path}"))
    } else {
        return None;
    };
    let found = format!("{} {problem}", entry.path.display());
    Some(if matters.is_grave() {
        Finding::error(ID, found, matters.why(), fix)
    } else {
        Finding::warning(ID, found, matters.why(), fix)
    })
}

/// For a shell, when the path is not plain.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|letter| letter.is_alphanumeric() || "/._-+:@".contains(letter));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn key() -> Wanted {
        Wanted::kept("node.key", (7, "edge-key".into()))
    }

    fn entry(path: &str, wanted: Wanted, uid: u32, mode: u32) -> Entry {
        let kind = match wanted.kind {
            FileKind::Any => FileKind::File,
            kind => kind,
        };
        let found = Found { kind: Some(kind), uid, owner: format!("user{uid}"), mode: 0o100_000 | mode };
        Entry { path: path.into(), wanted, found: Seen::Yes(found) }
    }

    #[test]
    fn what_is_right_is_counted() {
        let entries = [entry("/s/k/node.key", key(), 7, 0o600), entry("/s/k/node.key.bak", key(), 7, 0o400)];
        let findings = judge(&entries);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].found, "owner and mode are right on 2 paths");
    }

    #[test]
    fn readable_key_is_an_error_with_its_command() {
        let findings = judge(&[entry("/s/keyholder/node.key", key(), 7, 0o640)]);
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(findings[0].found, "/s/keyholder/node.key has mode 0640");
        assert_eq!(findings[0].fix, "chmod 0600 /s/keyholder/node.key");
    }

    #[test]
    fn directory_of_somebody_else_is_named_with_both_owners() {
        let wanted = Wanted::directory(Some((7, "edge-key".into())), 0o700, Matters::Own);
        let findings = judge(&[entry("/s/it's here", wanted, 8, 0o700)]);
        assert_eq!(findings[0].severity, Severity::Warning);
        assert_eq!(findings[0].found, "/s/it's here belongs to user8, not edge-key (7)");
        assert_eq!(findings[0].fix, r"chown -R edge-key: '/s/it'\''s here'");
    }

    #[test]
    fn symbolic_link_is_never_right() {
        let mut entry = entry("/s/x", Wanted::kept("x", (7, "a".into())), 7, 0o777);
        entry.found = Seen::Yes(Found { kind: None, uid: 7, owner: "a".into(), mode: 0o120_777 });
        assert!(judge(&[entry])[0].found.contains("symbolic link"));
    }

    #[test]
    fn program_others_may_write_is_an_error() {
        let wanted = Wanted::trusted(FileKind::File, (0, "root".into()), 0o755);
        assert_eq!(judge(&[entry("/bin/x", wanted, 0, 0o775)])[0].severity, Severity::Error);
    }

    #[test]
    fn stores_and_keys_are_secret_certificates_are_not() {
        for name in ["node.key", "state.db-wal", "store.db", "admin.kubeconfig", "server.key.12.new"] {
            assert_eq!(Wanted::kept(name, (0, String::new())).matters, Matters::Secret, "{name}");
        }
        for name in ["node.pem", "rootCA.crt", "keyboard"] {
            assert_eq!(Wanted::kept(name, (0, String::new())).matters, Matters::Own, "{name}");
        }
    }

    #[test]
    fn hidden_directories_are_one_line() {
        let hidden = |path: &str| Entry { found: Seen::Hidden, ..entry(path, key(), 0, 0) };
        let findings = judge(&[hidden("/s/a"), hidden("/s/b")]);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].severity, findings[0].found.as_str()),
            (Severity::Unseen, "what is in /s/a and 1 more")
        );
    }
}
