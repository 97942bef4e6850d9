use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::cli::Side;
use crate::manifest::parse;

fn full() -> Support {
    Support {
        landlock_abi: 7,
        seccomp: true,
        namespaces: [Namespaces::MOUNT, Namespaces::IPC, Namespaces::UTS, Namespaces::NET]
            .into_iter()
            .fold(Namespaces::NONE, Namespaces::union),
        private_root: true,
        recursive_mounts: true,
        keyring: true,
        write_xor_execute: true,
    }
}

fn machine(support: Support) -> Machine<'static> {
    Machine { support, ..Machine::default() }
}

/// The profile of a component of the built-in manifests.
fn of(side: Side, name: &str, machine: &Machine<'_>) -> Profile {
    let (manifest, findings) = parse("m", side.manifest());
    assert_eq!(findings, []);
    let places = Places::new(Path::new("/r"), Path::new("/s"), &manifest.path, &BTreeMap::new());
    let others: Vec<&str> =
        manifest.components.keys().map(String::as_str).filter(|other| *other != name).collect();
    let component = &manifest.components[name];
    let subject = Subject {
        name,
        component,
        others: &others,
        sockets: &crate::wiring::sockets_of_others(&places, &manifest, name),
        places: &places,
        config: Path::new("/c/x.yaml"),
    };
    profile(&subject, machine)
}

/// Path, and whether it may be written, of what is bound into a private root.
fn seen(profile: &Profile) -> BTreeMap<PathBuf, bool> {
    let Some(View { root: Root::Private { .. }, mounts }) = &profile.view else { panic!("no private root") };
    mounts
        .iter()
        .filter_map(|mount| match mount {
            Mount::Bind { path, access, .. } => Some((path.clone(), *access == Access::ReadWrite)),
            _ => None,
        })
        .collect()
}

#[test]
fn state_plane_sees_libraries_its_own_directories_and_nothing_else() {
    let profile = of(Side::Edge, "metamanager", &machine(full()));
    assert_eq!(profile.missing, [""; 0]);
    let expected = [
        ("/c/x.yaml", false),
        ("/etc/ld.so.cache", false),
        ("/etc/localtime", false),
        ("/lib", false),
        ("/lib64", false),
        ("/r/metamanager", true),
        ("/r/notify/metamanager.sock", false),
        ("/s/metamanager", true),
        ("/usr/lib", false),
        ("/usr/lib64", false),
    ];
    assert_eq!(seen(&profile), expected.map(|(path, write)| (path.into(), write)).into());
    assert!(profile.namespaces.contains(Namespaces::NET));
    let landlock = profile.landlock.expect("Landlock");
    assert!(landlock.files && !landlock.bind_tcp && !landlock.connect_tcp);
    assert!(landlock.scope_signals && landlock.scope_abstract);
    assert_eq!(profile.filters.len(), 2);
}

#[test]
fn hub_sees_its_links_its_grants_and_what_names_are_looked_up_by() {
    let profile = of(Side::Edge, "edgehub", &machine(full()));
    let seen = seen(&profile);
    for path in ["/r/link/keyholder.edgehub.sock", "/r/link/metamanager.edgehub.sock", "/etc/apiary"] {
        assert_eq!(seen.get(Path::new(path)), Some(&false), "{path}");
    }
    assert!(!profile.namespaces.contains(Namespaces::NET));
    let landlock = profile.landlock.expect("Landlock");
    assert!(landlock.connect_tcp && !landlock.bind_tcp);
}

#[test]
fn who_only_accepts_may_bind_and_not_connect() {
    let landlock = of(Side::Cloud, "cloudhub", &machine(full())).landlock.expect("Landlock");
    assert!(landlock.bind_tcp && !landlock.connect_tcp);
}

#[test]
fn names_are_looked_up_by_files_that_are_kept_fresh() {
    let profile = of(Side::Edge, "edgehub", &machine(full()));
    assert_eq!(seen(&profile).get(Path::new("/r/resolver")), Some(&false));
    let link = Mount::Symlink { path: "/etc/resolv.conf".into(), target: "/r/resolver/resolv.conf".into() };
    assert!(profile.view.expect("view").mounts.contains(&link));

    // Without a view the host's own are read, wherever they lead.
    let user = Support { namespaces: Namespaces::NONE, ..full() };
    let target = Path::new("/run/systemd/resolve/stub-resolv.conf");
    let profile = of(Side::Edge, "edgehub", &Machine { resolver: Some(target), ..machine(user) });
    let rules = profile.landlock.expect("Landlock").rules;
    for path in ["/etc", "/run/systemd/resolve"] {
        assert!(rules.contains(&(path.into(), Access::ReadOnly, false)), "{path}");
    }
}

#[test]
fn rules_of_landlock_say_what_the_view_shows() {
    for (side, name) in [(Side::Edge, "metamanager"), (Side::Edge, "edgehub"), (Side::Cloud, "controllers")] {
        let profile = of(side, name, &machine(full()));
        let landlock = profile.landlock.clone().expect("Landlock");
        for (path, write) in seen(&profile) {
            let access = if write { Access::ReadWrite } else { Access::ReadOnly };
            assert!(landlock.rules.contains(&(path.clone(), access, false)), "{name}: {}", path.display());
        }
    }
}

#[test]
fn parents_are_mounted_before_what_lies_in_them() {
    for (side, name) in [(Side::Edge, "edgehub"), (Side::Cloud, "controllers")] {
        let mounts = of(side, name, &machine(full())).view.expect("view").mounts;
        for (at, mount) in mounts.iter().enumerate() {
            assert!(
                mounts[at..]
                    .iter()
                    .all(|later| mount.path() == later.path() || !mount.path().starts_with(later.path()))
            );
        }
    }
}

