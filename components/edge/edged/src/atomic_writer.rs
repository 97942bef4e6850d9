//! Writes a volume's files so that a reader sees all old or all new, never a mixture
//! (the layout of `pkg/volume/util/atomic_writer.go`, which applications watch for):
//!
//! ```text
//! <volume>/..2026_11_21_04_05_06.123456789/key    the files
//! <volume>/..data  -> ..2026_11_21_04_05_06.123456789
//! <volume>/key     -> ..data/key
//! ```
//!
//! Renaming a new link over `..data` is the one step a reader can notice.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use jiff::Timestamp;

use crate::payload::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`. Says whether anything changed. Files get group `fs_group` and group rights
/// where one is given, as the kubelet's `SetVolumeOwnership` does for these volumes.
pub(crate) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<bool> {
    if current(dir, payload) {
        return Ok(false);
    }
    let version = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let fresh = dir.join(&version);
    DirBuilder::new().mode(0o755).create(&fresh)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, fs_group)?;
    }
    if let Some(group) = fs_group {
        chown(&fresh, None, Some(group))?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    let temporary = dir.join(NEW_DATA);
    remove_if_there(&temporary)?;
    symlink(&version, &temporary)?;
    fs::rename(&temporary, dir.join(DATA))?;

    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    if let Some(old) = old.filter(|old| old.as_os_str() != version.as_str()) {
        let stale = dir.join(old);
        if stale.parent() == Some(dir) {
            fs::remove_dir_all(stale)?;
        }
    }
    Ok(true)
}

/// Whether `..data` already holds exactly these files.
fn current(dir: &Path, payload: &Payload) -> bool {
    let data = dir.join(DATA);
    let same = |(path, file): (&String, &File)| {
        let path = data.join(path);
        fs::read(&path).is_ok_and(|found| found == file.data)
            && fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o7000 == 0)
    };
    data.is_dir() && payload.iter().all(same) && count(&data).is_ok_and(|files| files == payload.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn write_file(version: &Path, path: &str, file: &File, fs_group: Option<u32>) -> io::Result<()> {
    let target = version.join(path);
    if let Some(parent) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
    handle.write_all(&file.data)?;
    // A group may read what its owner may: otherwise fsGroup would be of no use with mode 0400.
    let mode = if fs_group.is_some() { file.mode | ((file.mode & 0o700) >> 3) } else { file.mode };
    handle.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(group) = fs_group {
        chown(&target, None, Some(group))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644 }))
            .collect()
    }

    #[test]
    fn files_appear_change_and_go_together() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("first write"));
        assert_eq!((at("a"), at("sub/b")), (Some("1".into()), Some("2".into())));

        assert!(!write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("nothing to do"));

        assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).expect("second write"));
        assert_eq!((at("a"), at("c"), at("sub/b")), (Some("3".into()), Some("4".into()), None));
        let versions = fs::read_dir(dir.path())
            .expect("readable")
            .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("..2")))
            .count();
        assert_eq!(versions, 1, "the old version is gone");
    }

    #[test]
    fn a_write_cut_short_is_finished_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir(dir.path().join("..2020_half")).expect("half-written version");
        symlink("..2020_half", dir.path().join(NEW_DATA)).expect("link left behind");
        assert!(write(dir.path(), &payload(&[("a", "1")]), None).expect("write"));
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a"), "1");
    }
}
