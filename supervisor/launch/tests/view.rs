//! What a process sees of the file system: real launches into private roots, and into the host's. They need root.

mod probed;

use std::fs::File;
use std::os::unix::fs::{lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use launch::{Access, CapabilitySet, Error, Identity, Launch, Mount, Namespaces, Root, Step, View, launch};
use probed::{
    DONE, allow, bind, finish, in_own_mount_namespace, is_root, nobody, output, place, private, probe, said,
    shell, step_of,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Not a test: what the launched copies of this program do.
#[test]
fn probe_task() {
    probed::probe::run();
}

#[test]
fn process_sees_only_what_was_granted() {
    if !is_root() {
        return;
    }
    let place = place();
    let granted = place.path().join("granted");
    std::fs::create_dir(&granted).expect("directory");
    std::fs::write(granted.join("x"), "granted\n").expect("write");
    std::fs::write(place.path().join("secret"), "secret\n").expect("write");
    let here = place.path().display();
    let mut plan = shell(&format!(
        "for dir in / /etc /dev {here}; do echo $dir: $(ls -A $dir); done; cat {here}/granted/x"
    ));
    private(&mut plan, place.path(), [bind(&granted, Access::ReadOnly)]);
    let above = place.path().components().nth(1).expect("a parent").as_os_str().to_str().expect("text");
    let mut top: Vec<_> = ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "usr", above].to_vec();
    top.retain(|name| Path::new("/").join(name).exists());
    top.sort_unstable();
    top.dedup();
    assert_eq!(
        output(&plan),
        format!("/: {}\n/etc: ld.so.cache\n/dev: null\n{here}: granted\ngranted\n", top.join(" "))
    );
}

#[test]
fn nothing_can_be_written_outside_even_by_root_with_every_file_capability() {
    if !is_root() {
        return;
    }
    let place = place();
    for dir in ["read", "write"] {
        std::fs::create_dir(place.path().join(dir)).expect("directory");
    }
    let here = place.path().display();
    let mut plan = shell(&format!(
        "for path in /x /etc/x /usr/x /dev/x {here}/x {here}/read/x {here}/write/x; do \
         (: > $path) 2>/dev/null && echo $path; done; chmod 777 /dev/null 2>/dev/null && echo null; echo end > /dev/null"
    ));
    private(
        &mut plan,
        place.path(),
        [
            bind(place.path().join("read"), Access::ReadOnly),
            bind(place.path().join("write"), Access::ReadWrite),
        ],
    );
    plan.identity = Some(Identity { uid: 0, gid: 0, groups: Vec::new() });
    plan.capabilities = ["CAP_DAC_OVERRIDE", "CAP_FOWNER"]
        .into_iter()
        .filter_map(CapabilitySet::named)
        .fold(CapabilitySet::EMPTY, CapabilitySet::union);
    assert_eq!(output(&plan), format!("{here}/write/x\n"));
    assert!(place.path().join("write/x").exists());
}

#[test]
fn temporary_directory_is_private_bounded_and_holds_no_programs() {
    if !is_root() {
        return;
    }
    let place = place();
    let mut plan = shell(
        "echo mine > /tmp/x && cat /tmp/x; stat -c '%a %u' /tmp; \
         head -c 2000000 /dev/zero > /tmp/big 2>/dev/null || echo full; rm -f /tmp/big; \
         printf '#!/bin/sh\\necho ran\\n' > /tmp/run; chmod +x /tmp/run; /tmp/run 2>/dev/null || echo no program; \
         (n=0; while : > /tmp/$n; do n=$((n+1)); done) 2>/dev/null; ls /tmp | wc -l",
    );
    private(
        &mut plan,
        place.path(),
        [
            Mount::Tmpfs { path: "/tmp".into(), bytes: 1 << 20, mode: 0o1777 },
            Mount::Device { path: "/dev/zero".into() },
        ],
    );
    plan.identity = Some(nobody());
    let seen = output(&plan);
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[..4], ["mine", "1777 0", "full", "no program"], "{seen}");
    // A page each would be 256 files: no more, even if they are empty.
    assert_eq!(lines[4], "256", "{seen}");
    assert!(!Path::new("/tmp/run").exists());
}