#[test]
fn program_is_the_only_one_that_may_run() {
    let profile = of(Side::Edge, "keyholder", &machine(full()));
    let confinement = profile.confinement(Path::new("/opt/apiary/keyholder"), Vec::new());
    let landlock = confinement.landlock.expect("Landlock");
    let run: Vec<_> = landlock
        .rules
        .iter()
        .filter(|(path, _, exec)| *exec && !path.starts_with("/lib") && !path.starts_with("/lib64"))
        .collect();
    assert_eq!(run, [&(PathBuf::from("/opt/apiary/keyholder"), Access::ReadOnly, true)]);
    let programs = confinement.view.expect("view").mounts.into_iter().filter(
        |mount| matches!(mount, Mount::Bind { exec: true, access: Access::ReadOnly, path, .. } if path.starts_with("/opt")),
    );
    assert_eq!(programs.count(), 1);
    // Where the libraries are, it is there already.
    let confinement = profile.confinement(Path::new("/usr/lib/apiary/keyholder"), Vec::new());
    assert_eq!(confinement.view.expect("view").mounts.len(), profile.view.expect("view").mounts.len());
}

#[test]
fn edged_keeps_the_hosts_root_without_what_others_own() {
    let profile = of(Side::Edge, "edged", &machine(full()));
    let view = profile.view.expect("view");
    assert_eq!(view.root, Root::Host { shared: vec!["/var/lib/kubelet".into()] });
    for hidden in [
        "/s/keyholder",
        "/s/metamanager",
        "/r/edgehub",
        "/r/link/keyholder.edgehub.sock",
        "/r/link/supervisor.metrics.sock",
        "/r/notify/edgehub.sock",
        "/r/metrics.sock",
        "/r/control.sock",
        "/dev/kmsg",
    ] {
        assert!(view.mounts.contains(&Mount::Mask { path: hidden.into() }), "{hidden}");
    }
    for own in ["/s/edged", "/r/link/metamanager.edged.sock", "/r/notify/edged.sock"] {
        assert!(!view.mounts.contains(&Mount::Mask { path: own.into() }), "{own}");
    }
    let kernel_settings = view.mounts.iter().find(|mount| mount.path() == Path::new("/proc/sys"));
    assert!(matches!(kernel_settings, Some(Mount::Bind { access: Access::ReadOnly, .. })));
    let landlock = profile.landlock.expect("Landlock");
    assert!(!landlock.files && landlock.rules.is_empty() && landlock.connect_tcp && !landlock.bind_tcp);
}

#[test]
fn kernel_modules_among_the_libraries_are_hidden_where_there_are_any() {
    let modules = Path::new("/usr/lib/modules");
    for name in ["keyholder", "edged"] {
        let mask = Mount::Mask { path: modules.into() };
        let view = |modules: &[&Path]| {
            of(Side::Edge, name, &Machine { modules, ..machine(full()) }).view.expect("view").mounts
        };
        let libraries =
            |mounts: &[Mount]| mounts.iter().position(|mount| mount.path() == Path::new("/usr/lib"));
        let there = [modules];
        let with = view(&there);
        let at = with.iter().position(|mount| *mount == mask);
        assert!(at.is_some() && at > libraries(&with), "{name}: {with:?}");
        assert!(!view(&[]).contains(&mask), "{name}");
    }
}

#[test]
fn mounts_that_cannot_be_shared_cost_the_mount_namespace_and_are_said() {
    let machine = Machine { unshared: Some("/k: read-only"), ..machine(full()) };
    let profile = of(Side::Edge, "edged", &machine);
    assert!(profile.view.is_none() && !profile.namespaces.contains(Namespaces::MOUNT));
    assert_eq!(profile.missing, ["mount namespace of its own (/k: read-only)"]);
}

#[test]
fn what_the_machine_lacks_is_left_out_and_said() {
    let nothing = of(Side::Edge, "metamanager", &Machine::default());
    assert_eq!(
        nothing.missing,
        [
            "namespaces of its own: mount ipc uts net (not permitted)",
            "Landlock",
            "session keyring of its own",
            "seccomp"
        ]
    );
    assert_eq!(nothing, Profile { missing: nothing.missing.clone(), ..Profile::default() });

    let old = Support { landlock_abi: 3, ..full() };
    let words = |name: &str| of(Side::Edge, name, &machine(old)).missing;
    let signals = "limits of signals (Landlock's ABI is 3, not 6)";
    assert_eq!(words("metamanager"), [signals], "its network namespace has no TCP");
    assert_eq!(words("edgehub"), ["rules for TCP (Landlock's ABI is 3, not 4)", signals]);

    let initial = Support { private_root: false, ..full() };
    let profile = of(Side::Edge, "metamanager", &machine(initial));
    assert_eq!(profile.missing, ["private root (mounts are refused here)"]);
    assert!(profile.view.is_none());
    assert!(
        profile
            .landlock
            .is_some_and(|landlock| !landlock.rules.iter().any(|(path, ..)| path == Path::new("/tmp")))
    );
}

#[test]
fn without_root_landlock_and_seccomp_still_hold() {
    let user = Support { namespaces: Namespaces::NONE, ..full() };
    let profile = of(Side::Edge, "edgehub", &machine(user));
    assert!(profile.view.is_none() && profile.landlock.is_some() && profile.filters.len() == 2);
}
