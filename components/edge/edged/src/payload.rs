//! What files a data volume holds: pure functions from ConfigMaps, Secrets, pod fields and tokens to names and bytes
//! (`pkg/volume/{configmap,secret,downwardapi,projected}`: `MakePayload`, `CollectData`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use crate::env::{field_value, resource_value};
use crate::model::{NodeFacts, Pod};
use crate::objects::{ObjectKind, Objects};

/// Mode of files where neither volume nor item says otherwise.
const DEFAULT_MODE: u32 = 0o644;
/// Mode of token files in a pod with fsGroup: the group's read bit is added when they are written.
const TOKEN_MODE: u32 = 0o600;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by relative path; paths are checked by [`check_path`].
pub(crate) type Payload = BTreeMap<String, File>;

/// Service account tokens fetched beforehand, by volume name and index of the projected source.
pub(crate) type Tokens = BTreeMap<(String, usize), String>;

/// What every payload is made from.
pub(crate) struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Known ConfigMaps and Secrets.
    pub objects: &'a Objects,
    /// Fetched tokens.
    pub tokens: &'a Tokens,
    /// The node.
    pub facts: &'a NodeFacts,
    /// The pod's addresses, empty before its sandbox exists.
    pub pod_ips: &'a [IpAddr],
}

impl Sources<'_> {
    /// A `configMap` volume's files.
    pub(crate) fn config_map(&self, source: &core::ConfigMapVolumeSource) -> Result<Payload, String> {
        let mode = mode(source.default_mode, DEFAULT_MODE)?;
        self.object(ObjectKind::ConfigMap, &source.name, source.items.as_deref(), mode, source.optional)
    }

    /// A `secret` volume's files.
    pub(crate) fn secret(&self, source: &core::SecretVolumeSource) -> Result<Payload, String> {
        let mode = mode(source.default_mode, DEFAULT_MODE)?;
        let name = source.secret_name.as_deref().unwrap_or("");
        self.object(ObjectKind::Secret, name, source.items.as_deref(), mode, source.optional)
    }

    /// A `downwardAPI` volume's files.
    pub(crate) fn downward_api(&self, source: &core::DownwardAPIVolumeSource) -> Result<Payload, String> {
        self.fields(source.items.iter().flatten(), mode(source.default_mode, DEFAULT_MODE)?)
    }

    /// A `projected` volume's files: its sources one after the other, a later file replacing an earlier one.
    pub(crate) fn projected(
        &self,
        volume: &str,
        source: &core::ProjectedVolumeSource,
    ) -> Result<Payload, String> {
        let default = mode(source.default_mode, DEFAULT_MODE)?;
        let mut payload = Payload::new();
        for (index, source) in source.sources.iter().flatten().enumerate() {
            if let Some(map) = &source.config_map {
                let kind = ObjectKind::ConfigMap;
                payload.extend(self.object(kind, &map.name, map.items.as_deref(), default, map.optional)?);
            } else if let Some(secret) = &source.secret {
                let kind = ObjectKind::Secret;
                payload.extend(self.object(
                    kind,
                    &secret.name,
                    secret.items.as_deref(),
                    default,
                    secret.optional,
                )?);
            } else if let Some(fields) = &source.downward_api {
                payload.extend(self.fields(fields.items.iter().flatten(), default)?);
            } else if let Some(token) = &source.service_account_token {
                check_path(&token.path)?;
                let data = self
                    .tokens
                    .get(&(volume.to_owned(), index))
                    .ok_or_else(|| "service account token is not there yet".to_owned())?;
                let context = self.pod.spec().security_context.as_ref();
                let mode = if context.is_some_and(|c| c.fs_group.is_some()) { TOKEN_MODE } else { default };
                payload.insert(token.path.clone(), File { data: data.clone().into_bytes(), mode });
            } else {
                return Err(format!("source {index} of the projected volume has no type this node supports"));
            }
        }
        Ok(payload)
    }

    fn object(
        &self,
        kind: ObjectKind,
        name: &str,
        items: Option<&[core::KeyToPath]>,
        default: u32,
        optional: Option<bool>,
    ) -> Result<Payload, String> {
        let namespace = &self.pod.key.namespace;
        let Some(data) = self.objects.get(kind, namespace, name) else {
            return if optional == Some(true) {
                Ok(Payload::new())
            } else {
                Err(format!("{kind} {name:?} not found"))
            };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            let file = |value: &Vec<u8>| File { data: value.clone(), mode: default };
            return data
                .iter()
                .map(|(key, value)| check_path(key).map(|()| (key.clone(), file(value))))
                .collect();
        };
        let mut payload = Payload::new();
        for item in items {
            check_path(&item.path)?;
            match data.get(&item.key) {
                Some(value) => {
                    let file = File { data: value.clone(), mode: mode(item.mode, default)? };
                    payload.insert(item.path.clone(), file);
                }
                None if optional == Some(true) => {}
                None => return Err(format!("{kind} references non-existent key: {}", item.key)),
            }
        }
        Ok(payload)
    }

    fn fields<'i>(
        &self,
        items: impl Iterator<Item = &'i core::DownwardAPIVolumeFile>,
        default: u32,
    ) -> Result<Payload, String> {
        let mut payload = Payload::new();
        for item in items {
            check_path(&item.path)?;
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field_value(self.pod, self.facts, self.pod_ips, &field.field_path),
                (_, Some(resource)) => resource_value(self.pod, None, resource, self.facts.allocatable),
                _ => return Err(format!("downwardAPI item {:?} refers to nothing", item.path)),
            }
            .map_err(|e| e.to_string())?;
            let file = File { data: value.into_bytes(), mode: mode(item.mode, default)? };
            payload.insert(item.path.clone(), file);
        }
        Ok(payload)
    }
}

fn mode(given: Option<i32>, default: u32) -> Result<u32, String> {
    let Some(given) = given else { return Ok(default) };
    u32::try_from(given)
        .ok()
        .filter(|m| *m <= 0o777)
        .ok_or_else(|| format!("mode {given} is not between 0 and 0777"))
}

/// A file's place within its volume: relative, no `..`, not beginning with `..` (the writer's own names), bounded.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let bad = path.is_empty()
        || path.len() > 4096
        || path.starts_with('/')
        || path.starts_with("..")
        || path.contains('\0')
        || path.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255);
    if bad { Err(format!("path {path:?} does not stay inside its volume")) } else { Ok(()) }
}