#[test]
fn mounts_of_a_view_are_inert_and_the_root_is_read_only() {
    if !is_root() {
        return;
    }
    let place = place();
    let state = place.path().join("state");
    std::fs::create_dir(&state).expect("directory");
    let mut plan = shell("cat /proc/self/mountinfo");
    private(&mut plan, place.path(), [bind(&state, Access::ReadWrite)]);
    let seen = output(&plan);
    let options = |path: &str| {
        let line = seen.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
        let line = line.unwrap_or_else(|| panic!("{path} is not mounted: {seen}"));
        line.split(' ').nth(5).unwrap_or_default().to_owned()
    };
    for (path, wanted) in [
        ("/", "ro,nosuid,nodev,noexec"),
        ("/usr", "ro,nosuid,nodev"),
        ("/dev/null", "ro,nosuid,noexec"),
        (state.to_str().expect("text"), "rw,nosuid,nodev,noexec"),
    ] {
        assert_eq!(options(path).replace(",relatime", ""), wanted, "{path}");
    }
    assert!(!seen.contains("shared:") && !seen.contains("master:"), "no ties to the host's mounts: {seen}");
}

#[test]
fn mounts_below_a_granted_directory_come_along_and_are_restricted_too() {
    if !is_root() {
        return;
    }
    let place = place();
    let below = place.path().join("granted/below");
    std::fs::create_dir_all(&below).expect("directory");
    let mut plan = shell(&format!("cat {0}/x; (: > {0}/y) 2>/dev/null || echo refused", below.display()));
    private(&mut plan, place.path(), [bind(place.path().join("granted"), Access::ReadOnly)]);
    in_own_mount_namespace(|| {
        rustix::mount::mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).expect("mount");
        std::fs::write(below.join("x"), "below\n").expect("write");
        allow(&below, 0o777);
        assert_eq!(output(&plan), "below\nrefused\n");
    });
}

#[test]
fn older_kernel_restricts_the_mount_and_leaves_out_those_below() {
    if !is_root() {
        return;
    }
    let place = place();
    let (granted, state) = (place.path().join("granted"), place.path().join("state"));
    std::fs::create_dir_all(granted.join("below")).expect("directory");
    std::fs::create_dir(&state).expect("directory");
    let mut plan = shell(&format!(
        "ls {0}/below; (: > {0}/y) 2>/dev/null || echo refused; echo ours > {1}/x; \
         grep -c ' {1} rw,nosuid,nodev,noexec' /proc/self/mountinfo",
        granted.display(),
        state.display()
    ));
    private(&mut plan, place.path(), [bind(&granted, Access::ReadOnly), bind(&state, Access::ReadWrite)]);
    in_own_mount_namespace(|| {
        rustix::mount::mount("tmpfs", granted.join("below"), "tmpfs", MountFlags::empty(), None)
            .expect("mount");
        std::fs::write(granted.join("below/x"), "below\n").expect("write");
        probed::without_system_call(libc::SYS_mount_setattr);
        assert!(!launch::Support::probe().expect("probe").recursive_mounts);
        assert_eq!(output(&plan), "refused\n1\n");
    });
    assert!(state.join("x").exists());
}

#[test]
fn private_root_is_made_on_the_initial_ram_disk_too() {
    if !is_root() {
        return;
    }
    let place = place();
    std::fs::write(place.path().join("secret"), "secret\n").expect("write");
    let here = place.path().display();
    let mut plan = shell(&format!(
        "cat {here}/secret /../{here}/secret 2>/dev/null; echo $(ls -A /etc /..); (: > /x) 2>/dev/null || echo refused; \
         chroot / true 2>/dev/null || echo kept in"
    ));
    private(&mut plan, place.path(), []);
    plan.identity = Some(nobody());
    let usual = output(&plan);
    assert!(usual.ends_with("refused\nkept in\n") && !usual.contains("secret"), "{usual}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // There, the kernel refuses to exchange the root.
            probed::refusing(libc::SYS_pivot_root, libc::EINVAL);
            assert!(launch::Support::probe().expect("probe").private_root);
            assert_eq!(output(&plan), usual);
        });
    });
}

#[test]
fn symbolic_link_planted_in_a_granted_directory_does_not_lead_out() {
    if !is_root() {
        return;
    }
    let place = place();
    let state = place.path().join("state");
    std::fs::create_dir(&state).expect("directory");
    std::fs::write(place.path().join("secret"), "secret\n").expect("write");
    for (target, link) in [("../secret", "up"), ("../../../../../../../../etc/shadow", "far")] {
        symlink(target, state.join(link)).expect("link");
    }
    symlink(place.path().join("secret"), state.join("straight")).expect("link");
    let mut plan = shell(&format!("cd {}; cat up far straight 2>/dev/null; ls", state.display()));
    private(&mut plan, place.path(), [bind(&state, Access::ReadWrite)]);
    assert_eq!(output(&plan), "far\nstraight\nup\n");
}

