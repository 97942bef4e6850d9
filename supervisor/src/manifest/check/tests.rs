use std::path::Path;
use std::sync::LazyLock;

use super::*;
use crate::manifest::parse;

fn methods(server: &str) -> Option<Vec<&'static str>> {
    crate::setup::methods(server)
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let named = [("etc".to_owned(), "/etc/apiary".to_owned())].into();
    Places::new(Path::new("/run/a"), Path::new("/var/lib/a"), &named, &BTreeMap::new())
});

fn known() -> Known<'static> {
    Known { methods: &methods, policy: &|name| name != "none-of-that-name", places: &PLACES, accounts: None }
}

/// One component, `keyholder`, and what a test adds.
fn findings(more: &str) -> Vec<String> {
    let text = format!(
        "[component.keyholder]\nrank = 1\nexec = \"keyholder\"\nuser = \"edge-key\"\nready_timeout = \"10s\"\n\
         drain = \"5s\"\n{more}"
    );
    let (manifest, findings) = parse("m", &text);
    assert_eq!(findings, [], "{text}");
    check("m", &manifest, &known()).iter().map(ToString::to_string).collect()
}

const HUB: &str = "[component.hub]\nexec = \"hub\"\nuser = \"hub\"\nready_timeout = \"1s\"\ndrain = \"1s\"\n";

/// A call, with its reason.
const SIGN: &str = "calls = { keyholder = [\"Sign\"] }\nwhy = { calls = { keyholder = \"signs\" } }";

#[test]
fn embedded_manifests_have_no_mistake() {
    for side in [crate::cli::Side::Edge, crate::cli::Side::Cloud] {
        let (manifest, findings) = parse(side.manifest_name(), side.manifest());
        assert_eq!(findings, []);
        let (run, state) = (Path::new("/run/apiary/x"), Path::new("/var/lib/apiary/x"));
        let places = Places::new(run, state, &manifest.path, &BTreeMap::new());
        let known = Known { policy: &crate::confine::syscalls::exists, places: &places, ..known() };
        assert_eq!(check(side.manifest_name(), &manifest, &known), []);
    }
}

#[test]
fn call_to_an_equal_or_higher_rank_is_refused() {
    assert_eq!(
        findings(&format!("{HUB}rank = 1\n{SIGN}")),
        ["m: component hub: calls.keyholder: keyholder has rank 1: rank 1 may call lower ranks only"]
    );
}

#[test]
fn call_to_itself_is_refused() {
    assert!(findings(SIGN)[0].contains("may call lower ranks only"));
}

#[test]
fn unknown_server_and_unknown_method_are_both_named() {
    let found = findings(&format!(
        "{HUB}rank = 2\ncalls = {{ keyholder = [\"Steal\"], vault = [\"Open\"] }}\n\
             why = {{ calls = {{ keyholder = \"x\", vault = \"x\" }} }}"
    ));
    assert_eq!(
        found,
        [
            "m: component hub: calls.keyholder = \"Steal\": no such method; there are PublicKey, Sign",
            "m: component hub: calls.vault: there is no such component",
        ]
    );
}

#[test]
fn server_that_runs_in_one_mode_only_cannot_be_needed_always() {
    let found = findings(&format!("when = \"standalone\"\n{HUB}rank = 2\n{SIGN}"));
    assert_eq!(
        found,
        ["m: component hub: calls.keyholder: keyholder runs in standalone mode only, hub always"]
    );
}

#[test]
fn every_kind_of_grant_needs_a_reason() {
    let found = findings(
        "capabilities = [\"CAP_CHOWN\"]\nnetwork = \"host\"\ngroups = [\"staff\"]\nnamespaces = [\"mount\"]\n\
         paths = { read = [\"{etc}\"] }\nlisten = { http = \"{run}/k.sock\" }\nsyscalls = \"unrestricted\"\n\
         calls = { supervisor = [\"Status\"] }",
    );
    let line = |rest: &str| format!("m: component keyholder: {rest}");
    assert_eq!(
        found,
        [
            line("groups = \"staff\": a grant needs a reason: why.groups.staff"),
            line("capabilities = \"CAP_CHOWN\": a grant needs a reason: why.capabilities.CAP_CHOWN"),
            line("network = \"host\": a grant needs a reason: why.network"),
            line("namespaces = \"ipc\": a grant needs a reason: why.namespaces"),
            line("namespaces = \"uts\": a grant needs a reason: why.namespaces"),
            line("paths.read = \"{etc}\": a grant needs a reason: why.paths.\"{etc}\""),
            line("syscalls = \"unrestricted\": a grant needs a reason: why.syscalls"),
            line("calls.supervisor: a grant needs a reason: why.calls.supervisor"),
            line("listen.http: a grant needs a reason: why.listen.http"),
        ]
    );
    let reasoned = "capabilities = [\"CAP_CHOWN\"]\nwhy = { capabilities = { CAP_CHOWN = \"volumes\" } }";
    assert_eq!(findings(reasoned), [""; 0]);
    assert_eq!(findings(&reasoned.replace("volumes", "  ")).len(), 1);
}

