//! What a system call filter answers, found by running it: the programs themselves are asked, not the text they were
//! compiled from.

use std::collections::HashSet;
use std::str::FromStr;

use launch::{Filter, Instruction};

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    number: u32,
    architecture: u32,
    /// `None`: any value.
    arguments: [Option<u64>; 6],
}

/// `AUDIT_ARCH_*` of the architecture this is compiled for, and one whose calls the same kernel may take, too (its 32-bit
/// sibling). Filters are only made for architectures that are here.
const ARCHITECTURES: (u32, u32) = if cfg!(target_arch = "x86_64") {
    (0xc000_003e, 0x4000_0003)
} else if cfg!(target_arch = "aarch64") {
    (0xc000_00b7, 0x4000_0028)
} else if cfg!(target_arch = "riscv64") {
    (0xc000_00f3, 0x4000_00f3)
} else {
    (0, 0)
};

/// Above the number of every call that Linux has.
const LARGEST_NUMBER: usize = 1024;

/// The bit that marks a call of the x32 ABI, which has the architecture of x86_64.
const X32: u32 = 0x4000_0000;

impl Call {
    /// The call of that name, with any arguments; `None` where this architecture has none.
    pub fn named(name: &str) -> Option<Self> {
        let number = u32::try_from(syscalls::Sysno::from_str(name).ok()?.id()).ok()?;
        Some(Self { number, architecture: ARCHITECTURES.0, arguments: [None; 6] })
    }

    /// The same with argument `index`, from 0, of that value.
    #[must_use]
    pub fn with(mut self, index: usize, value: u64) -> Self {
        self.arguments[index] = Some(value);
        self
    }

    /// The same number in each foreign ABI the kernel may offer.
    fn foreign(self) -> impl Iterator<Item = Self> {
        let sibling = Self { architecture: ARCHITECTURES.1, ..self };
        let x32 = cfg!(target_arch = "x86_64").then_some(Self { number: self.number | X32, ..self });
        [sibling].into_iter().chain(x32)
    }

    /// What a program loads from `struct seccomp_data` at this offset, on a little-endian machine; `None`: unknown.
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            0 => Some(self.number),
            4 => Some(self.architecture),
            16..64 => {
                let argument = self.arguments[(offset as usize - 16) / 8]?;
                let half = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
                // The lower half is meant.
                Some((half & 0xffff_ffff) as u32)
            }
            // The instruction pointer.
            _ => None,
        }
    }
}

/// Whether every one of `filters` lets the call through, for some value of the arguments left open. Where a program
/// does what this reading does not follow, the answer is yes: exposure is never understated.
pub fn passes(filters: &[Filter], call: Call) -> bool {
    filters.iter().all(|filter| allows(&filter.program, call))
}

/// Whether a call of that name passes with some arguments. No such call on this architecture: no.
pub fn passes_named(filters: &[Filter], name: &str) -> bool {
    Call::named(name).is_some_and(|call| passes(filters, call))
}

/// How many of this architecture's calls pass, with some arguments.
pub fn count_passing(filters: &[Filter]) -> usize {
    (0..LARGEST_NUMBER)
        .filter_map(syscalls::Sysno::new)
        .filter(|call| passes_named(filters, call.name()))
        .count()
}

/// Whether calls of another architecture than ours pass. A few numbers stand for all: those that mean a harmless call
/// in one table and a dangerous one in the other.
pub fn passes_foreign(filters: &[Filter]) -> bool {
    ["read", "close", "openat", "mmap", "execve", "exit_group"]
        .into_iter()
        .filter_map(Call::named)
        .flat_map(Call::foreign)
        .any(|call| passes(filters, call))
}

/// `SECCOMP_RET_ALLOW` and `SECCOMP_RET_LOG`.
const PASSING: [u32; 2] = [0x7fff_0000, 0x7ffc_0000];
/// The action in a return value, without its data (`SECCOMP_RET_ACTION_FULL`).
const ACTION: u32 = 0xffff_0000;

