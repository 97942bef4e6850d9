//! Users, and every file and directory of ours.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid, User};
use supervisor::accounts as known;
use supervisor::cli::Settings;
use supervisor::manifest::Manifest;

use super::seen;
use super::settings::Yaml;
use crate::check::accounts::Accounts;
use crate::check::files::{Entry, FileKind, Found, Matters, Wanted};
use crate::check::finding::Seen;

/// Files of one directory that are looked at: ours hold a handful.
const MOST_FILES: usize = 1000;

/// The owner of the state directory where that is not root: then everything runs as that user.
pub(super) fn ordinary_owner(state_dir: &Path) -> Option<u32> {
    std::fs::metadata(state_dir).ok().map(|metadata| metadata.uid()).filter(|uid| *uid != 0)
}

pub(super) fn accounts(manifest: &Manifest, single: bool) -> Accounts {
    let mut accounts = Accounts { single, ..Accounts::default() };
    for (component, block) in &manifest.components {
        accounts.users.push((component.clone(), block.user.clone(), known::has_user(&block.user)));
        for group in &block.groups {
            accounts.groups.push((component.clone(), group.clone(), known::has_group(group)));
        }
    }
    accounts.operators = Group::from_name("apiary").ok().flatten().map(|group| group.mem);
    accounts
}

fn name_of(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}

/// What is wanted of each path that can be ours, and what is there. `single_uid`: everything is this user's.
pub(super) fn files(
    settings: &Settings,
    manifest: &Manifest,
    yaml: &Yaml,
    single_uid: Option<u32>,
) -> Vec<Entry> {
    let chief = single_uid.map_or_else(|| (0, "root".to_owned()), |uid| (uid, name_of(uid)));
    let own = |mode, matters| Wanted::directory(Some(chief.clone()), mode, matters);
    let (state, run) = (&settings.state_dir, &settings.run_dir);
    let mut wanted: Vec<(PathBuf, Wanted)> = vec![
        (state.clone(), own(0o755, Matters::Trusted)),
        (run.clone(), own(0o755, Matters::Trusted)),
        (run.join("link"), own(0o755, Matters::Door)),
        (run.join("notify"), own(0o711, Matters::Door)),
        (run.join("lock"), Wanted::trusted(FileKind::File, chief.clone(), 0o600)),
        (run.join("control.sock"), door(&chief)),
    ];
    let mut unsearchable = Vec::new();
    for (component, block) in &manifest.components {
        let user = match single_uid {
            Some(_) => Some(chief.clone()),
            None => User::from_name(&block.user).ok().flatten().map(|user| (user.uid.as_raw(), user.name)),
        };
        // A user that is missing is told of by itself.
        let Some(user) = user else { continue };
        let (kept, runtime) = (state.join(component), run.join(component));
        wanted.push((kept.clone(), Wanted::directory(Some(user.clone()), 0o700, Matters::Own)));
        wanted.push((runtime, Wanted::directory(Some(user.clone()), 0o711, Matters::Own)));
        match names(&kept) {
            Seen::Yes(names) => {
                wanted.extend(names.iter().map(|name| (kept.join(name), Wanted::kept(name, user.clone()))));
            }
            Seen::Hidden => unsearchable.push((kept.join("*"), Wanted::kept("*", user))),
            Seen::Absent | Seen::Damaged(_) => {}
        }
        wanted.push((
            settings.exec_dir.join(&block.exec),
            Wanted::trusted(FileKind::File, program_owner(&settings.exec_dir, &chief), 0o755),
        ));
    }
    if let Seen::Yes(links) = names(&run.join("link")) {
        wanted.extend(links.iter().map(|link| (run.join("link").join(link), door(&chief))));
    }
    wanted.extend(configured(settings, yaml, &chief, single_uid.is_some()));
    let look = |(path, wanted): (PathBuf, Wanted)| Entry { found: found(&path), path, wanted };
    let hidden = |(path, wanted)| Entry { found: Seen::Hidden, path, wanted };
    wanted.into_iter().map(look).chain(unsearchable.into_iter().map(hidden)).collect()
}

/// A socket of the supervisor's: for its owner and a group.
fn door(chief: &(u32, String)) -> Wanted {
    Wanted {
        kind: FileKind::Socket,
        owner: Some(chief.clone()),
        forbidden: 0o007,
        mode: 0o660,
        matters: Matters::Door,
    }
}

/// Programs are root's also where an ordinary user runs them; or that user's own.
fn program_owner(exec_dir: &Path, chief: &(u32, String)) -> (u32, String) {
    match std::fs::metadata(exec_dir) {
        Ok(metadata) if metadata.uid() == 0 => (0, "root".to_owned()),
        _ => chief.clone(),
    }
}

