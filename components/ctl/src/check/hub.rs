//! The way from this node to its hub.

use std::net::IpAddr;

use super::finding::{Finding, Seen};

#[derive(Debug, Clone)]
pub(super) struct Hub {
    /// Off in the configuration: nothing else was looked at.
    pub(super) enabled: bool,
    pub(super) doors: Vec<Door>,
    /// Servers named in `/etc/resolv.conf`.
    pub(super) nameservers: usize,
    /// Whether this node has its certificate.
    pub(super) joined: Seen<()>,
    pub(super) token: Token,
}

/// One address that must answer.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) kind: DoorKind,
    pub(super) host: String,
    pub(super) port: u16,
    /// Its addresses; one that is an address needs no look-up.
    pub(super) addresses: Result<Vec<IpAddr>, String>,
    /// Connecting to the first of them that took it; nothing when there was none to try.
    pub(super) reached: Option<Result<IpAddr, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DoorKind {
    /// `modules.edgeHub.httpServer`
    Certificates,
    /// `modules.edgeHub.websocket.server`
    Messages,
}

/// The join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Absent,
    NoFile(String),
    Hidden(String),
    Malformed {
        place: String,
        problem: String,
    },
    /// edgehub's user may not read the file.
    Unreadable(String),
    /// Any user of this machine may read it.
    Exposed(String),
    Good(String),
}

pub(super) fn judge(hub: &Hub) -> Vec<Finding> {
    if !hub.enabled {
        return vec![Finding::ok("hub.enable", "modules.edgeHub.enable is false: no link is wanted")];
    }
    let mut findings: Vec<Finding> = Vec::new();
    let mut looked_up: Vec<&str> = Vec::new();
    for door in &hub.doors {
        // Both doors are of one host, as a rule.
        if !looked_up.contains(&door.host.as_str()) {
            looked_up.push(&door.host);
            findings.push(name(hub, door));
        }
    }
    findings.extend(hub.doors.iter().filter_map(|door| reached(hub, door)));
    findings.push(join(hub));
    findings
}

fn name(hub: &Hub, door: &Door) -> Finding {
    let id = "dns.hub";
    let host = &door.host;
    match &door.addresses {
        Ok(_) if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => {
            Finding::ok(id, format!("{host} needs no look-up"))
        }
        Ok(addresses) if !addresses.is_empty() => {
            let addresses: Vec<String> = addresses.iter().take(4).map(ToString::to_string).collect();
            Finding::ok(id, format!("{host} is {}", addresses.join(", ")))
        }
        Ok(_) => Finding::error(
            id,
            format!("{host} has no address"),
            "edgehub cannot find the cloud",
            format!("add {host} to DNS or to /etc/hosts"),
        ),
        Err(error) => {
            let fix = if hub.nameservers == 0 {
                "name a DNS server in /etc/resolv.conf: it has none".to_owned()
            } else {
                format!(
                    "getent hosts {host} shows what the resolver says; mend DNS, or add {host} to /etc/hosts"
                )
            };
            Finding::error(
                id,
                format!("could not look up {host}: {error}"),
                "edgehub cannot find the cloud",
                fix,
            )
        }
    }
}

fn reached(hub: &Hub, door: &Door) -> Option<Finding> {
    let Door { kind, host, port, reached, .. } = door;
    let (id, key, without) = match kind {
        DoorKind::Certificates => {
            ("hub.https", "modules.edgeHub.httpServer", "without it the node cannot join")
        }
        DoorKind::Messages => (
            "hub.websocket",
            "modules.edgeHub.websocket.server",
            "without it the node learns nothing new from the cloud; pods that run go on",
        ),
    };
    let error = match reached.as_ref()? {
        Ok(address) => return Some(Finding::ok(id, format!("{host}:{port} answers ({address})"))),
        Err(error) => error,
    };
    let found = format!("{host}:{port} does not answer: {error}");
    let fix = format!(
        "start cloudcore there, open port {port} in the firewalls between, or mend {key} in the configuration"
    );
    // A node that joined does without the certificate door until its certificate ends.
    let joined = matches!(hub.joined, Seen::Yes(()));
    Some(if joined && *kind == DoorKind::Certificates {
        Finding::warning(id, found, "this node has joined; it needs it again when its certificate ends", fix)
    } else {
        Finding::error(id, found, without, fix)
    })
}

