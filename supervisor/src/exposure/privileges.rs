//! What a component was granted, what holds it to that, and what it uses.

use std::path::Path;

use proto::control::{Link, MethodUse, Privilege};

use super::facts::{Facts, Loaded};
use super::open::Open;
use crate::manifest::{Component, Grant, Kind, Network};

/// What is known of a process that runs.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// What the kernel says.
    pub facts: &'a Facts,
    /// What it has open.
    pub open: &'a Open,
    /// What was loaded into it.
    pub loaded: &'a Loaded<'a>,
}

/// Whose privileges are listed.
#[derive(Clone, Copy)]
pub struct Granted<'a> {
    /// The component's name.
    pub name: &'a str,
    /// Its block in the manifest.
    pub component: &'a Component,
    /// Says where a path of the manifest is on this machine.
    pub path: &'a dyn Fn(&str) -> String,
    /// The user everything runs as, where the supervisor cannot change it.
    pub only_user: Option<&'a str>,
    /// How many system calls pass its filters.
    pub passing: usize,
}

/// Lists everything a component was granted; `links` are all of the supervisor's. Of a process that does not run nothing is
/// said beyond the grant and its reason.
pub fn privileges(granted: Granted<'_>, links: &[Link], live: Option<Live<'_>>) -> Vec<Privilege> {
    let Granted { name, component, path, .. } = granted;
    let mut list = Vec::new();
    let mut add = |kind: Kind, grant: String, why: &str, (enforced_by, used): (String, String)| {
        let (kind, why) = (kind.name().to_owned(), why.to_owned());
        list.push(Privilege { kind, grant, why, enforced_by, used });
    };
    let unknown = || (String::new(), String::new());

    let grants = component.grants();
    let has = |kind: Kind| grants.iter().any(|grant| grant.kind == kind);
    let unrestricted = has(Kind::Syscalls);
    let uid = live.map_or_else(unknown, |live| (word(live.facts.uid != 0, "uid"), String::new()));
    match granted.only_user {
        Some(user) => {
            add(Kind::User, user.to_owned(), "the supervisor's own: without root there is no other", uid);
        }
        None if !has(Kind::User) => {
            let why = "a user of its own, apart from root and the other components";
            add(Kind::User, component.user.clone(), why, uid);
        }
        None => {}
    }
    let only_user = granted.only_user.is_some();
    for Grant { kind, name: grant, why } in grants {
        if kind == Kind::User && only_user {
            continue;
        }
        let why = why.unwrap_or_default();
        match kind {
            Kind::Call => {
                for method in methods(component, links, name, grant) {
                    let state = live.map_or_else(unknown, |live| (held_to_link(live), calls(&method)));
                    add(kind, format!("{grant}.{}", method.name), why, state);
                }
            }
            Kind::Read | Kind::Write | Kind::Shared => {
                let at = path(grant);
                let state = live.map_or_else(unknown, |live| {
                    (held_to_paths(live, component), word(live.open.holds(Path::new(&at)), "open now"))
                });
                add(kind, at, why, state);
            }
            Kind::Listen => {
                let at = path(&component.listen[grant]);
                let state = live
                    .map_or_else(unknown, |live| ("inherited descriptor".to_owned(), listening(live, &at)));
                add(kind, format!("{grant}={at}"), why, state);
            }
            _ => {
                let state = live.map_or_else(unknown, |live| state(live, component, kind, grant));
                add(kind, grant.to_owned(), why, state);
            }
        }
    }
    if !unrestricted {
        let policy = component.syscalls.as_deref().unwrap_or(name);
        let grant = format!("{} calls ({policy}.policy)", granted.passing);
        let state =
            live.map_or_else(unknown, |live| (word(live.facts.calls.filtered, "seccomp"), String::new()));
        add(Kind::Syscalls, grant, "one reason for each call, in the file", state);
    }
    list
}

/// The granted methods of a server with what was counted of each.
fn methods(component: &Component, links: &[Link], client: &str, server: &str) -> Vec<MethodUse> {
    let link = links.iter().find(|link| link.client == client && link.server == server);
    component.calls[server]
        .iter()
        .map(|name| {
            let counted = link.and_then(|link| link.methods.iter().find(|method| method.name == *name));
            counted.cloned().unwrap_or_else(|| MethodUse { name: name.clone(), ..MethodUse::default() })
        })
        .collect()
}

