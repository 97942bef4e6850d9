//! The ground the other tests stand on.

use anyhow::{Result, ensure};
use harness::{Containerd, Options, Slot, clean};

/// Containers run from the built image, and ending the testbed ends and removes all of them.
pub(crate) fn leaves_nothing(_: &Options) -> Result<()> {
    let slot = Slot::take()?;
    let containerd = Containerd::start(&slot)?;
    let said = containerd.run(&["--rm"], "once", &["echo", "hello"])?;
    ensure!(said.trim() == "hello", "the container said {said:?}");
    containerd.run(&["--detach"], "stays", &["sleep", "3600"])?;
    let cgroups = clean::cgroups(&slot);
    ensure!(
        clean::processes(&slot).iter().any(|process| process.command == "sleep 3600"),
        "the container is not seen"
    );
    ensure!(!cgroups.is_empty(), "its cgroup is not seen");
    drop(containerd);
    clean::remove(&slot)?;
    clean::assert_clean(&slot, &cgroups)
}
