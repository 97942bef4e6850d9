//! Carries out what an edge asks, and words the answer as KubeEdge's edge controller does.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use wire::{Content, ErrStatus, ObjectResp, WireMessage, down, group, source};

use crate::api::{self, Api, ApiError, ApiResult, PatchKind};
use crate::policy::{self, Denied, Facts};
use crate::request::{BadRequest, LeaseAction, Request};
use crate::world::World;

/// Why there is neither answer nor refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error(transparent)]
    Bad(#[from] BadRequest),
    #[error("{0}")]
    Unavailable(String),
}

/// Handles one message of `node`; the answer, where KubeEdge sends one.
pub(crate) async fn handle(
    api: &Api,
    world: &Arc<World>,
    node: &str,
    message: &WireMessage,
) -> Result<Option<WireMessage>, UpstreamError> {
    let request = Request::parse(message)?;
    let pods = world.pods_of(node);
    let facts = Facts { node, pods: &pods };
    let outcome = match policy::check(&facts, &request) {
        Ok(()) => carry_out(api, world, &facts, &request).await,
        Err(denied) => Err(forbidden(&denied)),
    };
    match outcome {
        Err(ApiError::Unavailable(reason)) => Err(UpstreamError::Unavailable(reason)),
        Err(ApiError::Refused(status)) => Ok(answer_refusal(&request, message, &status)),
        Ok(object) => Ok(answer(&request, message, object)),
    }
}

/// The object in the answer; `None` where the answer has none.
async fn carry_out(
    api: &Api,
    world: &Arc<World>,
    facts: &Facts<'_>,
    request: &Request,
) -> ApiResult<Option<Content>> {
    match request {
        Request::GetClusterCa => {
            let published = api.get(api::CONFIG_MAPS.object("kube-system", "kube-root-ca.crt")).await?;
            let certificate = parsed(&published)?["data"]["ca.crt"].as_str().map(Content::text);
            Ok(Some(certificate.unwrap_or_default()))
        }
        Request::CreateNode { name, node } => create_node(api, name, node.clone()).await.map(Some),
        Request::UpdateNode { name, node } => update_node(api, name, node).await.map(Some),
        Request::GetNode { name } => api.get(api::NODES.object("", name)).await.map(Some),
        Request::PatchNodeStatus { name, patch } => {
            let path = api::NODES.object("", name) + "/status";
            api.patch(path, PatchKind::Strategic, patch.clone()).await.map(Some)
        }
        Request::PatchPodStatus { namespace, name, patch } => {
            own_pod(api, world, facts, namespace, name).await?;
            let path = api::PODS.object(namespace, name) + "/status";
            api.patch(path, PatchKind::Strategic, patch.to_string()).await.map(Some)
        }
        Request::CreatePod { namespace, pod } => api.create(api::PODS.path(namespace), pod).await.map(Some),
        Request::DeletePod { namespace, name, options } => {
            match delete_pod(api, world, facts, namespace, name, options).await {
                // Gone, or another of its name: what the edge wants is so.
                Err(ApiError::Refused(status)) if matches!(status.code, 404 | 409) => Ok(None),
                other => other.map(|()| None),
            }
        }
        Request::GetConfigMap { namespace, name } => {
            api.get(api::CONFIG_MAPS.object(namespace, name)).await.map(Some)
        }
        Request::GetSecret { namespace, name } => {
            api.get(api::SECRETS.object(namespace, name)).await.map(Some)
        }
        Request::GetClaim { namespace, name } => api.get(api::CLAIMS.object(namespace, name)).await.map(Some),
        Request::GetVolume { name } => {
            let volume = api.get(api::VOLUMES.object("", name)).await?;
            policy::check_volume(facts, &parsed(&volume)?).map_err(|denied| forbidden(&denied))?;
            Ok(Some(volume))
        }
        Request::GetAttachment { name } => {
            let attachment = api.get(api::ATTACHMENTS.object("", name)).await?;
            policy::check_attachment(facts, &parsed(&attachment)?).map_err(|denied| forbidden(&denied))?;
            Ok(Some(attachment))
        }
        Request::CreateToken { namespace, account, body } => {
            let path = api::SERVICE_ACCOUNTS.object(namespace, account) + "/token";
            let mut body = body.clone();
            body["kind"] = "TokenRequest".into();
            body["apiVersion"] = "authentication.k8s.io/v1".into();
            api.create(path, &body).await.map(Some)
        }
        Request::Lease { namespace, name, action } => match action {
            LeaseAction::Get => api.get(api::LEASES.object(namespace, name)).await,
            LeaseAction::Create(lease) => {
                let lease = typed(lease, "Lease", "coordination.k8s.io/v1");
                create_in_namespace(api, api::LEASES, namespace, &lease).await
            }
            LeaseAction::Update(lease) => {
                let lease = typed(lease, "Lease", "coordination.k8s.io/v1");
                api.update(api::LEASES.object(namespace, name), &lease).await
            }
        }
        .map(Some),
        Request::CreateEvent { namespace, event } => {
            api.create(api::EVENTS.path(namespace), &typed(event, "Event", "v1")).await.map(|_| None)
        }
        Request::UpdateEvent { namespace, name, event } => {
            api.update(api::EVENTS.object(namespace, name), &typed(event, "Event", "v1")).await.map(|_| None)
        }
        Request::PatchEvent { namespace, name, patch, .. } => api
            .patch(api::EVENTS.object(namespace, name), PatchKind::Strategic, patch.clone())
            .await
            .map(|_| None),
    }
}

