//! Service account tokens (`TokenRequest`): JWTs signed with ES256 by a key of this API. In the standalone API they
//! prove who a pod is (through `TokenReview`) and give no rights in the API itself.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::object::{self, text};
use crate::resources;
use crate::store::{Key, Work};

/// `iss` of every token, and the audience of those that name none.
const ISSUER: &str = "https://kubernetes.default.svc";
/// 10 min: Kubernetes' lower bound.
const SHORTEST: i64 = 600;
/// 1 h, for requests that name no time.
const USUAL: i64 = 3600;
/// 1 year: a token outlives neither its pod nor this; Kubernetes allows 2^32 s.
const LONGEST: i64 = 365 * 86400;
/// 8 KiB: ours have about 1 KiB.
const TOKEN_LIMIT: usize = 8 * 1024;

/// The signing key.
#[derive(Clone)]
pub(crate) struct Issuer(Arc<EcdsaKeyPair>);

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    about: About,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    namespace: String,
    serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl Issuer {
    /// Reads the key from `path` (PKCS#8 DER), or makes one there.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let random = SystemRandom::new();
        let der = if let Some(der) = pki::read_bounded(path, 1024)? {
            der
        } else {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .map_err(|_| anyhow::anyhow!("could not make a token key: the random source failed"))?;
            pki::write_durable(path, 0o600, made.as_ref())
                .with_context(|| format!("could not write {}", path.display()))?;
            made.as_ref().to_vec()
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|e| anyhow::anyhow!("{} holds no P-256 key: {e}", path.display()))?;
        Ok(Self(Arc::new(key)))
    }

    fn sign(&self, claims: &Claims) -> Result<String, ApiError> {
        let header = json!({"alg": "ES256", "typ": "JWT"}).to_string();
        let claims = serde_json::to_string(claims).map_err(ApiError::internal)?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| ApiError::internal("could not sign a token"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and that is valid at `now`. Any other gets `None`: why is the
    /// forger's problem. The algorithm is ours, whatever the header says.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0.public_key())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, claims) = signed.split_once('.')?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        (claims.nbf..claims.exp).contains(&now.as_second()).then_some(claims)
    }
}

impl Claims {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub(crate) fn user(&self) -> &str {
        &self.sub
    }

    pub(crate) fn groups(&self) -> Vec<String> {
        let own = format!("system:serviceaccounts:{}", self.about.namespace);
        vec!["system:serviceaccounts".to_owned(), own, "system:authenticated".to_owned()]
    }

    pub(crate) fn uid(&self) -> &str {
        &self.about.serviceaccount.uid
    }

    /// Those of `wanted` that the token is for; an empty `wanted` means this API.
    pub(crate) fn audiences(&self, wanted: &[&str]) -> Vec<String> {
        let wanted = if wanted.is_empty() { &[ISSUER] } else { wanted };
        self.aud.iter().filter(|aud| wanted.contains(&aud.as_str())).cloned().collect()
    }

    /// Whether the account, and the pod it was issued for, are still the same.
    pub(crate) fn is_current(&self, work: &Work<'_>) -> Result<bool, ApiError> {
        let account = self.same(work, "serviceaccounts", &self.about.serviceaccount)?;
        let pod = match &self.about.pod {
            Some(pod) => self.same(work, "pods", pod)?,
            None => true,
        };
        Ok(account && pod)
    }

    fn same(&self, work: &Work<'_>, plural: &str, reference: &Reference) -> Result<bool, ApiError> {
        let Some(resource) = resources::find("", "v1", plural) else { return Ok(false) };
        let key = Key { resource, namespace: self.about.namespace.clone(), name: reference.name.clone() };
        Ok(work.get(&key)?.is_some_and(|found| object::uid(&found) == reference.uid))
    }
}

