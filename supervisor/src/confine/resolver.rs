//! The files that names of hosts are looked up by, kept fresh for components that see a view.
//!
//! DHCP clients replace `/etc/resolv.conf`, and a view shows the file that was there when the process was started. A
//! device that was started before its network was up would never find its cloud. So the supervisor keeps copies in a
//! folder of its own, which views show as a folder, with links to them in `/etc`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is copied, by its name in `/etc`.
pub(super) const FILES: [&str; 2] = ["resolv.conf", "hosts"];

/// Looks at the files so often: two `stat`s, so it costs nothing, and nobody waits long for a new network.
const LOOK: Duration = Duration::from_secs(2);

/// A hosts file that blocks advertising has a few MiB; copying more is not worth it, and the copy lies in memory.
const MOST_BYTES: u64 = 8 << 20;

/// Where the copies are.
pub fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("resolver")
}

/// One file, as it was when it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    modified: Option<SystemTime>,
    size: u64,
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let (device, inode) = (meta.dev(), meta.ino());
        Some(Self { device, inode, modified: meta.modified().ok(), size: meta.size() })
    }
}

/// The copies and what they are of.
#[derive(Debug)]
pub struct Copies {
    from: PathBuf,
    to: PathBuf,
    copied: [Option<Version>; FILES.len()],
}

impl Copies {
    /// Copies from `/etc` and the like into a folder that exists. Nothing is copied yet.
    pub fn new(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        Self { from: from.into(), to: to.into(), copied: [None; FILES.len()] }
    }

    /// Copies what has changed.
    pub fn refresh(&mut self) -> io::Result<()> {
        for (name, copied) in FILES.iter().zip(&mut self.copied) {
            let (from, to) = (self.from.join(name), self.to.join(name));
            let there = Version::of(&from);
            if there == *copied && there.is_some() == to.exists() {
                continue;
            }
            match there {
                // Remembered as it was before it was read: what is written meanwhile is copied the next time.
                Some(_) => copy(&from, &to)?,
                None => drop(fs::remove_file(&to)),
            }
            *copied = there;
        }
        Ok(())
    }

    /// Keeps them fresh for as long as the runtime lives.
    pub async fn keep(mut self) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.refresh() {
                Ok(()) => said.clear(),
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    said = error.to_string();
                    tracing::warn!(%error, "could not renew what components look names up by");
                }
            }
        }
    }
}

/// Aside, then into its place: whoever reads sees the old or the new one, whole.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    let mut content = Vec::new();
    File::open(from).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut content)).map_err(named)?;
    let aside = to.with_extension("new");
    let _ = fs::remove_file(&aside);
    // Not made by us: planted, and not written to.
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(&aside)?;
    file.write_all(&content)?;
    fs::rename(aside, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_removed_and_rewritten_files_are_followed() {
        let (etc, copies) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let file = etc.path().join("resolv.conf");
        let copy = copies.path().join("resolv.conf");
        let mut mirror = Copies::new(etc.path(), copies.path());
        mirror.refresh().expect("nothing there");
        assert!(!copy.exists());

        fs::write(&file, "nameserver 192.0.2.1\n").expect("written");
        mirror.refresh().expect("copied");
        assert_eq!(fs::read_to_string(&copy).expect("copy"), "nameserver 192.0.2.1\n");

        // As DHCP clients do.
        let new = etc.path().join("new");
        fs::write(&new, "nameserver 192.0.2.2\n").expect("written");
        fs::rename(&new, &file).expect("replaced");
        mirror.refresh().expect("copied");
        assert_eq!(fs::read_to_string(&copy).expect("copy"), "nameserver 192.0.2.2\n");

        fs::remove_file(&copy).expect("removed");
        mirror.refresh().expect("made anew");
        assert!(copy.exists());

        fs::remove_file(&file).expect("removed");
        mirror.refresh().expect("removed");
        assert!(!copy.exists());
    }

    #[test]
    fn unreadable_file_is_named() {
        let (etc, copies) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        fs::create_dir(etc.path().join("hosts")).expect("a folder in its place");
        let error = Copies::new(etc.path(), copies.path()).refresh().expect_err("no file");
        assert!(error.to_string().contains("/hosts"), "{error}");
    }
}
