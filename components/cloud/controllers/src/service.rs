//! The interface `proto/controllers.proto`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ipc::{Fail, Peer, Sink};
use proto::controllers::{
    AcknowledgedReply, AcknowledgedRequest, Controllers, ControllersError, DownstreamMessage,
    DownstreamRequest, PublishTokenReply, PublishTokenRequest, UpstreamReply, UpstreamRequest,
};
use serde_json::json;
use wire::{Operation, ResourcePath, WireMessage};

use crate::api::{Api, ApiError, PatchKind, SECRETS};
use crate::downstream;
use crate::object::{Key, Kind};
use crate::records::{Ack, Records};
use crate::upstream::{self, UpstreamError, create_in_namespace};
use crate::world::World;

/// Where keadm looks for the join token.
const TOKEN_NAMESPACE: &str = "kubeedge";
const TOKEN_SECRET: &str = "tokensecret";

pub(crate) struct Service {
    api: Api,
    world: Arc<World>,
    records: Records,
}

type Reply<T> = Result<T, Fail<ControllersError>>;

impl Service {
    pub(crate) fn new(api: Api, world: Arc<World>, records: Records) -> Self {
        Self { api, world, records }
    }

    async fn publish(&self, token: &str) -> Result<(), ApiError> {
        // Secret data is base64 of the bytes; keadm prints them as they are.
        let data = json!({"tokendata": STANDARD.encode(token)});
        let patch = json!({"data": data}).to_string();
        match self.api.patch(SECRETS.object(TOKEN_NAMESPACE, TOKEN_SECRET), PatchKind::Merge, patch).await {
            Err(error) if error.code() == 404 => {}
            other => return other.map(|_| ()),
        }
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": TOKEN_SECRET, "namespace": TOKEN_NAMESPACE},
            "type": "Opaque",
            "data": data,
        });
        create_in_namespace(&self.api, SECRETS, TOKEN_NAMESPACE, &secret).await.map(|_| ())
    }
}

impl Controllers for Service {
    async fn downstream(
        &self,
        _: &Peer,
        request: DownstreamRequest,
        out: Sink<DownstreamMessage>,
    ) -> Reply<()> {
        checked_node(&request.node)?;
        downstream::run(&self.world, &self.records, &request.node, &out).await;
        Ok(())
    }

    async fn acknowledged(&self, _: &Peer, request: AcknowledgedRequest) -> Reply<AcknowledgedReply> {
        checked_node(&request.node)?;
        if let Some(ack) = acknowledgement(&request)? {
            self.records.acknowledged(&request.node, &ack).await.map_err(|error| failed(&error))?;
        }
        Ok(AcknowledgedReply {})
    }

    async fn upstream(&self, _: &Peer, request: UpstreamRequest) -> Reply<UpstreamReply> {
        checked_node(&request.node)?;
        let message = WireMessage::decode(&request.message).map_err(|error| invalid(error.to_string()))?;
        let answer =
            upstream::handle(&self.api, &self.world, &request.node, &message).await.map_err(|error| {
                match error {
                    UpstreamError::Bad(error) => invalid(error.to_string()),
                    UpstreamError::Unavailable(reason) => Fail::new(ControllersError::Unavailable, reason),
                }
            })?;
        Ok(UpstreamReply { answer: answer.map(|answer| Bytes::from(answer.encode())) })
    }

    async fn publish_token(&self, _: &Peer, request: PublishTokenRequest) -> Reply<PublishTokenReply> {
        if request.token.len() > 2048 {
            return Err(invalid("token is longer than 2048 bytes".to_owned()));
        }
        self.publish(&request.token).await.map_err(|error| failed(&error))?;
        tracing::info!("published the join token as secret {TOKEN_NAMESPACE}/{TOKEN_SECRET}");
        Ok(PublishTokenReply {})
    }
}

/// cloudhub takes node names from certificates; a name that could change a URL is refused here all the same.
fn checked_node(node: &str) -> Reply<()> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if node.is_empty() || node.len() > 253 || node.starts_with('.') || !node.bytes().all(fits) {
        return Err(invalid(format!("node {:?} is no node name", node.chars().take(64).collect::<String>())));
    }
    Ok(())
}

/// What was acknowledged; `None` for what is not recorded: answers, and kinds that are not pushed from here.
fn acknowledgement(request: &AcknowledgedRequest) -> Reply<Option<Ack>> {
    let path: ResourcePath =
        request.resource.parse().map_err(|error: wire::WireError| invalid(error.to_string()))?;
    let version = match Operation::from(request.operation.as_str()) {
        Operation::Insert | Operation::Update => Some(request.resource_version),
        Operation::Delete => None,
        _ => return Ok(None),
    };
    let (Some(kind), Some(name)) = (Kind::from_name(&request.kind), &path.name) else { return Ok(None) };
    if request.uid.is_empty() || !request.uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(invalid(format!("uid {:?} is no uid", request.uid)));
    }
    let key = Key::new(kind, path.namespace.as_deref().unwrap_or_default(), name);
    Ok(Some(Ack { key, uid: request.uid.clone(), version }))
}

fn invalid(message: String) -> Fail<ControllersError> {
    Fail::new(ControllersError::Invalid, message)
}

fn failed(error: &ApiError) -> Fail<ControllersError> {
    let code = match error {
        ApiError::Refused(_) => ControllersError::Invalid,
        ApiError::Unavailable(_) => ControllersError::Unavailable,
    };
    Fail::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(operation: &str, kind: &str, uid: &str) -> AcknowledgedRequest {
        AcknowledgedRequest {
            node: "edge-1".into(),
            resource: "ns/pod/p".into(),
            operation: operation.into(),
            uid: uid.into(),
            resource_version: 7,
            api_version: "v1".into(),
            kind: kind.into(),
        }
    }

    #[test]
    fn pushes_are_recorded_and_answers_are_not() {
        let ack = acknowledgement(&request("insert", "Pod", "u-1")).unwrap().unwrap();
        assert_eq!((ack.key, ack.version), (Key::new(Kind::Pod, "ns", "p"), Some(7)));
        assert_eq!(acknowledgement(&request("delete", "Pod", "u-1")).unwrap().unwrap().version, None);
        assert!(acknowledgement(&request("response", "Secret", "u-1")).unwrap().is_none());
        assert!(acknowledgement(&request("insert", "Device", "u-1")).unwrap().is_none());
        assert!(acknowledgement(&request("insert", "Pod", "../x")).is_err());
    }

    #[test]
    fn node_names_that_could_be_read_as_paths_are_refused() {
        for name in ["", "..", "a/b", "a?b", "A"] {
            assert!(checked_node(name).is_err(), "{name}");
        }
        assert!(checked_node("edge-1.site").is_ok());
    }
}
