//! A [`View`] checked and laid out for the child, before the fork.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::mount::MountAttrFlags;

use crate::prepared::{invalid, path};
use crate::{Access, Mount, Root, View};

/// What no mount of a view ever has: set-user-id programs, device files.
const ALWAYS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Memory an inode of a tmpfs may take up beside its pages: one inode per page, so that a tmpfs bounds both.
const BYTES_PER_INODE: u64 = 4096;

pub(crate) struct Plan {
    pub(crate) root: PlannedRoot,
    pub(crate) pieces: Vec<Piece>,
}

pub(crate) enum PlannedRoot {
    Private { staging: CString },
    Host { shared: Vec<Shared> },
}

pub(crate) struct Shared {
    pub(crate) path: CString,
    /// The clone, between its making and its mounting in the child.
    pub(crate) clone: Option<OwnedFd>,
}

pub(crate) enum Piece {
    Directory { path: CString, mode: u32 },
    File { path: CString },
    Symlink { target: CString, path: CString },
    Bind { source: CString, path: CString, attributes: MountAttrFlags, optional: bool },
    Tmpfs { path: CString, size: CString, inodes: CString, mode: CString },
    Mask { path: CString },
}

impl Plan {
    pub(crate) fn new(view: &View) -> io::Result<Self> {
        for mount in &view.mounts {
            check_path(mount.path())?;
            if let Root::Host { shared } = &view.root {
                check_host_mount(mount, shared.iter().map(AsRef::as_ref))?;
            }
        }
        Ok(Self {
            root: match &view.root {
                Root::Private { staging } => {
                    check_path(staging)?;
                    PlannedRoot::Private { staging: path(staging)? }
                }
                Root::Host { shared } => PlannedRoot::Host {
                    shared: shared
                        .iter()
                        .map(|place| {
                            check_path(place)?;
                            Ok(Shared { path: path(place)?, clone: None })
                        })
                        .collect::<io::Result<_>>()?,
                },
            },
            pieces: view.mounts.iter().map(Piece::new).collect::<io::Result<_>>()?,
        })
    }
}

impl Piece {
    fn new(mount: &Mount) -> io::Result<Self> {
        Ok(match mount {
            Mount::Directory { path: at, mode } => Self::Directory { path: path(at)?, mode: *mode },
            Mount::File { path: at } => Self::File { path: path(at)? },
            Mount::Symlink { target, path: at } => Self::Symlink { target: path(target)?, path: path(at)? },
            Mount::Bind { source, path: at, access, exec, optional } => {
                check_path(source)?;
                let mut attributes = ALWAYS;
                attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *access == Access::ReadOnly);
                attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !exec);
                Self::Bind { source: path(source)?, path: path(at)?, attributes, optional: *optional }
            }
            // Writing to a device does not need a writable mount; changing the file itself would.
            Mount::Device { path: at } => Self::Bind {
                source: path(at)?,
                path: path(at)?,
                attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC,
                optional: true,
            },
            Mount::Tmpfs { path: at, bytes, mode } => Self::Tmpfs {
                path: path(at)?,
                size: CString::new(bytes.to_string())?,
                // Its root directory is one.
                inodes: CString::new((bytes / BYTES_PER_INODE + 1).to_string())?,
                mode: CString::new(format!("{mode:o}"))?,
            },
            Mount::Mask { path: at } => Self::Mask { path: path(at)? },
        })
    }
}

/// Absolute, below the root, and without a way up.
fn check_path(path: &Path) -> io::Result<()> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let mut parts = parts.peekable();
    if absolute && parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_))) {
        Ok(())
    } else {
        Err(invalid(format!("{} is not an absolute path below / without ..", path.display())))
    }
}

/// In the host's root, nothing may be made that the host would see.
fn check_host_mount<'a>(mount: &Mount, mut shared: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let path = mount.path();
    if matches!(mount, Mount::Directory { .. } | Mount::File { .. } | Mount::Symlink { .. }) {
        return Err(invalid(format!("{} would be made on the host", path.display())));
    }
    match shared.find(|place| path.starts_with(place)) {
        Some(place) => Err(invalid(format!(
            "a mount at {} would appear on the host: it is below {}, which is shared",
            path.display(),
            place.display()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn refusal(root: Root, mount: Mount) -> String {
        match Plan::new(&View { root, mounts: vec![mount] }) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        }
    }

    fn private() -> Root {
        Root::Private { staging: "/run/staging".into() }
    }

    #[test]
    fn path_that_leads_up_or_is_relative_is_refused() {
        for path in ["/a/../../etc", "etc", "/", ""] {
            let error = refusal(private(), Mount::Mask { path: path.into() });
            assert!(error.contains("is not an absolute path"), "{path}: {error}");
            let source = Mount::Bind {
                source: path.into(),
                path: "/a".into(),
                access: Access::ReadOnly,
                exec: false,
                optional: true,
            };
            assert!(refusal(private(), source).contains("is not an absolute path"), "{path}");
        }
    }

    #[test]
    fn mount_below_a_shared_place_is_refused() {
        let root = Root::Host { shared: vec![PathBuf::from("/var/lib/kubelet")] };
        let error = refusal(root.clone(), Mount::Mask { path: "/var/lib/kubelet/pods".into() });
        assert!(error.contains("below /var/lib/kubelet, which is shared"), "{error}");
        assert!(
            Plan::new(&View { root, mounts: vec![Mount::Mask { path: "/var/lib/kubelet2".into() }] }).is_ok()
        );
    }

    #[test]
    fn nothing_is_made_in_the_hosts_root() {
        let root = Root::Host { shared: Vec::new() };
        assert!(refusal(root, Mount::File { path: "/etc/x".into() }).contains("would be made on the host"));
    }
}
