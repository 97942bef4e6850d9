//! What a pod needs from the cloud before it can start and the store does not have: ConfigMaps, Secrets and service
//! account tokens, asked for through metamanager.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use ipc::CallError;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1 as authentication;
use proto::metamanager::{Key, MetaManagerError, QueryRequest};
use serde_json::json;

use crate::agent::Agent;
use crate::model::Pod;
use crate::objects::{Reference, references};
use crate::payload::Tokens;
use crate::volumes::{TokenRequest, token_requests};

/// Longest wait for one answer of the cloud.
const DEADLINE: Duration = Duration::from_secs(10);

/// A token and when to replace it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    value: String,
    refresh_at: Timestamp,
}

/// A pod's tokens by volume and source.
pub(crate) type Held = BTreeMap<(String, usize), Token>;

/// Asks for the objects the pod names and the node does not know, all at once. What cannot be had is told by whoever
/// needs it: an object may be optional.
pub(crate) async fn objects(agent: &Agent, pod: &Pod) {
    let missing: Vec<Reference> = {
        let objects = agent.objects();
        let unknown = |r: &Reference| objects.get(r.kind, &pod.key.namespace, &r.name).is_none();
        references(pod).into_iter().filter(unknown).collect()
    };
    join_all(missing.iter().map(|reference| object(agent, &pod.key.namespace, reference))).await;
}

async fn object(agent: &Agent, namespace: &str, reference: &Reference) {
    let key = Key {
        kind: reference.kind.token().to_owned(),
        namespace: namespace.to_owned(),
        name: reference.name.clone(),
    };
    let request = QueryRequest { key: Some(key), json: Bytes::new() };
    match agent.meta.query_with_deadline(request, DEADLINE).await {
        Ok(reply) => {
            let put = agent.objects().put(reference.kind, namespace, &reference.name, &reply.json);
            if let Err(e) = put {
                tracing::warn!(kind = %reference.kind, namespace, name = reference.name, error = %e, "object does not parse");
            }
        }
        Err(e) => {
            tracing::debug!(kind = %reference.kind, namespace, name = reference.name, error = %e, "object not fetched");
        }
    }
}

/// Fetches the tokens that are missing or due; keeps an old one where the cloud cannot be asked. Fails where there is
/// none at all.
pub(crate) async fn tokens(agent: &Agent, pod: &Pod, held: &Held) -> Result<Held, String> {
    let now = Timestamp::now();
    let mut fresh = Held::new();
    for request in token_requests(pod) {
        let slot = (request.volume.clone(), request.source);
        let old = held.get(&slot);
        if let Some(token) = old.filter(|token| now < token.refresh_at) {
            fresh.insert(slot, token.clone());
            continue;
        }
        match token(agent, pod, &request).await {
            Ok(token) => {
                fresh.insert(slot, token);
            }
            Err(why) => match old {
                Some(token) => {
                    tracing::warn!(pod = %pod.key, volume = request.volume, error = why, "token not refreshed");
                    // Asked again in a minute; the old one may be good for longer.
                    let refresh_at = now.saturating_add(SignedDuration::from_mins(1)).unwrap_or(now);
                    fresh.insert(slot, Token { refresh_at, ..token.clone() });
                }
                None => {
                    return Err(format!(
                        "MountVolume.SetUp failed for volume \"{}\" : failed to fetch token: {why}",
                        request.volume
                    ));
                }
            },
        }
    }
    Ok(fresh)
}

async fn token(agent: &Agent, pod: &Pod, request: &TokenRequest) -> Result<Token, String> {
    let body = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": request.service_account, "namespace": pod.key.namespace},
        "spec": {
            "audiences": request.audience.iter().collect::<Vec<_>>(),
            "expirationSeconds": request.expiration_seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.key.name, "uid": pod.uid},
        },
    });
    let key = Key {
        kind: "serviceaccounttoken".into(),
        namespace: pod.key.namespace.clone(),
        name: request.service_account.clone(),
    };
    let request = QueryRequest { key: Some(key), json: body.to_string().into_bytes().into() };
    let reply = agent.meta.query_with_deadline(request, DEADLINE).await.map_err(|e| match e {
        CallError::Failed { code: MetaManagerError::Offline, .. } => "the cloud cannot be reached".to_owned(),
        other => other.to_string(),
    })?;
    let answer: authentication::TokenRequest =
        serde_json::from_slice(&reply.json).map_err(|e| format!("the answer is no TokenRequest: {e}"))?;
    let status = answer.status.ok_or("the answer holds no token")?;
    let now = Timestamp::now();
    let life = status.expiration_timestamp.0.duration_since(now).max(SignedDuration::ZERO);
    // At four fifths of its life, as the kubelet does, and after a day at the latest.
    let age = (life * 4 / 5).min(SignedDuration::from_hours(24));
    Ok(Token { value: status.token, refresh_at: now.saturating_add(age).unwrap_or(now) })
}

/// The tokens themselves.
pub(crate) fn values(held: &Held) -> Tokens {
    held.iter().map(|(slot, token)| (slot.clone(), token.value.clone())).collect()
}

/// When the first of them is to be replaced.
pub(crate) fn refresh_at(held: &Held) -> Option<Timestamp> {
    held.values().map(|token| token.refresh_at).min()
}
