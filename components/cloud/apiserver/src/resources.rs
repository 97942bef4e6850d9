//! Every resource this API serves, as data. A new kind is a new row: storage, REST, watch and discovery follow from it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use k8s_openapi::api::{authentication, coordination, core, discovery};

use crate::table::{self, Columns};

/// One kind of object.
#[derive(Debug)]
pub(crate) struct Resource {
    /// "" is the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// `status` is written through its own subresource only.
    pub(crate) status: bool,
    /// PUT of a name that does not exist creates it.
    pub(crate) create_on_update: bool,
    /// Other subresources: (name, kind, group/version of the kind when it is another one).
    pub(crate) subresources: &'static [Subresource],
    /// Field selectors besides `metadata.name` and `metadata.namespace`: label and JSON pointer.
    pub(crate) selectable: &'static [(&'static str, &'static str)],
    /// What `kubectl get` prints.
    pub(crate) columns: &'static Columns,
    /// Reads the object into Kubernetes' own type and writes it back: what is gone afterwards is unknown to it, what
    /// fails has a wrong type. `None`: any shape is taken, as of a custom resource without a schema.
    pub(crate) shape: Option<Shape>,
}

/// See [`Resource::shape`].
type Shape = fn(&Value) -> Result<Value, String>;

/// A path below an object.
#[derive(Debug)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
}

impl Resource {
    /// `pods`, `leases.coordination.k8s.io`: how Kubernetes names the resource in messages, and our storage key.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `coordination.k8s.io/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// A resource defined outside Kubernetes: no strategic merge patch, as for any custom resource.
    pub(crate) fn is_custom(&self) -> bool {
        self.shape.is_none()
    }
}

/// The verbs of every stored resource, in Kubernetes' (alphabetical) order.
pub(crate) const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// Group and version pairs in the order discovery lists them.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for resource in RESOURCES {
        if !found.contains(&(resource.group, resource.version)) {
            found.push((resource.group, resource.version));
        }
    }
    found
}

fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    let parsed: T = serde_path_to_error::deserialize(object).map_err(|e| {
        let path = e.path().to_string();
        format!("{path}: {}", e.inner())
    })?;
    serde_json::to_value(parsed).map_err(|e| e.to_string())
}

const DEFAULTS: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    create_on_update: false,
    subresources: &[],
    selectable: &[],
    columns: &table::GENERIC,
    shape: None,
};

pub(crate) static RESOURCES: &[Resource] = &[
    Resource {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short_names: &["cm"],
        columns: &table::CONFIGMAPS,
        shape: Some(typed::<core::v1::ConfigMap>),
        ..DEFAULTS
    },
    Resource {
        plural: "endpoints",
        singular: "endpoints",
        kind: "Endpoints",
        short_names: &["ep"],
        create_on_update: true,
        columns: &table::ENDPOINTS,
        shape: Some(typed::<core::v1::Endpoints>),
        ..DEFAULTS
    },
    Resource {
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        create_on_update: true,
        selectable: &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        columns: &table::EVENTS,
        shape: Some(typed::<core::v1::Event>),
        ..DEFAULTS
    },
    Resource {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        subresources: &[Subresource { name: "finalize", kind: "Namespace", group: "", version: "" }],
        selectable: &[("status.phase", "/status/phase")],
        columns: &table::NAMESPACES,
        shape: Some(typed::<core::v1::Namespace>),
        ..DEFAULTS
    },
    Resource {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short_names: &["no"],
        namespaced: false,
        status: true,
        selectable: &[("spec.unschedulable", "/spec/unschedulable")],
        columns: &table::NODES,
        shape: Some(typed::<core::v1::Node>),
        ..DEFAULTS
    },
    Resource {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        subresources: &[
            Subresource { name: "binding", kind: "Binding", group: "", version: "" },
            Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1" },
        ],
        selectable: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        columns: &table::PODS,
        shape: Some(typed::<core::v1::Pod>),
        ..DEFAULTS
    },
    Resource {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        selectable: &[("type", "/type")],
        columns: &table::SECRETS,
        shape: Some(typed::<core::v1::Secret>),
        ..DEFAULTS
    },
    Resource {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            kind: "TokenRequest",
            group: "authentication.k8s.io",
            version: "v1",
        }],
        columns: &table::SERVICEACCOUNTS,
        shape: Some(typed::<core::v1::ServiceAccount>),
        ..DEFAULTS
    },
    Resource {
        plural: "services",
        singular: "service",
        kind: "Service",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        create_on_update: true,
        selectable: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        columns: &table::SERVICES,
        shape: Some(typed::<core::v1::Service>),
        ..DEFAULTS
    },
    Resource {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        create_on_update: true,
        columns: &table::LEASES,
        shape: Some(typed::<coordination::v1::Lease>),
        ..DEFAULTS
    },
    Resource {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        create_on_update: true,
        columns: &table::ENDPOINTSLICES,
        shape: Some(typed::<discovery::v1::EndpointSlice>),
        ..DEFAULTS
    },
    Resource {
        group: "reliablesyncs.kubeedge.io",
        version: "v1alpha1",
        plural: "clusterobjectsyncs",
        singular: "clusterobjectsync",
        kind: "ClusterObjectSync",
        namespaced: false,
        status: true,
        ..DEFAULTS
    },
    Resource {
        group: "reliablesyncs.kubeedge.io",
        version: "v1alpha1",
        plural: "objectsyncs",
        singular: "objectsync",
        kind: "ObjectSync",
        status: true,
        ..DEFAULTS
    },
];

/// What a `TokenRequest` must look like.
pub(crate) fn token_request_shape(object: &Value) -> Result<Value, String> {
    typed::<authentication::v1::TokenRequest>(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_collide_within_a_group() {
        for (at, one) in RESOURCES.iter().enumerate() {
            for other in &RESOURCES[at + 1..] {
                if one.group == other.group {
                    assert_ne!(one.plural, other.plural);
                    assert_ne!(one.kind, other.kind);
                }
                for short in one.short_names {
                    assert!(!other.short_names.contains(short), "{short}");
                }
            }
        }
    }

    #[test]
    fn wrong_type_names_the_field() {
        let pods = find("", "v1", "pods").unwrap();
        let bad = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": "x"}});
        let error = pods.shape.unwrap()(&bad).unwrap_err();
        assert!(error.contains("spec"), "{error}");
    }
}