/// Configuration, join token, kubeconfig, and where pods keep their things.
fn configured(
    settings: &Settings,
    yaml: &Yaml,
    chief: &(u32, String),
    single: bool,
) -> Vec<(PathBuf, Wanted)> {
    let config = &settings.config;
    let mut wanted = vec![(config.clone(), Wanted::trusted(FileKind::File, chief.clone(), 0o644))];
    if let Some(folder) = config.parent() {
        wanted.push((folder.to_owned(), Wanted::trusted(FileKind::Directory, chief.clone(), 0o755)));
    }
    let secret =
        Wanted { kind: FileKind::File, owner: None, forbidden: 0o027, mode: 0o640, matters: Matters::Secret };
    match yaml {
        Yaml::Edge(edge) => {
            wanted.extend(edge.apiary.token_file.clone().map(|file| (file, secret)));
            let edged = &edge.modules.edged;
            // Without root there are no pods, and these are another agent's.
            let owner = (!single).then(|| chief.clone());
            for folder in [&edged.root_directory, &edged.tailored_kubelet_config.pod_logs_dir] {
                wanted.push((folder.clone(), Wanted::directory(owner.clone(), 0o755, Matters::Pods)));
            }
        }
        Yaml::Cloud(cloud) if !settings.standalone => {
            let file = &cloud.kube_api_config.kube_config;
            if !file.is_empty() {
                wanted.push((file.into(), secret));
            }
        }
        Yaml::Cloud(_) => {
            // Written by apiserver for the members of a group.
            let published = settings.run_dir.join("apiserver/controllers.kubeconfig");
            wanted.push((published, secret));
        }
    }
    wanted
}

/// Whether the user, with its groups, may read a file that is there: by its mode, and by that of its folder, since a
/// component sees no folder further up. What cannot be looked at may be read.
pub(super) fn may_read(path: &Path, user: &User, groups: &[u32]) -> bool {
    let allows = |path: &Path, bits: u32| {
        std::fs::metadata(path).map_or(true, |metadata| {
            let shift = match () {
                () if metadata.uid() == user.uid.as_raw() => 6,
                () if metadata.gid() == user.gid.as_raw() || groups.contains(&metadata.gid()) => 3,
                () => 0,
            };
            user.uid.is_root() || metadata.mode() >> shift & bits == bits
        })
    };
    allows(path, 0o4) && path.parent().is_none_or(|folder| allows(folder, 0o1))
}

/// Users of those components that read the configuration, and may not.
pub(super) fn not_reading(config: &Path, manifest: &Manifest) -> Vec<String> {
    const READERS: [&str; 4] = ["edgehub", "apiserver", "controllers", "cloudhub"];
    let barred = |name: &&str| {
        let block = manifest.components.get(*name)?;
        let user = User::from_name(&block.user).ok().flatten()?;
        let group = |name: &String| Some(Group::from_name(name).ok().flatten()?.gid.as_raw());
        let groups: Vec<u32> = block.groups.iter().filter_map(group).collect();
        (!may_read(config, &user, &groups)).then_some(user.name)
    };
    READERS.iter().filter_map(barred).collect()
}

fn names(dir: &Path) -> Seen<Vec<String>> {
    let list = |entries: std::fs::ReadDir| {
        let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.take(MOST_FILES).collect();
        names.sort();
        names
    };
    seen(std::fs::read_dir(dir)).map(list)
}

/// Without following a symbolic link.
fn found(path: &Path) -> Seen<Found> {
    seen(std::fs::symlink_metadata(path)).map(|metadata| {
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_dir() => Some(FileKind::Directory),
            () if kind.is_file() => Some(FileKind::File),
            () if kind.is_socket() => Some(FileKind::Socket),
            () => None,
        };
        Found { kind, uid: metadata.uid(), owner: name_of(metadata.uid()), mode: metadata.mode() }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn reading_takes_the_file_and_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("etc"), dir.path().join("etc/x.yaml"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let mut user = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        assert!(may_read(&file, &user, &[]), "root may everything");
        // Nobody's ids: neither the owner's nor the group's of what a test makes.
        (user.uid, user.gid) = (Uid::from_raw(4_000_001), nix::unistd::Gid::from_raw(4_000_001));
        mode(&folder, 0o755);
        mode(&file, 0o644);
        assert!(may_read(&file, &user, &[]));
        mode(&file, 0o640);
        assert!(!may_read(&file, &user, &[]));
        let group = std::fs::metadata(&file).unwrap().gid();
        assert!(may_read(&file, &user, &[group]));
        mode(&file, 0o644);
        mode(&folder, 0o700);
        assert!(!may_read(&file, &user, &[]));
    }
}
