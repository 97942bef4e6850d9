use std::fmt;

/// Names by number, `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// CAP_SETPCAP's number.
pub(crate) const SETPCAP: usize = 8;

/// A set of Linux capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// The capability of that name (`CAP_CHOWN`); `None` for a name this version does not know.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }

    /// What the calling process may grant: its permitted set.
    pub fn held() -> std::io::Result<Self> {
        let sets = rustix::thread::capabilities(None)?;
        Ok(Self(sets.permitted.bits()))
    }

    /// What [`launch`](crate::launch) needs to take every step for any component, beside what it grants.
    pub const fn for_launching() -> Self {
        const NEEDED: &[usize] = &[
            1,       // CAP_DAC_OVERRIDE: sources below directories of other users
            6,       // CAP_SETGID
            7,       // CAP_SETUID
            SETPCAP, // bounding set, secure bits
            18,      // CAP_SYS_CHROOT: a private root on the initial RAM disk
            21,      // CAP_SYS_ADMIN: namespaces, mounts
            24,      // CAP_SYS_RESOURCE: limits above its own
        ];
        let (mut set, mut n) = (0, 0);
        while n < NEEDED.len() {
            set |= 1 << NEEDED[n];
            n += 1;
        }
        Self(set)
    }

    /// Gives up, for good, every capability of this thread that is not in the set; programs it becomes or starts do not
    /// get them back either. Answers what is left: the set, less what was not held.
    ///
    /// Capabilities belong to threads: call it before others start. Without CAP_SETPCAP the bounding set stays as it is.
    pub fn keep_only(self) -> std::io::Result<Self> {
        use rustix::thread::{CapabilitySet as Bits, CapabilitySets};

        let held = rustix::thread::capabilities(None)?;
        let kept = self.intersection(Self(held.permitted.bits()));
        if Self(held.permitted.bits()).has(SETPCAP) {
            for bit in (0..64).filter(|bit| !self.has(*bit)) {
                let one = Bits::from_bits_retain(1 << bit);
                // Past the last one the kernel knows, the question is an error.
                if rustix::thread::capability_is_in_bounding_set(one) == Ok(true) {
                    rustix::thread::remove_capability_from_bounding_set(one)?;
                }
            }
        }
        let bits = Bits::from_bits_retain(kept.0);
        // The ambient set shrinks with the others: what is left of it is for a supervisor that is not root and replaces
        // itself.
        let inheritable = held.inheritable.intersection(bits);
        rustix::thread::set_capabilities(
            None,
            CapabilitySets { effective: bits, permitted: bits, inheritable },
        )?;
        Ok(kept)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it holds no capability.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its capabilities' names, in order of number.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| *name)
    }

    /// Whether it holds capability number `bit`.
    pub(crate) const fn has(self, bit: usize) -> bool {
        bit < 64 && self.0 & (1 << bit) != 0
    }

    /// The two 32-bit words of `capset(2)`.
    pub(crate) const fn words(self) -> [u32; 2] {
        [(self.0 & 0xffff_ffff) as u32, (self.0 >> 32) as u32]
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.names().enumerate() {
            write!(f, "{}{name}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_the_kernel_numbers() {
        for (name, bit) in [
            ("CAP_CHOWN", 0),
            ("CAP_NET_ADMIN", 12),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_SYSLOG", 34),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            assert!(CapabilitySet::named(name).is_some_and(|set| set.has(bit)), "{name}");
        }
    }

    #[test]
    fn unknown_name_is_refused() {
        assert_eq!(CapabilitySet::named("CAP_EVERYTHING"), None);
        assert_eq!(CapabilitySet::named("cap_chown"), None);
    }
}
