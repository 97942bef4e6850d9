//! The sandbox's configuration: identity, network, names (`pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`,
//! `pkg/kubelet/network/dns/dns.go`).

use cri::runtime as v1;
use k8s_openapi::api::core::v1 as core;

use crate::labels;
use crate::model::Pod;
use crate::security;
use crate::settings::Settings;

/// Linux' bound of a host name.
const MAX_HOSTNAME: usize = 63;
/// glibc reads no more name servers.
const MAX_NAMESERVERS: usize = 3;

/// The configuration of the pod's sandbox. `resolv_conf` is the text of the host's resolver file.
pub(crate) fn config(
    pod: &Pod,
    settings: &Settings,
    resolv_conf: &str,
    attempt: u32,
) -> v1::PodSandboxConfig {
    let spec = pod.spec();
    let host_network = spec.host_network == Some(true);
    let sysctls = spec.security_context.iter().filter_map(|c| c.sysctls.as_ref()).flatten();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.key.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.key.namespace.clone(),
            attempt,
        }),
        // With host network the sandbox keeps the host's name.
        hostname: if host_network { String::new() } else { hostname(pod) },
        log_directory: settings.log_dir(pod).display().to_string(),
        dns_config: Some(dns(pod, settings, resolv_conf)),
        port_mappings: port_mappings(spec),
        labels: labels::of_sandbox(pod).into_iter().collect(),
        annotations: pod.object.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            // The runtime's default parent: the pods' own cgroup tree comes with the node's reservations.
            cgroup_parent: String::new(),
            security_context: Some(security::of_sandbox(pod)),
            sysctls: sysctls.map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
            overhead: None,
            resources: None,
        }),
    }
}

/// The pod's host name: `spec.hostname`, else its name, cut to what Linux takes.
pub(crate) fn hostname(pod: &Pod) -> String {
    let name = pod.spec().hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&pod.key.name);
    let short = &name[..name.len().min(MAX_HOSTNAME)];
    short.trim_end_matches(['-', '.']).to_owned()
}

/// The fully qualified name, for pods with a subdomain.
pub(crate) fn fqdn(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec().subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{cluster_domain}", hostname(pod), pod.key.namespace))
}

fn port_mappings(spec: &core::PodSpec) -> Vec<v1::PortMapping> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| crate::status::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut mappings: Vec<v1::PortMapping> = Vec::new();
    for port in ports {
        let mapping = v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        };
        // With host network the port is the host's already.
        if mapping.host_port > 0 && spec.host_network != Some(true) && !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn dns(pod: &Pod, settings: &Settings, resolv_conf: &str) -> v1::DnsConfig {
    let spec = pod.spec();
    let host = parse_resolv_conf(resolv_conf);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        v1::DnsConfig::default()
    } else if cluster && !settings.cluster_dns.is_empty() {
        let domain = &settings.cluster_domain;
        let mut searches = if domain.is_empty() {
            Vec::new()
        } else {
            vec![format!("{}.svc.{domain}", pod.key.namespace), format!("svc.{domain}"), domain.clone()]
        };
        append_new(&mut searches, host.searches);
        v1::DnsConfig { servers: settings.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
    } else {
        host
    };
    if let Some(own) = &spec.dns_config {
        append_new(&mut config.servers, own.nameservers.clone().unwrap_or_default());
        append_new(&mut config.searches, own.searches.clone().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|known| known.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    config.servers.truncate(MAX_NAMESERVERS);
    config
}

fn append_new(list: &mut Vec<String>, more: Vec<String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// resolv.conf(5), the parts a sandbox takes over.
fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            // Of several lines the last counts; a final dot says nothing here.
            Some("search") => {
                config.searches = words
                    .map(|domain| {
                        if domain == "." { domain } else { domain.trim_end_matches('.') }.to_owned()
                    })
                    .collect();
            }
            Some("options") => append_new(&mut config.options, words.map(str::to_owned).collect()),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, settings};

    const HOST: &str = "# comment\nnameserver 192.0.2.53\nsearch example.org. lan\noptions edns0\n";

    #[test]
    fn cluster_first_asks_the_cluster_and_keeps_the_hosts_domains() {
        let mut settings = settings("/nonexistent");
        settings.cluster_dns = vec!["169.254.96.16".into()];
        let config = dns(&pod(r#"{"containers": []}"#), &settings, HOST);
        assert_eq!(config.servers, ["169.254.96.16"]);
        let searches =
            ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org", "lan"];
        assert_eq!(config.searches, searches);
        assert_eq!(config.options, ["ndots:5"]);
    }

    #[test]
    fn without_cluster_dns_a_pod_resolves_as_the_host() {
        let config = dns(&pod(r#"{"containers": []}"#), &settings("/nonexistent"), HOST);
        assert_eq!((config.servers, config.options), (vec!["192.0.2.53".into()], vec!["edns0".into()]));
    }

    #[test]
    fn dns_none_is_only_what_the_pod_says() {
        let spec = r#"{"containers": [], "dnsPolicy": "None", "dnsConfig":
            {"nameservers": ["192.0.2.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}}"#;
        let config = dns(&pod(spec), &settings("/nonexistent"), HOST);
        assert_eq!((config.servers, config.searches), (vec!["192.0.2.1".into()], vec![]));
        assert_eq!(config.options, ["ndots:2", "debug"]);
    }

    #[test]
    fn only_host_ports_are_mapped_and_each_once() {
        let pod = pod(r#"{"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080},
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]}"#);
        let mappings = port_mappings(pod.spec());
        assert_eq!(mappings.len(), 1);
        assert_eq!((mappings[0].container_port, mappings[0].host_port), (80, 8080));
    }

    #[test]
    fn long_names_are_cut_to_a_valid_host_name() {
        let pod = pod(&format!(r#"{{"containers": [], "hostname": "{}-b"}}"#, "a".repeat(62)));
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
