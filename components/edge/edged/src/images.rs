//! Images: what a pod may call one, when it is pulled, with which secrets
//! (`pkg/kubelet/images/image_manager.go`, `pkg/credentialprovider`). Pulling itself is one effect here, with its events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use cri::runtime as v1;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use tonic::Code;

use crate::events::EventType::{Normal, Warning};
use crate::events::Recorder;
use crate::model::Pod;
use crate::objects::{ObjectKind, Objects};
use crate::runtime::Runtime;
use crate::security::ImageUser;

/// A reference's bound (distribution's NameTotalLengthMax).
const MAX_NAME: usize = 255;

/// What is needed of a present image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PresentImage {
    /// The runtime's id, `sha256:…`.
    pub id: String,
    /// Whom it runs as.
    pub user: ImageUser,
}

/// Why there is no image: reason and message of the waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFailure {
    /// `InvalidImageName`, `ErrImageNeverPull`, `ErrImagePull`, `ImageInspectError`.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// `imagePullPolicy`, with Kubernetes' default where the pod says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// Asks the registry before every start.
    Always,
    /// Only what is missing.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// Of a container; without one `:latest` and untagged images are always pulled.
    pub(crate) fn of(container: &core::Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None => match parse(container.image.as_deref().unwrap_or("")) {
                Ok(name) if name.ends_with(":latest") && !name.contains('@') => Self::Always,
                _ => Self::IfNotPresent,
            },
        }
    }
}

