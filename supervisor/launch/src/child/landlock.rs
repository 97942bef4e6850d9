//! The Landlock domain of the new process. The structures and bits are those of `linux/landlock.h`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::path::{self, Kind};
use super::{Failure, check};
use crate::prepared::Domain;
use crate::{Access, Landlock, Step};

const CREATE_RULESET_VERSION: libc::c_uint = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// What an ABI version restricts at all: its rights are the lowest so many bits.
const FILE_RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];
const ABI_TCP: u32 = 4;
const ABI_SCOPES: u32 = 6;

const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT: u64 = 1;
const SCOPE_SIGNALS: u64 = 1 << 1;

const READ: u64 = READ_FILE | READ_DIR;
/// Without device files, and without symbolic links: nothing of ours makes them where it may write, and one is only good
/// for leading another reader astray.
const WRITE: u64 =
    WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | REFER | TRUNCATE;
/// The rights a rule for something other than a directory may hold.
const ON_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;

#[repr(C)]
struct RulesetAttributes {
    files: u64,
    tcp: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// The kernel's ABI version; 0 without Landlock, or when it is not enabled.
pub(crate) fn abi() -> u32 {
    let nothing: *const RulesetAttributes = std::ptr::null();
    // SAFETY: null and size 0 are what the version question takes.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(answer).unwrap_or(0)
}

pub(super) fn restrict(domain: &Domain) -> Result<(), Failure> {
    let abi = abi();
    let ruleset = attributes(&domain.asked, abi);
    // The kernel refuses an empty set, and only an old one, asked for TCP or scopes alone, comes to that.
    if abi != 0 && ruleset.files | ruleset.tcp | ruleset.scopes == 0 {
        return Ok(());
    }
    // An older kernel accepts the longer structure as long as what it does not know is zero.
    // SAFETY: `ruleset` is a live struct of the size given.
    let fd = check(Step::Landlock, unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<RulesetAttributes>(),
            0_u32,
        )
    })?;
    let fd = RawFd::try_from(fd).map_err(|_| Failure::new(Step::Landlock, Errno::BADF))?;
    // SAFETY: the call just made this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let rules = domain.asked.rules.iter().zip(&domain.paths).enumerate();
    for (n, ((_, access, exec), below)) in rules.filter(|_| domain.asked.files) {
        let place = match path::resolve(below) {
            // What is not there or cannot be reached needs no permission.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => continue,
            place => place.and_then(|place| Ok((path::kind(&place)?, place))),
        };
        let (kind, place) =
            place.map_err(|errno| Failure { subject: Some(n), ..Failure::new(Step::Landlock, errno) })?;
        let allowed = rights(*access, *exec, kind) & ruleset.files;
        let rule = PathBeneath { allowed, parent: place.as_raw_fd() };
        // SAFETY: `rule` is a live struct of the kernel's layout for this kind of rule.
        check(Step::Landlock, unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                fd.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0_u32,
            )
        })
        .map_err(|failure| Failure { subject: Some(n), ..failure })?;
    }
    // SAFETY: integers only.
    check(Step::Landlock, unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0_u32) })?;
    Ok(())
}

fn attributes(domain: &Landlock, abi: u32) -> RulesetAttributes {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let newest = FILE_RIGHTS[FILE_RIGHTS.len() - 1];
    let known = (abi as usize).checked_sub(1).map_or(0, |n| *FILE_RIGHTS.get(n).unwrap_or(&newest));
    RulesetAttributes {
        files: bit(domain.files, (1 << known) - 1),
        tcp: bit(abi >= ABI_TCP && !domain.bind_tcp, BIND_TCP)
            | bit(abi >= ABI_TCP && !domain.connect_tcp, CONNECT_TCP),
        scopes: bit(abi >= ABI_SCOPES && domain.scope_abstract, SCOPE_ABSTRACT)
            | bit(abi >= ABI_SCOPES && domain.scope_signals, SCOPE_SIGNALS),
    }
}

fn rights(access: Access, exec: bool, kind: Kind) -> u64 {
    let access = match access {
        Access::ReadOnly => READ,
        Access::ReadWrite => READ | WRITE,
    };
    let all = if exec { access | EXECUTE } else { access };
    match kind {
        Kind::Directory => all,
        Kind::File => all & ON_FILES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Landlock = Landlock {
        files: true,
        rules: Vec::new(),
        bind_tcp: false,
        connect_tcp: false,
        scope_signals: true,
        scope_abstract: true,
    };

    #[test]
    fn older_kernel_is_asked_only_for_what_it_knows() {
        for (abi, files, tcp, scopes) in [
            (0, 0, 0, 0),
            (1, 0x1fff, 0, 0),
            (2, 0x3fff, 0, 0),
            (3, 0x7fff, 0, 0),
            (4, 0x7fff, 3, 0),
            (5, 0xffff, 3, 0),
            (6, 0xffff, 3, 3),
            (9, 0xffff, 3, 3),
        ] {
            let asked = attributes(&ALL, abi);
            assert_eq!((asked.files, asked.tcp, asked.scopes), (files, tcp, scopes), "ABI {abi}");
        }
    }

    #[test]
    fn rule_for_a_file_holds_no_right_of_directories() {
        assert_eq!(rights(Access::ReadOnly, false, Kind::File), READ_FILE);
        assert_eq!(rights(Access::ReadWrite, true, Kind::File), ON_FILES);
        assert_eq!(rights(Access::ReadOnly, true, Kind::Directory), READ | EXECUTE);
    }

    #[test]
    fn writable_directory_takes_no_device_files_and_no_symbolic_links() {
        const MAKE_CHAR: u64 = 1 << 6;
        const MAKE_BLOCK: u64 = 1 << 11;
        const MAKE_SYM: u64 = 1 << 12;
        assert_eq!(rights(Access::ReadWrite, true, Kind::Directory) & (MAKE_CHAR | MAKE_BLOCK | MAKE_SYM), 0);
    }
}