fn join(hub: &Hub) -> Finding {
    let id = "hub.token";
    if matches!(hub.joined, Seen::Yes(())) {
        return Finding::ok(id, "not needed: this node has joined");
    }
    let maybe = if matches!(hub.joined, Seen::Hidden) { ", if this node has not joined yet" } else { "" };
    let fix = "on the cloud: kubectl get secret -n kubeedge tokensecret -o jsonpath='{.data.tokendata}' | base64 -d; put \
               it into a file that user edge-hub may read, and its name into apiary.tokenFile";
    let why = format!("a node joins with a token{maybe}");
    match &hub.token {
        Token::Good(place) => Finding::ok(id, format!("in {place}")),
        Token::Hidden(place) => Finding::unseen(id, format!("{place} is not ours to read")),
        Token::Absent if !maybe.is_empty() => {
            Finding::unseen(id, "no join token, and whether this node has joined cannot be seen")
        }
        Token::Absent => Finding::error(id, "this node has not joined, and there is no join token", why, fix),
        Token::NoFile(file) => {
            Finding::error(id, format!("apiary.tokenFile {file} does not exist"), why, fix)
        }
        Token::Unreadable(file) => Finding::error(
            id,
            format!("{file} is not readable by user edge-hub"),
            why,
            format!("chown edge-hub: {file} && chmod 0400 {file}"),
        ),
        Token::Exposed(place) => Finding::warning(
            id,
            format!("every user of this machine can read the join token in {place}"),
            "whoever has it can join as a node of any name while it is valid",
            "keep it in a file: chown edge-hub: FILE && chmod 0400 FILE, and name that in apiary.tokenFile",
        ),
        Token::Malformed { place, problem } => {
            Finding::error(id, format!("the join token in {place} is none: {problem}"), why, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn hub(host: &str, address: Result<[u8; 4], &str>) -> Hub {
        let addresses = address.map(|address| vec![IpAddr::from(address)]).map_err(str::to_owned);
        let door = |kind, port| Door {
            kind,
            host: host.into(),
            port,
            reached: addresses.as_ref().ok().map(|_| Err("connection refused".into())),
            addresses: addresses.clone(),
        };
        Hub {
            enabled: true,
            doors: vec![door(DoorKind::Certificates, 10002), door(DoorKind::Messages, 10000)],
            nameservers: 1,
            joined: Seen::Absent,
            token: Token::Absent,
        }
    }

    fn find(hub: &Hub, id: &str) -> Vec<Finding> {
        judge(hub).into_iter().filter(|finding| finding.id == id).collect()
    }

    #[test]
    fn one_host_is_looked_up_once() {
        let hub = hub("cloud.example", Err("no such name"));
        let findings = find(&hub, "dns.hub");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Error);
        assert!(find(&hub, "hub.https").is_empty(), "nothing to connect to");
    }

    #[test]
    fn machine_without_dns_server_is_told_so() {
        let hub = Hub { nameservers: 0, ..hub("cloud.example", Err("again")) };
        assert!(find(&hub, "dns.hub")[0].fix.contains("/etc/resolv.conf"));
    }

    #[test]
    fn address_needs_no_look_up() {
        let hub = hub("10.0.0.1", Ok([10, 0, 0, 1]));
        assert_eq!(find(&hub, "dns.hub")[0].severity, Severity::Ok);
    }

    #[test]
    fn joined_node_needs_the_certificate_door_later() {
        let mut hub = hub("10.0.0.1", Ok([10, 0, 0, 1]));
        assert_eq!(find(&hub, "hub.https")[0].severity, Severity::Error);
        hub.joined = Seen::Yes(());
        assert_eq!(find(&hub, "hub.https")[0].severity, Severity::Warning);
        assert_eq!(find(&hub, "hub.websocket")[0].severity, Severity::Error);
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Ok);
    }

    #[test]
    fn token_is_needed_until_the_node_has_joined() {
        let mut hub = hub("10.0.0.1", Ok([10, 0, 0, 1]));
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Error);
        hub.token = Token::Good("apiary.tokenFile".into());
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Ok);
        hub.token = Token::Exposed("modules.edgeHub.token".into());
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Warning);
        hub.token = Token::Unreadable("/t".into());
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Error);
        hub.token = Token::Absent;
        hub.joined = Seen::Hidden;
        assert_eq!(find(&hub, "hub.token")[0].severity, Severity::Unseen);
    }

    #[test]
    fn link_that_is_off_is_not_looked_at() {
        let hub = Hub { enabled: false, ..hub("x", Err("y")) };
        assert!(judge(&hub).iter().all(|finding| finding.severity == Severity::Ok));
    }
}
