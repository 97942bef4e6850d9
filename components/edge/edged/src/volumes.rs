//! A pod's volumes on disk, where the kubelet keeps them
//! (`<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`), and what a container mounts of them.
//!
//! Setting up is idempotent: it is called again when an object changes and after every restart of edged. Secrets and
//! tokens lie on tmpfs so that they never reach a disk; where mounting is not allowed (not root) a plain directory is
//! used instead.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::atomic_writer;
use crate::env::expand;
use crate::model::{NodeFacts, Pod};
use crate::objects::Objects;
use crate::payload::{Payload, Sources, Tokens, check_path};
use crate::quantity;

/// Why a volume cannot be used; edged tries again, and writes a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The volume cannot be set up.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
    SetUp {
        /// Name in the pod.
        volume: String,
        /// What is wrong.
        reason: String,
    },
    /// A container mounts what the pod does not have, or a path outside of it.
    #[error("container {container:?} cannot mount {volume:?}: {reason}")]
    Mount {
        /// The container.
        container: String,
        /// The volume it names.
        volume: String,
        /// What is wrong.
        reason: String,
    },
}

/// Where pods' files live.
#[derive(Clone, Debug)]
pub(crate) struct PodDirs {
    /// The kubelet's root directory, `/var/lib/kubelet`.
    pub root: PathBuf,
}

impl PodDirs {
    /// `<root>/pods/<uid>`. The uid was checked when the pod was parsed.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// A volume's directory.
    pub(crate) fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// A container's own directory (termination log).
    pub(crate) fn container(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }
}

/// One bind mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    /// In the container.
    pub container_path: String,
    /// On the host.
    pub host_path: PathBuf,
    /// No writes through this mount.
    pub readonly: bool,
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub propagation: Option<String>,
}

/// A token that must be fetched before [`set_up`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// The projected volume.
    pub volume: String,
    /// Index of the source in it.
    pub source: usize,
    /// The intended audience; empty means the API server's own.
    pub audience: Option<String>,
    /// Asked-for lifetime.
    pub expiration_seconds: i64,
    /// The pod's service account.
    pub service_account: String,
}

/// The tokens a pod's projected volumes need.
pub(crate) fn token_requests(pod: &Pod) -> Vec<TokenRequest> {
    let account = pod.spec().service_account_name.clone().filter(|name| !name.is_empty());
    let account = account.unwrap_or_else(|| "default".to_owned());
    let mut requests = Vec::new();
    for volume in pod.spec().volumes.iter().flatten() {
        let sources = volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten();
        for (index, source) in sources.enumerate() {
            if let Some(token) = &source.service_account_token {
                requests.push(TokenRequest {
                    volume: volume.name.clone(),
                    source: index,
                    audience: token.audience.clone().filter(|a| !a.is_empty()),
                    // One hour is Kubernetes' default, ten minutes its least.
                    expiration_seconds: token.expiration_seconds.unwrap_or(3600).max(600),
                    service_account: account.clone(),
                });
            }
        }
    }
    requests
}

/// Creates or refreshes every volume of the pod.
pub(crate) fn set_up(
    pod: &Pod,
    dirs: &PodDirs,
    objects: &Objects,
    tokens: &Tokens,
    facts: &NodeFacts,
    pod_ips: &[IpAddr],
) -> Result<(), VolumeError> {
    let sources = Sources { pod, objects, tokens, facts, pod_ips };
    for volume in pod.spec().volumes.iter().flatten() {
        set_up_one(pod, dirs, &sources, volume)
            .map_err(|reason| VolumeError::SetUp { volume: volume.name.clone(), reason })?;
    }
    Ok(())
}

fn set_up_one(pod: &Pod, dirs: &PodDirs, sources: &Sources<'_>, volume: &core::Volume) -> Result<(), String> {
    let fs_group = fs_group(pod)?;
    let (plugin, payload, in_memory) = if let Some(source) = &volume.config_map {
        ("configmap", sources.config_map(source)?, false)
    } else if let Some(source) = &volume.secret {
        ("secret", sources.secret(source)?, true)
    } else if let Some(source) = &volume.downward_api {
        ("downward-api", sources.downward_api(source)?, false)
    } else if let Some(source) = &volume.projected {
        ("projected", sources.projected(&volume.name, source)?, true)
    } else if let Some(source) = &volume.empty_dir {
        return empty_dir(&dirs.volume(&pod.uid, "empty-dir", &volume.name), source, fs_group);
    } else if let Some(source) = &volume.host_path {
        return host_path(source);
    } else {
        return Err(unsupported(volume));
    };
    let dir = dirs.volume(&pod.uid, plugin, &volume.name);
    data_volume(&dir, &payload, in_memory, fs_group)
        .map_err(|e| format!("could not write {}: {e}", dir.display()))
}