fn calls(method: &MethodUse) -> String {
    match (method.calls_total, method.failures_total) {
        (0, _) => "never".to_owned(),
        (1, 0) => "1 call".to_owned(),
        (calls, 0) => format!("{} calls", grouped(calls)),
        (calls, failures) => format!("{} calls, {} failed", grouped(calls), grouped(failures)),
    }
}

/// `1 023 456`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn word(holds: bool, word: &str) -> String {
    if holds { word.to_owned() } else { String::new() }
}

fn joined(words: &[(bool, &str)]) -> String {
    words.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

/// The server keeps to the methods; that no other link is reached is the kernel's doing.
fn held_to_link(live: Live<'_>) -> String {
    let passes_modes = live.facts.has("CAP_DAC_OVERRIDE");
    joined(&[(!passes_modes, "socket mode"), (live.facts.own_root, "mount namespace"), (true, "method list")])
}

fn held_to_paths(live: Live<'_>, component: &Component) -> String {
    let landlocked = live.loaded.landlock.is_some_and(|landlock| landlock.files);
    joined(&[
        (live.facts.own_root && !component.paths.host_root(), "mount namespace"),
        (landlocked, "landlock"),
        (!live.facts.has("CAP_DAC_OVERRIDE"), "file permissions"),
    ])
}

fn listening(live: Live<'_>, at: &str) -> String {
    let unix = at.starts_with('/') && live.open.unix.iter().any(|path| path == Path::new(at));
    word(unix || (!at.starts_with('/') && live.open.listening > 0), "listening")
}

/// What holds it, and what it uses, for the grants that are one word.
fn state(live: Live<'_>, component: &Component, kind: Kind, grant: &str) -> (String, String) {
    let facts = live.facts;
    match kind {
        Kind::Capability => (
            joined(&[(facts.may_have(grant), "bounding set"), (facts.no_new_privs, "no_new_privs")]),
            if facts.has(grant) { "held" } else { "not held" }.to_owned(),
        ),
        Kind::Network => (held_to_network(live, component.network), sockets(live.open)),
        Kind::Namespace => {
            let own = match grant {
                "mount" => facts.own.mount,
                "ipc" => facts.own.ipc,
                "uts" => facts.own.uts,
                _ => false,
            };
            (String::new(), if own { "its own" } else { "the host's" }.to_owned())
        }
        Kind::Group => ("supplementary groups".to_owned(), String::new()),
        // Root: what it lacks of root's rights.
        Kind::User => (
            joined(&[
                (!facts.bounding.is_all(), "bounding set"),
                (facts.own.mount, "mount namespace"),
                (facts.calls.filtered, "seccomp"),
            ]),
            String::new(),
        ),
        _ => (String::new(), String::new()),
    }
}

fn held_to_network(live: Live<'_>, network: Network) -> String {
    let landlock = live.loaded.landlock.is_some_and(|landlock| match network {
        Network::Outbound => !landlock.bind_tcp,
        Network::Inbound => !landlock.connect_tcp,
        Network::None | Network::Host => false,
    });
    let exotic = live.facts.calls.families.iter().skip(2).all(|open| !open);
    joined(&[(landlock, "landlock"), (exotic, "seccomp")])
}

fn sockets(open: &Open) -> String {
    match (open.listening, open.connected) {
        (0, 0) => "nothing open now".to_owned(),
        (0, connected) => format!("{connected} connected now"),
        (listening, 0) => format!("{listening} listening now"),
        (listening, connected) => format!("{listening} listening, {connected} connected now"),
    }
}

#[cfg(test)]
mod tests {
    use launch::Landlock;
    use rustix::thread::CapabilitySet;

    use super::*;
    use crate::exposure::facts::{Places, Raw, conclude};
    use crate::manifest;

    const HUB: &str = r#"
        [component.hub]
        rank = 2
        exec = "hub"
        user = "hub"
        groups = ["kube"]
        network = "outbound"
        paths = { read = ["{etc}"] }
        listen = { http = "{run}/http.sock" }
        ready_timeout = "10s"
        drain = "5s"
        calls = { store = ["Get", "Put"] }
        [component.hub.why]
        network = "the cloud"
        [component.hub.why.groups]
        kube = "shares a file"
        [component.hub.why.paths]
        "{etc}" = "certificates"
        [component.hub.why.calls]
        store = "keeps state"
        [component.hub.why.listen]
        http = "metrics"
    "#;

    fn hub() -> Component {
        let (mut manifest, findings) = manifest::parse("m", HUB);
        assert_eq!(findings, []);
        manifest.components.remove("hub").expect("hub")
    }

    fn path(text: &str) -> String {
        text.replace("{etc}", "/etc/apiary").replace("{run}", "/run/x")
    }

    fn facts() -> Facts {
        Facts {
            uid: 998,
            own_root: true,
            bounding: CapabilitySet::empty(),
            effective: CapabilitySet::empty(),
            ..conclude(&Raw::default(), &Raw::default(), &Places::default(), &Loaded::default())
        }
    }

    fn link(methods: Vec<MethodUse>) -> Link {
        Link { server: "store".into(), client: "hub".into(), methods, ..Link::default() }
    }

    fn find<'a>(list: &'a [Privilege], kind: &str, grant: &str) -> &'a Privilege {
        list.iter()
            .find(|one| one.kind == kind && one.grant == grant)
            .unwrap_or_else(|| panic!("{grant}: {list:?}"))
    }

    fn granted(component: &Component) -> Granted<'_> {
        Granted { name: "hub", component, path: &path, only_user: None, passing: 7 }
    }

    fn list(links: &[Link], live: Option<Live<'_>>) -> Vec<Privilege> {
        privileges(granted(&hub()), links, live)
    }

    fn live_list(open: &Open, links: &[Link]) -> Vec<Privilege> {
        let landlock = Landlock { files: true, connect_tcp: true, ..Landlock::default() };
        let loaded = Loaded { landlock: Some(&landlock), ..Loaded::default() };
        let facts = facts();
        let live = Live { facts: &facts, open, loaded: &loaded };
        list(links, Some(live))
    }

    #[test]
    fn every_grant_has_its_reason() {
        let list = list(&[], None);
        let kinds: Vec<&str> = list.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["user", "group", "network", "read", "call", "call", "listen", "syscalls"]);
        assert!(list.iter().all(|one| !one.why.is_empty()), "{list:?}");
    }

    #[test]
    fn without_root_everybody_is_the_one_user_there_is() {
        for user in ["hub", "root"] {
            let component = Component { user: user.to_owned(), ..hub() };
            let granted = Granted { only_user: Some("me"), ..granted(&component) };
            let list = privileges(granted, &[], None);
            let users: Vec<&str> =
                list.iter().filter(|one| one.kind == "user").map(|one| one.grant.as_str()).collect();
            assert_eq!(users, ["me"]);
        }
    }

    #[test]
    fn nothing_is_claimed_of_a_process_that_does_not_run() {
        let list = list(&[link(Vec::new())], None);
        assert!(list.iter().all(|one| one.enforced_by.is_empty() && one.used.is_empty()), "{list:?}");
    }

    #[test]
    fn calls_are_counted_by_method() {
        let put = MethodUse { name: "Put".into(), calls_total: 1_023, failures_total: 0 };
        let list = live_list(&Open::default(), &[link(vec![put])]);
        assert_eq!(find(&list, "call", "store.Put").used, "1 023 calls");
        assert_eq!(find(&list, "call", "store.Get").used, "never");
        assert_eq!(find(&list, "call", "store.Get").enforced_by, "socket mode, mount namespace, method list");
    }

    #[test]
    fn open_files_and_listeners_show_as_used() {
        let open = Open {
            files: vec!["/etc/apiary/ca.crt".into()],
            unix: vec!["/run/x/http.sock".into()],
            connected: 2,
            listening: 0,
        };
        let list = live_list(&open, &[]);
        assert_eq!(find(&list, "read", "/etc/apiary").used, "open now");
        assert_eq!(
            find(&list, "read", "/etc/apiary").enforced_by,
            "mount namespace, landlock, file permissions"
        );
        assert_eq!(find(&list, "listen", "http=/run/x/http.sock").used, "listening");
        let network = find(&list, "network", "outbound");
        assert_eq!((network.enforced_by.as_str(), network.used.as_str()), ("landlock", "2 connected now"));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1 000"), (12_345_678, "12 345 678")] {
            assert_eq!(grouped(number), text);
        }
        let failed = MethodUse { name: String::new(), calls_total: 2, failures_total: 1 };
        assert_eq!(calls(&failed), "2 calls, 1 failed");
    }
}
