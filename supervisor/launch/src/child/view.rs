//! The mounts of the new process, in its own mount namespace.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, StatVfsMountFlags, chmodat, fstatvfs, mkdirat, symlinkat};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::path::{self, Kind};
use super::{Failure, write_decimal};
use crate::Step;
use crate::view::{Piece, Plan, PlannedRoot, Shared};

/// The root of a private view holds directories, links and mount points only.
const ROOT_BYTES: &CStr = c"65536";
const ROOT_INODES: &CStr = c"4096";
/// What hides a directory: one page, one inode, no permission.
const MASK_BYTES: &CStr = c"4096";
const MASK_INODES: &CStr = c"1";

/// All that is not a program or a device: the same as mount attributes and as flags.
const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

pub(super) fn apply(plan: &mut Plan) -> std::result::Result<(), Failure> {
    match &mut plan.root {
        PlannedRoot::Private { staging } => {
            let root = at(begin_private(staging), None)?;
            pieces(&plan.pieces, Some(root.as_fd()))?;
            at(finish_private(&root), None)
        }
        PlannedRoot::Host { shared } => {
            let after = plan.pieces.len();
            for (n, place) in shared.iter_mut().enumerate() {
                at(clone_shared(place), Some(after + n))?;
            }
            at(cut_from_host(), None)?;
            pieces(&plan.pieces, None)?;
            for (n, place) in shared.iter_mut().enumerate() {
                at(attach_shared(place), Some(after + n))?;
            }
            Ok(())
        }
    }
}

fn at<T>(result: Result<T>, subject: Option<usize>) -> std::result::Result<T, Failure> {
    result.map_err(|errno| Failure { subject, ..Failure::new(Step::View, errno) })
}

/// What the host mounts is still seen, and nothing is seen there of what is mounted here.
fn cut_from_host() -> Result<()> {
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Cuts the ties of the namespace's mounts to the host's, and mounts an empty root.
fn begin_private(staging: &CStr) -> Result<OwnedFd> {
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let place = path::resolve(staging)?;
    let root = tmpfs(ROOT_BYTES, ROOT_INODES, c"755", INERT)?;
    attach(&root, &place)?;
    Ok(root)
}

/// Makes it the root, drops the host's, and makes it read-only.
fn finish_private(root: &OwnedFd) -> Result<()> {
    fchdir(root)?;
    match pivot_root(c".", c".") {
        // The old root ends up on top of the new one, where the call finds it: no directory for it is needed.
        Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
        // The initial RAM disk cannot be unmounted. It stays below the new root, where no path leads.
        Err(Errno::INVAL) => {
            move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            chroot(c".")?;
        }
        Err(errno) => return Err(errno),
    }
    chdir(c"/")?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(c"/", flags, c"")
}

/// Before the namespace is cut off: the clone is a peer of the host's mount, and stays one.
fn clone_shared(place: &mut Shared) -> Result<()> {
    let source = path::resolve(&place.path)?;
    let flags = clone_flags() | OpenTreeFlags::AT_RECURSIVE;
    place.clone = Some(open_tree(&source, c"", flags)?);
    Ok(())
}

fn attach_shared(place: &mut Shared) -> Result<()> {
    let target = path::resolve(&place.path)?;
    place.clone.take().map_or(Ok(()), |clone| attach(&clone, &target))
}

/// `root` is that of a private view; without one, the pieces go on places of the host's that exist.
fn pieces(pieces: &[Piece], root: Option<BorrowedFd<'_>>) -> std::result::Result<(), Failure> {
    let recursive = can_set_attributes();
    for (n, piece) in pieces.iter().enumerate() {
        at(apply_piece(piece, root, recursive), Some(n))?;
    }
    Ok(())
}

fn apply_piece(piece: &Piece, root: Option<BorrowedFd<'_>>, recursive: bool) -> Result<()> {
    let place = |path: &CStr, kind| match root {
        Some(root) => path::make(root, path, kind),
        None => path::resolve(path),
    };
    match piece {
        Piece::Directory { path, mode } => in_private(root, path, |parent, name| {
            let mode = Mode::from_raw_mode(*mode);
            mkdirat(parent, name, mode)?;
            // The umask took its part.
            chmodat(parent, name, mode, AtFlags::empty())
        }),
        Piece::File { path } => place(path, Kind::File).map(drop),
        Piece::Symlink { target, path } => {
            in_private(root, path, |parent, name| symlinkat(target.as_c_str(), parent, name))
        }
        Piece::Bind { source, path, attributes, optional } => {
            let source = match path::resolve(source) {
                Err(Errno::NOENT | Errno::NOTDIR) if *optional => return Ok(()),
                source => source?,
            };
            let target = place(path, path::kind(&source)?)?;
            bind(&source, &target, *attributes, recursive)
        }
        Piece::Tmpfs { path, size, inodes, mode } => {
            let target = place(path, Kind::Directory)?;
            attach(&tmpfs(size, inodes, mode, INERT)?, &target)
        }
        Piece::Mask { path } => {
            let target = match root {
                // Nothing is in a private root that was not put there.
                Some(_) => place(path, Kind::Directory)?,
                None => match path::resolve(path) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    target => target?,
                },
            };
            let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
            match path::kind(&target)? {
                Kind::Directory => attach(&tmpfs(MASK_BYTES, MASK_INODES, c"0", attributes)?, &target),
                // A device file on a mount without device files: nobody can open it.
                Kind::File => bind(&path::resolve(c"/dev/null")?, &target, attributes, recursive),
            }
        }
    }
}

