//! `route.resource`: `<namespace>/<type>[/<name>]` on the wire, `node/<node>/<namespace>/<type>[/<name>]` inside the cloud.

use std::fmt;
use std::str::FromStr;

use crate::WireError;

/// Resource-type tokens we send or treat specially; others are carried as they come.
pub mod kind {
    /// Pod.
    pub const POD: &str = "pod";
    /// Strategic-merge patch of a pod's status.
    pub const POD_PATCH: &str = "podpatch";
    /// Older form of a pod status report.
    pub const POD_STATUS: &str = "podstatus";
    /// Node.
    pub const NODE: &str = "node";
    /// Strategic-merge patch of a node's status.
    pub const NODE_PATCH: &str = "nodepatch";
    /// Lease.
    pub const LEASE: &str = "lease";
    /// core/v1 Event.
    pub const EVENT: &str = "event";
    /// ConfigMap.
    pub const CONFIG_MAP: &str = "configmap";
    /// Secret.
    pub const SECRET: &str = "secret";
    /// TokenRequest for a ServiceAccount.
    pub const SERVICE_ACCOUNT_TOKEN: &str = "serviceaccounttoken";
    /// CertificateSigningRequest.
    pub const CERTIFICATE_SIGNING_REQUEST: &str = "certificatesigningrequest";
}

/// KubeEdge's word for "no namespace".
const CLUSTER_SCOPE: &str = "null";

/// A parsed resource path. `node` is set for the in-cloud form only. Every token is non-empty and without a slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourcePath {
    /// The node, in the form used inside the cloud.
    pub node: Option<String>,
    /// `None` is cluster scope, `null` on the wire.
    pub namespace: Option<String>,
    /// Resource-type token, see [`kind`].
    pub kind: String,
    /// `None` names the whole collection.
    pub name: Option<String>,
}

impl ResourcePath {
    /// The path of one object as it stands on the wire. An empty `namespace` is cluster scope.
    pub fn object(namespace: &str, kind: &str, name: &str) -> Result<Self, WireError> {
        Self::from_tokens(None, namespace, kind, Some(name))
    }

    /// The same path in the form used inside the cloud.
    pub fn with_node(mut self, node: &str) -> Result<Self, WireError> {
        self.node = Some(token("node", node)?);
        Ok(self)
    }

    /// The same path as the edge sees it.
    #[must_use]
    pub fn without_node(mut self) -> Self {
        self.node = None;
        self
    }

    fn from_tokens(
        node: Option<&str>,
        namespace: &str,
        kind: &str,
        name: Option<&str>,
    ) -> Result<Self, WireError> {
        let namespace = match namespace {
            "" | CLUSTER_SCOPE => None,
            namespace => Some(token("namespace", namespace)?),
        };
        Ok(Self {
            node: node.map(|node| token("node", node)).transpose()?,
            namespace,
            kind: token("type", kind)?,
            name: name.map(|name| token("name", name)).transpose()?,
        })
    }
}

fn token(what: &'static str, value: &str) -> Result<String, WireError> {
    let reason = match what {
        _ if value.is_empty() => "has an empty token",
        _ if value.len() > 253 => "has a token longer than 253 bytes",
        _ if value.bytes().any(|b| b == b'/' || b.is_ascii_control() || b == b' ') => {
            "has a token with a slash, a space or a control character"
        }
        _ => return Ok(value.to_owned()),
    };
    Err(WireError::field("route.resource", value, reason))
}

impl FromStr for ResourcePath {
    type Err = WireError;

    /// Takes both forms. Five tokens, or four of which the first is `node`, are the in-cloud form; `node/pod/x` is a pod
    /// in a namespace called `node`.
    fn from_str(path: &str) -> Result<Self, WireError> {
        let tokens: Vec<&str> = path.split('/').collect();
        if tokens.iter().any(|token| token.is_empty()) {
            return Err(WireError::field("route.resource", path, "has an empty token"));
        }
        match tokens[..] {
            ["node", node, namespace, kind] => Self::from_tokens(Some(node), namespace, kind, None),
            ["node", node, namespace, kind, name] => {
                Self::from_tokens(Some(node), namespace, kind, Some(name))
            }
            [namespace, kind] => Self::from_tokens(None, namespace, kind, None),
            [namespace, kind, name] => Self::from_tokens(None, namespace, kind, Some(name)),
            _ => Err(WireError::field(
                "route.resource",
                path,
                "is neither <namespace>/<type>[/<name>] nor node/<node>/<namespace>/<type>[/<name>]",
            )),
        }
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "node/{node}/")?;
        }
        let namespace = self.namespace.as_deref().unwrap_or(CLUSTER_SCOPE);
        write!(f, "{namespace}/{}", self.kind)?;
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}