#[test]
fn source_behind_a_planted_symbolic_link_is_refused() {
    if !is_root() {
        return;
    }
    let place = place();
    let state = place.path().join("state");
    std::fs::create_dir(&state).expect("directory");
    symlink("/etc", state.join("config")).expect("link");
    lchown(state.join("config"), Some(65_533), None).expect("owner");
    for source in [state.join("config"), state.join("config/shadow")] {
        let mut plan = shell("");
        private(
            &mut plan,
            place.path(),
            [Mount::Bind {
                source,
                path: "/config".into(),
                access: Access::ReadOnly,
                exec: false,
                optional: true,
            }],
        );
        let error = launch(&plan).expect_err("planted");
        assert_eq!(
            error.to_string(),
            "component probe: launch step \"file system view\" failed for /config: Too many levels of symbolic links (os error 40)"
        );
    }
}

#[test]
fn mount_point_behind_a_planted_symbolic_link_is_refused() {
    if !is_root() {
        return;
    }
    let place = place();
    let (state, outside) = (place.path().join("state"), place.path().join("outside"));
    std::fs::create_dir(&state).expect("directory");
    std::fs::create_dir(&outside).expect("directory");
    symlink(&outside, state.join("sub")).expect("link");
    for below in ["sub", "sub/new"] {
        let mut plan = shell("");
        private(
            &mut plan,
            place.path(),
            [
                bind(&state, Access::ReadWrite),
                Mount::Tmpfs { path: state.join(below), bytes: 4096, mode: 0o755 },
            ],
        );
        assert_eq!(step_of(launch(&plan)).0, Step::View, "{below}");
    }
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
}

