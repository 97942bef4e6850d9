use rustix::thread::CapabilitySet;

use super::*;
use crate::exposure::calls::Calls;
use crate::exposure::facts::Namespaces;

/// A service with an empty unit file, for which systemd-analyze 252 says 9.6.
fn bare() -> Facts {
    Facts {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        bounding: CapabilitySet::all(),
        effective: CapabilitySet::all(),
        ambient: CapabilitySet::empty(),
        no_new_privs: false,
        umask: 0o022,
        own: Namespaces::default(),
        propagates: true,
        own_root: false,
        host_tmp: true,
        hardware: true,
        devices: Devices::All,
        processes: Processes::Full,
        kernel_proc: true,
        cgroups: Seen::Writable,
        tunables: Seen::Writable,
        modules: true,
        kernel_log: true,
        clock: true,
        home: Seen::Writable,
        system: System::Writable,
        addresses: Addresses::All,
        // systemd's default.
        own_keyring: true,
        write_xor_execute: false,
        notify_main_only: true,
        calls: Calls::unfiltered(),
    }
}

fn capabilities(names: &[&str]) -> CapabilitySet {
    names
        .iter()
        .map(|name| CapabilitySet::from_name(name).expect("known"))
        .fold(CapabilitySet::empty(), CapabilitySet::union)
}

/// What `SystemCallFilter=@system-service` leaves open, with the rest of the usual restrictions.
fn system_service() -> Calls {
    Calls {
        filtered: true,
        sets: SETS.map(|(name, _)| match name {
            "@privileged" => Some("chown"),
            "@resources" => Some("ioprio_set"),
            _ => None,
        }),
        namespaces: [false; NAMESPACES.len()],
        foreign: false,
        personality: false,
        realtime: false,
        set_id: false,
        writable_executable: false,
        kernel_log: false,
        ..Calls::unfiltered()
    }
}

/// systemd-timesyncd.service of systemd 252, with `PrivateMounts=yes`, which the other settings imply, and without
/// `DefaultDependencies=no`, with which systemd leaves four items out: 2.0.
fn timesyncd() -> Facts {
    Facts {
        uid: 998,
        bounding: capabilities(&["SYS_TIME"]),
        ambient: capabilities(&["SYS_TIME"]),
        no_new_privs: true,
        own: Namespaces { mount: true, uts: true, ..Namespaces::default() },
        propagates: false,
        host_tmp: false,
        hardware: false,
        devices: Devices::Pseudo,
        processes: Processes::Hidden,
        cgroups: Seen::ReadOnly,
        tunables: Seen::ReadOnly,
        modules: false,
        kernel_log: false,
        home: Seen::No,
        system: System::ReadOnly,
        calls: Calls {
            hostname: false,
            families: [true, true, false, false, false],
            sets: SETS.map(|(name, _)| match name {
                "@privileged" => Some("chown"),
                "@resources" => Some("ioprio_set"),
                "@clock" => Some("adjtimex"),
                _ => None,
            }),
            ..system_service()
        },
        ..bare()
    }
}

/// systemd-networkd.service of systemd 252, changed in the same way: 2.7.
fn networkd() -> Facts {
    let held = capabilities(&["NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW"]);
    Facts {
        uid: 998,
        bounding: held,
        ambient: held,
        no_new_privs: true,
        own: Namespaces { mount: true, ..Namespaces::default() },
        propagates: false,
        processes: Processes::Hidden,
        cgroups: Seen::ReadOnly,
        modules: false,
        kernel_log: false,
        clock: false,
        home: Seen::No,
        system: System::ReadOnly,
        calls: Calls { families: [true, true, true, true, false], ..system_service() },
        ..bare()
    }
}

/// Nothing left open that can be closed for a process without a network.
fn closed() -> Facts {
    Facts {
        uid: 998,
        bounding: CapabilitySet::empty(),
        effective: CapabilitySet::empty(),
        no_new_privs: true,
        umask: 0o077,
        own: Namespaces { mount: true, network: true, ipc: true, uts: true, user: false },
        propagates: false,
        own_root: true,
        host_tmp: false,
        hardware: false,
        devices: Devices::Pseudo,
        processes: Processes::Absent,
        kernel_proc: false,
        cgroups: Seen::No,
        tunables: Seen::No,
        modules: false,
        kernel_log: false,
        clock: false,
        home: Seen::No,
        system: System::ReadOnly,
        addresses: Addresses::None,
        calls: Calls {
            sets: [None; SETS.len()],
            families: [false, true, false, false, false],
            hostname: false,
            keyrings: false,
            system_v: false,
            ..system_service()
        },
        ..bare()
    }
}

