//! Others that do our work on this machine.

use super::finding::Finding;
use crate::cli::Side;

#[derive(Debug, Clone, Default)]
pub(super) struct Agents {
    /// All processes.
    pub(super) processes: Vec<Process>,
    /// Names of our components: a supervisor with children of these names is one of ours. One that only starts has none
    /// yet, and is known by its file.
    pub(super) components: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// As the kernel has it: 15 bytes at most.
    pub(super) name: String,
    /// Its program's file has one of ours beside it; unknown counts as no.
    pub(super) beside_ours: bool,
}

/// What else manages pods: the kubelet by itself, and within other distributions of Kubernetes.
const KUBELETS: [&str; 6] = ["kubelet", "kubelite", "k3s-agent", "k3s-server", "rke2", "k0s"];

pub(super) fn judge(side: Side, agents: &Agents) -> Vec<Finding> {
    let id = "agents.other";
    let named = |names: &[&str]| -> Vec<&Process> {
        agents.processes.iter().filter(|process| names.contains(&process.name.as_str())).collect()
    };
    let ours = |supervisor: &Process| {
        let child =
            |process: &Process| process.parent == supervisor.pid && agents.components.contains(&process.name);
        supervisor.beside_ours || agents.processes.iter().any(child)
    };
    let (own, theirs): (Vec<_>, Vec<_>) =
        named(&[side.supervisor()]).into_iter().partition(|process| ours(process));
    let kubelets = match side {
        Side::Edge => named(&KUBELETS),
        // A cloud side may well run on a node of the cluster it serves.
        Side::Cloud => Vec::new(),
    };
    let list = |processes: &[&Process]| -> String {
        let shown = processes.iter().take(4).map(|process| format!("{} (pid {})", process.name, process.pid));
        shown.collect::<Vec<_>>().join(", ")
    };
    let mut findings = Vec::new();
    if !kubelets.is_empty() {
        findings.push(Finding::error(
            id,
            format!("{} runs here", list(&kubelets)),
            "two agents on one container runtime end each other's pods",
            format!("systemctl disable --now {}", kubelets[0].name),
        ));
    }
    if !theirs.is_empty() {
        let (why, stop) = match side {
            Side::Edge => (
                "it seems to be KubeEdge's (it has none of our components): two agents on one container runtime end \
                 each other's pods",
                "systemctl disable --now edgecore, then start ours",
            ),
            Side::Cloud => (
                "it seems to be KubeEdge's (it has none of our components): both want the same ports",
                "systemctl disable --now cloudcore, then start ours",
            ),
        };
        findings.push(Finding::error(id, format!("another {} runs here", list(&theirs)), why, stop));
    }
    if own.len() > 1 {
        findings.push(Finding::warning(
            id,
            format!("{} supervisors of Apiary run here: {}", own.len(), list(&own)),
            "that is well only if each has its own directories, and on the edge its own container runtime",
            format!(
                "ls -l /proc/*/exe | grep {}; kill {} if it should not run",
                side.supervisor(),
                own[1].pid
            ),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            id,
            match side {
                Side::Edge => "no kubelet and no KubeEdge runs here",
                Side::Cloud => "no KubeEdge runs here",
            },
        ));
    }
    findings
}

/// From `/proc/PID/stat`: `PID (NAME) STATE PARENT …`; a name may hold anything.
pub(super) fn process(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?.parse().ok()?;
    Some(Process { pid: pid.parse().ok()?, parent, name: name.to_owned(), beside_ours: false })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn agents(processes: &[(u32, u32, &str)]) -> Agents {
        let one = |(pid, parent, name): &(u32, u32, &str)| Process {
            pid: *pid,
            parent: *parent,
            name: (*name).to_owned(),
            beside_ours: false,
        };
        Agents { processes: processes.iter().map(one).collect(), components: vec!["keyholder".into()] }
    }

    #[test]
    fn our_own_supervisor_is_told_from_kubeedges() {
        let ours = agents(&[(5, 1, "edgecore"), (6, 5, "keyholder")]);
        assert_eq!(judge(Side::Edge, &ours)[0].severity, Severity::Ok);
        let mut theirs = agents(&[(5, 1, "edgecore"), (6, 1, "keyholder")]);
        assert_eq!(judge(Side::Edge, &theirs)[0].severity, Severity::Error);
        theirs.processes[0].beside_ours = true;
        assert_eq!(judge(Side::Edge, &theirs)[0].severity, Severity::Ok, "it only starts");
    }

    #[test]
    fn kubelet_matters_on_the_edge_only() {
        let kubelet = agents(&[(5, 1, "kubelet")]);
        assert_eq!(judge(Side::Edge, &kubelet)[0].severity, Severity::Error);
        assert_eq!(judge(Side::Cloud, &kubelet)[0].severity, Severity::Ok);
    }

    #[test]
    fn second_supervisor_of_ours_is_a_warning() {
        let two = agents(&[(5, 1, "edgecore"), (6, 5, "keyholder"), (7, 1, "edgecore"), (8, 7, "keyholder")]);
        assert_eq!(judge(Side::Edge, &two)[0].severity, Severity::Warning);
    }

    #[test]
    fn process_may_have_any_name() {
        assert_eq!(
            process("12 (a) b (c)) S 7 12 12").unwrap(),
            Process { pid: 12, parent: 7, name: "a) b (c)".into(), beside_ours: false }
        );
        assert_eq!(process("12 (a"), None);
        assert_eq!(process(""), None);
    }
}