#[test]
fn missing_source_is_left_out_only_where_the_plan_says_so() {
    if !is_root() {
        return;
    }
    let place = place();
    let missing = |optional| Mount::Bind {
        source: place.path().join("none"),
        path: "/none".into(),
        access: Access::ReadOnly,
        exec: false,
        optional,
    };
    let mut plan = shell("test -e /none || echo absent");
    private(&mut plan, place.path(), [missing(true), Mount::Device { path: "/dev/no-such".into() }]);
    assert_eq!(output(&plan), "absent\n");
    private(&mut plan, place.path(), [missing(false)]);
    match launch(&plan) {
        Err(Error::Step { component, step: Step::View, subject: Some(subject), source, .. }) => {
            assert_eq!((component.as_str(), subject), ("probe", PathBuf::from("/none")));
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn directories_files_and_links_are_made() {
    if !is_root() {
        return;
    }
    let place = place();
    let mut plan = shell("stat -c '%F %a' /a/b /a/file; cat /a/link/file; readlink /a/link");
    private(
        &mut plan,
        place.path(),
        [
            Mount::Directory { path: "/a/b".into(), mode: 0o1777 },
            Mount::File { path: "/a/file".into() },
            Mount::Symlink { target: ".".into(), path: "/a/link".into() },
        ],
    );
    assert_eq!(output(&plan), "directory 1777\nregular empty file 444\n.\n");
}

#[test]
fn view_without_a_mount_namespace_is_refused_before_the_fork() {
    let mut plan = shell("");
    plan.confinement.view =
        Some(View { root: Root::Private { staging: "/nonexistent".into() }, mounts: Vec::new() });
    let error = launch(&plan).expect_err("would change the host");
    assert!(matches!(error, Error::Prepare { .. }));
    assert!(error.to_string().contains("would change the host's"), "{error}");
}

#[test]
fn missing_staging_directory_fails_the_view() {
    if !is_root() {
        return;
    }
    let place = place();
    let mut plan = shell("");
    private(&mut plan, &place.path().join("none"), []);
    assert_eq!(step_of(launch(&plan)).0, Step::View);
}

#[test]
fn host_whose_mounts_are_shared_does_not_see_the_views() {
    if !is_root() {
        return;
    }
    let place = place();
    std::fs::create_dir(place.path().join("masked")).expect("directory");
    let mut within = shell("true");
    private(&mut within, place.path(), [Mount::Tmpfs { path: "/tmp".into(), bytes: 4096, mode: 0o1777 }]);
    let masked = host("true", Vec::new(), vec![Mount::Mask { path: place.path().join("masked") }]);
    in_own_mount_namespace(|| {
        // As systemd leaves them.
        rustix::mount::mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
            .expect("share");
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
        let before = mounts();
        output(&within);
        output(&masked);
        assert_eq!(mounts(), before);
    });
    assert_eq!(std::fs::read_dir(place.path().join("staging")).expect("staging").count(), 0);
}

#[test]
fn socket_in_a_read_only_view_can_be_connected_to() {
    if !is_root() {
        return;
    }
    let place = place();
    let socket = place.path().join("link.sock");
    let _listener = UnixListener::bind(&socket).expect("listen");
    allow(&socket, 0o666);
    let program = std::env::current_exe().expect("own path");
    let run = Mount::Bind {
        source: program.clone(),
        path: program,
        access: Access::ReadOnly,
        exec: true,
        optional: false,
    };
    let mut plan = probe("connect path", socket.to_str().expect("text"));
    private(&mut plan, place.path(), [run, bind(&socket, Access::ReadOnly)]);
    plan.identity = Some(nobody());
    assert_eq!(said(&plan), DONE);
}

fn host(script: &str, shared: Vec<PathBuf>, mounts: Vec<Mount>) -> Launch<'static> {
    let mut plan = shell(script);
    plan.identity = Some(Identity { uid: 0, gid: 0, groups: Vec::new() });
    plan.capabilities = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
        .into_iter()
        .filter_map(CapabilitySet::named)
        .fold(CapabilitySet::EMPTY, CapabilitySet::union);
    plan.confinement.namespaces = Namespaces::MOUNT;
    plan.confinement.view = Some(View { root: Root::Host { shared }, mounts });
    plan
}

#[test]
fn masked_places_of_the_host_are_empty_to_root_too() {
    if !is_root() {
        return;
    }
    let place = place();
    let here = place.path().display();
    for (dir, file) in [("masked", "masked/key"), ("open", "open/x")] {
        std::fs::create_dir(place.path().join(dir)).expect("directory");
        std::fs::write(place.path().join(file), "x").expect("write");
    }
    std::fs::write(place.path().join("file"), "x").expect("write");
    let plan = host(
        &format!(
            "cd {here}; ls -A masked open; (: > masked/new) 2>/dev/null || echo refused; \
             cat file 2>/dev/null || echo hidden"
        ),
        Vec::new(),
        ["masked", "file", "none"].map(|name| Mount::Mask { path: place.path().join(name) }).to_vec(),
    );
    assert_eq!(output(&plan), "masked:\n\nopen:\nx\nrefused\nhidden\n");
    assert!(place.path().join("masked/key").exists());
}

#[test]
fn mount_in_a_shared_place_is_seen_by_the_host_and_one_elsewhere_is_not() {
    if !is_root() {
        return;
    }
    // Its own mount, shared, as the supervisor makes it where the host's is not.
    mounts_pass_both_ways_in(|shared| {
        rustix::mount::mount_bind(shared, shared).expect("bind");
        rustix::mount::mount_change(shared, MountPropagationFlags::SHARED).expect("share");
    });
}

#[test]
fn shared_place_may_be_any_directory_of_a_host_whose_mounts_are_shared() {
    if !is_root() {
        return;
    }
    mounts_pass_both_ways_in(|_| {
        rustix::mount::mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
            .expect("share");
    });
}

fn mounts_pass_both_ways_in(share: impl FnOnce(&Path) + Send) {
    let place = place();
    let (shared, elsewhere) = (place.path().join("shared"), place.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).expect("directory");
    std::fs::create_dir(&shared).expect("directory");
    in_own_mount_namespace(|| {
        share(&shared);
        for dir in ["mine", "yours"] {
            std::fs::create_dir(shared.join(dir)).expect("directory");
        }
        let plan = host(
            "mount -t tmpfs mine shared/mine && mount -t tmpfs other elsewhere && : > elsewhere/ready && \
             : > shared/mine/ready && until test -e shared/yours/go; do sleep 0.01; done; umount shared/mine && echo end"
                .replace("shared", shared.to_str().expect("text"))
                .replace("elsewhere", elsewhere.to_str().expect("text"))
                .as_str(),
            vec![shared.clone()],
            Vec::new(),
        );
        let child = launch(&plan).expect("launch");
        // The child's mount arrives here, and only that one.
        wait_for(&shared.join("mine/ready"));
        assert!(!elsewhere.join("ready").exists());
        // Ours arrives there.
        rustix::mount::mount("tmpfs", shared.join("yours"), "tmpfs", MountFlags::empty(), None)
            .expect("mount");
        File::create(shared.join("yours/go")).expect("go");
        let (text, _) = finish(child);
        assert_eq!(text, "end\n");
        // So does the end of its own.
        assert!(!shared.join("mine/ready").exists());
        rustix::mount::unmount(shared.join("yours"), UnmountFlags::DETACH).expect("unmount");
    });
}

fn wait_for(path: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}
