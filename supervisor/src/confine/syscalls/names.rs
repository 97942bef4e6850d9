//! Names of calls, of their arguments and of their values.

use std::str::FromStr;

/// Whether any architecture we build for has a call of that name. Some lack some: newer architectures have no `poll`.
pub(super) fn is_call(name: &str) -> bool {
    syscalls::x86_64::Sysno::from_str(name).is_ok()
        || syscalls::aarch64::Sysno::from_str(name).is_ok()
        || syscalls::riscv64::Sysno::from_str(name).is_ok()
}

/// Its number on this architecture; `None` where it does not exist.
pub(super) fn call_number(name: &str) -> Option<i64> {
    syscalls::Sysno::from_str(name)
        .or_else(|error| alias(name).map_or(Err(error), syscalls::Sysno::from_str))
        .ok()
        .map(|call| i64::from(call.id()))
}

/// What aarch64's table calls it: by the name of its function there, not by the kernel's.
fn alias(name: &str) -> Option<&'static str> {
    (name == "newfstatat").then_some("fstatat")
}

/// Arguments that may be compared, by call: `int`s, or flags of which the kernel looks at the lower 32 bits only.
const ARGUMENTS: &[(&str, &[(&str, u8)])] = &[
    ("chmod", &[("mode", 1)]),
    ("clone", &[("flags", 0)]),
    ("fchmod", &[("mode", 1)]),
    ("fchmodat", &[("mode", 2)]),
    ("fchmodat2", &[("mode", 2)]),
    ("fcntl", &[("command", 1)]),
    ("ioctl", &[("request", 1)]),
    ("madvise", &[("advice", 2)]),
    ("mkdir", &[("mode", 1)]),
    ("mkdirat", &[("mode", 2)]),
    ("mmap", &[("prot", 2), ("flags", 3)]),
    ("mprotect", &[("prot", 2)]),
    ("open", &[("flags", 1), ("mode", 2)]),
    ("openat", &[("flags", 2), ("mode", 3)]),
    ("prctl", &[("option", 0)]),
    ("setsockopt", &[("level", 1), ("name", 2)]),
    ("socket", &[("domain", 0), ("type", 1), ("protocol", 2)]),
    ("socketpair", &[("domain", 0), ("type", 1), ("protocol", 2)]),
    ("tgkill", &[("signal", 2)]),
];

/// The place of a named argument.
pub(super) fn argument(call: &str, name: &str) -> Result<u8, String> {
    let known =
        ARGUMENTS.iter().find(|(known, _)| *known == call).map_or(&[][..], |(_, arguments)| *arguments);
    known.iter().find(|(known, _)| *known == name).map(|(_, place)| *place).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("{call} has no argument {name} that may be compared; there are {names}")
    })
}

macro_rules! constants {
    ($($name:ident),+ $(,)?) => {
        /// The C name's value on this architecture.
        #[allow(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            clippy::unnecessary_cast,
            trivial_numeric_casts,
            reason = "bit patterns of at most 32 bits, of different C types"
        )]
        pub(super) fn constant(name: &str) -> Option<u32> {
            Some(match name {
                $(stringify!($name) => libc::$name as u32,)+
                _ => return None,
            })
        }
    };
}

constants![
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_THREAD,
    FIONBIO,
    FIONREAD,
    MADV_DONTNEED,
    MADV_FREE,
    NETLINK_ROUTE,
    O_CREAT,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    PR_SET_NAME,
    PR_SET_VMA,
    SIGABRT,
    S_ISGID,
    S_ISUID,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    TCGETS,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls for which newer architectures have only the form with a folder, or with more arguments.
    const OLDER_FORMS: &[&str] = &[
        "access",
        "arch_prctl",
        "chmod",
        "chown",
        "epoll_wait",
        "ioperm",
        "iopl",
        "lchown",
        "link",
        "lstat",
        "mkdir",
        "modify_ldt",
        "open",
        "poll",
        "readlink",
        "rename",
        "renameat",
        "rmdir",
        "stat",
        "symlink",
        "unlink",
        "uselib",
    ];

    /// A listed call that is not found would be refused there: the loader could not open its libraries without one of them.
    #[test]
    fn every_listed_call_is_known_by_its_name_on_every_architecture() {
        let listed =
            crate::confine::syscalls::FILES.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| {
                let name = line.split([':', '(']).next()?;
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                (!name.is_empty() && name.chars().all(plain)).then_some(name)
            });
        let mut seen = 0;
        for name in listed.filter(|name| !OLDER_FORMS.contains(name)) {
            let by_either = |known: &dyn Fn(&str) -> bool| known(name) || alias(name).is_some_and(known);
            assert!(by_either(&|name| syscalls::x86_64::Sysno::from_str(name).is_ok()), "{name} on x86_64");
            assert!(by_either(&|name| syscalls::aarch64::Sysno::from_str(name).is_ok()), "{name} on aarch64");
            assert!(by_either(&|name| syscalls::riscv64::Sysno::from_str(name).is_ok()), "{name} on riscv64");
            seen += 1;
        }
        assert!(seen > 150, "only {seen} calls were found in the policies");
    }
}