/// Follows the program with the accumulator known or not; both ways where that leaves a jump open. Jumps only go forward,
/// so with no place of such a jump taken twice it ends.
fn allows(program: &[Instruction], call: Call) -> bool {
    let mut open = vec![0_usize];
    let mut seen = HashSet::new();
    let mut accumulator = Some(0_u32);
    while let Some(mut at) = open.pop() {
        loop {
            let Some(Instruction { code, jt, jf, k }) = program.get(at).copied() else { return true };
            at += 1;
            match (code, accumulator) {
                // LD: a word of the call, or a constant.
                (0x20, _) => accumulator = call.word(k),
                (0x00, _) => accumulator = Some(k),
                // ALU with a constant.
                (0x54, _) => accumulator = if k == 0 { Some(0) } else { accumulator.map(|a| a & k) },
                (0x44, _) => accumulator = accumulator.map(|a| a | k),
                (0xa4, _) => accumulator = accumulator.map(|a| a ^ k),
                (0x04, _) => accumulator = accumulator.map(|a| a.wrapping_add(k)),
                (0x14, _) => accumulator = accumulator.map(|a| a.wrapping_sub(k)),
                // JMP: always, or on a comparison with a constant.
                (0x05, _) => at = at.saturating_add(k as usize),
                (0x15 | 0x25 | 0x35 | 0x45, Some(a)) => {
                    let holds = match code {
                        0x15 => a == k,
                        0x25 => a > k,
                        0x35 => a >= k,
                        _ => a & k != 0,
                    };
                    at += usize::from(if holds { jt } else { jf });
                }
                (0x15 | 0x25 | 0x35 | 0x45, None) => {
                    if !seen.insert(at) {
                        break;
                    }
                    // Taken up again with the accumulator unknown, as it is here.
                    open.push(at + usize::from(jf));
                    at += usize::from(jt);
                }
                // RET of a constant.
                (0x06, _) if PASSING.contains(&(k & ACTION)) => return true,
                (0x06, _) => break,
                _ => return true,
            }
        }
        accumulator = None;
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const ENOSYS: u32 = 0x0005_0026;

    fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// Lets exactly these calls of our architecture through.
    pub(crate) fn allowing(names: &[&str]) -> Filter {
        let mut program = vec![
            instruction(0x20, 0, 0, 4),
            instruction(0x15, 1, 0, ARCHITECTURES.0),
            instruction(0x06, 0, 0, 0x8000_0000),
            instruction(0x20, 0, 0, 0),
        ];
        for name in names {
            let number = Call::named(name).expect("a call").number;
            program.extend([instruction(0x15, 0, 1, number), instruction(0x06, 0, 0, ALLOW)]);
        }
        program.push(instruction(0x06, 0, 0, ENOSYS));
        Filter { program }
    }

    /// `socket` only with this domain, and `clone` only without these flags.
    fn conditional(domain: u32, flags: u32) -> Filter {
        let (socket, clone) = (Call::named("socket").expect("socket"), Call::named("clone").expect("clone"));
        Filter {
            program: vec![
                instruction(0x20, 0, 0, 0),
                instruction(0x15, 0, 4, socket.number),
                instruction(0x20, 0, 0, 16),
                instruction(0x15, 0, 1, domain),
                instruction(0x06, 0, 0, ALLOW),
                instruction(0x06, 0, 0, ENOSYS),
                instruction(0x15, 0, 4, clone.number),
                instruction(0x20, 0, 0, 16),
                instruction(0x54, 0, 0, flags),
                instruction(0x15, 0, 1, 0),
                instruction(0x06, 0, 0, ALLOW),
                instruction(0x06, 0, 0, ENOSYS),
            ],
        }
    }

    #[test]
    fn call_in_the_list_passes_and_another_does_not() {
        let filters = [allowing(&["read", "openat"])];
        assert!(passes_named(&filters, "read") && passes_named(&filters, "openat"));
        assert!(!passes_named(&filters, "mount"));
        assert!(!passes_named(&filters, "no_such_call"));
    }

    #[test]
    fn strictest_of_several_filters_counts() {
        let filters = [allowing(&["read", "write"]), allowing(&["read"])];
        assert!(passes_named(&filters, "read") && !passes_named(&filters, "write"));
        assert!(passes_named(&[], "mount"), "without a filter everything passes");
    }

    #[test]
    fn condition_on_an_argument_is_followed() {
        let (unix, new_user) = (1, 0x1000_0000);
        let filters = [conditional(unix, new_user)];
        let socket = Call::named("socket").expect("socket");
        assert!(passes(&filters, socket.with(0, 1)) && !passes(&filters, socket.with(0, 2)));
        let clone = Call::named("clone").expect("clone");
        assert!(passes(&filters, clone.with(0, 0x11)));
        assert!(!passes(&filters, clone.with(0, u64::from(new_user) | 0x11)));
    }

    #[test]
    fn open_argument_counts_as_the_one_that_passes() {
        let filters = [conditional(1, 0x1000_0000)];
        assert!(passes_named(&filters, "socket") && passes_named(&filters, "clone"));
    }

    #[test]
    fn foreign_calls_are_refused_by_a_check_of_the_architecture_and_seen_without_one() {
        if ARCHITECTURES.0 == 0 {
            return;
        }
        assert!(!passes_foreign(&[allowing(&["read", "openat", "mmap"])]));
        let mut lax = allowing(&["read"]);
        lax.program[1].jf = 1;
        assert!(passes_foreign(&[lax]));
    }

    #[test]
    fn program_that_cannot_be_followed_counts_as_letting_through() {
        let odd = Filter { program: vec![instruction(0x07, 0, 0, 0)] };
        assert!(passes_named(&[odd], "mount"));
        assert!(passes_named(&[Filter::default()], "mount"), "running off the end");
    }

    #[test]
    fn compiled_policies_are_read_back_as_they_were_written() {
        use crate::confine::syscalls::{self, Permit};

        for name in ["metamanager", "keyholder", "edgehub", "edged", "authority", "apiserver", "cloudhub"] {
            let policy = syscalls::policy(name).expect("embedded");
            let Ok(filters) = syscalls::filters(Some(policy)) else { return };
            assert!(!passes_foreign(&filters), "{name}");
            for call in (0..LARGEST_NUMBER).filter_map(syscalls_table) {
                let written = policy.permits(call) != Permit::Never;
                assert_eq!(passes_named(&filters, call), written, "{name}: {call}");
            }
        }
    }

    fn syscalls_table(number: usize) -> Option<&'static str> {
        ::syscalls::Sysno::new(number).map(|call| call.name())
    }
}
