//! Feeds the [`World`] from the API: one watch per kind, and single fetches of what the watches have passed already.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use kube::api::{ApiResource, DynamicObject};
use kube::core::{DynamicResourceScope, ObjectMeta};
use kube::runtime::watcher::{self, Event};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::{Api, ApiError, CONFIG_MAPS, Collection, NODES, PODS, SECRETS, chain};
use crate::object::{Key, Kind};
use crate::world::{Fetch, World};

/// Edges carry this label; its value says nothing.
const EDGE_LABEL: &str = "node-role.kubernetes.io/edge";

/// 16 fetches at a time: enough to hide the round trip, too few to be a burden.
const FETCHES_AT_ONCE: usize = 16;

/// 100 ms to 5 s between attempts: an API server that restarts is used again at once.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// An object as kube-rs's watcher needs one: the JSON, and the version to resume from.
#[derive(Debug, Clone)]
struct Raw {
    metadata: ObjectMeta,
    value: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, value })
    }
}

impl kube::Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(resource)
    }
    fn group(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(resource)
    }
    fn version(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(resource)
    }
    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::api_version(resource)
    }
    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(resource)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A watch of one collection as raw JSON. It resumes by itself; errors are reported and the caller decides when to ask on.
pub(crate) fn raw(
    client: kube::Client,
    collection: Collection,
    kind: &str,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<Value>>> + Send + use<> {
    let api_version = match collection.group {
        "" => collection.version.to_owned(),
        group => format!("{group}/{}", collection.version),
    };
    let resource = ApiResource {
        group: collection.group.to_owned(),
        version: collection.version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: collection.plural.to_owned(),
    };
    watcher::watcher(kube::Api::<Raw>::all_with(client, &resource), config).map_ok(|event| match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.value),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(object.value),
        Event::Delete(object) => Event::Delete(object.value),
    })
}

/// Which kinds have been listed completely, for readiness.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) listed: usize,
}

/// The number of watches.
pub(crate) const WATCHES: usize = 4;

/// Watches one kind for ever, starting over whenever the client changes.
pub(crate) async fn run(kind: Kind, api: Api, world: Arc<World>, progress: watch::Sender<Progress>) {
    let mut clients = api.clients();
    let mut counted = false;
    loop {
        let Some(client) = clients.borrow_and_update().clone() else {
            if clients.changed().await.is_err() {
                return;
            }
            continue;
        };
        let config = match kind {
            Kind::Node => watcher::Config::default().labels(EDGE_LABEL),
            Kind::Pod => watcher::Config::default().fields("spec.nodeName!="),
            Kind::ConfigMap | Kind::Secret => watcher::Config::default(),
        };
        let mut events = pin!(raw(client, collection(kind), kind.name(), config));
        let mut retry = FIRST_RETRY;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                changed = clients.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            };
            match event {
                Some(Ok(event)) => {
                    retry = FIRST_RETRY;
                    let done = matches!(event, Event::InitDone);
                    apply(kind, &world, event);
                    if done && !counted {
                        counted = true;
                        progress.send_modify(|progress| progress.listed += 1);
                    }
                }
                // The watcher resumes, or lists again, when it is asked for the next event.
                Some(Err(error)) => {
                    if retry == FIRST_RETRY {
                        tracing::warn!(kind = kind.plural(), "watch interrupted: {}", describe(&error));
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
                None => break,
            }
        }
    }
}

fn apply(kind: Kind, world: &World, event: Event<Value>) {
    match event {
        Event::Init => world.list_began(kind),
        Event::InitApply(object) => world.listed(kind, object),
        Event::InitDone => world.list_ended(kind),
        Event::Apply(object) => world.changed(kind, object),
        Event::Delete(object) => world.deleted(kind, object),
    }
}

fn collection(kind: Kind) -> Collection {
    match kind {
        Kind::Node => NODES,
        Kind::ConfigMap => CONFIG_MAPS,
        Kind::Secret => SECRETS,
        Kind::Pod => PODS,
    }
}

pub(crate) fn describe(error: &watcher::Error) -> String {
    chain(error)
}

/// Answers what the world wants fetched, for ever.
pub(crate) async fn fetch(api: Api, world: Arc<World>, wanted: mpsc::UnboundedReceiver<Fetch>) {
    let wanted =
        futures_util::stream::unfold(wanted, async |mut wanted| Some((wanted.recv().await?, wanted)));
    wanted.for_each_concurrent(FETCHES_AT_ONCE, |fetch| fetch_one(&api, &world, fetch)).await;
}

async fn fetch_one(api: &Api, world: &World, fetch: Fetch) {
    let mut retry = FIRST_RETRY;
    while world.wants(&fetch) {
        let result = match &fetch {
            Fetch::Object(key) => object(api, key).await.map(|object| world.fetched(key, object)),
            Fetch::Node(node) => {
                match (object(api, &Key::new(Kind::Node, "", node)).await, pods(api, node).await) {
                    (Ok(object), Ok(pods)) => {
                        world.node_fetched(node, object, pods);
                        Ok(())
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                }
            }
        };
        match result {
            Ok(()) => return,
            Err(error) => tracing::debug!(?fetch, "not fetched yet: {error}"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

async fn object(api: &Api, key: &Key) -> Result<Option<Value>, ApiError> {
    match api.get(collection(key.kind).object(&key.namespace, &key.name)).await {
        Ok(content) => {
            let value =
                content.parse("the object").map_err(|error| ApiError::Unavailable(error.to_string()))?;
            Ok(Some(value))
        }
        Err(error) if error.code() == 404 => Ok(None),
        // Not for us to read: the pod that names it goes to the edge without it, where its event says what is missing.
        Err(ApiError::Refused(status)) => {
            tracing::warn!(object = %key, "the API refuses to show what a pod needs: {}", status.message);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn pods(api: &Api, node: &str) -> Result<Vec<Value>, ApiError> {
    api.list(&PODS.path(""), &format!("fieldSelector=spec.nodeName%3D{node}")).await
}
