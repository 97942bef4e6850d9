//! The directories the supervisor makes and keeps right. Nothing here follows a symbolic link in the last component:
//! what a component planted in a directory of its own must not lead root elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, RawMode, Uid};
use rustix::io::Errno;
use thiserror::Error;

/// Why a directory cannot be used.
#[derive(Debug, Error)]
pub enum DirError {
    /// A system call failed.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is a symbolic link or a file.
    #[error("{} is no directory (a symbolic link is not followed here): move it away", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else's, and not empty.
    #[error(
        "{} belongs to uid {found}, not {expected}: move it away, or `chown -R {expected} {}` if its content is right",
        path.display(), path.display()
    )]
    Owner {
        /// The path.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it must be.
        expected: u32,
    },
}

/// Makes `path`, whose parent exists, or checks the one that is there: owner must agree, the mode is set right.
///
/// An empty directory of ours is handed over: an earlier start ended between making it and giving it away.
pub fn ensure(path: &Path, mode: RawMode, uid: u32, gid: u32) -> Result<(), DirError> {
    let io = |what| move |errno: Errno| DirError::Io { what, path: path.to_owned(), source: errno.into() };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(io("make directory")(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(DirError::NotADirectory { path: path.to_owned() }),
        Err(errno) => return Err(io("open directory")(errno)),
    };
    let found = rustix::fs::fstat(&dir).map_err(io("look at"))?;
    let ours = rustix::process::geteuid().as_raw();
    if found.st_uid != uid && !(found.st_uid == ours && is_empty(&dir).map_err(io("list"))?) {
        return Err(DirError::Owner { path: path.to_owned(), found: found.st_uid, expected: uid });
    }
    if (found.st_uid, found.st_gid) != (uid, gid) {
        rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(io("change the owner of"))?;
    }
    if found.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(io("change the mode of"))?;
    }
    Ok(())
}

/// Makes a root directory of the supervisor's own, with its parents.
pub fn ensure_root(path: &Path, mode: RawMode) -> Result<(), DirError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| DirError::Io {
            what: "make directory",
            path: parent.to_owned(),
            source,
        })?;
    }
    ensure(path, mode, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The first symbolic link on the way to `path` that belongs neither to root nor to us, with its owner.
pub fn foreign_link(path: &Path) -> Option<(PathBuf, u32)> {
    let ours = rustix::process::geteuid().as_raw();
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find_map(|step| {
        let meta = std::fs::symlink_metadata(step).ok()?;
        let owner = std::os::unix::fs::MetadataExt::uid(&meta);
        (meta.is_symlink() && owner != 0 && owner != ours).then(|| (step.to_owned(), owner))
    })
}

fn is_empty(dir: impl std::os::fd::AsFd) -> Result<bool, Errno> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let dots =
            matches!(entry.file_name().to_bytes(), b"." | b"..") && entry.file_type() == FileType::Directory;
        if !dots {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::accounts::{own_gid, own_uid};

    fn ensure_own(path: &Path) -> Result<(), DirError> {
        ensure(path, 0o700, own_uid(), own_gid())
    }

    #[test]
    fn directory_is_made_with_its_mode_whatever_the_umask() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("x");
        ensure(&path, 0o755, own_uid(), own_gid()).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o755);
    }

    #[test]
    fn wrong_mode_is_mended() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("x");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("content"), "").expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("chmod");
        ensure_own(&path).expect("mended");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o700);
        assert!(path.join("content").exists());
    }

    #[test]
    fn symbolic_link_is_refused_and_its_target_left_alone() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (target, link) = (temp.path().join("target"), temp.path().join("link"));
        fs::create_dir(&target).expect("made");
        fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).expect("chmod");
        symlink(&target, &link).expect("link");
        assert!(matches!(ensure_own(&link), Err(DirError::NotADirectory { .. })));
        assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o755);
    }

    #[test]
    fn file_in_its_place_is_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("x");
        fs::write(&path, "").expect("written");
        assert!(matches!(ensure_own(&path), Err(DirError::NotADirectory { .. })));
    }

    #[test]
    fn directory_of_somebody_else_is_refused_with_both_uids() {
        let temp = tempfile::tempdir().expect("tempdir");
        fs::write(temp.path().join("content"), "").expect("written");
        let other = own_uid() + 1;
        let error = ensure(temp.path(), 0o700, other, own_gid()).expect_err("not ours");
        assert!(
            matches!(error, DirError::Owner { found, expected, .. } if found == own_uid() && expected == other)
        );
    }

    #[test]
    fn link_of_somebody_else_on_the_way_is_found() {
        if own_uid() != 0 {
            eprintln!("not run: needs root");
            return;
        }
        let temp = tempfile::tempdir().expect("tempdir");
        let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
        symlink("/etc", &ours).expect("link");
        symlink("/etc", &theirs).expect("link");
        std::os::unix::fs::lchown(&theirs, Some(65_533), None).expect("given away");
        assert_eq!(foreign_link(&ours.join("ssl")), None);
        assert_eq!(foreign_link(&theirs.join("ssl")), Some((theirs, 65_533)));
    }

    #[test]
    fn empty_directory_of_ours_is_handed_over() {
        if own_uid() != 0 {
            eprintln!("not run: needs root");
            return;
        }
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("x");
        fs::create_dir(&path).expect("made");
        ensure(&path, 0o700, 65_533, 65_532).expect("handed over");
        let now = fs::metadata(&path).expect("there");
        assert_eq!((now.uid(), now.gid()), (65_533, 65_532));
    }
}