/// Answers a `TokenRequest`.
pub(crate) fn issue(
    work: &Work<'_>,
    issuer: &Issuer,
    key: &Key,
    mut request: Value,
) -> Result<Value, ApiError> {
    object::default(
        request.as_object_mut().ok_or_else(|| ApiError::bad_request("the body must be a JSON object"))?,
        "apiVersion",
        "authentication.k8s.io/v1",
    );
    object::default(request.as_object_mut().expect("checked just above"), "kind", "TokenRequest");
    object::child(&mut request, "metadata");
    object::child(&mut request, "spec").entry("audiences").or_insert_with(|| json!([]));
    resources::token_request_shape(&request)
        .map_err(|why| ApiError::bad_request(format!("TokenRequest cannot be read: {why}")))?;
    let account = work.require(key)?;
    let wanted = request["spec"]["expirationSeconds"].as_i64().unwrap_or(USUAL);
    if !(SHORTEST..=1 << 32).contains(&wanted) {
        let why = "may not specify a duration less than 10 minutes or larger than 2^32 seconds";
        let cause = Cause::invalid("spec.expirationSeconds", &request["spec"]["expirationSeconds"], why);
        return Err(ApiError::invalid(key.resource, &key.name, &[cause]));
    }
    let pod = bound_pod(work, key, &request["spec"]["boundObjectRef"])?;
    let given: Vec<String> = object::list(&request, "/spec/audiences")
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let audiences = if given.is_empty() { vec![ISSUER.to_owned()] } else { given };
    let now = Timestamp::now();
    let expires =
        now.checked_add(SignedDuration::from_secs(wanted.min(LONGEST))).map_err(ApiError::internal)?;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{}:{}", key.namespace, key.name),
        aud: audiences.clone(),
        exp: expires.as_second(),
        iat: now.as_second(),
        nbf: now.as_second(),
        jti: uuid::Uuid::new_v4().to_string(),
        about: About {
            namespace: key.namespace.clone(),
            serviceaccount: Reference { name: key.name.clone(), uid: object::uid(&account).to_owned() },
            pod,
        },
    };
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = wanted.min(LONGEST).into();
    request["metadata"] = json!({
        "name": key.name, "namespace": key.namespace, "creationTimestamp": object::timestamp(now),
    });
    request["status"] =
        json!({"token": issuer.sign(&claims)?, "expirationTimestamp": object::timestamp(expires)});
    Ok(request)
}

/// The pod a token is bound to: it must exist, be the same and run as the account.
fn bound_pod(work: &Work<'_>, key: &Key, reference: &Value) -> Result<Option<Reference>, ApiError> {
    let name = text(reference, "/name");
    if reference.is_null() || name.is_empty() {
        return Ok(None);
    }
    if text(reference, "/kind") != "Pod" {
        return Err(ApiError::bad_request("boundObjectRef must be a Pod"));
    }
    let pods = resources::find("", "v1", "pods").ok_or_else(ApiError::no_route)?;
    let pod =
        work.require(&Key { resource: pods, namespace: key.namespace.clone(), name: name.to_owned() })?;
    let wanted = text(reference, "/uid");
    if !wanted.is_empty() && wanted != object::uid(&pod) {
        let why =
            format!("the UID in the bound object reference ({wanted}) does not match the UID in record");
        return Err(ApiError::conflict(pods, name, &why));
    }
    if text(&pod, "/spec/serviceAccountName") != key.name {
        return Err(ApiError::forbidden(pods, name, "the pod runs as another service account"));
    }
    Ok(Some(Reference { name: name.to_owned(), uid: object::uid(&pod).to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(now: Timestamp) -> Claims {
        let account = Reference { name: "default".into(), uid: "u".into() };
        Claims {
            iss: ISSUER.into(),
            sub: "system:serviceaccount:default:default".into(),
            aud: vec![ISSUER.into()],
            exp: now.as_second() + 600,
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: "1".into(),
            about: About { namespace: "default".into(), serviceaccount: account, pod: None },
        }
    }

    #[test]
    fn only_own_unexpired_unchanged_tokens_verify() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(&dir.path().join("key")).unwrap();
        let other = Issuer::open(&dir.path().join("other")).unwrap();
        let now = Timestamp::now();
        let token = issuer.sign(&claims(now)).unwrap();
        assert_eq!(issuer.verify(&token, now).unwrap().user(), "system:serviceaccount:default:default");
        assert!(issuer.verify(&token, now + SignedDuration::from_secs(601)).is_none());
        assert!(other.verify(&token, now).is_none());
        let mut changed = token.clone().into_bytes();
        changed[60] ^= 1;
        assert!(issuer.verify(&String::from_utf8_lossy(&changed), now).is_none());
        for bad in ["", ".", "a.b.c", "a.b"] {
            assert!(issuer.verify(bad, now).is_none());
        }
        let again = Issuer::open(&dir.path().join("key")).unwrap();
        assert!(again.verify(&token, now).is_some());
    }
}