/// Names the type as the API does, so that the message can be searched for.
fn unsupported(volume: &core::Volume) -> String {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let of = json.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
    match of {
        Some(kind) => format!("volume type {kind} is not supported on this node"),
        None => "it has no volume type, or one this node does not know".to_owned(),
    }
}

fn data_volume(dir: &Path, payload: &Payload, in_memory: bool, fs_group: Option<u32>) -> io::Result<()> {
    make_dir(dir, 0o755)?;
    if in_memory {
        mount_tmpfs(dir, None)?;
    }
    atomic_writer::write(dir, payload, fs_group).map(|_| ())
}

fn empty_dir(dir: &Path, source: &core::EmptyDirVolumeSource, fs_group: Option<u32>) -> Result<(), String> {
    let failed = |e: io::Error| format!("could not make {}: {e}", dir.display());
    let fresh = !dir.exists();
    make_dir(dir, 0o777).map_err(failed)?;
    match source.medium.as_deref().unwrap_or("") {
        "" => {}
        "Memory" => {
            let size = source
                .size_limit
                .as_ref()
                .map(|q| quantity::whole(&q.0).ok_or_else(|| format!("bad sizeLimit {:?}", q.0)));
            mount_tmpfs(dir, size.transpose()?).map_err(failed)?;
        }
        medium => return Err(format!("emptyDir medium {medium:?} is not supported on this node")),
    }
    if fresh {
        // Anybody in the pod may write, whatever umask we run under.
        fs::set_permissions(dir, fs::Permissions::from_mode(if fs_group.is_some() { 0o2777 } else { 0o777 }))
            .map_err(failed)?;
        if let Some(group) = fs_group {
            chown(dir, None, Some(group)).map_err(failed)?;
        }
    }
    Ok(())
}

/// `pkg/volume/hostpath/host_path.go: checkType`.
fn host_path(source: &core::HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("hostPath {:?} must be absolute and without ..", source.path));
    }
    let found = fs::metadata(path).ok();
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match source.type_.as_deref().unwrap_or("") {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            make_dir(path, 0o755).map_err(|e| format!("could not make {}: {e}", path.display()))
        }
        "FileOrCreate" if found.is_none() => fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map(|_| ())
            .map_err(|e| format!("could not make {}: {e}", path.display())),
        "Directory" | "DirectoryOrCreate" if found.as_ref().is_some_and(fs::Metadata::is_dir) => Ok(()),
        "File" | "FileOrCreate" if found.as_ref().is_some_and(fs::Metadata::is_file) => Ok(()),
        "Socket" if found.as_ref().is_some_and(|m| m.file_type().is_socket()) => Ok(()),
        "CharDevice" if found.as_ref().is_some_and(|m| m.file_type().is_char_device()) => Ok(()),
        "BlockDevice" if found.as_ref().is_some_and(|m| m.file_type().is_block_device()) => Ok(()),
        "Directory" | "DirectoryOrCreate" => wrong("a directory"),
        "File" | "FileOrCreate" => wrong("a file"),
        "Socket" => wrong("a socket file"),
        "CharDevice" => wrong("a character device"),
        "BlockDevice" => wrong("a block device"),
        other => Err(format!("hostPath type {other:?} is not known")),
    }
}

/// What a container mounts, in the order of its spec. Paths are resolved now: a `subPath` may not leave its volume,
/// through a link neither. (A pod that swaps a link between this check and the runtime's mount is not caught: the
/// runtime takes paths, not descriptors.)
pub(crate) fn mounts(
    pod: &Pod,
    container: &core::Container,
    env: &[(String, String)],
    dirs: &PodDirs,
) -> Result<Vec<VolumeMount>, VolumeError> {
    let mut found = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let host_path = resolve(pod, mount, env, dirs).map_err(|reason| VolumeError::Mount {
            container: container.name.clone(),
            volume: mount.name.clone(),
            reason,
        })?;
        found.push(VolumeMount {
            container_path: mount.mount_path.clone(),
            host_path,
            readonly: mount.read_only.unwrap_or(false) || is_data_volume(pod, &mount.name),
            propagation: mount.mount_propagation.clone(),
        });
    }
    Ok(found)
}

