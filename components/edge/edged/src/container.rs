//! A container's configuration for the runtime (`pkg/kubelet/kuberuntime/kuberuntime_container.go`,
//! `pkg/kubelet/kubelet_pods.go`): decided here, files of our own made by [`Files`].

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri::runtime as v1;
use k8s_openapi::api::core::v1 as core;

use crate::env::expand;
use crate::labels;
use crate::model::Pod;
use crate::resources;
use crate::sandbox;
use crate::security::{self, ImageUser};
use crate::settings::Settings;
use crate::volumes::VolumeMount;

/// What a container is made from beside its spec.
pub(crate) struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// One of its containers or init containers.
    pub container: &'a core::Container,
    /// The node's settings.
    pub settings: &'a Settings,
    /// Counted from 0.
    pub attempt: u32,
    /// The runtime's id of the image.
    pub image_id: &'a str,
    /// Whom the image runs as.
    pub image_user: &'a ImageUser,
    /// Resolved environment.
    pub env: &'a [(String, String)],
    /// Mounts of volumes.
    pub mounts: &'a [VolumeMount],
    /// Hosts file and termination log.
    pub files: &'a Files,
}

/// Files edged itself makes for a container.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Mounted over `/etc/hosts`; `None` where the container mounts something there.
    pub hosts: Option<PathBuf>,
    /// Mounted at `terminationMessagePath`.
    pub termination_log: PathBuf,
}

/// The configuration, or why the container cannot be made (the message of `CreateContainerConfigError`).
pub(crate) fn config(inputs: &Inputs<'_>) -> Result<v1::ContainerConfig, String> {
    let Inputs { pod, container, settings, attempt, .. } = inputs;
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, inputs.env)).collect()
    };
    let security_context = security::of_container(pod, container, inputs.image_user, &settings.dirs.root)?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: *attempt }),
        image: Some(v1::ImageSpec {
            image: inputs.image_id.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs.env.iter().map(|(k, v)| v1::KeyValue { key: k.clone(), value: v.clone() }).collect(),
        mounts: mounts(inputs)?,
        devices: vec![],
        labels: labels::of_container(pod, container).into_iter().collect(),
        annotations: labels::annotations_of_container(pod, container, *attempt).into_iter().collect(),
        log_path: log_path(&container.name, *attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::of_container(pod, container, settings.memory_capacity)),
            security_context: Some(security_context),
        }),
    })
}

/// `<container>/<attempt>.log`, below the pod's log directory.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

fn mounts(inputs: &Inputs<'_>) -> Result<Vec<v1::Mount>, String> {
    let mut mounts = Vec::new();
    for mount in inputs.mounts {
        let propagation = match mount.propagation.as_deref() {
            None | Some("None") => v1::MountPropagation::PropagationPrivate,
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            Some(other) => return Err(format!("invalid MountPropagation mode: {other:?}")),
        };
        mounts.push(v1::Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.display().to_string(),
            readonly: mount.readonly,
            selinux_relabel: false,
            propagation: propagation.into(),
        });
    }
    let own = |container_path: &str, host_path: &Path| v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        readonly: false,
        selinux_relabel: false,
        propagation: v1::MountPropagation::PropagationPrivate.into(),
    };
    if let Some(hosts) = &inputs.files.hosts {
        mounts.push(own("/etc/hosts", hosts));
    }
    mounts.push(own(termination_path(inputs.container), &inputs.files.termination_log));
    Ok(mounts)
}

fn termination_path(container: &core::Container) -> &str {
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    path.unwrap_or(labels::DEFAULT_TERMINATION_MESSAGE_PATH)
}

impl Files {
    /// Makes them, and the directory of the container's log, anew for this attempt.
    pub(crate) fn make(
        pod: &Pod,
        container: &core::Container,
        settings: &Settings,
        attempt: u32,
        pod_ips: &[IpAddr],
    ) -> io::Result<Self> {
        let make_dir = |path: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        make_dir(&settings.log_dir(pod).join(&container.name), 0o755)?;
        let dir = settings.dirs.container(&pod.uid, &container.name);
        make_dir(&dir, 0o755)?;
        let termination_log = dir.join(attempt.to_string());
        if let Some(previous) = attempt.checked_sub(2) {
            // The last attempt's may still be read; older ones are not.
            let _ = fs::remove_file(dir.join(previous.to_string()));
        }
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&termination_log)?;
        // Whoever the container runs as may write, whatever umask we have.
        file.set_permissions(fs::Permissions::from_mode(0o666))?;
        let replaced = container.volume_mounts.iter().flatten().any(|m| m.mount_path == "/etc/hosts");
        let hosts = if replaced {
            None
        } else {
            let path = settings.dirs.pod(&pod.uid).join("etc-hosts");
            let host = if pod.spec().host_network == Some(true) {
                Some(fs::read_to_string("/etc/hosts").unwrap_or_default())
            } else {
                None
            };
            fs::write(&path, hosts_file(pod, &settings.cluster_domain, host.as_deref(), pod_ips))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            Some(path)
        };
        Ok(Self { hosts, termination_log })
    }
}