/// The answer to a request that was carried out.
fn answer(request: &Request, message: &WireMessage, object: Option<Content>) -> Option<WireMessage> {
    let version = object
        .as_ref()
        .and_then(|object| object.object_meta().ok())
        .map(|metadata| metadata.resource_version)
        .unwrap_or_default();
    match (request, object) {
        // KubeEdge's hub answers this one itself, without the controllers.
        (Request::GetClusterCa, certificate) => {
            let mut answer = message.reply(certificate.unwrap_or_default());
            "k8s/ca.crt".clone_into(&mut answer.route.resource);
            source::CLOUDHUB.clone_into(&mut answer.route.source);
            group::RESOURCE.clone_into(&mut answer.route.group);
            Some(answer)
        }
        (Request::CreateEvent { .. } | Request::UpdateEvent { .. } | Request::PatchEvent { .. }, _) => None,
        (Request::CreateNode { .. } | Request::Lease { .. }, Some(object)) => {
            Some(down::answer_resp(message, "", &ObjectResp::success(object)))
        }
        (
            Request::PatchNodeStatus { .. } | Request::PatchPodStatus { .. } | Request::CreatePod { .. },
            Some(object),
        ) => Some(down::answer_resp(message, &version, &ObjectResp::success(object))),
        (Request::UpdateNode { .. }, _) => Some(down::answer_ok(message, &version)),
        (_, Some(object)) => Some(down::answer_object(message, &version, object)),
        (_, None) => Some(down::answer_ok(message, "")),
    }
}

/// The answer to a request the API or the policy refused.
fn answer_refusal(request: &Request, message: &WireMessage, status: &ErrStatus) -> Option<WireMessage> {
    match request {
        Request::CreateEvent { .. } | Request::UpdateEvent { .. } | Request::PatchEvent { .. } => {
            tracing::debug!(resource = message.route.resource, "event refused: {}", status.message);
            None
        }
        Request::CreateNode { .. }
        | Request::PatchNodeStatus { .. }
        | Request::PatchPodStatus { .. }
        | Request::CreatePod { .. }
        | Request::Lease { .. } => Some(down::answer_resp(message, "", &ObjectResp::failure(status.clone()))),
        _ => Some(down::answer_error(message, status)),
    }
}

async fn create_node(api: &Api, name: &str, node: Value) -> ApiResult<Content> {
    let mut node = typed(&node, "Node", "v1");
    if let Some(labels) = node["metadata"]["labels"].as_object_mut() {
        let (kept, refused) = policy::node_labels(std::mem::take(labels));
        if !refused.is_empty() {
            tracing::warn!(
                node = name,
                ?refused,
                "a node may not give itself these labels; registered without them"
            );
        }
        *labels = kept;
    }
    node["metadata"]["name"] = name.into();
    api.create(api::NODES.path(""), &node).await
}

/// KubeEdge's meaning of a node update: labels and annotations are laid over the live ones, nothing is removed.
async fn update_node(api: &Api, name: &str, node: &Value) -> ApiResult<Content> {
    let overlay = |part: &str| node["metadata"][part].as_object().cloned().unwrap_or_default();
    let (labels, _) = policy::node_labels(overlay("labels"));
    let annotations: Map<String, Value> = overlay("annotations");
    let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
    api.patch(api::NODES.object("", name), PatchKind::Merge, patch.to_string()).await
}

async fn delete_pod(
    api: &Api,
    world: &Arc<World>,
    facts: &Facts<'_>,
    namespace: &str,
    name: &str,
    options: &Value,
) -> ApiResult<()> {
    own_pod(api, world, facts, namespace, name).await?;
    let mut options = typed(options, "DeleteOptions", "v1");
    // The edge asks when the pod has ended on the node; waiting longer serves nobody.
    options["gracePeriodSeconds"] = 0.into();
    api.delete(api::PODS.object(namespace, name), &options).await.map(|_| ())
}

/// A pod bound to the node that asks: from the world, or from the API for one that has just left it.
async fn own_pod(
    api: &Api,
    world: &Arc<World>,
    facts: &Facts<'_>,
    namespace: &str,
    name: &str,
) -> ApiResult<()> {
    let live;
    let known = world.pod(namespace, name);
    let bound = if let Some(pod) = &known {
        pod.node()
    } else {
        live = parsed(&api.get(api::PODS.object(namespace, name)).await?)?;
        live["spec"]["nodeName"].as_str()
    };
    policy::check_pod(facts.node, namespace, name, bound).map_err(|denied| forbidden(&denied))
}

/// Creates an object, and its namespace where that is what is missing.
pub(crate) async fn create_in_namespace(
    api: &Api,
    collection: api::Collection,
    namespace: &str,
    object: &Value,
) -> ApiResult<Content> {
    match api.create(collection.path(namespace), object).await {
        Err(error) if error.code() == 404 => {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            if let Err(refused) = api.create(api::NAMESPACES.path(""), &body).await
                && refused.code() != 409
            {
                return Err(error);
            }
            api.create(collection.path(namespace), object).await
        }
        other => other,
    }
}

/// Go's typed clients leave `kind` and `apiVersion` out; the REST API wants them.
fn typed(object: &Value, kind: &str, api_version: &str) -> Value {
    let mut object = match object {
        Value::Object(_) => object.clone(),
        _ => json!({}),
    };
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    object
}

fn parsed(content: &Content) -> ApiResult<Value> {
    content.parse("the object").map_err(|error| ApiError::Unavailable(error.to_string()))
}

fn forbidden(denied: &Denied) -> ApiError {
    tracing::warn!("{denied}");
    ApiError::Refused(ErrStatus::new(403, "Forbidden", &denied.to_string()))
}