fn resolve(
    pod: &Pod,
    mount: &core::VolumeMount,
    env: &[(String, String)],
    dirs: &PodDirs,
) -> Result<PathBuf, String> {
    if !mount.mount_path.starts_with('/') || mount.mount_path.contains('\0') {
        return Err(format!("mountPath {:?} is not absolute", mount.mount_path));
    }
    let volume = find(pod, &mount.name).ok_or_else(|| "the pod has no such volume".to_owned())?;
    let dir = if let Some(host) = &volume.host_path {
        PathBuf::from(&host.path)
    } else {
        let plugin = plugin(volume).ok_or_else(|| unsupported(volume))?;
        dirs.volume(&pod.uid, plugin, &volume.name)
    };
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => path.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => expand(expression, env),
        _ => return Ok(dir),
    };
    check_path(&sub_path)?;
    let root = dir.canonicalize().map_err(|e| format!("could not resolve {}: {e}", dir.display()))?;
    let wanted = root.join(&sub_path);
    if fs::symlink_metadata(&wanted).is_err() {
        // The kubelet makes a missing subPath as a directory.
        make_dir(&wanted, 0o750).map_err(|e| format!("could not make subPath {sub_path:?}: {e}"))?;
    }
    let resolved =
        wanted.canonicalize().map_err(|e| format!("could not resolve subPath {sub_path:?}: {e}"))?;
    if resolved.starts_with(&root) {
        Ok(resolved)
    } else {
        Err(format!("subPath {sub_path:?} leaves its volume"))
    }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a core::Volume> {
    pod.spec().volumes.iter().flatten().find(|volume| volume.name == name)
}

fn plugin(volume: &core::Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else if volume.empty_dir.is_some() {
        Some("empty-dir")
    } else {
        None
    }
}

/// ConfigMap, Secret, downward API and projected volumes are always mounted read-only (Kubernetes since 1.9.6).
fn is_data_volume(pod: &Pod, name: &str) -> bool {
    find(pod, name).and_then(plugin).is_some_and(|plugin| plugin != "empty-dir")
}

