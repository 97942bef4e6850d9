use super::*;
use crate::exposure::filter::tests::allowing;

const HOST: &str = "\
22 27 0:21 / /proc rw - proc proc rw
23 27 0:22 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw";

const PRIVATE: &str = "\
100 90 0:50 / / ro,nosuid,nodev - tmpfs apiary ro
101 100 254:0 /usr/lib /usr/lib ro,nosuid,nodev - ext4 /dev/vda rw
102 100 0:6 /null /dev/null rw,nosuid - devtmpfs devtmpfs rw
103 100 254:0 /var/lib/apiary/store /var/lib/apiary/store rw,nosuid,nodev - ext4 /dev/vda rw
104 100 0:51 / /tmp rw,nosuid,nodev,noexec - tmpfs tmpfs rw";

fn status(fields: &str) -> String {
    format!("Name:\tx\nState:\tS (sleeping)\n{fields}")
}

fn raw(mounts: &str, fields: &str, namespaces: u32) -> Raw {
    Raw {
        status: status(fields),
        mounts: Mounts::parse(mounts),
        namespaces: KINDS.map(|kind| format!("{kind}:[{namespaces}]").into()).into(),
        ..Raw::default()
    }
}

fn host() -> Raw {
    raw(HOST, "", 1)
}

fn places() -> Places {
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
    Places {
        home: paths(&["/home", "/root"]),
        tmp: paths(&["/tmp"]),
        programs: paths(&["/usr"]),
        etc: paths(&["/etc"]),
        dev: paths(&["/dev"]),
        modules: paths(&["/usr/lib/modules"]),
        kernel_log: paths(&["/dev/kmsg"]),
        clock: paths(&["/dev/rtc0"]),
    }
}

const CONFINED: &str = "Uid:\t998\t998\t998\t998\nGid:\t997\t997\t997\t997\nGroups:\t997 \nUmask:\t0077\n\
    CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
    Seccomp:\t2\nSeccomp_filters:\t1\n";
const ROOT: &str = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\nUmask:\t0022\n\
    CapEff:\t0000000000200000\nCapBnd:\t0000000000200000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n";

#[test]
fn private_root_hides_the_host() {
    let process = raw(PRIVATE, CONFINED, 2);
    let filters = [allowing(&["read"])];
    let facts = conclude(&process, &host(), &places(), &Loaded { filters: &filters, ..Loaded::default() });
    assert_eq!((facts.uid, facts.gid, facts.umask), (998, 997, 0o077));
    assert!(facts.own_root && !facts.host_tmp && !facts.hardware && !facts.clock && !facts.kernel_log);
    assert_eq!((facts.home, facts.system, facts.devices), (Seen::No, System::ReadOnly, Devices::Pseudo));
    assert_eq!((facts.processes, facts.cgroups, facts.tunables), (Processes::Absent, Seen::No, Seen::No));
    assert!(facts.no_new_privs && facts.bounding.is_empty() && !facts.propagates && facts.own.network);
    assert_eq!(facts.addresses, Addresses::None);
    assert!(facts.calls.filtered && !facts.kernel_proc);
    // /usr/lib is shown whole, and with it the modules.
    assert!(facts.modules);
}

#[test]
fn masked_modules_are_not_seen() {
    let text = format!("{PRIVATE}\n105 101 0:52 / /usr/lib/modules ro,nodev - tmpfs mask ro");
    let facts = conclude(&raw(&text, CONFINED, 2), &host(), &places(), &Loaded::default());
    assert!(!facts.modules);
}

#[test]
fn process_on_the_host_sees_everything() {
    let facts = conclude(&raw(HOST, ROOT, 1), &host(), &places(), &Loaded::default());
    assert_eq!((facts.uid, facts.own), (0, Namespaces::default()));
    assert!(!facts.own_root && facts.host_tmp && facts.hardware && facts.modules && facts.propagates);
    assert!(facts.clock && facts.kernel_log && facts.kernel_proc);
    assert_eq!((facts.home, facts.system, facts.devices), (Seen::Writable, System::Writable, Devices::All));
    assert_eq!(
        (facts.processes, facts.cgroups, facts.tunables),
        (Processes::Full, Seen::Writable, Seen::Writable)
    );
    assert!(facts.has("CAP_SYS_ADMIN") && !facts.may_have("CAP_SYS_TIME"));
    assert_eq!(facts.addresses, Addresses::All);
}

