//! Endpoints and EndpointSlices of services that have a selector.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use kube::runtime::watcher::{self, Event};
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiResult, Collection, PODS, PatchKind};
use crate::watches;

const SERVICES: Collection = Collection { group: "", version: "v1", plural: "services" };
const ENDPOINTS: Collection = Collection { group: "", version: "v1", plural: "endpoints" };
const SLICES: Collection = Collection { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };

/// Who maintains these slices.
const MANAGER: &str = "controllers.apiary";

/// 1 s between attempts to write.
const RETRY: Duration = Duration::from_secs(1);

/// Namespace and name.
type Id = (String, String);

/// Both collections as they are, reduced to what endpoints need.
#[derive(Default)]
struct State {
    services: BTreeMap<Id, Value>,
    pods: BTreeMap<Id, Pod>,
    /// What was written last, to write only differences.
    written: HashMap<Id, Target>,
    /// Keys seen by a list that is under way.
    listing: HashMap<&'static str, BTreeSet<Id>>,
    /// Collections that have been listed once.
    listed: BTreeSet<&'static str>,
    /// Whether `written` holds what an earlier process wrote.
    inherited: bool,
}

/// What of a pod stands in an endpoint.
#[derive(Debug, Clone, PartialEq)]
struct Pod {
    name: String,
    uid: String,
    node: String,
    address: IpAddr,
    labels: Map<String, Value>,
    ready: bool,
    terminating: bool,
    /// Port numbers by name.
    ports: BTreeMap<String, u64>,
}

/// The two objects of a service.
#[derive(Debug, Clone, Default, PartialEq)]
struct Target {
    endpoints: Value,
    slice: Value,
}