#[test]
fn reason_without_a_grant_is_stale() {
    assert_eq!(
        findings(
            "why = { user = \"x\", capabilities = { CAP_KILL = \"once\" }, paths = { \"/etc\" = \"x\" } }"
        ),
        [
            "m: component keyholder: why.user: is a reason for something that is not granted",
            "m: component keyholder: why.capabilities.CAP_KILL: is a reason for something that is not granted",
            "m: component keyholder: why.paths./etc: is a reason for something that is not granted",
        ]
    );
}

#[test]
fn unknown_capability_is_refused() {
    assert_eq!(
        findings("capabilities = [\"CAP_ALL\"]"),
        ["m: component keyholder: capabilities = \"CAP_ALL\": unknown capability"]
    );
}

#[test]
fn two_components_may_not_share_a_user() {
    let found = findings(&HUB.replace("user = \"hub\"", "user = \"edge-key\"\nrank = 2"));
    assert!(found[0].contains("is also the user of hub"), "{found:?}");
}

#[test]
fn exec_with_a_path_is_refused() {
    let found = findings(&HUB.replace("exec = \"hub\"", "exec = \"../hub\"\nrank = 2"));
    assert!(found[0].contains("exec = \"../hub\""), "{found:?}");
}

#[test]
fn reserved_variables_and_unknown_templates_are_refused() {
    let found = findings("env = { LD_PRELOAD = \"/x\", A = \"{home}/x\", B = \"{run}/x\" }");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn impossible_numbers_are_refused() {
    let found = findings(
        "watchdog = \"100ms\"\nrestart = { floor = \"1m\", ceiling = \"1s\", burst = 1000 }\nlimits = { nofile = 3 }",
    );
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn missing_accounts_are_named() {
    let text = HUB.to_owned() + "rank = 1\ngroups = [\"staff\"]\nwhy = { groups = { staff = \"x\" } }";
    let (manifest, _) = parse("m", &text);
    let nobody = |_: &str| false;
    let known = Known { accounts: Some(Accounts { user: &nobody, group: &nobody }), ..known() };
    let found = check("m", &manifest, &known);
    assert_eq!(found.iter().map(|f| f.value.as_str()).collect::<Vec<_>>(), ["hub", "staff"]);
}

/// Paths of `keyholder` with reasons, beside a component `hub`.
fn path_findings(read: &[&str], write: &[&str], shared: &[&str]) -> Vec<String> {
    let mut reasons: Vec<&str> = [read, write, shared].concat();
    reasons.sort_unstable();
    reasons.dedup();
    let reasons: Vec<String> = reasons.iter().map(|path| format!("{path:?} = \"x\"")).collect();
    findings(&format!(
        "paths = {{ read = {read:?}, write = {write:?}, shared = {shared:?} }}\nwhy = {{ paths = {{ {} }} }}\n{HUB}rank = 2",
        reasons.join(", ")
    ))
}

#[test]
fn plain_paths_are_granted() {
    assert_eq!(path_findings(&["{etc}", "/etc/ssl", "{run}/hub"], &["/srv/data"], &[]), [""; 0]);
    assert_eq!(path_findings(&[], &["/"], &["/var/lib/kubelet"]), [""; 0]);
}

#[test]
fn path_that_is_not_plain_is_refused() {
    for (path, problem) in [
        ("etc", "must be an absolute path"),
        ("/etc/../root", "without `.`, `..`"),
        ("/etc/./x", "without `.`, `..`"),
        ("/etc//x", "doubled or trailing slash"),
        ("/etc/", "doubled or trailing slash"),
        ("{etc}/../x", "without `.`, `..`"),
        ("{home}", "there is no place {home}"),
        ("/x{", "belongs to no template"),
        ("/", "is everything"),
    ] {
        let found = path_findings(&[path], &[], &[]);
        assert!(found.len() == 1 && found[0].contains(problem), "{path}: {found:?}");
    }
    let nul = findings("paths = { read = [\"/a\\u0000b\"] }\nwhy = { paths = { \"/a\\u0000b\" = \"x\" } }");
    assert!(nul.len() == 1 && nul[0].contains("holds a NUL"), "{nul:?}");
}

#[test]
fn overlapping_paths_are_refused() {
    for (read, write) in [
        (&["/srv", "/srv/a"][..], &[][..]),
        (&["/srv"], &["/srv/a"]),
        (&["/srv/a"], &["/srv"]),
        (&["/srv"], &["/srv"]),
        (&["{etc}"], &["/"]),
    ] {
        let found = path_findings(read, write, &[]);
        assert!(
            found.iter().any(|found| found.contains("grant one of them")),
            "{read:?} {write:?}: {found:?}"
        );
    }
    assert_eq!(path_findings(&["/srv/ab", "/srv/a"], &[], &[]), [""; 0]);
}

#[test]
fn shared_mounts_need_the_hosts_root() {
    let found = path_findings(&[], &["/var/lib/kubelet"], &["/var/lib/kubelet"]);
    assert!(found.len() == 1 && found[0].contains("paths.write = [\"/\"]"), "{found:?}");
}

#[test]
fn what_belongs_to_others_is_refused() {
    for (path, write, problem) in [
        ("{state}/hub", false, "is state of hub"),
        ("{state}/hub/x", false, "is state of hub"),
        ("{state}/elsewhere", false, "is state of elsewhere"),
        ("{state}", false, "holds the state of every component"),
        ("/var/lib", false, "holds the state of every component"),
        ("{run}", false, "holds the links and sockets"),
        ("/run", true, "holds the links and sockets"),
        ("{run}/link", false, "is the supervisor's"),
        ("{run}/control.sock", true, "is the supervisor's"),
        ("{run}/hub", true, "is where hub writes"),
        ("{state}/keyholder", true, "has that anyway"),
        ("{run}/keyholder", false, "has that anyway"),
    ] {
        let found = if write { path_findings(&[], &[path], &[]) } else { path_findings(&[path], &[], &[]) };
        assert!(found.len() == 1 && found[0].contains(problem), "{path}: {found:?}");
    }
}

#[test]
fn listener_is_a_socket_in_the_run_directory_or_an_address() {
    let found = |address: &str| {
        findings(&format!("listen = {{ http = {address:?} }}\nwhy = {{ listen = {{ http = \"x\" }} }}"))
    };
    for right in ["{run}/http.sock", "127.0.0.1:80", "[::1]:8080"] {
        assert_eq!(found(right), [""; 0], "{right}");
    }
    for (wrong, problem) in [
        ("/tmp/http.sock", "lies in the run directory"),
        ("{run}/link/http.sock", "lies in the run directory"),
        ("{run}/http", "lies in the run directory"),
        ("{run}/../http.sock", "without `.`, `..`"),
        ("{run}/control.sock", "is the supervisor's own"),
        ("127.0.0.1:0", "port other than 0"),
        ("localhost:80", "must be a Unix path or an IP address"),
        ("{home}/x.sock", "there is no place"),
    ] {
        let found = found(wrong);
        assert!(found.len() == 1 && found[0].contains(problem), "{wrong}: {found:?}");
    }
    let long = format!("{{run}}/{}.sock", "x".repeat(120));
    assert!(found(&long)[0].contains("longer than 107 bytes"));
}

#[test]
fn two_components_may_not_listen_at_one_place() {
    let listen = "listen = { http = \"{run}/h.sock\" }\nwhy = { listen = { http = \"x\" } }";
    let found = findings(&format!("{listen}\n{HUB}rank = 2\n{listen}"));
    assert_eq!(found, ["m: component keyholder: listen = \"/run/a/h.sock\": is also listened on by hub"]);
}

#[test]
fn supervisor_may_be_called_by_every_rank() {
    let call = |method: &str| {
        findings(&format!(
            "calls = {{ supervisor = [{method:?}] }}\nwhy = {{ calls = {{ supervisor = \"counts\" }} }}"
        ))
    };
    assert_eq!(call("Status"), [""; 0]);
    assert!(call("Explode")[0].contains("no such method; there are Status"));
    let found =
        findings(&HUB.replace("component.hub", "component.supervisor").replace("drain", "rank = 1\ndrain"));
    assert!(found[0].contains("taken by the supervisor"), "{found:?}");
}

#[test]
fn unknown_policy_is_refused() {
    assert_eq!(
        findings("syscalls = \"none-of-that-name\""),
        [
            "m: component keyholder: syscalls = \"none-of-that-name\": there is no supervisor/policy/none-of-that-name.policy"
        ]
    );
}

#[test]
fn places_have_plain_names_and_are_whole_paths() {
    let text = "[path]\nrun = \"/x\"\nUP = \"/x\"\nrel = \"x\"\nall = \"/\"\nok = \"/x\"\n".to_owned()
        + HUB
        + "rank = 1";
    let (manifest, _) = parse("m", &text);
    let found = check("m", &manifest, &known());
    let keys: Vec<&str> = found.iter().map(|finding| finding.key.as_str()).collect();
    assert_eq!(keys, ["path.UP", "path.all", "path.rel", "path.run"]);
}

#[test]
fn impossible_ceilings_are_refused() {
    let found = findings("limits = { memory = \"1M\", pids = 0, cpu_weight = 0 }");
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(findings("limits = { memory = \"16M\", pids = 1, cpu_weight = 10000 }"), [""; 0]);
}

proptest::proptest! {
    #[test]
    fn any_path_is_granted_whole_or_refused(path in "[a-z./{}]{0,24}") {
        let found = path_findings(&[&path], &[], &[]);
        let hub = PLACES.fill(&path).is_ok_and(|path| path.starts_with("/var/lib/a/hub") || path.contains(".."));
        proptest::prop_assert!(!hub || !found.is_empty(), "{path}");
    }
}
