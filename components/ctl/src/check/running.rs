//! The supervisor, if it runs.

use super::finding::Finding;
use crate::cli::Side;

#[derive(Debug, Clone)]
pub(super) enum Running {
    No,
    /// Its socket is there, and not for us.
    Hidden(String),
    /// It listens and does not answer.
    Silent(String),
    Yes {
        version: String,
        pid: u32,
        components: Vec<Component>,
    },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) last_exit: String,
    pub(super) degraded: Vec<String>,
    pub(super) rolled_back: bool,
}

pub(super) fn judge(side: Side, running: &Running) -> Vec<Finding> {
    let (supervisor, program) = (side.supervisor(), side.program());
    let id = "supervisor.running";
    let (version, pid, components) = match running {
        Running::No => {
            return vec![Finding::ok(id, format!("{supervisor} is not running (not needed for this)"))];
        }
        Running::Hidden(socket) => return vec![Finding::unseen(id, format!("{socket} is not ours to use"))],
        Running::Silent(error) => {
            return vec![Finding::error(
                id,
                format!("{supervisor} does not answer: {error}"),
                "components that fail now are not started again",
                format!("journalctl -u {supervisor}; systemctl restart {supervisor}"),
            )];
        }
        Running::Yes { version, pid, components } => (version, pid, components),
    };
    let mut findings = vec![Finding::ok(id, format!("{supervisor} {version}, pid {pid}"))];
    for component in components {
        let Component { name, state, last_exit, .. } = component;
        let because = if last_exit.is_empty() { String::new() } else { format!(": {last_exit}") };
        let ill = matches!(state.as_str(), "failed" | "backoff");
        if ill {
            findings.push(Finding::error(
                "supervisor.component",
                format!("{name} is {state}{because}"),
                "what it does is not done",
                format!("{program} logs {name} --tail 20, then {program} restart {name}"),
            ));
        }
        if component.rolled_back {
            findings.push(Finding::warning(
                "supervisor.component",
                format!("{name} runs its previous program"),
                "the installed one did not become ready",
                format!(
                    "{program} logs {name} says why; install one that works and {program} restart {name}"
                ),
            ));
        }
        if !component.degraded.is_empty() {
            let without = component.degraded.join(", ");
            let (why, fix) = if without.contains("descriptors") {
                (
                    "it serves fewer connections than its manifest says",
                    format!(
                        "systemctl edit {supervisor}: LimitNOFILE=1048576; then systemctl restart {supervisor}"
                    ),
                )
            } else if without.contains("not permitted") || without.contains("not held") {
                (
                    "it is held back less than its manifest says",
                    format!(
                        "start {supervisor} as root, as its unit does: systemctl enable --now {supervisor}"
                    ),
                )
            } else {
                (
                    "it is held back less than its manifest says",
                    "the findings of kernel.* and cgroup.* say what this machine lacks".to_owned(),
                )
            };
            let found = format!("{name} runs without {without}");
            findings.push(Finding::warning("supervisor.confinement", found, why, fix));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn running(component: Component) -> Vec<Finding> {
        let components = vec![component];
        judge(Side::Edge, &Running::Yes { version: "0.1.0".into(), pid: 7, components })
    }

    #[test]
    fn before_the_first_start_nothing_is_wrong() {
        assert_eq!(judge(Side::Edge, &Running::No)[0].severity, Severity::Ok);
    }

    #[test]
    fn failed_component_is_an_error_with_its_reason() {
        let findings = running(Component {
            name: "edged".into(),
            state: "failed".into(),
            last_exit: "exit code 78".into(),
            ..Component::default()
        });
        assert_eq!(findings[1].severity, Severity::Error);
        assert_eq!(findings[1].found, "edged is failed: exit code 78");
    }

    #[test]
    fn degraded_component_is_a_warning() {
        let findings = running(Component {
            name: "edged".into(),
            state: "ready".into(),
            degraded: vec!["memory limit (no cgroup)".into()],
            ..Component::default()
        });
        assert_eq!(findings[1].severity, Severity::Warning);
    }
}
