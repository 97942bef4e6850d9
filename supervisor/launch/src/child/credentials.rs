//! Who the new process is, and what is left of the rights it was born with.

use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Failure, check, prctl};
use crate::Step;
use crate::capabilities::SETPCAP;
use crate::prepared::{Prepared, User};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `linux/securebits.h`: user id 0 means nothing to exec (bit 0), a change of user changes no capability (2), none can be
/// kept over one by request (4, off), none can be made ambient (6); each with its lock, the bit above.
const SECURE_BITS: libc::c_ulong = 0b1110_1111;

/// By the calls for one thread: libc's versions first stop every thread of the process, by records that do not describe
/// this child.
pub(super) fn become_user(user: &User) -> Result<(), Failure> {
    // Without this, the change of user would drop the granted capabilities too.
    prctl(Step::Uid, libc::PR_SET_KEEPCAPS, 1, 0)?;
    let at = |step| move |errno| Failure::new(step, errno);
    set_thread_groups(&user.groups).map_err(at(Step::Groups))?;
    set_thread_res_gid(user.gid, user.gid, user.gid).map_err(at(Step::Gid))?;
    set_thread_res_uid(user.uid, user.uid, user.uid).map_err(at(Step::Uid))?;
    prctl(Step::Uid, libc::PR_SET_KEEPCAPS, 0, 0)
}

/// An empty session keyring: whatever the supervisor's holds is not inherited, and the user's own is not linked to it.
pub(crate) fn keyring() -> Result<(), Failure> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let unnamed: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name is allowed, and asks for a new keyring without one.
    check(Step::Keyring, unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, unnamed) })?;
    Ok(())
}

/// Drops what is not granted from the bounding set, so that no exec brings it back. Capabilities the set lacks already
/// are left alone: a container may run us without them, and without the right to drop them.
pub(super) fn bounding_set(plan: &Prepared) -> Result<(), Failure> {
    // The change of user emptied the effective set; dropping needs CAP_SETPCAP in it.
    let permitted = permitted(Step::Bounding)?;
    capset(Step::Bounding, permitted, permitted, [0, 0])?;
    for capability in 0..64_usize {
        // SAFETY: prctl with integers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) } {
            1 if !plan.capabilities.has(capability) => {
                prctl(Step::Bounding, libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0)?;
            }
            0 | 1 => {}
            // Past the last capability of this kernel.
            _ => break,
        }
    }
    Ok(())
}

/// Permitted, effective and inheritable become the granted set; ambient too, so that it survives the exec of a plain
/// program file by a user that is not root. In between, while there is still the right to, the secure bits are set.
pub(super) fn capabilities(plan: &Prepared) -> Result<(), Failure> {
    prctl(Step::Capabilities, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)?;
    let granted = plan.capabilities.words();
    let permitted = permitted(Step::Capabilities)?;
    capset(Step::Capabilities, permitted, permitted, granted)?;
    for capability in (0..64_usize).filter(|capability| plan.capabilities.has(*capability)) {
        prctl(
            Step::Capabilities,
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            capability as libc::c_ulong,
        )?;
    }
    // A supervisor without CAP_SETPCAP cannot lock anything, and has a small bounding set from whoever started it.
    if plan.user.is_some() && permitted[0] & (1 << SETPCAP) != 0 {
        prctl(Step::SecureBits, libc::PR_SET_SECUREBITS, SECURE_BITS, 0)?;
    }
    capset(Step::Capabilities, granted, granted, granted)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn permitted(step: Step) -> Result<[u32; 2], Failure> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityWord { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes exactly two words; both pointers are to live locals of the kernel's layout.
    check(step, unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok([data[0].permitted, data[1].permitted])
}

fn capset(
    step: Step,
    effective: [u32; 2],
    permitted: [u32; 2],
    inheritable: [u32; 2],
) -> Result<(), Failure> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |n: usize| CapabilityWord {
        effective: effective[n],
        permitted: permitted[n],
        inheritable: inheritable[n],
    };
    let data = [word(0), word(1)];
    // SAFETY: version 3 reads exactly two words; both pointers are to live locals of the kernel's layout.
    check(step, unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}