/// Gives a process one right more.
type Opening = fn(&mut Facts);

fn item<'a>(score: &'a Score, name: &str) -> &'a Item {
    score.items.iter().find(|item| item.name == name).expect("an item")
}

#[test]
fn services_of_systemd_get_the_score_systemd_gives_them() {
    // The last one: everything closed, as `closed`, and a list of devices with the clock on it.
    let tight = Facts { devices: Devices::Listed, ..closed() };
    for (name, facts, theirs) in [
        ("an empty unit", bare(), 9.6),
        ("timesyncd", timesyncd(), 2.0),
        ("networkd", networkd(), 2.7),
        ("a tight unit", tight, 0.3),
    ] {
        let ours = score(&facts).overall;
        assert!((ours - theirs).abs() < 1e-9, "{name}: {ours}, with systemd {theirs}");
    }
}

#[test]
fn weights_are_those_of_systemd_without_delegate() {
    let weights: u32 = score(&Facts { uid: 1, ..bare() }).items.iter().map(|item| item.weight).sum();
    assert_eq!(weights, 56_460 - 100);
    assert_eq!(score(&Facts { uid: 1, ..bare() }).items.len(), 80);
}

#[test]
fn what_does_not_matter_for_root_does_not_count() {
    let score = score(&bare());
    assert!(
        !score.items.iter().any(|item| ["SupplementaryGroups=", "RemoveIPC="].contains(&item.name.as_str()))
    );
}

#[test]
fn shares_add_up_to_the_score() {
    for facts in [bare(), timesyncd(), networkd(), closed()] {
        let score = score(&facts);
        let sum: f64 = score.items.iter().map(|item| score.share(item)).sum();
        assert!(sum <= score.overall + 1e-9 && score.overall - sum < 0.11, "{sum} of {}", score.overall);
    }
}

#[test]
fn own_user_namespace_is_what_a_process_without_network_still_lacks() {
    let score = score(&closed());
    let open: Vec<&str> =
        score.items.iter().filter(|item| item.badness > 0.0).map(|item| item.name.as_str()).collect();
    assert_eq!(open, ["PrivateUsers=", "RestrictAddressFamilies=~AF_UNIX"]);
    assert!((score.overall - 0.2).abs() < 1e-9, "{}", score.overall);
}

#[test]
fn network_of_the_host_costs_what_a_hub_cannot_do_without() {
    let mut facts = Facts { addresses: Addresses::All, ..closed() };
    facts.own.network = false;
    facts.calls.families[INTERNET] = true;
    let overall = score(&facts).overall;
    assert!((1.0..=1.3).contains(&overall), "{overall}");
}

#[test]
fn each_right_that_opens_raises_the_score() {
    let base = score(&closed()).overall;
    let opened: [(&str, Opening); 12] = [
        ("User=/DynamicUser=", |facts| facts.uid = 0),
        ("NoNewPrivileges=", |facts| facts.no_new_privs = false),
        ("PrivateTmp=", |facts| facts.host_tmp = true),
        ("PrivateMounts=", |facts| facts.propagates = true),
        ("ProtectHome=", |facts| facts.home = Seen::ReadOnly),
        ("ProtectSystem=", |facts| facts.system = System::Protected),
        ("PrivateDevices=", |facts| facts.hardware = true),
        ("ProtectProc=", |facts| facts.processes = Processes::NoAccess),
        ("ProtectKernelModules=", |facts| facts.modules = true),
        ("SystemCallFilter=~@mount", |facts| facts.calls.sets[4] = Some("mount")),
        ("CapabilityBoundingSet=~CAP_SYS_ADMIN", |facts| {
            facts.bounding = CapabilitySet::SYS_ADMIN;
        }),
        ("IPAddressDeny=", |facts| facts.addresses = Addresses::Loopback),
    ];
    for (name, open) in opened {
        let mut facts = closed();
        open(&mut facts);
        let score = score(&facts);
        assert!(item(&score, name).badness > 0.0 && score.overall > base, "{name}: {}", score.overall);
    }
}

#[test]
fn keyring_is_closed_by_one_of_its_own_or_by_the_filter() {
    let (own, filtered) = (
        Facts { own_keyring: true, ..bare() },
        Facts { own_keyring: false, calls: Calls { keyrings: false, ..Calls::unfiltered() }, ..bare() },
    );
    for facts in [own, filtered] {
        assert!(item(&score(&facts), "KeyringMode=").badness < 0.5);
    }
    assert!(item(&score(&Facts { own_keyring: false, ..bare() }), "KeyringMode=").badness > 0.5);
}
