//! The time, by itself and against the certificates.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Finding, Seen};
use crate::cli::Side;

/// 2026-01-01, before any release: a clock that says less was not set since it lost its battery.
const EARLIEST: Duration = Duration::from_hours(490_896);
/// 30 days: time to act on a node that is seldom visited.
const SOON: Duration = Duration::from_hours(30 * 24);

#[derive(Debug, Clone)]
pub(super) struct Clock {
    pub(super) now: SystemTime,
    /// Who sets the clock; none that is known.
    pub(super) keeper: Option<String>,
    pub(super) certificates: Vec<Certificate>,
}

#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
    pub(super) validity: Seen<Validity>,
}

/// Whose it is decides what happens at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// edgehub joins again when it has expired.
    Node,
    /// The CA of all nodes.
    Authority,
    /// cloudhub asks authority for the next one by itself.
    Hub,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    /// Subject CN.
    pub(super) name: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Kind {
    fn id(self) -> &'static str {
        match self {
            Self::Node => "clock.node-certificate",
            Self::Authority => "clock.ca-certificate",
            Self::Hub => "clock.hub-certificate",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Node => "the node's certificate",
            Self::Authority => "the certificate of the CA",
            Self::Hub => "the hub's certificate",
        }
    }

    /// What absence means.
    fn none_yet(self) -> &'static str {
        match self {
            Self::Node => "none yet: this node has not joined",
            Self::Authority | Self::Hub => "none yet: made at the first start",
        }
    }

    fn renew(self) -> &'static str {
        match self {
            Self::Node => {
                "put a fresh join token (on the cloud: kubectl get secret -n kubeedge tokensecret -o \
                 jsonpath='{.data.tokendata}' | base64 -d) into apiary.tokenFile or modules.edgeHub.token, then \
                 `edgectl restart edgehub`"
            }
            Self::Authority => {
                "plan a day on which all nodes join again: move rootCA.crt and rootCA.key away, then `cloudctl \
                 restart authority` and `cloudctl restart cloudhub`"
            }
            Self::Hub => "cloudctl restart cloudhub; `cloudctl logs authority` says why there is no new one",
        }
    }
}

pub(super) fn judge(side: Side, clock: &Clock) -> Vec<Finding> {
    let mut findings = vec![sane(clock), kept(side, clock)];
    findings.extend(clock.certificates.iter().map(|certificate| dates(certificate, clock.now)));
    findings
}

fn sane(clock: &Clock) -> Finding {
    let found = format!("it is {}", show(clock.now));
    if clock.now < UNIX_EPOCH + EARLIEST {
        return Finding::error(
            "clock.time",
            found,
            "every certificate seems to be from the future, so no connection is trusted",
            "timedatectl set-time 'YYYY-MM-DD hh:mm:ss', and fit a battery or enable a time service",
        );
    }
    Finding::ok("clock.time", found)
}

fn kept(side: Side, clock: &Clock) -> Finding {
    match &clock.keeper {
        Some(keeper) => Finding::ok("clock.service", format!("set by {keeper}")),
        None => Finding::warning(
            "clock.service",
            "no time service is running (systemd-timesyncd, chronyd, ntpd)",
            match side {
                Side::Edge => {
                    "a clock that drifts makes certificates invalid, and events come at the wrong time"
                }
                Side::Cloud => "a clock that drifts makes certificates and join tokens invalid",
            },
            "systemctl enable --now systemd-timesyncd, or `apt install chrony`",
        ),
    }
}

fn dates(certificate: &Certificate, now: SystemTime) -> Finding {
    let Certificate { kind, path, validity } = certificate;
    let (id, noun, path) = (kind.id(), kind.noun(), path.display());
    let Validity { name, not_before, not_after } = match validity {
        Seen::Yes(validity) => validity,
        Seen::Absent => return Finding::ok(id, kind.none_yet()),
        Seen::Hidden => return Finding::unseen(id, format!("{path} is not ours to read")),
        Seen::Damaged(error) => {
            return Finding::error(
                id,
                format!("{path} cannot be used: {error}"),
                "whoever presents it is not trusted",
                format!("move {path} away; {}", kind.renew()),
            );
        }
    };
    let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
    if now < *not_before {
        let behind = not_before.duration_since(now).unwrap_or_default();
        return Finding::error(
            id,
            format!("{noun}{name} is valid from {}, which is {} ahead", show(*not_before), days(behind)),
            "the clock is behind, or was ahead when the certificate was made; until then no connection is trusted",
            "timedatectl set-ntp true, or set the clock with timedatectl set-time",
        );
    }
    let Ok(left) = not_after.duration_since(now) else {
        return Finding::error(
            id,
            format!("{noun}{name} expired on {}", show(*not_after)),
            "no connection is trusted with it",
            kind.renew(),
        );
    };
    let until = format!("{noun}{name} is valid until {}, for {}", show(*not_after), days(left));
    if left < SOON && *kind != Kind::Hub {
        return Finding::warning(id, until, "after that no connection is trusted with it", kind.renew());
    }
    Finding::ok(id, until)
}

/// `2026-11-21 08:00 UTC`
fn show(time: SystemTime) -> String {
    let known = jiff::Timestamp::try_from(time).ok();
    known
        .map_or_else(|| "out of all range".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn days(span: Duration) -> String {
    crate::output::span(span.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> SystemTime {
        UNIX_EPOCH + EARLIEST + 300 * DAY
    }

    fn node(not_before: SystemTime, not_after: SystemTime) -> Certificate {
        Certificate {
            kind: Kind::Node,
            path: "/s/edgehub/node.pem".into(),
            validity: Seen::Yes(Validity { name: "system:node:edge-1".into(), not_before, not_after }),
        }
    }

    #[test]
    fn clock_that_was_never_set_is_an_error() {
        let clock = Clock { now: UNIX_EPOCH + DAY, keeper: None, certificates: Vec::new() };
        let findings = judge(Side::Edge, &clock);
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(findings[0].found, "it is 1970-01-02 00:00 UTC");
        assert_eq!(findings[1].severity, Severity::Warning);
    }

    #[test]
    fn clock_is_held_against_the_nodes_certificate() {
        let good = dates(&node(now() - DAY, now() + 365 * DAY), now());
        assert_eq!((good.id, good.severity), ("clock.node-certificate", Severity::Ok));
        let early = dates(&node(now() + DAY, now() + 365 * DAY), now());
        assert_eq!(early.severity, Severity::Error);
        assert!(early.found.contains("1d 0h ahead"), "{}", early.found);
        let late = dates(&node(now() - 2 * DAY, now() - DAY), now());
        assert_eq!(late.severity, Severity::Error);
        assert!(late.fix.contains("join token"), "{}", late.fix);
    }

    #[test]
    fn certificate_that_ends_soon_is_a_warning_unless_it_is_renewed_by_itself() {
        let mut certificate = node(now() - DAY, now() + 29 * DAY);
        assert_eq!(dates(&certificate, now()).severity, Severity::Warning);
        certificate.kind = Kind::Hub;
        assert_eq!(dates(&certificate, now()).severity, Severity::Ok);
    }

    #[test]
    fn absent_hidden_and_damaged_are_told_apart() {
        let with = |validity| Certificate { validity, ..node(now(), now()) };
        assert_eq!(dates(&with(Seen::Absent), now()).severity, Severity::Ok);
        assert_eq!(dates(&with(Seen::Hidden), now()).severity, Severity::Unseen);
        assert_eq!(dates(&with(Seen::Damaged("no PEM".into())), now()).severity, Severity::Error);
    }
}