pub(super) async fn run(api: Api, client: kube::Client) {
    let services = watches::raw(client.clone(), SERVICES, "Service", watcher::Config::default());
    let pods = watches::raw(client, PODS, "Pod", watcher::Config::default());
    let services = services.map(|event| ("services", event));
    let pods = pods.map(|event| ("pods", event));
    let mut events = pin!(futures_util::stream::select(services, pods));
    let mut state = State::default();
    let mut dirty = false;
    loop {
        let event = if dirty {
            // What is ready is taken together; then it is written.
            let Some(event) = events.next().now_or_never() else {
                dirty = false;
                if let Err(error) = write(&api, &mut state).await {
                    tracing::debug!("endpoints not written yet: {error}");
                    dirty = true;
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            };
            event
        } else {
            events.next().await
        };
        match event {
            Some((kind, Ok(event))) => dirty |= state.apply(kind, event),
            Some((kind, Err(error))) => {
                tracing::debug!(kind, "watch interrupted: {}", watches::describe(&error));
                tokio::time::sleep(RETRY).await;
            }
            None => return,
        }
    }
}

/// Brings the API to what the state says.
async fn write(api: &Api, state: &mut State) -> ApiResult<()> {
    // Before both lists are in, an endpoint that is missing would only mean that its pod is not known yet.
    if state.listed.len() < 2 || !state.listing.is_empty() {
        return Ok(());
    }
    if !state.inherited {
        // Of services that were deleted while nobody was here only the slices are left.
        let query = format!("labelSelector=endpointslice.kubernetes.io%2Fmanaged-by%3D{MANAGER}");
        for slice in api.list(&SLICES.path(""), &query).await? {
            state.written.extend(id(&slice).map(|id| (id, Target::default())));
        }
        state.inherited = true;
    }
    let targets = state.targets();
    for ((namespace, name), target) in &targets {
        if state.written.get(&(namespace.clone(), name.clone())) != Some(target) {
            put(api, ENDPOINTS, namespace, name, &target.endpoints).await?;
            put(api, SLICES, namespace, name, &target.slice).await?;
            state.written.insert((namespace.clone(), name.clone()), target.clone());
        }
    }
    let gone: Vec<Id> = state.written.keys().filter(|id| !targets.contains_key(*id)).cloned().collect();
    for (namespace, name) in gone {
        for collection in [ENDPOINTS, SLICES] {
            match api.delete(collection.object(&namespace, &name), &json!({})).await {
                Err(error) if error.code() != 404 => return Err(error),
                _ => {}
            }
        }
        state.written.remove(&(namespace, name));
    }
    Ok(())
}

async fn put(
    api: &Api,
    collection: Collection,
    namespace: &str,
    name: &str,
    object: &Value,
) -> ApiResult<()> {
    match api.patch(collection.object(namespace, name), PatchKind::Merge, object.to_string()).await {
        Err(error) if error.code() == 404 => match api.create(collection.path(namespace), object).await {
            // The namespace is being deleted, or somebody else was quicker: the next change tries again.
            Err(error) if !matches!(error.code(), 403 | 404 | 409) => Err(error),
            _ => Ok(()),
        },
        other => other.map(|_| ()),
    }
}

impl State {
    /// Whether endpoints may have changed.
    fn apply(&mut self, kind: &'static str, event: Event<Value>) -> bool {
        match event {
            Event::Init => {
                self.listing.insert(kind, BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                if let (Some(id), Some(seen)) = (id(&object), self.listing.get_mut(kind)) {
                    seen.insert(id);
                }
                self.put(kind, object);
                false
            }
            Event::InitDone => {
                let seen = self.listing.remove(kind).unwrap_or_default();
                self.listed.insert(kind);
                match kind {
                    "services" => self.services.retain(|id, _| seen.contains(id)),
                    _ => self.pods.retain(|id, _| seen.contains(id)),
                }
                true
            }
            Event::Apply(object) => self.put(kind, object),
            Event::Delete(object) => match (id(&object), kind) {
                (Some(id), "services") => self.services.remove(&id).is_some(),
                (Some(id), _) => self.pods.remove(&id).is_some(),
                (None, _) => false,
            },
        }
    }

    fn put(&mut self, kind: &str, object: Value) -> bool {
        let Some(id) = id(&object) else { return false };
        if kind == "services" {
            self.services.insert(id, object);
            return true;
        }
        match Pod::of(&object) {
            Some(pod) if self.pods.get(&id) == Some(&pod) => false,
            Some(pod) => {
                self.pods.insert(id, pod);
                true
            }
            None => self.pods.remove(&id).is_some(),
        }
    }

    fn targets(&self) -> BTreeMap<Id, Target> {
        self.services
            .iter()
            .filter_map(|(id, service)| {
                let pods =
                    self.pods.range((id.0.clone(), String::new())..).take_while(|(pod, _)| pod.0 == id.0);
                Some((id.clone(), target(service, pods.map(|(_, pod)| pod))?))
            })
            .collect()
    }
}

fn id(object: &Value) -> Option<Id> {
    let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
    Some((text("namespace")?, text("name")?))
}

impl Pod {
    /// `None` for a pod nothing can be sent to: without address, or ended.
    fn of(pod: &Value) -> Option<Self> {
        let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
        if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let ports = list(&spec["containers"]).into_iter().flat_map(|container| list(&container["ports"]));
        Some(Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            node: text(&spec["nodeName"]),
            address: status["podIP"].as_str()?.parse().ok()?,
            labels: metadata["labels"].as_object().cloned().unwrap_or_default(),
            ready: list(&status["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
            terminating: metadata["deletionTimestamp"].is_string(),
            ports: ports
                .filter_map(|port| Some((text(&port["name"]), port["containerPort"].as_u64()?)))
                .collect(),
        })
    }
}

/// The endpoints of a service; `None` for one whose endpoints are not ours: without selector, or a name elsewhere.
fn target<'a>(service: &Value, pods: impl Iterator<Item = &'a Pod>) -> Option<Target> {
    let spec = &service["spec"];
    let selector = spec["selector"].as_object().filter(|selector| !selector.is_empty())?;
    if spec["type"] == "ExternalName" {
        return None;
    }
    let pods: Vec<&Pod> = pods
        .filter(|pod| selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value)))
        .collect();
    let (namespace, name) = id(service)?;
    let anyway = spec["publishNotReadyAddresses"] == true;
    let serves = |pod: &Pod| anyway || (pod.ready && !pod.terminating);
    let reference =
        |pod: &Pod| json!({"kind": "Pod", "namespace": namespace, "name": pod.name, "uid": pod.uid});
    let ports = ports(spec, &pods);

    let address = |pod: &&Pod| json!({"ip": pod.address, "nodeName": pod.node, "targetRef": reference(pod)});
    let (ready, not_ready): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| serves(pod));
    let mut subset = json!({"ports": ports});
    for (field, pods) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        if !pods.is_empty() {
            subset[field] = pods.iter().map(address).collect();
        }
    }
    let subsets = if pods.is_empty() { json!([]) } else { json!([subset]) };

    let endpoint = |pod: &&Pod| {
        json!({
            "addresses": [pod.address],
            "conditions": {"ready": serves(pod), "serving": anyway || pod.ready, "terminating": pod.terminating},
            "nodeName": pod.node,
            "targetRef": reference(pod),
        })
    };
    // One family per slice; a service here has pods of one.
    let v6 = pods.first().is_some_and(|pod| pod.address.is_ipv6());
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    });
    Some(Target {
        endpoints: json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": name, "namespace": namespace},
            "subsets": subsets,
        }),
        slice: json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": namespace, "ownerReferences": [owner],
                "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": MANAGER},
            },
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": ports,
            "endpoints": pods.iter().filter(|pod| pod.address.is_ipv6() == v6).map(endpoint).collect::<Vec<_>>(),
        }),
    })
}

