//! Configuration, manifest and programs, in short: `config check` says more.

use super::finding::{Finding, Seen};
use crate::cli::Side;

#[derive(Debug, Clone)]
pub(super) struct Configuration {
    pub(super) file: String,
    /// Whether the file is there, and can be read.
    pub(super) there: Seen<()>,
    pub(super) errors: Vec<String>,
    /// Keys without effect.
    pub(super) ignored: usize,
    /// Users of components that read the file, and may not.
    pub(super) unreadable_by: Vec<String>,
    pub(super) manifest: String,
    pub(super) manifest_errors: Vec<String>,
    /// Programs that are not there or cannot be run.
    pub(super) programs_missing: Vec<String>,
    /// Where they are looked for.
    pub(super) programs: String,
    /// Of an edge: its node's name, or what is wrong with it.
    pub(super) node: Option<Result<String, String>>,
    /// Of a cloud without its own API: the kubeconfig.
    pub(super) kubeconfig: Option<(String, Seen<()>)>,
}

pub(super) fn judge(side: Side, configuration: &Configuration) -> Vec<Finding> {
    let Configuration { file, there, errors, ignored, .. } = configuration;
    let program = side.program();
    let rest = |errors: &[String]| match errors.len() {
        1 => String::new(),
        more => format!(" (and {} more)", more - 1),
    };
    let mut findings = vec![match (there, errors.first()) {
        (Seen::Hidden, _) => Finding::unseen("config.file", format!("{file} is not ours to read")),
        (Seen::Absent, _) => Finding::warning(
            "config.file",
            format!("there is no {file}"),
            "defaults are used, in which the hub is on this machine",
            format!("write {file}, as for KubeEdge; `{program} config check` checks it"),
        ),
        (_, Some(error)) => Finding::error(
            "config.file",
            format!("{error}{}", rest(errors)),
            "components do not start with a wrong configuration",
            format!("{program} config check {file}"),
        ),
        (Seen::Damaged(error), None) => Finding::error(
            "config.file",
            format!("could not read {file}: {error}"),
            "components do not start without their configuration",
            format!("ls -l {file}"),
        ),
        (Seen::Yes(()), None) if *ignored > 0 => Finding::ok(
            "config.file",
            format!("{file}; {ignored} of its keys have no effect, `{program} config check` names them"),
        ),
        (Seen::Yes(()), None) => Finding::ok("config.file", file),
    }];
    if !configuration.unreadable_by.is_empty() {
        findings.push(Finding::error(
            "config.readable",
            format!("{file} is not readable by {}", configuration.unreadable_by.join(", ")),
            "components read it as their own users, and do not start without it",
            format!("chmod 0644 {file}, and 0755 its folder; keep the join token apart, in apiary.tokenFile"),
        ));
    }
    findings.push(match configuration.manifest_errors.first() {
        None => Finding::ok("config.manifest", &configuration.manifest),
        Some(error) => Finding::error(
            "config.manifest",
            format!("{error}{}", rest(&configuration.manifest_errors)),
            "the supervisor does not start with a wrong manifest",
            format!("{program} config check"),
        ),
    });
    findings.push(match configuration.programs_missing.first() {
        None => Finding::ok("config.programs", format!("all in {}", configuration.programs)),
        Some(missing) => Finding::error(
            "config.programs",
            format!("{missing}{}", rest(&configuration.programs_missing)),
            "the supervisor starts only what is there",
            "install the package again, or name the programs' folder with --exec-dir",
        ),
    });
    findings.extend(configuration.node.as_ref().map(|node| match node {
        Ok(name) => Finding::ok("config.node", format!("this node is {name}")),
        Err(problem) => Finding::error(
            "config.node",
            problem,
            "the cloud takes no node of that name",
            "set modules.edged.hostnameOverride, or `hostnamectl set-hostname NAME`",
        ),
    }));
    findings.extend(configuration.kubeconfig.as_ref().map(|(file, there)| match there {
        Seen::Yes(()) => Finding::ok("config.kubeconfig", file),
        Seen::Hidden => Finding::unseen("config.kubeconfig", format!("{file} is not ours to read")),
        Seen::Absent if file.is_empty() => Finding::error(
            "config.kubeconfig",
            "no kubeconfig is named",
            "controllers reach the cluster with it",
            "set kubeAPIConfig.kubeConfig, or start `cloudcore --standalone` (and check with --standalone)",
        ),
        Seen::Absent => Finding::error(
            "config.kubeconfig",
            format!("there is no {file}"),
            "controllers reach the cluster with it",
            format!("copy a kubeconfig to {file} and give it to user cloud-ctrl: chown cloud-ctrl {file}"),
        ),
        Seen::Damaged(error) => Finding::error(
            "config.kubeconfig",
            format!("could not read {file}: {error}"),
            "controllers reach the cluster with it",
            format!("ls -l {file}"),
        ),
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn good() -> Configuration {
        Configuration {
            file: "/etc/apiary/edgecore.yaml".into(),
            there: Seen::Yes(()),
            errors: Vec::new(),
            ignored: 0,
            unreadable_by: Vec::new(),
            manifest: "edge.toml".into(),
            manifest_errors: Vec::new(),
            programs_missing: Vec::new(),
            programs: "/usr/lib/apiary".into(),
            node: Some(Ok("edge-1".into())),
            kubeconfig: None,
        }
    }

    fn severities(configuration: &Configuration) -> Vec<Severity> {
        judge(Side::Edge, configuration).into_iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn good_configuration_is_fine() {
        assert!(severities(&good()).iter().all(|severity| *severity == Severity::Ok));
    }

    #[test]
    fn first_error_is_told_with_the_number_of_others() {
        let errors = vec!["heartbeat is 0".to_owned(), "nodeIP is x".to_owned()];
        let findings = judge(Side::Edge, &Configuration { errors, ..good() });
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(findings[0].found, "heartbeat is 0 (and 1 more)");
        assert!(findings[0].fix.starts_with("edgectl config check"));
    }

    #[test]
    fn file_its_readers_cannot_read_is_an_error() {
        let findings = judge(Side::Edge, &Configuration { unreadable_by: vec!["edge-hub".into()], ..good() });
        assert_eq!((findings[1].id, findings[1].severity), ("config.readable", Severity::Error));
    }

    #[test]
    fn absent_file_is_a_warning_for_there_are_defaults() {
        assert_eq!(severities(&Configuration { there: Seen::Absent, ..good() })[0], Severity::Warning);
    }

    #[test]
    fn cluster_without_kubeconfig_is_an_error() {
        let kubeconfig = Some((String::new(), Seen::Absent));
        assert_eq!(severities(&Configuration { kubeconfig, ..good() })[4], Severity::Error);
    }
}
