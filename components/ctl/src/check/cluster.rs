//! The way from this cloud side to its cluster, when that is not its own.

use super::finding::Finding;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cluster {
    /// `https://10.0.0.1:6443`
    pub(super) server: String,
    /// Which setting says so.
    pub(super) key: String,
    pub(super) reached: Result<(), String>,
}

/// The server of a kubeconfig's current context.
pub(super) fn server(kubeconfig: &str) -> Result<String, String> {
    let config: serde_json::Value =
        serde_saphyr::from_str(kubeconfig).map_err(|error| format!("it is not YAML: {error}"))?;
    let named = |list: &str, name: &str| -> Option<serde_json::Value> {
        let entries = config[list].as_array()?;
        entries.iter().find(|entry| entry["name"] == name).cloned()
    };
    let context = config["current-context"].as_str().filter(|name| !name.is_empty());
    let context = context.ok_or("it has no current-context")?;
    let cluster = named("contexts", context).ok_or_else(|| format!("it has no context {context:?}"))?;
    let cluster = cluster["context"]["cluster"].as_str().unwrap_or_default().to_owned();
    let server = named("clusters", &cluster).ok_or_else(|| format!("it has no cluster {cluster:?}"))?;
    let server = server["cluster"]["server"].as_str().filter(|server| !server.is_empty());
    Ok(server.ok_or_else(|| format!("its cluster {cluster:?} has no server"))?.to_owned())
}

/// Host and port of an API server's URL.
pub(super) fn host_and_port(server: &str) -> Option<(&str, u16)> {
    let (default, rest) = match server.split_once("://")? {
        ("https", rest) => (443, rest),
        ("http", rest) => (80, rest),
        _ => return None,
    };
    let authority = rest.split('/').next()?;
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((host, port.parse().ok()?)),
        _ => Some((authority, default)),
    }
}

pub(super) fn judge(cluster: &Cluster) -> Vec<Finding> {
    let Cluster { server, key, reached } = cluster;
    let id = "cluster.api";
    let why = "controllers learn nothing of the cluster, and nodes seem offline to it";
    vec![match reached {
        Ok(()) => Finding::ok(id, format!("{server} answers")),
        Err(error) if server.is_empty() => Finding::error(
            id,
            format!("{key} cannot be used: {error}"),
            why,
            format!("kubectl --kubeconfig {key} version"),
        ),
        Err(error) => Finding::error(
            id,
            format!("{server} does not answer: {error}"),
            why,
            format!("start that API server, open its port in the firewalls between, or mend {key}"),
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const KUBECONFIG: &str = "
current-context: b
contexts: [{name: a, context: {cluster: one}}, {name: b, context: {cluster: two, user: u}}]
clusters: [{name: one, cluster: {server: 'https://wrong'}}, {name: two, cluster: {server: 'https://10.0.0.1:6443'}}]
";

    #[test]
    fn server_is_that_of_the_current_context() {
        assert_eq!(server(KUBECONFIG).unwrap(), "https://10.0.0.1:6443");
    }

    #[test]
    fn damaged_kubeconfig_is_told_by_what_is_missing() {
        for (text, words) in [
            ("{", "not YAML"),
            ("", "no current-context"),
            ("current-context: z", "no context \"z\""),
            ("{current-context: z, contexts: [{name: z, context: {cluster: q}}]}", "no cluster \"q\""),
        ] {
            let error = server(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn urls_have_hosts_and_ports() {
        assert_eq!(host_and_port("https://10.0.0.1:6443"), Some(("10.0.0.1", 6443)));
        assert_eq!(host_and_port("https://api.example/prefix"), Some(("api.example", 443)));
        assert_eq!(host_and_port("https://[::1]:6443/"), Some(("[::1]", 6443)));
        assert_eq!(host_and_port("https://[::1]"), Some(("[::1]", 443)));
        assert_eq!(host_and_port("unix:///x"), None);
        assert_eq!(host_and_port(""), None);
    }

    #[test]
    fn cluster_that_does_not_answer_is_an_error() {
        let cluster = |reached| Cluster { server: "https://x".into(), key: "k".into(), reached };
        assert_eq!(judge(&cluster(Ok(())))[0].severity, Severity::Ok);
        assert_eq!(judge(&cluster(Err("refused".into())))[0].severity, Severity::Error);
    }
}
