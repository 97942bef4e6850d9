//! The pod network: configuration and plugins.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::finding::{Finding, Seen};

/// As the runtime will find it.
#[derive(Debug, Clone)]
pub(super) struct Cni {
    pub(super) conf_dir: PathBuf,
    /// Its configurations in the order of their names, which is that in which the runtime takes the first.
    pub(super) configurations: Seen<Vec<Configuration>>,
    pub(super) bin_dirs: Vec<PathBuf>,
    /// Names of the programs in them.
    pub(super) plugins: BTreeSet<String>,
    /// What the runtime says of its network, when it says something.
    pub(super) ready: Option<bool>,
}

#[derive(Debug, Clone)]
pub(super) struct Configuration {
    pub(super) file: String,
    /// Types of the plugins it names, or why it cannot be used.
    pub(super) plugins: Result<Vec<String>, String>,
}

/// The plugin types of a `.conf`, `.json` or `.conflist`, with those for addresses.
pub(super) fn plugins_of(text: &str) -> Result<Vec<String>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let one = |plugin: &Value| -> Result<Vec<String>, String> {
        let kind = plugin["type"].as_str().ok_or("names a plugin without a type")?;
        let address = plugin["ipam"]["type"].as_str();
        Ok([Some(kind), address].into_iter().flatten().map(str::to_owned).collect())
    };
    match value.get("plugins") {
        Some(Value::Array(plugins)) if plugins.is_empty() => Err("names no plugin".to_owned()),
        Some(Value::Array(plugins)) => Ok(plugins.iter().map(one).collect::<Result<Vec<_>, _>>()?.concat()),
        Some(_) => Err("has plugins that are no list".to_owned()),
        None => one(&value),
    }
}

pub(super) fn judge(cni: &Cni) -> Vec<Finding> {
    let dir = cni.conf_dir.display();
    let why = "without a pod network the node is not Ready, and only pods of the host's network start";
    // The smallest that gives pods addresses of their own and a way out.
    let bridge = format!(
        "mkdir -p {dir} && echo '{{\"cniVersion\":\"0.4.0\",\"name\":\"pods\",\"plugins\":[{{\"type\":\"bridge\",\"isGateway\":true,\
         \"ipMasq\":true,\"ipam\":{{\"type\":\"host-local\",\"subnet\":\"10.88.0.0/16\",\"routes\":[{{\"dst\":\"0.0.0.0/0\"}}]}}}},\
         {{\"type\":\"portmap\",\"capabilities\":{{\"portMappings\":true}}}}]}}' > {dir}/10-pods.conflist"
    );
    let configurations = match &cni.configurations {
        Seen::Yes(configurations) => configurations.as_slice(),
        Seen::Hidden => return vec![Finding::unseen("cni.config", format!("{dir} cannot be read"))],
        Seen::Absent => &[],
        Seen::Damaged(error) => {
            return vec![Finding::error("cni.config", format!("could not read {dir}: {error}"), why, bridge)];
        }
    };
    let Some(first) = configurations.first() else {
        if cni.ready == Some(true) {
            let found = format!("not in {dir}: the runtime looks elsewhere, and says its network is ready");
            return vec![Finding::ok("cni.config", found)];
        }
        return vec![Finding::error("cni.config", format!("no network configuration in {dir}"), why, bridge)];
    };
    let plugins = match &first.plugins {
        Ok(plugins) => plugins,
        Err(error) => {
            return vec![Finding::error(
                "cni.config",
                format!("{dir}/{} {error}", first.file),
                "the runtime takes the first configuration by name; while it is damaged there is no pod network",
                format!("mend or remove {dir}/{}", first.file),
            )];
        }
    };
    let mut found = format!("{dir}/{}: {}", first.file, plugins.join(", "));
    if configurations.len() > 1 {
        let _ = write!(found, "; {} further, which are not used", configurations.len() - 1);
    }
    let mut findings = vec![Finding::ok("cni.config", found)];
    let places: Vec<String> = cni.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    let missing: Vec<&str> =
        plugins.iter().map(String::as_str).filter(|plugin| !cni.plugins.contains(*plugin)).collect();
    findings.push(if missing.is_empty() {
        Finding::ok("cni.plugins", format!("all there, in {}", places.join(", ")))
    } else {
        Finding::error(
            "cni.plugins",
            format!("no plugin {} in {}", missing.join(", "), places.join(", ")),
            "no pod gets an address",
            "apt install containernetworking-plugins (in /usr/lib/cni: name it as the runtime's bin_dir)",
        )
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn cni(configurations: Vec<(&str, Result<Vec<&str>, &str>)>) -> Cni {
        let one = |(file, plugins): (&str, Result<Vec<&str>, &str>)| Configuration {
            file: file.into(),
            plugins: plugins
                .map(|plugins| plugins.into_iter().map(str::to_owned).collect())
                .map_err(str::to_owned),
        };
        Cni {
            conf_dir: "/etc/cni/net.d".into(),
            configurations: Seen::Yes(configurations.into_iter().map(one).collect()),
            bin_dirs: vec!["/usr/lib/cni".into()],
            plugins: ["bridge", "host-local"].map(str::to_owned).into(),
            ready: None,
        }
    }

    #[test]
    fn plugins_are_read_with_their_addresses() {
        let list = r#"{"plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
        assert_eq!(plugins_of(list).unwrap(), ["bridge", "host-local", "portmap"]);
        assert_eq!(plugins_of(r#"{"type":"loopback"}"#).unwrap(), ["loopback"]);
        for bad in ["", "[]", "{}", r#"{"plugins":[]}"#, r#"{"plugins":3}"#, r#"{"plugins":[{}]}"#] {
            assert!(plugins_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_plugin_is_named() {
        let findings = judge(&cni(vec![("10-x.conflist", Ok(vec!["bridge", "portmap"]))]));
        assert_eq!(findings[1].severity, Severity::Error);
        assert!(findings[1].found.starts_with("no plugin portmap"), "{}", findings[1].found);
    }

    #[test]
    fn first_configuration_by_name_is_the_one_that_counts() {
        let findings = judge(&cni(vec![("10-x", Ok(vec!["bridge"])), ("20-y", Err("is not JSON"))]));
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok));
        let findings = judge(&cni(vec![("10-x", Err("is not JSON")), ("20-y", Ok(vec!["bridge"]))]));
        assert_eq!(findings[0].severity, Severity::Error);
    }

    #[test]
    fn no_configuration_is_an_error() {
        assert_eq!(judge(&cni(Vec::new()))[0].severity, Severity::Error);
        let absent = Cni { configurations: Seen::Absent, ..cni(Vec::new()) };
        assert_eq!(judge(&absent)[0].severity, Severity::Error);
        let elsewhere = Cni { ready: Some(true), ..absent };
        assert_eq!(judge(&elsewhere)[0].severity, Severity::Ok);
    }
}
