//! Security contexts: pod's and container's in one, as CRI wants them
//! (`pkg/kubelet/kuberuntime/security_context.go`, `pkg/securitycontext/util.go`).

use std::path::Path;

use cri::runtime as v1;
use k8s_openapi::api::core::v1 as core;

use crate::model::Pod;

/// The user an image runs as, from the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    /// Numeric user.
    pub uid: Option<i64>,
    /// Named user, empty when there is none.
    pub name: String,
}

/// A container's security context, or why it may not run (the message of `CreateContainerConfigError`).
pub(crate) fn of_container(
    pod: &Pod,
    container: &core::Container,
    image: &ImageUser,
    kubelet_root: &Path,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let of_pod = pod.spec().security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = own.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let group = own.and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
    let non_root = own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root));
    if non_root == Some(true) {
        check_non_root(pod, container, user, image)?;
    }
    // Without any user at all the container is root's.
    let of_image = if image.name.is_empty() { Some(image.uid.unwrap_or(0)) } else { None };
    let capabilities = own.and_then(|c| c.capabilities.as_ref()).map(|caps| v1::Capability {
        add_capabilities: caps.add.clone().unwrap_or_default(),
        drop_capabilities: caps.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: vec![],
    });
    let seccomp =
        own.and_then(|c| c.seccomp_profile.as_ref()).or(of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    let apparmor =
        own.and_then(|c| c.app_armor_profile.as_ref()).or(of_pod.and_then(|c| c.app_armor_profile.as_ref()));
    let selinux =
        own.and_then(|c| c.se_linux_options.as_ref()).or(of_pod.and_then(|c| c.se_linux_options.as_ref()));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged: own.and_then(|c| c.privileged).unwrap_or(false),
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux.map(selinux_option),
        run_as_user: user.or(of_image).map(|value| v1::Int64Value { value }),
        run_as_username: if user.is_none() { image.name.clone() } else { String::new() },
        run_as_group: group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        supplemental_groups: supplemental_groups(of_pod),
        no_new_privs: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        // Empty lists leave the runtime its own, which are those of `procMount: Default`.
        masked_paths: vec![],
        readonly_paths: vec![],
        seccomp: Some(seccomp_profile(seccomp, kubelet_root)),
        apparmor: apparmor.map(apparmor_profile),
    })
}

fn check_non_root(
    pod: &Pod,
    container: &core::Container,
    user: Option<i64>,
    image: &ImageUser,
) -> Result<(), String> {
    let whose = format!(
        "pod: \"{}_{}({})\", container: {}",
        pod.key.name, pod.key.namespace, pod.uid, container.name
    );
    match (user, image) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy ({whose})")),
        (Some(_), _) => Ok(()),
        (None, ImageUser { name, .. }) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root ({whose})"
        )),
        (None, ImageUser { uid: None | Some(0), .. }) => {
            Err(format!("container has runAsNonRoot and image will run as root ({whose})"))
        }
        (None, _) => Ok(()),
    }
}

/// The sandbox's security context.
pub(crate) fn of_sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod.spec().security_context.as_ref();
    let containers = pod.spec().containers.iter().chain(pod.spec().init_containers.iter().flatten());
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux_option),
        run_as_user: context.and_then(|c| c.run_as_user).map(|value| v1::Int64Value { value }),
        run_as_group: context.and_then(|c| c.run_as_group).map(|value| v1::Int64Value { value }),
        readonly_rootfs: false,
        supplemental_groups: supplemental_groups(context),
        privileged: containers
            .filter_map(|c| c.security_context.as_ref())
            .any(|context| context.privileged == Some(true)),
        // The sandbox's own process needs nothing unusual, whatever the containers get.
        seccomp: Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        apparmor: None,
    }
}

fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec();
    let host = |wanted: Option<bool>, otherwise| {
        if wanted == Some(true) { v1::NamespaceMode::Node } else { otherwise }
    };
    let shared = if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: host(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: host(spec.host_pid, shared).into(),
        ipc: host(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        target_id: String::new(),
    }
}

fn supplemental_groups(context: Option<&core::PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn selinux_option(options: &core::SELinuxOptions) -> v1::SeLinuxOption {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

/// Without a profile a container is unconfined, as under a kubelet without `seccompDefault`.
fn seccomp_profile(profile: Option<&core::SeccompProfile>, kubelet_root: &Path) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or("");
            (ProfileType::Localhost, kubelet_root.join("seccomp").join(file).display().to_string())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

fn apparmor_profile(profile: &core::AppArmorProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let profile_type = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn context(spec: &str, image: &ImageUser) -> Result<v1::LinuxContainerSecurityContext, String> {
        let pod = pod(spec);
        of_container(&pod, &pod.spec().containers[0], image, Path::new("/var/lib/kubelet"))
    }

    #[test]
    fn containers_settings_win_over_the_pods() {
        let context = context(
            r#"{"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]},
                "containers": [{"name": "c", "securityContext": {"runAsUser": 10, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}"#,
            &ImageUser::default(),
        )
        .expect("allowed");
        assert_eq!(context.run_as_user.map(|u| u.value), Some(10));
        assert_eq!(context.run_as_group.map(|u| u.value), Some(2));
        assert_eq!(context.supplemental_groups, [3, 4]);
        assert!(context.no_new_privs);
        assert_eq!(context.capabilities.map(|c| c.drop_capabilities), Some(vec!["ALL".to_owned()]));
        assert_eq!(context.seccomp.map(|s| s.profile_type), Some(0));
    }

    #[test]
    fn run_as_non_root_refuses_root_and_names() {
        let spec = r#"{"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]}"#;
        let root = context(spec, &ImageUser::default()).expect_err("root");
        assert!(root.starts_with("container has runAsNonRoot and image will run as root"), "{root}");
        let named = context(spec, &ImageUser { uid: None, name: "www".into() }).expect_err("name");
        assert!(named.contains("non-numeric user (www)"), "{named}");
        assert!(context(spec, &ImageUser { uid: Some(5), name: String::new() }).is_ok());
    }

    #[test]
    fn host_namespaces_are_the_nodes() {
        let pod =
            pod(r#"{"hostNetwork": true, "shareProcessNamespace": true, "containers": [{"name": "c"}]}"#);
        let namespaces = namespaces(&pod);
        assert_eq!(namespaces.network, v1::NamespaceMode::Node as i32);
        assert_eq!(namespaces.pid, v1::NamespaceMode::Pod as i32);
    }
}