/// The service's ports as the pods have them. A port by name is that of the first pod that has it.
fn ports(spec: &Value, pods: &[&Pod]) -> Vec<Value> {
    let resolve = |port: &Value| match &port["targetPort"] {
        Value::String(name) => pods.iter().find_map(|pod| pod.ports.get(name).copied()),
        Value::Number(number) => number.as_u64(),
        _ => port["port"].as_u64(),
    };
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let number = resolve(port)?;
            let mut resolved =
                json!({"port": number, "protocol": port["protocol"].as_str().unwrap_or("TCP")});
            if let Some(name) = port["name"].as_str() {
                resolved["name"] = name.into();
            }
            Some(resolved)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec})
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "edge-1", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn web() -> Value {
        service(
            &json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
        )
    }

    fn of(service: &Value, pods: &[Value]) -> Option<Target> {
        let pods: Vec<Pod> = pods.iter().filter_map(Pod::of).collect();
        target(service, pods.iter())
    }

    #[test]
    fn ready_pods_are_addresses_and_others_are_not() {
        let target = of(&web(), &[pod("a", "10.1.0.1", "True"), pod("b", "10.1.0.2", "False")]).unwrap();
        let subset = &target.endpoints["subsets"][0];
        assert_eq!(subset["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.1.0.2");
        assert_eq!(subset["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        let endpoints = target.slice["endpoints"].as_array().unwrap();
        assert_eq!(endpoints[0]["conditions"]["ready"], true);
        assert_eq!(endpoints[1]["conditions"]["ready"], false);
        assert_eq!(target.slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    }

    #[test]
    fn a_terminating_pod_still_serves_but_is_not_ready() {
        let mut ending = pod("a", "10.1.0.1", "True");
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let target = of(&web(), &[ending]).unwrap();
        let conditions = &target.slice["endpoints"][0]["conditions"];
        assert_eq!(conditions, &json!({"ready": false, "serving": true, "terminating": true}));
    }

    #[test]
    fn pods_without_address_ended_or_of_other_labels_are_left_out() {
        let mut ended = pod("a", "10.1.0.1", "False");
        ended["status"]["phase"] = "Succeeded".into();
        let mut other = pod("b", "10.1.0.2", "True");
        other["metadata"]["labels"]["app"] = "db".into();
        let mut starting = pod("c", "10.1.0.3", "False");
        starting["status"]["podIP"] = Value::Null;
        let target = of(&web(), &[ended, other, starting]).unwrap();
        assert_eq!(target.endpoints["subsets"], json!([]));
        assert_eq!(target.slice["endpoints"], json!([]));
    }

    #[test]
    fn services_without_selector_are_somebody_elses() {
        assert!(of(&service(&json!({"ports": []})), &[]).is_none());
        assert!(of(&service(&json!({"selector": {}})), &[]).is_none());
        assert!(of(&service(&json!({"type": "ExternalName", "selector": {"app": "web"}})), &[]).is_none());
    }

    #[test]
    fn a_new_list_forgets_what_it_lacks() {
        let mut state = State::default();
        for event in [Event::Init, Event::InitApply(pod("a", "10.1.0.1", "True")), Event::InitDone] {
            state.apply("pods", event);
        }
        assert_eq!(state.pods.len(), 1);
        assert!(!state.apply("pods", Event::Apply(pod("a", "10.1.0.1", "True"))), "nothing changed");
        for event in [Event::Init, Event::InitDone] {
            state.apply("pods", event);
        }
        assert!(state.pods.is_empty());
    }
}
