//! A file system on a disk image. A copy of the image is what a disk holds after a power cut: the part of the writes that
//! the kernel had not passed on yet is missing.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;

const ROUNDS: u32 = 40;

const IMAGE_BYTES: u64 = 16 * 1024 * 1024;

/// Runs in a mount namespace of its own thread, so nothing is left behind whatever happens.
#[test]
fn what_was_acknowledged_is_on_the_disk() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounting a disk image needs root");
        return;
    }
    thread::Builder::new().name("own-mounts".into()).spawn(rounds).unwrap().join().unwrap();
}

fn rounds() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let dir = quick_dir();
    let [image, live, cut] = ["image", "live", "cut"].map(|name| dir.path().join(name));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&cut).unwrap();
    fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    if !run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)) || !mount_image(&image, &live) {
        println!("skipped: no ext4, or no loop devices");
        return;
    }

    let mut complaints = Vec::new();
    let mut acknowledged = Acknowledged::new();
    let mut states = 0;
    for round in 0..ROUNDS {
        states += write_until_killed(&live.join("state.db"), &End::random(), &mut acknowledged);
        // A file of its own: the kernel lets go of the last one only later.
        let copy = dir.path().join(format!("copy-{round}"));
        fs::copy(&image, &copy).unwrap();
        assert!(mount_image(&copy, &cut), "ext4 replays its journal");
        let path = cut.join("state.db");
        let lost = lost(&path, &acknowledged);
        complaints.extend(lost.into_iter().map(|lost| format!("round {round}: {lost}")));
        unmount(&cut);
        fs::remove_file(&copy).unwrap();
    }
    unmount(&live);
    assert!(states > u64::from(ROUNDS), "only {states} states were acknowledged");
    println!("{ROUNDS} copies of the disk, {states} states acknowledged");
    conclude("store.powercut.disk.lost", ROUNDS, &complaints);
}

fn mount_image(image: &Path, at: &Path) -> bool {
    run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(at))
}

/// Lazily: a process that another test is starting has our files too, until it executes.
fn unmount(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).unwrap();
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}