/// Unmounts and removes all of a pod's files. Nothing to do is success.
pub(crate) fn tear_down(uid: &str, dirs: &PodDirs) -> io::Result<()> {
    let pod = dirs.pod(uid);
    for plugin in ["secret", "projected", "empty-dir"] {
        let volumes = pod.join("volumes").join(format!("kubernetes.io~{plugin}"));
        let Ok(entries) = fs::read_dir(&volumes) else { continue };
        for entry in entries {
            let path = entry?.path();
            if is_mount_point(&path)? {
                umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
            }
        }
    }
    match fs::remove_dir_all(&pod) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn fs_group(pod: &Pod) -> Result<Option<u32>, String> {
    let given = pod.spec().security_context.as_ref().and_then(|context| context.fs_group);
    given
        .map(|group| u32::try_from(group).map_err(|_| format!("fsGroup {group} is out of range")))
        .transpose()
}

/// Mounts once; a directory that is a mount point already (edged was restarted) is left alone.
fn mount_tmpfs(dir: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mount_point(dir)? {
        return Ok(());
    }
    let options = size.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | if size.is_none() { MsFlags::MS_NOEXEC } else { MsFlags::empty() };
    match mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options.as_deref()) {
        // Without the right to mount, a directory is the nearest thing.
        Err(nix::Error::EPERM) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// A directory on another device than its parent is where something is mounted.
fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let Some(parent) = dir.parent() else { return Ok(true) };
    Ok(fs::symlink_metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ObjectKind;
    use crate::testing::{facts, pod};

    struct Node {
        dirs: PodDirs,
        objects: Objects,
        _dir: tempfile::TempDir,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut objects = Objects::default();
        objects
            .put(ObjectKind::ConfigMap, "default", "cfg", br#"{"data": {"mode": "fast"}}"#)
            .expect("valid");
        objects
            .put(ObjectKind::Secret, "default", "sec", br#"{"data": {"password": "czNjcmV0"}}"#)
            .expect("valid");
        Node { dirs: PodDirs { root: dir.path().to_owned() }, objects, _dir: dir }
    }

    impl Node {
        fn set_up(&self, pod: &Pod) -> Result<(), VolumeError> {
            let tokens = Tokens::from([(("all".to_owned(), 1), "the.token".to_owned())]);
            set_up(pod, &self.dirs, &self.objects, &tokens, &facts(), &[])
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = tear_down("uid-1", &self.dirs);
        }
    }

    #[test]
    fn each_supported_type_is_set_up_mounted_and_torn_down() {
        let node = node();
        let pod = pod(r#"{"containers": [{"name": "c", "volumeMounts": [
                {"name": "cfg", "mountPath": "/cfg"}, {"name": "sec", "mountPath": "/pw", "subPath": "password"},
                {"name": "tmp", "mountPath": "/tmp"}, {"name": "all", "mountPath": "/all"}]}],
            "volumes": [{"name": "cfg", "configMap": {"name": "cfg"}}, {"name": "sec", "secret": {"secretName": "sec"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "all", "projected": {"sources": [
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    {"serviceAccountToken": {"path": "token"}}]}}]}"#);
        node.set_up(&pod).expect("all volumes");
        let mounts = mounts(&pod, &pod.spec().containers[0], &[], &node.dirs).expect("all mounts");
        let read = |index: usize, file: &str| {
            let path = &mounts[index].host_path;
            fs::read_to_string(if file.is_empty() { path.clone() } else { path.join(file) }).expect("file")
        };
        assert_eq!(read(0, "mode"), "fast");
        assert_eq!(read(1, ""), "s3cret");
        assert_eq!((read(3, "name"), read(3, "token")), ("web-0".into(), "the.token".into()));
        assert_eq!(mounts.iter().map(|m| m.readonly).collect::<Vec<_>>(), [true, true, false, true]);

        node.set_up(&pod).expect("a second time changes nothing");
        tear_down("uid-1", &node.dirs).expect("torn down");
        assert!(!node.dirs.pod("uid-1").exists());
        tear_down("uid-1", &node.dirs).expect("twice is fine");
    }

    #[test]
    fn missing_object_fails_with_the_kubelets_words() {
        let pod = pod(
            r#"{"containers": [{"name": "c"}], "volumes": [{"name": "v", "configMap": {"name": "none"}}]}"#,
        );
        let error = node().set_up(&pod).expect_err("no such object").to_string();
        assert_eq!(error, r#"MountVolume.SetUp failed for volume "v" : configmap "none" not found"#);
    }

    #[test]
    fn unknown_volume_type_is_named() {
        let nfs = pod(
            r#"{"containers": [{"name": "c"}], "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}"#,
        );
        let error = node().set_up(&nfs).expect_err("not supported").to_string();
        assert!(error.contains("volume type nfs is not supported"), "{error}");
        let newer = pod(r#"{"containers": [{"name": "c"}], "volumes": [{"name": "v", "holographic": {}}]}"#);
        assert!(node().set_up(&newer).expect_err("unknown").to_string().contains("does not know"));
    }

    #[test]
    fn sub_path_cannot_leave_its_volume() {
        let node = node();
        let with = |sub: &str| {
            pod(&format!(
                r#"{{"containers": [{{"name": "c", "volumeMounts": [{{"name": "tmp", "mountPath": "/x", "subPath": "{sub}"}}]}}],
                "volumes": [{{"name": "tmp", "emptyDir": {{}}}}]}}"#
            ))
        };
        let pod = with("link");
        node.set_up(&pod).expect("set up");
        let dir = node.dirs.volume("uid-1", "empty-dir", "tmp");
        std::os::unix::fs::symlink("/etc", dir.join("link")).expect("planted link");
        for escape in ["link", "../x", "/etc", "a/../../b"] {
            let pod = with(escape);
            mounts(&pod, &pod.spec().containers[0], &[], &node.dirs).expect_err(escape);
        }
        let fine = with("made/on/demand");
        mounts(&fine, &fine.spec().containers[0], &[], &node.dirs).expect("made");
    }

    #[test]
    fn host_path_type_is_checked() {
        let spec = |kind: &str| {
            format!(
                r#"{{"containers": [{{"name": "c"}}], "volumes": [{{"name": "v", "hostPath": {{"path": "/proc/self/stat", "type": "{kind}"}}}}]}}"#
            )
        };
        node().set_up(&pod(&spec("File"))).expect("it is a file");
        let error = node().set_up(&pod(&spec("Directory"))).expect_err("it is no directory").to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }
}
