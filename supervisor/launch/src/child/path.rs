//! Walks along paths, one name at a time, so that no symbolic link is followed unseen. Nothing here allocates.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat_raw};
use rustix::io::{Errno, Result};

/// As the kernel's own bound (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// `PATH_MAX` and `NAME_MAX`, of `linux/limits.h`.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// Whom links are believed: a component cannot make one that root owns.
const ROOT: u32 = 0;

const SEARCH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What [`make`] ends in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Opens a path from the root, for its place only (`O_PATH`). A symbolic link that root does not own is `ELOOP`.
pub(super) fn resolve(path: &CStr) -> Result<OwnedFd> {
    let mut rest = Rest::new(path)?;
    let mut name = [0; NAME_MAX + 1];
    let mut here = root()?;
    let mut links = 0;
    while let Some(name) = rest.next(&mut name)? {
        let next = openat(&here, name, SEARCH, Mode::empty())?;
        let stat = fstat(&next)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            here = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS || stat.st_uid != ROOT {
            return Err(Errno::LOOP);
        }
        let mut target = [0; PATH_MAX];
        let len = readlinkat_raw(&next, c"", &mut target)?;
        rest.prepend(&target[..len])?;
        if target[0] == b'/' {
            here = root()?;
        }
    }
    Ok(here)
}

/// Opens a path below `root`, for its place only, and makes what is missing of it. A symbolic link anywhere is an error.
pub(super) fn make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd> {
    descend(root, path, |parent, name| {
        match kind {
            Kind::Directory => existing(mkdirat(parent, name, DIRECTORY_MODE))?,
            Kind::File => touch(parent, name)?,
        }
        let place = openat(parent, name, SEARCH, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&place)?.st_mode) {
            FileType::Symlink => Err(Errno::LOOP),
            _ => Ok(place),
        }
    })
}

/// Makes the directories on the way to `path` below `root`, and lets `finish` make the last name in the last of them.
pub(super) fn descend<T>(
    root: BorrowedFd<'_>,
    path: &CStr,
    finish: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T>,
) -> Result<T> {
    let mut rest = Rest::new(path)?;
    let mut name = [0; NAME_MAX + 1];
    let mut here: Option<OwnedFd> = None;
    while let Some(name) = rest.next(&mut name)? {
        let parent = here.as_ref().map_or(root, AsFd::as_fd);
        if rest.is_done() {
            return finish(parent, name);
        }
        existing(mkdirat(parent, name, DIRECTORY_MODE))?;
        // NOFOLLOW with DIRECTORY: a link is ENOTDIR.
        here = Some(openat(parent, name, SEARCH | OFlags::DIRECTORY, Mode::empty())?);
    }
    Err(Errno::INVAL)
}

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

fn touch(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    existing(openat(parent, name, flags, Mode::from_raw_mode(0o444)).map(drop))
}

fn existing(made: Result<()>) -> Result<()> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn root() -> Result<OwnedFd> {
    openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether it is a directory.
pub(super) fn kind(place: &OwnedFd) -> Result<Kind> {
    Ok(match FileType::from_raw_mode(rustix::fs::statat(place, c"", AtFlags::EMPTY_PATH)?.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    })
}

/// What is left of a path, at the end of its buffer: the target of a link goes before it.
struct Rest {
    bytes: [u8; PATH_MAX],
    start: usize,
}

impl Rest {
    fn new(path: &CStr) -> Result<Self> {
        let mut rest = Self { bytes: [0; PATH_MAX], start: PATH_MAX };
        rest.prepend(path.to_bytes())?;
        Ok(rest)
    }

    fn prepend(&mut self, path: &[u8]) -> Result<()> {
        let start = self.start.checked_sub(path.len() + 1).ok_or(Errno::NAMETOOLONG)?;
        let slash = start + path.len();
        self.bytes[start..slash].copy_from_slice(path);
        self.bytes[slash] = b'/';
        self.start = start;
        Ok(())
    }

    /// Takes the next name off, into `buffer`.
    fn next<'b>(&mut self, buffer: &'b mut [u8; NAME_MAX + 1]) -> Result<Option<&'b CStr>> {
        loop {
            let rest = &self.bytes[self.start..];
            let Some(begin) = rest.iter().position(|byte| *byte != b'/') else { return Ok(None) };
            let rest = &rest[begin..];
            let len = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let name = &rest[..len];
            self.start += begin + len;
            if name == b"." {
                continue;
            }
            if len > NAME_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            buffer[..len].copy_from_slice(name);
            buffer[len] = 0;
            return CStr::from_bytes_with_nul(&buffer[..=len]).map(Some).map_err(|_| Errno::INVAL);
        }
    }

    fn is_done(&self) -> bool {
        self.bytes[self.start..].iter().all(|byte| *byte == b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut rest: Rest) -> Vec<String> {
        let mut buffer = [0; NAME_MAX + 1];
        let mut names = Vec::new();
        while let Some(name) = rest.next(&mut buffer).expect("short names") {
            names.push(name.to_str().expect("text").to_owned());
        }
        names
    }

    #[test]
    fn path_is_taken_apart_name_by_name() {
        assert_eq!(names(Rest::new(c"//usr/./lib///x.so/").expect("short")), ["usr", "lib", "x.so"]);
        assert!(names(Rest::new(c"/").expect("short")).is_empty());
    }

    #[test]
    fn target_of_a_link_goes_before_the_rest() {
        let mut rest = Rest::new(c"/etc/a/b").expect("short");
        let mut buffer = [0; NAME_MAX + 1];
        rest.next(&mut buffer).expect("etc");
        rest.next(&mut buffer).expect("a");
        rest.prepend(b"../run").expect("short");
        assert_eq!(names(rest), ["..", "run", "b"]);
    }

    #[test]
    fn path_or_name_beyond_the_kernels_bounds_is_refused() {
        let name = std::ffi::CString::new(format!("/{}", "x".repeat(256))).expect("text");
        let mut rest = Rest::new(&name).expect("short path");
        assert_eq!(rest.next(&mut [0; NAME_MAX + 1]).err(), Some(Errno::NAMETOOLONG));
        let path = std::ffi::CString::new("/x".repeat(2048)).expect("text");
        assert_eq!(Rest::new(&path).err(), Some(Errno::NAMETOOLONG));
    }

    #[test]
    fn link_is_followed_only_where_root_owns_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path =
            |name: &str| std::ffi::CString::new(format!("{}/{name}", dir.path().display())).expect("text");
        std::fs::write(dir.path().join("file"), "x").expect("write");
        std::os::unix::fs::symlink("file", dir.path().join("link")).expect("link");
        assert!(resolve(&path("file")).is_ok());
        let by_root = rustix::process::geteuid().is_root();
        assert_eq!(resolve(&path("link")).is_ok(), by_root);
        if by_root {
            std::os::unix::fs::lchown(dir.path().join("link"), Some(65_533), None).expect("chown");
            assert_eq!(resolve(&path("link")).err(), Some(Errno::LOOP));
        }
        assert_eq!(resolve(&path("none")).err(), Some(Errno::NOENT));
    }
}
