//! Which lists a strategic merge patch merges, and by what: the `patchStrategy` and `patchMergeKey` tags of
//! `k8s.io/api` for the kinds we serve. A list not named here is replaced as a whole, a map is always merged.

use crate::resources::Resource;

/// How one list is merged.
#[derive(Debug)]
pub(super) enum List {
    /// Elements are objects with this field as key, of this type.
    ByKey(&'static str, &'static Type),
    /// Elements are plain values; a set.
    Values,
}

/// The fields of an object that need knowing.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) lists: &'static [(&'static str, List)],
    pub(super) maps: &'static [(&'static str, &'static Type)],
}

/// A type without lists that merge.
pub(super) static PLAIN: Type = Type { lists: &[], maps: &[] };

static META: Type = Type {
    lists: &[("ownerReferences", List::ByKey("uid", &PLAIN)), ("finalizers", List::Values)],
    maps: &[],
};

static CONTAINER: Type = Type {
    lists: &[
        ("ports", List::ByKey("containerPort", &PLAIN)),
        ("env", List::ByKey("name", &PLAIN)),
        ("volumeMounts", List::ByKey("mountPath", &PLAIN)),
        ("volumeDevices", List::ByKey("devicePath", &PLAIN)),
    ],
    maps: &[],
};

static POD_SPEC: Type = Type {
    lists: &[
        ("volumes", List::ByKey("name", &PLAIN)),
        ("containers", List::ByKey("name", &CONTAINER)),
        ("initContainers", List::ByKey("name", &CONTAINER)),
        ("ephemeralContainers", List::ByKey("name", &CONTAINER)),
        ("imagePullSecrets", List::ByKey("name", &PLAIN)),
        ("hostAliases", List::ByKey("ip", &PLAIN)),
        ("topologySpreadConstraints", List::ByKey("topologyKey", &PLAIN)),
        ("schedulingGates", List::ByKey("name", &PLAIN)),
        ("resourceClaims", List::ByKey("name", &PLAIN)),
    ],
    maps: &[],
};

static POD_STATUS: Type = Type {
    lists: &[
        ("conditions", List::ByKey("type", &PLAIN)),
        ("podIPs", List::ByKey("ip", &PLAIN)),
        ("hostIPs", List::ByKey("ip", &PLAIN)),
        ("resourceClaimStatuses", List::ByKey("name", &PLAIN)),
    ],
    maps: &[],
};

static NODE_SPEC: Type = Type { lists: &[("podCIDRs", List::Values)], maps: &[] };

static NODE_STATUS: Type = Type {
    lists: &[("conditions", List::ByKey("type", &PLAIN)), ("addresses", List::ByKey("type", &PLAIN))],
    maps: &[],
};

static SERVICE_SPEC: Type = Type { lists: &[("ports", List::ByKey("port", &PLAIN))], maps: &[] };

static CONDITIONS: Type = Type { lists: &[("conditions", List::ByKey("type", &PLAIN))], maps: &[] };

static POD: Type =
    Type { lists: &[], maps: &[("metadata", &META), ("spec", &POD_SPEC), ("status", &POD_STATUS)] };
static NODE: Type =
    Type { lists: &[], maps: &[("metadata", &META), ("spec", &NODE_SPEC), ("status", &NODE_STATUS)] };
static SERVICE: Type =
    Type { lists: &[], maps: &[("metadata", &META), ("spec", &SERVICE_SPEC), ("status", &CONDITIONS)] };
static NAMESPACE: Type = Type { lists: &[], maps: &[("metadata", &META), ("status", &CONDITIONS)] };
static SERVICE_ACCOUNT: Type = Type {
    lists: &[("secrets", List::ByKey("name", &PLAIN)), ("imagePullSecrets", List::ByKey("name", &PLAIN))],
    maps: &[("metadata", &META)],
};
static OTHER: Type = Type { lists: &[], maps: &[("metadata", &META)] };

pub(super) fn of(resource: &Resource) -> &'static Type {
    match resource.kind {
        "Pod" => &POD,
        "Node" => &NODE,
        "Service" => &SERVICE,
        "Namespace" => &NAMESPACE,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        _ => &OTHER,
    }
}

impl Type {
    pub(super) fn list(&self, field: &str) -> Option<&'static List> {
        self.lists.iter().find(|(name, _)| *name == field).map(|(_, list)| list)
    }

    pub(super) fn map(&self, field: &str) -> &'static Type {
        self.maps.iter().find(|(name, _)| *name == field).map_or(&PLAIN, |(_, inner)| inner)
    }
}