#[test]
fn read_only_mounts_over_a_host_root_protect_what_they_cover() {
    let text = format!(
        "{HOST}\n40 27 254:0 /usr /usr ro - ext4 /dev/vda rw\n41 27 254:0 /etc /etc ro - ext4 /dev/vda rw\n\
         42 22 0:21 /sys /proc/sys ro - proc proc rw\n43 23 0:43 / /sys ro - tmpfs mask ro"
    );
    let facts = conclude(&raw(&text, ROOT, 2), &host(), &places(), &Loaded::default());
    assert_eq!(facts.system, System::Protected);
    assert_eq!((facts.tunables, facts.cgroups), (Seen::ReadOnly, Seen::No));
}

#[test]
fn landlock_narrows_what_the_mounts_show() {
    let landlock = Landlock {
        files: true,
        rules: vec![("/usr".into(), Access::ReadOnly, true), ("/var/lib/x".into(), Access::ReadWrite, false)],
        ..Landlock::default()
    };
    let loaded = Loaded { landlock: Some(&landlock), ..Loaded::default() };
    let facts = conclude(&raw(HOST, CONFINED, 1), &host(), &places(), &loaded);
    assert_eq!((facts.home, facts.system), (Seen::No, System::ReadOnly));
    assert!(!facts.host_tmp && !facts.kernel_log);
}

#[test]
fn filters_count_only_where_the_kernel_confirms_them() {
    let filters = [allowing(&["read"])];
    let loaded = Loaded { filters: &filters, ..Loaded::default() };
    let without = conclude(&raw(HOST, ROOT, 1), &host(), &places(), &loaded);
    assert!(!without.calls.filtered);
    let with = conclude(&raw(HOST, CONFINED, 1), &host(), &places(), &loaded);
    assert!(with.calls.filtered);
}

#[test]
fn unreadable_namespaces_count_as_the_hosts() {
    let mut process = raw(PRIVATE, CONFINED, 2);
    process.namespaces.clear();
    assert_eq!(own_namespaces(&process, &host()), Namespaces::default());
}

#[test]
fn addresses_of_an_own_network_are_read_from_its_tables() {
    let with = |fib_trie: &str, if_inet6: &str| Raw {
        fib_trie: fib_trie.to_owned(),
        if_inet6: if_inet6.to_owned(),
        ..Raw::default()
    };
    assert_eq!(with("", "").addresses(), Addresses::None);
    let loopback = "Local:\n  +-- 127.0.0.0/8 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
    assert_eq!(with(loopback, "").addresses(), Addresses::Loopback);
    assert_eq!(with(loopback, "0001 01 80 10 80       lo\n").addresses(), Addresses::Loopback);
    assert_eq!(with("     |-- 10.0.0.2\n        /32 host LOCAL\n", "").addresses(), Addresses::All);
}

#[test]
fn facts_of_this_very_process_can_be_read() {
    let raw = Raw::read(std::process::id()).expect("we live");
    let facts = conclude(&raw, &Raw::own(), &Places::find(), &Loaded::default());
    assert_eq!(facts.uid, rustix::process::getuid().as_raw());
    assert_eq!(facts.own, Namespaces::default());
    assert!(!facts.own_root && facts.processes == Processes::Full);
}

#[test]
fn ended_process_is_none() {
    let mut child = std::process::Command::new("true").spawn().expect("spawned");
    let pid = child.id();
    // A zombie until it is waited for.
    while text(Path::new(&format!("/proc/{pid}/status"))).is_some_and(|text| !text.contains("State:\tZ")) {
        std::thread::yield_now();
    }
    assert!(Raw::read(pid).is_none());
    child.wait().expect("waited");
    assert!(Raw::read(pid).is_none());
}
