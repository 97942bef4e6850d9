//! The Kubernetes API as raw JSON over kube-rs: typed objects would drop every field newer than our types.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::sync::watch;
use wire::{Content, ErrStatus};

/// 8 s: below the 10 s after which a caller on the bus gives up, so it hears why.
const DEADLINE: Duration = Duration::from_secs(8);

/// A REST collection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collection {
    /// Empty for core/v1.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const NAMESPACES: Collection = core("namespaces");
pub(crate) const NODES: Collection = core("nodes");
pub(crate) const PODS: Collection = core("pods");
pub(crate) const CONFIG_MAPS: Collection = core("configmaps");
pub(crate) const SECRETS: Collection = core("secrets");
pub(crate) const EVENTS: Collection = core("events");
pub(crate) const SERVICE_ACCOUNTS: Collection = core("serviceaccounts");
pub(crate) const VOLUMES: Collection = core("persistentvolumes");
pub(crate) const CLAIMS: Collection = core("persistentvolumeclaims");
pub(crate) const ATTACHMENTS: Collection =
    Collection { group: "storage.k8s.io", version: "v1", plural: "volumeattachments" };
pub(crate) const LEASES: Collection =
    Collection { group: "coordination.k8s.io", version: "v1", plural: "leases" };
pub(crate) const OBJECT_SYNCS: Collection =
    Collection { group: "reliablesyncs.kubeedge.io", version: "v1alpha1", plural: "objectsyncs" };

const fn core(plural: &'static str) -> Collection {
    Collection { group: "", version: "v1", plural }
}

impl Collection {
    /// The URL path of the collection; an empty `namespace` is cluster scope, or all namespaces. Callers pass names that
    /// cannot change a path: parsed from a request, or the API's own.
    pub(crate) fn path(self, namespace: &str) -> String {
        let root = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            "" => format!("{root}/{}", self.plural),
            namespace => format!("{root}/namespaces/{namespace}/{}", self.plural),
        }
    }

    /// The URL path of one object.
    pub(crate) fn object(self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.path(namespace))
    }
}

/// How a patch is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PatchKind {
    Merge,
    Strategic,
}

/// Why a request has no object to show.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    /// The API's own refusal.
    #[error("{}", .0.message)]
    Refused(ErrStatus),
    /// No answer, or one that says "later": the request may be repeated.
    #[error("the Kubernetes API is not available: {0}")]
    Unavailable(String),
}

impl ApiError {
    /// The refusal's HTTP status; 0 when there was none.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Refused(status) => status.code,
            Self::Unavailable(_) => 0,
        }
    }
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// The API, as far as there is one: the client changes with the kubeconfig.
#[derive(Clone)]
pub(crate) struct Api {
    client: watch::Receiver<Option<kube::Client>>,
}

impl Api {
    pub(crate) fn new(client: watch::Receiver<Option<kube::Client>>) -> Self {
        Self { client }
    }

    /// The client of the moment.
    pub(crate) fn client(&self) -> Option<kube::Client> {
        self.client.borrow().clone()
    }

    /// Follows the client, for what must start over with a new one.
    pub(crate) fn clients(&self) -> watch::Receiver<Option<kube::Client>> {
        self.client.clone()
    }

    pub(crate) async fn get(&self, path: String) -> ApiResult<Content> {
        self.call(Method::GET, path, None, Vec::new()).await
    }

    /// The objects of a collection, by label or field where `query` says so.
    pub(crate) async fn list(&self, path: &str, query: &str) -> ApiResult<Vec<Value>> {
        let content = self.get(format!("{path}?{query}")).await?;
        let mut list: Value =
            content.parse("a list").map_err(|error| ApiError::Unavailable(error.to_string()))?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    pub(crate) async fn create(&self, path: String, object: &Value) -> ApiResult<Content> {
        self.call(Method::POST, path, Some("application/json"), object.to_string().into_bytes()).await
    }

    pub(crate) async fn update(&self, path: String, object: &Value) -> ApiResult<Content> {
        self.call(Method::PUT, path, Some("application/json"), object.to_string().into_bytes()).await
    }

    pub(crate) async fn patch(&self, path: String, kind: PatchKind, body: String) -> ApiResult<Content> {
        let content_type = match kind {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        };
        self.call(Method::PATCH, path, Some(content_type), body.into_bytes()).await
    }

    pub(crate) async fn delete(&self, path: String, options: &Value) -> ApiResult<Content> {
        self.call(Method::DELETE, path, Some("application/json"), options.to_string().into_bytes()).await
    }

    async fn call(
        &self,
        method: Method,
        path: String,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> ApiResult<Content> {
        let unavailable =
            |error: &dyn std::fmt::Display| ApiError::Unavailable(format!("{method} {path}: {error}"));
        let client = self.client().ok_or_else(|| unavailable(&"no kubeconfig yet"))?;
        let mut request = http::Request::builder().method(&method).uri(&path);
        if let Some(content_type) = content_type {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| unavailable(&error))?;
        let text = match tokio::time::timeout(DEADLINE, client.request_text(request)).await {
            Ok(Ok(text)) => text,
            Ok(Err(kube::Error::Api(status))) => return Err(refusal(&status)),
            Ok(Err(error)) => return Err(unavailable(&chain(&error))),
            Err(_) => return Err(unavailable(&"no answer in 8 s")),
        };
        Content::json(text).map_err(|error| unavailable(&error))
    }
}

/// An HTTP status tells a refusal from "not now": the API is overloaded, starting, or does not know our credentials (yet).
fn refusal(status: &kube::core::Status) -> ApiError {
    match status.code {
        401 | 429 | 502..=504 => ApiError::Unavailable(format!("{} ({})", status.message, status.code)),
        code => ApiError::Refused(ErrStatus::new(u32::from(code), &status.reason, &status.message)),
    }
}

/// An error and its causes in one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_kubernetes() {
        assert_eq!(PODS.object("ns", "p"), "/api/v1/namespaces/ns/pods/p");
        assert_eq!(NODES.object("", "n"), "/api/v1/nodes/n");
        assert_eq!(
            LEASES.path("kube-node-lease"),
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        );
    }

    #[test]
    fn what_may_pass_by_itself_is_no_refusal() {
        for code in [401, 429, 502, 503, 504] {
            assert!(matches!(
                refusal(&kube::core::Status::default().with_code(code)),
                ApiError::Unavailable(_)
            ));
        }
        for code in [400, 403, 404, 409, 422, 500] {
            assert!(matches!(refusal(&kube::core::Status::default().with_code(code)), ApiError::Refused(_)));
        }
    }
}