/// Checks a name against the grammar of distribution's `reference` package and adds the default tag. Asking a runtime
/// for what cannot exist would only give a worse message.
pub(crate) fn parse(image: &str) -> Result<String, &'static str> {
    const INVALID: &str = "invalid reference format";
    if image.is_empty() || image.len() > MAX_NAME + 128 {
        return Err(INVALID);
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(INVALID);
    }
    // A colon after the last slash begins the tag; before it, a port.
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(at) => (&rest[..last + at], Some(&rest[last + at + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) || name.is_empty() || name.len() > MAX_NAME {
        return Err(INVALID);
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    let is_domain = |part: &str| part.contains(['.', ':']) || part == "localhost";
    if parts.len() > 1 && is_domain(parts[0]) {
        let domain = parts.remove(0);
        let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
        let host_ok =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
        if !host_ok || port.parse::<u16>().is_err() {
            return Err(INVALID);
        }
    }
    if parts.iter().any(|part| part.chars().any(|c| c.is_ascii_uppercase())) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    if !parts.iter().all(|part| is_component(part)) {
        return Err(INVALID);
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// Letters and digits in runs, joined by one dot, one or two underscores, or dashes.
fn is_component(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside =
        part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'));
    let joined = ["..", "._", "_.", "___", ".-", "-.", "_-", "-_"].iter().all(|bad| !part.contains(bad));
    edge(part.chars().next()) && edge(part.chars().last()) && inside && joined
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !tag.is_empty()
        && tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-' | '_');
    !algorithm.is_empty()
        && algorithm.chars().all(ok)
        && hex.len() >= 32
        && hex.chars().all(|c| c.is_ascii_hexdigit())
}

/// What the effect needs of the node.
pub(crate) struct Puller<'a> {
    /// The runtime.
    pub runtime: &'a Runtime,
    /// Where events go.
    pub recorder: &'a Recorder,
    /// Held while pulling, when pulls are one at a time.
    pub turn: Option<&'a tokio::sync::Semaphore>,
}

impl Puller<'_> {
    /// Makes sure the container's image is there, by its policy.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        container: &core::Container,
        credentials: Vec<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<PresentImage, ImageFailure> {
        let wanted = container.image.as_deref().unwrap_or("");
        let event = |kind, reason, message: String| {
            self.recorder.container(pod, &container.name, kind, reason, message);
        };
        let image = parse(wanted).map_err(|why| {
            let message =
                format!("Failed to apply default image tag \"{wanted}\": couldn't parse image name \"{wanted}\": {why}");
            event(Warning, "InspectFailed", message.clone());
            ImageFailure { reason: "InvalidImageName", message }
        })?;
        let policy = PullPolicy::of(container);
        if policy != PullPolicy::Always {
            let present = self.runtime.image(&image).await.map_err(|e| {
                let message = format!("Failed to inspect image \"{image}\": {e}");
                event(Warning, "InspectFailed", message.clone());
                ImageFailure { reason: "ImageInspectError", message }
            })?;
            if let Some(present) = present {
                event(Normal, "Pulled", format!("Container image \"{wanted}\" already present on machine"));
                return Ok(described(present));
            }
            if policy == PullPolicy::Never {
                let message =
                    format!("Container image \"{wanted}\" is not present with pull policy of Never");
                event(Warning, "ErrImageNeverPull", message.clone());
                return Err(ImageFailure { reason: "ErrImageNeverPull", message });
            }
        }
        event(Normal, "Pulling", format!("Pulling image \"{wanted}\""));
        let queued = Instant::now();
        let turn = match self.turn {
            Some(semaphore) => semaphore.acquire().await.ok(),
            None => None,
        };
        let began = Instant::now();
        let pulled = self.pull(&image, credentials, sandbox_config).await;
        drop(turn);
        let failed = |message: String| {
            event(Warning, "Failed", format!("Failed to pull image \"{wanted}\": {message}"));
            event(Warning, "Failed", "Error: ErrImagePull".to_owned());
            ImageFailure { reason: "ErrImagePull", message }
        };
        pulled.map_err(failed)?;
        let present = self.runtime.image(&image).await.map_err(|e| failed(e.to_string()))?;
        let present =
            present.ok_or_else(|| failed(format!("the runtime has no {image} after pulling it")))?;
        event(
            Normal,
            "Pulled",
            format!(
                "Successfully pulled image \"{wanted}\" in {} ({} including waiting). Image size: {} bytes.",
                took(began.elapsed()),
                took(queued.elapsed()),
                present.size
            ),
        );
        Ok(described(present))
    }

    /// Tries each credential in turn, without one when there is none; the last error is the one told.
    async fn pull(
        &self,
        image: &str,
        credentials: Vec<v1::AuthConfig>,
        config: v1::PodSandboxConfig,
    ) -> Result<(), String> {
        let tries: Vec<_> =
            if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        let mut last = String::new();
        for auth in tries {
            match self.runtime.pull(image, auth, config.clone()).await {
                Ok(()) => return Ok(()),
                // The code `Unknown` says nothing; the kubelet leaves it out here, and only here.
                Err(e) if e.code == Code::Unknown => last = e.detail,
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    }
}

fn described(image: v1::Image) -> PresentImage {
    PresentImage {
        id: image.id,
        user: ImageUser { uid: image.uid.map(|uid| uid.value), name: image.username },
    }
}

fn took(duration: Duration) -> String {
    if duration.as_secs() > 0 {
        format!("{:.3}s", duration.as_secs_f64())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// `.dockerconfigjson`.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// The credentials among the pod's pull secrets that are for `image`'s registry, most specific first. A secret that does
/// not parse is passed over with a warning: the image may be public.
pub(crate) fn credentials(pod: &Pod, image: &str, objects: &Objects) -> Vec<v1::AuthConfig> {
    let mut found = Vec::new();
    for secret in pod.spec().image_pull_secrets.iter().flatten() {
        let Some(data) = objects.get(ObjectKind::Secret, &pod.key.namespace, &secret.name) else { continue };
        let parsed = if let Some(json) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(json)
        } else if let Some(json) = data.get(".dockercfg") {
            serde_json::from_slice(json).map(|auths| DockerConfig { auths })
        } else {
            continue;
        };
        match parsed {
            Ok(config) => found.extend(config.auths.into_iter().filter_map(|(registry, auth)| {
                let specific = matches(&registry, image)?;
                Some((specific, auth_config(registry, auth)))
            })),
            Err(e) => {
                tracing::warn!(pod = %pod.key, secret = secret.name, error = %e, "pull secret does not parse");
            }
        }
    }
    found.sort_by_key(|(specific, _)| std::cmp::Reverse(*specific));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// How much of the image's name an entry of a Docker configuration covers; `None` when it is for another registry.
fn matches(entry: &str, image: &str) -> Option<usize> {
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let entry = entry.trim_end_matches('/');
    let entry = entry.strip_suffix("/v1").or_else(|| entry.strip_suffix("/v2")).unwrap_or(entry);
    let first = image.split('/').next().unwrap_or("");
    let has_registry = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let full = if has_registry { image.to_owned() } else { format!("docker.io/{image}") };
    let entry = if entry == "index.docker.io" { "docker.io" } else { entry };
    let (entry_host, entry_path) = entry.split_once('/').unwrap_or((entry, ""));
    let (host, path) = full.split_once('/').unwrap_or((&full, ""));
    let host_ok = match entry_host.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => host == entry_host,
    };
    let covers = |rest: &str| rest.is_empty() || rest.starts_with(['/', ':', '@']);
    (host_ok && (entry_path.is_empty() || path.strip_prefix(entry_path).is_some_and(covers)))
        .then_some(entry_path.len())
}

fn auth_config(registry: String, auth: DockerAuth) -> v1::AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).unwrap_or_default();
    let decoded = String::from_utf8(decoded).unwrap_or_default();
    let (username, password) = match decoded.split_once(':') {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (auth.username, auth.password),
    };
    v1::AuthConfig {
        username,
        password,
        server_address: registry,
        identity_token: auth.identity_token,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use proptest::prelude::*;

    #[test]
    fn default_tag_is_added_where_there_is_neither_tag_nor_digest() {
        let digest = format!("busybox@sha256:{}", "0".repeat(64));
        for (name, expected) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.35", "busybox:1.35"),
            ("registry.lan:5000/a/b_c", "registry.lan:5000/a/b_c:latest"),
            ("localhost/x--y:V1.0-rc", "localhost/x--y:V1.0-rc"),
            (digest.as_str(), digest.as_str()),
        ] {
            assert_eq!(parse(name).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in [
            "",
            "a b",
            "Busybox",
            "busybox:",
            "a//b",
            "-a",
            "a..b",
            "a@sha256:12",
            "host:99999/a",
            "a:t:u",
            "a/..",
            "é",
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        assert_eq!(parse("UPPER/x"), Err("invalid reference format: repository name must be lowercase"));
    }

    #[test]
    fn policy_defaults_to_always_for_latest_only() {
        let policy = |image: &str| {
            PullPolicy::of(&core::Container { image: Some(image.into()), ..Default::default() })
        };
        assert_eq!(policy("busybox"), PullPolicy::Always);
        assert_eq!(policy("busybox:latest"), PullPolicy::Always);
        assert_eq!(policy("busybox:1.35"), PullPolicy::IfNotPresent);
    }

    #[test]
    fn secrets_are_for_their_registry_only_and_the_narrowest_comes_first() {
        let mut objects = Objects::default();
        let config = r#"{"auths": {"registry.lan:5000": {"auth": "YTpi"}, "https://registry.lan:5000/team": {"username": "t",
            "password": "p"}, "other.lan": {"auth": "eDp5"}}}"#;
        let encoded = base64::engine::general_purpose::STANDARD.encode(config);
        let secret = format!(r#"{{"data": {{".dockerconfigjson": "{encoded}"}}}}"#);
        objects.put(ObjectKind::Secret, "default", "pull", secret.as_bytes()).expect("valid");
        let pod = pod(r#"{"imagePullSecrets": [{"name": "pull"}, {"name": "none"}], "containers": []}"#);
        let users =
            |image| credentials(&pod, image, &objects).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("registry.lan:5000/team/app:1"), ["t", "a"]);
        assert_eq!(users("registry.lan:5000/teams/app:1"), ["a"]);
        assert!(users("busybox").is_empty());
    }

    #[test]
    fn docker_hub_has_two_names() {
        assert!(matches("https://index.docker.io/v1/", "busybox:1").is_some());
        assert!(matches("docker.io", "library/busybox").is_some());
        assert!(matches("*.gcr.io", "eu.gcr.io/x").is_some());
    }

    proptest! {
        #[test]
        fn any_name_is_parsed_or_refused(name in ".{0,40}") {
            let _ = parse(&name);
        }
    }
}