fn in_private(
    root: Option<BorrowedFd<'_>>,
    path: &CStr,
    finish: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<()>,
) -> Result<()> {
    // Without a private root it would be made on the host; the plan was checked for that.
    path::descend(root.ok_or(Errno::INVAL)?, path, finish)
}

/// Restricted before it is attached, so that no moment sees it otherwise; after, where the kernel knows only that way.
fn bind(source: &OwnedFd, target: &OwnedFd, attributes: MountAttrFlags, recursive: bool) -> Result<()> {
    if recursive {
        let tree = open_tree(source, c"", clone_flags() | OpenTreeFlags::AT_RECURSIVE)?;
        set_attributes(&tree, attributes)?;
        return attach(&tree, target);
    }
    let tree = open_tree(source, c"", clone_flags())?;
    attach(&tree, target)?;
    remount(&tree, attributes)
}

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

fn tmpfs(size: &CStr, inodes: &CStr, mode: &CStr, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [(c"size", size), (c"nr_inodes", inodes), (c"mode", mode)] {
        fsconfig_set_string(&fs, key, value)?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// `struct mount_attr`, in its first version.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn set_attributes(tree: &OwnedFd, attributes: MountAttrFlags) -> Result<()> {
    let wanted =
        MountAttributes { set: attributes.bits().into(), clear: 0, propagation: 0, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is NUL-terminated, and `wanted` is a live struct of the size given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<MountAttributes>(),
        )
    };
    if answer < 0 { Err(super::errno()) } else { Ok(()) }
}

/// Whether the kernel has mount_setattr(2): it looks at the size first, before the rights, and refuses none.
pub(crate) fn can_set_attributes() -> bool {
    let nothing: *const MountAttributes = std::ptr::null();
    // SAFETY: with size 0, the pointer is not looked at.
    let answer =
        unsafe { libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, c"".as_ptr(), 0, nothing, 0_usize) };
    answer < 0 && super::errno() == Errno::INVAL
}

/// The same by mount(2), for one mount. What restricts the source already stays: a remount sets all of the flags.
fn remount(tree: &OwnedFd, attributes: MountAttrFlags) -> Result<()> {
    const SELF_FD: &[u8] = b"/proc/self/fd/";
    let mut path = [0; SELF_FD.len() + super::PID_DIGITS + 1];
    path[..SELF_FD.len()].copy_from_slice(SELF_FD);
    write_decimal(&mut path[SELF_FD.len()..], tree.as_raw_fd().unsigned_abs());
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::INVAL)?;
    let present = fstatvfs(tree)?.f_flag;
    let mut flags = MountFlags::BIND;
    for (attribute, present_flag, flag) in [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        flags.set(flag, attributes.contains(attribute) || present.contains(present_flag));
    }
    mount_remount(path, flags, c"")
}

/// Tries, in a namespace that is thrown away, whether `/` may be replaced.
pub(crate) fn try_host_root() -> Result<()> {
    cut_from_host()
}

pub(crate) fn try_private_root() -> Result<()> {
    // Any directory will do; nothing is left of it.
    finish_private(&begin_private(c"/dev")?)
}
