//! The container runtime.

use super::finding::Finding;

/// As it was reached.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    /// `unix:///run/containerd/containerd.sock`, as configured.
    pub(super) endpoint: String,
    pub(super) socket: Socket,
    /// Its `Version`; nothing when the socket could not be used.
    pub(super) version: Option<Result<Version, Failure>>,
    /// The conditions of its `Status`; empty when it was not asked or did not say.
    pub(super) conditions: Vec<Condition>,
}

/// What is at the endpoint's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    Open,
    Absent,
    OtherFile,
    /// Root's, and we are not.
    Hidden,
    /// Nobody listens.
    Dead,
    Odd(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// `containerd`
    pub(super) name: String,
    pub(super) release: String,
    /// Of the CRI.
    pub(super) api: String,
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is no CRI: the runtime's plugin for it is off, or this is something else.
    NoCri,
    Other(String),
}

/// `RuntimeReady` or `NetworkReady`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) name: String,
    pub(super) holds: bool,
    /// Reason and message.
    pub(super) because: String,
}

const START: &str = "apt install containerd && systemctl enable --now containerd; if the runtime is elsewhere, name its socket in \
                     modules.edged.tailoredKubeletConfig.containerRuntimeEndpoint";

pub(super) fn judge(runtime: &Runtime) -> Vec<Finding> {
    let endpoint = &runtime.endpoint;
    let no_pods = "edged starts no pod without a container runtime";
    let socket = match &runtime.socket {
        Socket::Open => Finding::ok("runtime.socket", endpoint),
        Socket::Hidden => Finding::unseen("runtime.socket", format!("{endpoint} is for root only")),
        Socket::Absent => Finding::error("runtime.socket", format!("there is no {endpoint}"), no_pods, START),
        Socket::OtherFile => {
            Finding::error("runtime.socket", format!("{endpoint} is no socket"), no_pods, START)
        }
        Socket::Dead => Finding::error(
            "runtime.socket",
            format!("nobody listens on {endpoint}"),
            no_pods,
            "systemctl restart containerd; journalctl -u containerd says why it ended",
        ),
        Socket::Odd(error) => {
            Finding::error("runtime.socket", format!("could not use {endpoint}: {error}"), no_pods, START)
        }
    };
    let mut findings = vec![socket];
    findings.extend(runtime.version.as_ref().map(version));
    findings.extend(runtime.conditions.iter().filter_map(condition));
    findings
}

fn version(version: &Result<Version, Failure>) -> Finding {
    let id = "runtime.version";
    match version {
        Ok(Version { name, release, api }) if api == "v1" => {
            Finding::ok(id, format!("{name} {release}, CRI {api}"))
        }
        Ok(Version { name, release, api }) => Finding::error(
            id,
            format!("{name} {release} speaks CRI {api:?}"),
            "edged speaks CRI v1, which came with containerd 1.6 and CRI-O 1.20",
            "apt install --only-upgrade containerd",
        ),
        Err(Failure::NoCri) => Finding::error(
            id,
            "the runtime answers, but serves no CRI v1",
            "edged starts no pod without it; Docker's packages of containerd turn it off, versions before 1.6 lack it",
            "remove \"cri\" from disabled_plugins in /etc/containerd/config.toml && systemctl restart containerd",
        ),
        Err(Failure::Other(error)) => Finding::error(
            id,
            format!("the runtime does not say its version: {error}"),
            "edged starts no pod while it does not answer",
            "systemctl restart containerd; journalctl -u containerd says more",
        ),
    }
}

fn condition(condition: &Condition) -> Option<Finding> {
    let Condition { name, holds, because } = condition;
    let (id, why, fix) = match name.as_str() {
        "RuntimeReady" => (
            "runtime.ready",
            "the node is not Ready, and no pod starts",
            "systemctl restart containerd; journalctl -u containerd says more",
        ),
        "NetworkReady" => (
            "runtime.network",
            "the node is not Ready, and only pods of the host's network start",
            "put a network configuration into the runtime's CNI directory, see cni.config",
        ),
        _ => return None,
    };
    Some(if *holds {
        Finding::ok(id, format!("the runtime says {name}"))
    } else {
        Finding::error(id, format!("the runtime says not {name}: {because}"), why, fix)
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn runtime(socket: Socket, version: Option<Result<Version, Failure>>) -> Runtime {
        Runtime { endpoint: "unix:///run/c.sock".into(), socket, version, conditions: Vec::new() }
    }

    fn containerd(api: &str) -> Version {
        Version { name: "containerd".into(), release: "1.6.20".into(), api: api.into() }
    }

    #[test]
    fn version_is_told() {
        let findings = judge(&runtime(Socket::Open, Some(Ok(containerd("v1")))));
        assert_eq!(findings[1].found, "containerd 1.6.20, CRI v1");
        let findings = judge(&runtime(Socket::Open, Some(Ok(containerd("v1alpha2")))));
        assert_eq!(findings[1].severity, Severity::Error);
    }

    #[test]
    fn every_way_to_have_no_runtime_is_told_apart() {
        let found = |socket| judge(&runtime(socket, None)).remove(0);
        assert_eq!(found(Socket::Hidden).severity, Severity::Unseen);
        for (socket, words) in [
            (Socket::Absent, "there is no"),
            (Socket::Dead, "nobody listens"),
            (Socket::OtherFile, "is no socket"),
        ] {
            let finding = found(socket);
            assert_eq!(finding.severity, Severity::Error);
            assert!(finding.found.contains(words), "{}", finding.found);
        }
    }

    #[test]
    fn dockers_containerd_is_told_which_line_to_remove() {
        let findings = judge(&runtime(Socket::Open, Some(Err(Failure::NoCri))));
        assert!(findings[1].fix.contains("disabled_plugins"), "{}", findings[1].fix);
    }

    #[test]
    fn network_that_is_not_ready_is_an_error() {
        let mut runtime = runtime(Socket::Open, Some(Ok(containerd("v1"))));
        runtime.conditions = vec![
            Condition { name: "RuntimeReady".into(), holds: true, because: String::new() },
            Condition {
                name: "NetworkReady".into(),
                holds: false,
                because: "cni plugin not initialized".into(),
            },
            Condition { name: "SomethingNew".into(), holds: false, because: String::new() },
        ];
        let findings = judge(&runtime);
        assert_eq!(findings.len(), 4);
        assert_eq!((findings[3].id, findings[3].severity), ("runtime.network", Severity::Error));
        assert!(findings[3].found.contains("cni plugin not initialized"));
    }
}