/// What every pod with a network of its own finds in its `/etc/hosts`.
const HOSTS: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// What a pod finds in its `/etc/hosts`; `host` is the host's own, for host network.
fn hosts_file(pod: &Pod, cluster_domain: &str, host: Option<&str>, pod_ips: &[IpAddr]) -> String {
    let mut text = String::new();
    if let Some(host) = host {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host);
    } else {
        text.push_str(HOSTS);
        let hostname = sandbox::hostname(pod);
        let fqdn = sandbox::fqdn(pod, cluster_domain).map(|fqdn| format!("{fqdn}\t")).unwrap_or_default();
        for ip in pod_ips {
            text.push_str(&[&ip.to_string(), "\t", &fqdn, &hostname, "\n"].concat());
        }
    }
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&[&alias.ip, "\t", &names, "\n"].concat());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, settings};

    const SPEC: &str = r#"{"hostAliases": [{"ip": "192.0.2.9", "hostnames": ["db", "db.lan"]}],
        "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", "echo $(NAME)"], "args": ["$$(NAME)"],
            "workingDir": "/srv", "tty": true, "terminationMessagePath": "/dev/last-words"}]}"#;

    fn config_of(spec: &str) -> v1::ContainerConfig {
        let pod = pod(spec);
        let env = [("NAME".to_owned(), "web".to_owned())];
        let files = Files { hosts: Some("/p/etc-hosts".into()), termination_log: "/p/c/3".into() };
        let mounts = [VolumeMount {
            container_path: "/data".into(),
            host_path: "/p/volumes/data".into(),
            readonly: true,
            propagation: Some("HostToContainer".into()),
        }];
        let settings = settings("/r");
        config(&Inputs {
            pod: &pod,
            container: &pod.spec().containers[0],
            settings: &settings,
            attempt: 3,
            image_id: "sha256:1",
            image_user: &ImageUser::default(),
            env: &env,
            mounts: &mounts,
            files: &files,
        })
        .expect("a valid container")
    }

    #[test]
    fn command_and_args_are_expanded() {
        let config = config_of(SPEC);
        assert_eq!(config.command, ["sh", "-c", "echo web"]);
        assert_eq!(config.args, ["$(NAME)"]);
        assert_eq!((config.working_dir.as_str(), config.tty, config.stdin), ("/srv", true, false));
    }

    #[test]
    fn attempt_is_in_log_path_metadata_and_annotation() {
        let config = config_of(SPEC);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.metadata.map(|m| m.attempt), Some(3));
        assert_eq!(config.annotations[labels::RESTART_COUNT], "3");
        assert_eq!(config.labels[labels::CONTAINER_NAME], "c");
    }

    #[test]
    fn volumes_come_first_then_our_own_files() {
        let paths: Vec<_> = config_of(SPEC)
            .mounts
            .into_iter()
            .map(|m| (m.container_path, m.host_path, m.readonly, m.propagation))
            .collect();
        let expected = [
            ("/data", "/p/volumes/data", true, 1),
            ("/etc/hosts", "/p/etc-hosts", false, 0),
            ("/dev/last-words", "/p/c/3", false, 0),
        ];
        assert_eq!(paths, expected.map(|(c, h, r, p)| (c.to_owned(), h.to_owned(), r, p)));
    }

    #[test]
    fn hosts_file_names_the_pod_and_its_aliases() {
        let text = hosts_file(&pod(SPEC), "cluster.local", None, &["10.0.0.7".parse().expect("ip")]);
        assert!(text.contains("\n10.0.0.7\tweb-0\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.9\tdb\tdb.lan\n"), "{text}");
    }

    #[test]
    fn files_are_made_for_each_attempt() {
        let root = tempfile::tempdir().expect("tempdir");
        let settings = settings(&root.path().display().to_string());
        let pod = pod(SPEC);
        for attempt in 0..3 {
            Files::make(&pod, &pod.spec().containers[0], &settings, attempt, &[]).expect("made");
        }
        let dir = settings.dirs.container(&pod.uid, "c");
        assert!(!dir.join("0").exists() && dir.join("1").exists() && dir.join("2").exists());
        let mode = fs::metadata(dir.join("2")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
    }
}
