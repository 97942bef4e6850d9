use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a process could not be started.
#[derive(Debug, Error)]
pub enum Error {
    /// Nothing was started: the launcher lacks a resource, or an argument holds a NUL byte.
    #[error("component {component}: could not {what} before the launch: {source}")]
    Prepare {
        /// The component.
        component: String,
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The new process could not complete a step of the launch sequence, and ended.
    #[error("component {component}: launch step \"{step}\" failed for {}: {source}", subject.as_ref().unwrap_or(exec).display())]
    Step {
        /// The component.
        component: String,
        /// The step.
        step: Step,
        /// The program that was to run.
        exec: PathBuf,
        /// The mount or rule the step failed at, where it has several.
        subject: Option<PathBuf>,
        /// The cause.
        source: io::Error,
    },
    /// The new process neither runs its program nor says that a step failed; it was killed.
    #[error("component {component}: no step failed, but its program does not run after {after:?}")]
    Stuck {
        /// The component.
        component: String,
        /// How long it was waited for.
        after: Duration,
    },
}

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $text:literal),+ $(,)?) => {
        /// A step of the launch sequence, in order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $step),+ }

        impl Step {
            const ALL: &[Self] = &[$(Self::$step),+];

            const fn text(self) -> &'static str {
                match self { $(Self::$step => $text),+ }
            }
        }
    };
}

steps! {
    /// `setsid`, working directory.
    Session = "new session",
    /// `PR_SET_PDEATHSIG`, and the check that the parent lives.
    ParentDeath = "parent-death signal",
    /// Moving the inherited descriptors, closing the others.
    Descriptors = "descriptors",
    /// Moving into the control groups.
    Cgroup = "cgroup",
    /// `unshare`.
    Namespaces = "namespaces",
    /// Mounts, and the new root.
    View = "file system view",
    /// `setrlimit`.
    Limits = "resource limits",
    /// `setgroups`.
    Groups = "supplementary groups",
    /// `setresgid`.
    Gid = "group id",
    /// `setresuid`.
    Uid = "user id",
    /// A new session keyring.
    Keyring = "session keyring",
    /// Dropping from the capability bounding set.
    Bounding = "capability bounding set",
    /// Locking what user id 0 and a change of user mean for capabilities.
    SecureBits = "secure bits",
    /// Permitted, effective, inheritable and ambient sets.
    Capabilities = "capabilities",
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs = "no_new_privs",
    /// `PR_SET_MDWE`.
    WriteXorExecute = "write xor execute",
    /// The Landlock domain.
    Landlock = "landlock",
    /// Dispositions and mask.
    Signals = "signals",
    /// System call filters.
    Seccomp = "seccomp",
    /// `execve`.
    Exec = "exec",
}

impl Step {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
