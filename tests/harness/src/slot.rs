//! One run's place on the machine: a number that no other run holds, and all names derived from it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{clean, interrupt, machine};

/// Lock files of the slots; a lock ends with its process, whatever happens to it.
const LOCKS: &str = "/run/apiary-testbed";
/// Runs at a time on one machine.
const SLOTS: u8 = 32;
/// Ports of slot 0 begin here: below the kernel's range for outgoing connections (32768 up), so that a port stays free
/// while its server is being restarted.
const FIRST_PORT: u16 = 20_000;
/// Ports of one slot.
const PORTS: u16 = 16;

/// A held slot. Dropping it ends and removes everything that was started in it.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    root: PathBuf,
    next_port: u16,
    _lock: Flock<File>,
}

impl Slot {
    /// Takes the first free slot, removes what a killed run may have left in it, and makes its directory.
    pub fn take() -> Result<Self> {
        machine::require_root()?;
        std::fs::create_dir_all(LOCKS).with_context(|| format!("could not make {LOCKS}"))?;
        let folder = machine::temporary_folder()?;
        for number in 0..SLOTS {
            let path = format!("{LOCKS}/{number}.lock");
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("could not open {path}"))?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => continue,
                Err((_, errno)) => return Err(errno).with_context(|| format!("could not lock {path}")),
            };
            // Short: a Unix socket's path has 107 bytes at most.
            let root = folder.join(format!("apiary-{number}"));
            let slot = Self { number, root, next_port: FIRST_PORT + u16::from(number) * PORTS, _lock: lock };
            clean::remove(&slot)
                .with_context(|| format!("could not remove what a run left in slot {number}"))?;
            // 0755: the service users pass through it to their own directories.
            DirBuilder::new()
                .mode(0o755)
                .create(&slot.root)
                .with_context(|| format!("could not make {}", slot.root.display()))?;
            return Ok(slot);
        }
        bail!("all {SLOTS} slots are taken by other runs (locks in {LOCKS})");
    }

    /// The directory everything of this run lives below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of this run's bridge device.
    pub fn bridge(&self) -> String {
        format!("apy{}", self.number)
    }

    /// The name of this run's CNI network.
    pub fn network(&self) -> String {
        format!("apiary-{}", self.number)
    }

    /// The pods' subnet. 10.213.0.0/16 is nobody's default.
    pub fn subnet(&self) -> String {
        format!("{}/24", Ipv4Addr::new(10, 213, self.number, 0))
    }

    /// A loopback port of this slot that nothing listens on now.
    pub fn port(&mut self) -> Result<u16> {
        let end = FIRST_PORT + (u16::from(self.number) + 1) * PORTS;
        while self.next_port < end {
            let port = self.next_port;
            self.next_port += 1;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port left below {end}")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Err(error) = interrupt::shielded(|| clean::remove(self)) {
            eprintln!("could not clean up slot {}: {error:#}", self.number);
        }
    }
}
