//! What the connected edges need of the cluster, kept current by watches.
//!
//! An edge without a session costs nothing here: its pods are listed when its session opens and dropped when it ends, and of
//! all ConfigMaps and Secrets only those are kept that a kept pod names. The rest of the cluster passes by unread.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::object::{Key, Kind, Object};
use crate::plan::View;

/// 8 192 uids, half a megabyte: a fetch is answered long before so many objects are deleted.
const REMEMBERED_DELETES: usize = 8192;

/// Something the world needs that its watches may have passed already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// One ConfigMap or Secret.
    Object(Key),
    /// A node and the pods bound to it.
    Node(String),
}

/// The shared state. Locked for moments only, never across an await.
pub(crate) struct World {
    inner: Mutex<Inner>,
}

struct Inner {
    objects: HashMap<Key, Arc<Object>>,
    /// Nodes with an open session.
    nodes: HashMap<String, NodeState>,
    /// For each ConfigMap and Secret that a kept pod names: on which node how many pods do.
    users: HashMap<Key, BTreeMap<String, usize>>,
    /// Named by a pod and known not to exist.
    absent: HashSet<Key>,
    deleted: RecentDeletes,
    /// The lists that run at the moment.
    lists: HashMap<Kind, RunningList>,
    fetches: mpsc::UnboundedSender<Fetch>,
}

struct NodeState {
    sessions: usize,
    pods: BTreeSet<Key>,
    /// Whether the pods bound to it have been listed since its session opened.
    listed: bool,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct RunningList {
    /// Kept when the list began: only these can be missed by it.
    before: HashMap<Key, String>,
    seen: HashSet<Key>,
}

/// Uids are never used twice, so a late answer can be told from a new object.
#[derive(Default)]
struct RecentDeletes {
    order: VecDeque<String>,
    uids: HashSet<String>,
}

/// One open session's part of the world; dropping it closes the session.
pub(crate) struct Session {
    world: Arc<World>,
    node: String,
    changed: watch::Receiver<u64>,
}

impl World {
    /// An empty world, and what it wants fetched.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Fetch>) {
        let (fetches, wanted) = mpsc::unbounded_channel();
        let inner = Inner {
            objects: HashMap::new(),
            nodes: HashMap::new(),
            users: HashMap::new(),
            absent: HashSet::new(),
            deleted: RecentDeletes::default(),
            lists: HashMap::new(),
            fetches,
        };
        (Arc::new(Self { inner: Mutex::new(inner) }), wanted)
    }

    /// Nothing that runs under this lock leaves the state half changed, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session of `node`.
    pub(crate) fn open(self: &Arc<Self>, node: &str) -> Session {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let state = inner.nodes.entry(node.to_owned()).or_insert_with(|| NodeState {
            sessions: 0,
            pods: BTreeSet::new(),
            listed: false,
            changed: watch::Sender::new(0),
        });
        state.sessions += 1;
        if state.sessions == 1 {
            inner.fetch(Fetch::Node(node.to_owned()));
        }
        let changed = inner.nodes[node].changed.subscribe();
        Session { world: self.clone(), node: node.to_owned(), changed }
    }

    /// A watch begins to list its kind.
    pub(crate) fn list_began(&self, kind: Kind) {
        let mut inner = self.lock();
        let before = inner.objects.iter().filter(|(key, _)| key.kind == kind);
        let before = before.map(|(key, object)| (key.clone(), object.uid.clone())).collect();
        inner.lists.insert(kind, RunningList { before, seen: HashSet::new() });
    }

    /// An object of a running list.
    pub(crate) fn listed(&self, kind: Kind, value: Value) {
        let mut inner = self.lock();
        if let Some(object) = read(kind, value) {
            if let Some(list) = inner.lists.get_mut(&kind) {
                list.seen.insert(object.key.clone());
            }
            inner.put(object);
        }
    }

    /// A list is complete: what was kept when it began and is not in it is gone.
    pub(crate) fn list_ended(&self, kind: Kind) {
        let mut inner = self.lock();
        let Some(list) = inner.lists.remove(&kind) else { return };
        for (key, uid) in list.before {
            if !list.seen.contains(&key) {
                inner.remove(&key, &uid);
            }
        }
    }

    /// An object is new or changed.
    pub(crate) fn changed(&self, kind: Kind, value: Value) {
        if let Some(object) = read(kind, value) {
            self.lock().put(object);
        }
    }

    /// An object is gone.
    pub(crate) fn deleted(&self, kind: Kind, value: Value) {
        if let Some(object) = read(kind, value) {
            self.lock().remove(&object.key, &object.uid);
        }
    }

    /// The answer to [`Fetch::Object`]; `None` when there is no such object.
    pub(crate) fn fetched(&self, key: &Key, value: Option<Value>) {
        let mut inner = self.lock();
        if let Some(object) = value.and_then(|value| read(key.kind, value)) {
            inner.put(object);
        }
        if inner.users.contains_key(key)
            && !inner.objects.contains_key(key)
            && inner.absent.insert(key.clone())
        {
            inner.notify_users(key);
        }
    }

    /// The answer to [`Fetch::Node`].
    pub(crate) fn node_fetched(&self, node: &str, object: Option<Value>, pods: Vec<Value>) {
        let mut inner = self.lock();
        if let Some(object) = object.and_then(|value| read(Kind::Node, value)) {
            inner.put(object);
        }
        for pod in pods.into_iter().filter_map(|value| read(Kind::Pod, value)) {
            inner.put(pod);
        }
        if let Some(state) = inner.nodes.get_mut(node) {
            state.listed = true;
            state.notify();
        }
    }

    /// Whether anybody still waits for this.
    pub(crate) fn wants(&self, fetch: &Fetch) -> bool {
        let inner = self.lock();
        match fetch {
            Fetch::Object(key) => inner.users.contains_key(key),
            Fetch::Node(node) => inner.nodes.contains_key(node),
        }
    }

    /// A pod kept here.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock().objects.get(&Key::new(Kind::Pod, namespace, name)).cloned()
    }

    /// The pods of a node with an open session.
    pub(crate) fn pods_of(&self, node: &str) -> Vec<Arc<Object>> {
        let inner = self.lock();
        let pods = inner.nodes.get(node).into_iter().flat_map(|state| &state.pods);
        pods.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }
}

impl Session {
    /// What the node must have now; `None` until its pods have been listed.
    pub(crate) fn view(&mut self) -> Option<View> {
        self.changed.mark_unchanged();
        self.world.lock().view(&self.node)
    }

    /// Waits until something changed since the last [`Self::view`].
    pub(crate) async fn changed(&mut self) {
        // An error would mean that the sender is gone, which lives as long as this session does.
        let _ = self.changed.changed().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        let Some(state) = inner.nodes.get_mut(&self.node) else { return };
        state.sessions -= 1;
        if state.sessions > 0 {
            return;
        }
        let pods = std::mem::take(&mut state.pods);
        inner.nodes.remove(&self.node);
        for key in pods {
            if let Some(pod) = inner.objects.remove(&key) {
                inner.unuse(&pod);
            }
        }
        inner.objects.remove(&Key::new(Kind::Node, "", &self.node));
    }
}

impl Inner {
    fn fetch(&self, fetch: Fetch) {
        // Fails only when the fetching task is gone, at shutdown.
        let _ = self.fetches.send(fetch);
    }

    fn keeps(&self, object: &Object) -> bool {
        match object.key.kind {
            Kind::Pod => object.node().is_some_and(|node| self.nodes.contains_key(node)),
            Kind::Node => self.nodes.contains_key(&object.key.name),
            Kind::ConfigMap | Kind::Secret => self.users.contains_key(&object.key),
        }
    }

    fn put(&mut self, object: Object) {
        if !self.keeps(&object) || self.deleted.uids.contains(&object.uid) {
            return;
        }
        let before = self.objects.get(&object.key).cloned();
        match &before {
            Some(before) if before.uid != object.uid => self.deleted.insert(&before.uid),
            Some(before) if before.version >= object.version => return,
            _ => {}
        }
        let object = Arc::new(object);
        self.objects.insert(object.key.clone(), object.clone());
        self.absent.remove(&object.key);
        match object.key.kind {
            Kind::Pod => {
                self.r#use(&object);
                if let Some(before) = before {
                    self.unuse(&before);
                }
                if let Some(state) = object.node().and_then(|node| self.nodes.get_mut(node)) {
                    state.pods.insert(object.key.clone());
                    state.notify();
                }
            }
            Kind::Node => {
                if let Some(state) = self.nodes.get(&object.key.name) {
                    state.notify();
                }
            }
            Kind::ConfigMap | Kind::Secret => self.notify_users(&object.key),
        }
    }

    fn remove(&mut self, key: &Key, uid: &str) {
        self.deleted.insert(uid);
        if self.objects.get(key).is_none_or(|object| object.uid != uid) {
            return;
        }
        let Some(object) = self.objects.remove(key) else { return };
        match key.kind {
            Kind::Pod => {
                self.unuse(&object);
                if let Some(state) = object.node().and_then(|node| self.nodes.get_mut(node)) {
                    state.pods.remove(key);
                    state.notify();
                }
            }
            Kind::Node => {}
            Kind::ConfigMap | Kind::Secret => {
                self.absent.insert(key.clone());
                self.notify_users(key);
            }
        }
    }

    fn r#use(&mut self, pod: &Object) {
        let (Some(node), Some(facts)) = (pod.node(), &pod.pod) else { return };
        for key in &facts.references {
            let users = self.users.entry(key.clone()).or_default();
            let first = users.is_empty();
            *users.entry(node.to_owned()).or_default() += 1;
            if first {
                self.fetch(Fetch::Object(key.clone()));
            }
        }
    }

    fn unuse(&mut self, pod: &Object) {
        let (Some(node), Some(facts)) = (pod.node(), &pod.pod) else { return };
        for key in &facts.references {
            let Some(users) = self.users.get_mut(key) else { continue };
            if let Some(count) = users.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    users.remove(node);
                }
            }
            if users.is_empty() {
                self.users.remove(key);
                self.objects.remove(key);
                self.absent.remove(key);
            }
        }
    }

    fn notify_users(&self, key: &Key) {
        for node in self.users.get(key).into_iter().flat_map(BTreeMap::keys) {
            if let Some(state) = self.nodes.get(node) {
                state.notify();
            }
        }
    }

    fn view(&self, node: &str) -> Option<View> {
        let state = self.nodes.get(node).filter(|state| state.listed)?;
        let mut view = View::default();
        let mut named = BTreeSet::new();
        for key in &state.pods {
            let Some(pod) = self.objects.get(key) else { continue };
            let references = pod.pod.iter().flat_map(|facts| &facts.references);
            let mut complete = true;
            for reference in references {
                if self.objects.contains_key(reference) {
                    named.insert(reference);
                } else if !self.absent.contains(reference) {
                    complete = false;
                    view.held.insert(reference.clone());
                }
            }
            if complete {
                view.objects.push(pod.clone());
            } else {
                view.held.insert(key.clone());
            }
        }
        view.objects.extend(named.into_iter().filter_map(|key| self.objects.get(key).cloned()));
        view.objects.extend(self.objects.get(&Key::new(Kind::Node, "", node)).cloned());
        Some(view)
    }
}

impl NodeState {
    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl RecentDeletes {
    fn insert(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
            if self.order.len() > REMEMBERED_DELETES
                && let Some(oldest) = self.order.pop_front()
            {
                self.uids.remove(&oldest);
            }
        }
    }
}

fn read(kind: Kind, value: Value) -> Option<Object> {
    Object::from_value(kind, value)
        .inspect_err(|error| tracing::warn!("an object of the API cannot be sent to edges: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn world() -> (Arc<World>, mpsc::UnboundedReceiver<Fetch>) {
        World::new()
    }

    fn value(name: &str, uid: &str, version: u64, spec: &Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string()}, "spec": spec})
    }

    fn pod(name: &str, uid: &str, version: u64, node: &str) -> Value {
        value(name, uid, version, &json!({"nodeName": node, "volumes": [{"configMap": {"name": "map"}}]}))
    }

    fn map(uid: &str, version: u64) -> Value {
        value("map", uid, version, &json!(null))
    }

    fn names(view: &View) -> Vec<String> {
        let mut names: Vec<_> =
            view.objects.iter().map(|o| format!("{}@{}", o.key.name, o.version)).collect();
        names.sort();
        names
    }

    /// A world with one session of `edge-1`, pod `p` on it, and its ConfigMap.
    fn with_pod() -> (Arc<World>, Session) {
        let (world, _fetches) = world();
        let session = world.open("edge-1");
        world.node_fetched("edge-1", None, vec![pod("p", "u1", 1, "edge-1")]);
        world.fetched(&Key::new(Kind::ConfigMap, "ns", "map"), Some(map("m1", 2)));
        (world, session)
    }

    #[test]
    fn a_session_sees_nothing_until_its_pods_are_listed() {
        let (world, mut fetches) = world();
        let mut session = world.open("edge-1");
        world.changed(Kind::Pod, pod("p", "u1", 5, "edge-1"));
        assert!(session.view().is_none());
        assert_eq!(fetches.try_recv().unwrap(), Fetch::Node("edge-1".into()));
        world.node_fetched("edge-1", None, vec![]);
        assert!(session.view().is_some());
    }

    #[test]
    fn a_pod_is_held_until_what_it_names_is_known() {
        let (world, mut fetches) = world();
        let mut session = world.open("edge-1");
        world.node_fetched("edge-1", None, vec![pod("p", "u1", 1, "edge-1")]);
        let key = Key::new(Kind::ConfigMap, "ns", "map");
        let view = session.view().unwrap();
        assert!(view.objects.is_empty() && view.held.len() == 2);
        let _ = fetches.try_recv();
        assert_eq!(fetches.try_recv().unwrap(), Fetch::Object(key.clone()));
        world.fetched(&key, None);
        assert_eq!(
            names(&session.view().unwrap()),
            ["p@1"],
            "a ConfigMap that does not exist holds nothing up"
        );
        world.changed(Kind::ConfigMap, map("m1", 4));
        assert_eq!(names(&session.view().unwrap()), ["map@4", "p@1"]);
    }

    #[test]
    fn pods_of_nodes_without_a_session_are_not_kept() {
        let (world, mut session) = with_pod();
        world.changed(Kind::Pod, pod("q", "u2", 9, "edge-2"));
        world.changed(Kind::Secret, value("other", "s", 9, &json!(null)));
        assert_eq!(world.lock().objects.len(), 2);
        assert_eq!(names(&session.view().unwrap()), ["map@2", "p@1"]);
    }

    #[test]
    fn a_closed_session_leaves_nothing_behind() {
        let (world, session) = with_pod();
        drop(session);
        let inner = world.lock();
        assert!(
            inner.objects.is_empty()
                && inner.nodes.is_empty()
                && inner.users.is_empty()
                && inner.absent.is_empty()
        );
    }

    #[test]
    fn a_second_session_of_a_node_keeps_its_state_when_the_first_closes() {
        let (world, first) = with_pod();
        let mut second = world.open("edge-1");
        drop(first);
        assert_eq!(names(&second.view().unwrap()), ["map@2", "p@1"]);
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let (world, mut session) = with_pod();
        world.changed(Kind::Pod, pod("p", "u1", 9, "edge-1"));
        world.node_fetched("edge-1", None, vec![pod("p", "u1", 1, "edge-1")]);
        world.fetched(&Key::new(Kind::ConfigMap, "ns", "map"), Some(map("m1", 1)));
        assert_eq!(names(&session.view().unwrap()), ["map@2", "p@9"]);
    }

    #[test]
    fn a_late_answer_does_not_bring_a_deleted_object_back() {
        let (world, mut session) = with_pod();
        world.deleted(Kind::Pod, pod("p", "u1", 7, "edge-1"));
        world.node_fetched("edge-1", None, vec![pod("p", "u1", 1, "edge-1")]);
        assert!(session.view().unwrap().objects.is_empty());
        world.changed(Kind::Pod, pod("p", "u2", 8, "edge-1"));
        assert_eq!(session.view().unwrap().held.len(), 2, "one made again under its name is another");
    }

    #[test]
    fn another_object_of_the_same_name_replaces_whatever_its_version() {
        let (world, mut session) = with_pod();
        world.changed(Kind::Pod, pod("p", "u1", 90, "edge-1"));
        // The store of a standalone server was removed: versions begin again.
        world.list_began(Kind::Pod);
        world.listed(Kind::Pod, pod("p", "u2", 3, "edge-1"));
        world.list_ended(Kind::Pod);
        assert_eq!(names(&session.view().unwrap()), ["map@2", "p@3"]);
        world.changed(Kind::Pod, pod("p", "u1", 91, "edge-1"));
        assert_eq!(names(&session.view().unwrap()), ["map@2", "p@3"], "the first is not coming back");
    }

    #[test]
    fn a_list_removes_what_it_lacks_but_nothing_younger_than_its_beginning() {
        let (world, mut session) = with_pod();
        world.list_began(Kind::Pod);
        world.changed(Kind::Pod, pod("young", "u9", 9, "edge-1"));
        world.list_ended(Kind::Pod);
        assert_eq!(names(&session.view().unwrap()), ["map@2", "young@9"]);
    }

    #[test]
    fn a_list_that_has_everything_changes_nothing() {
        let (world, mut session) = with_pod();
        world.list_began(Kind::Pod);
        world.listed(Kind::Pod, pod("p", "u1", 1, "edge-1"));
        world.list_ended(Kind::Pod);
        assert_eq!(names(&session.view().unwrap()), ["map@2", "p@1"]);
    }

    #[tokio::test]
    async fn a_change_wakes_the_sessions_it_concerns() {
        let (world, mut session) = with_pod();
        session.view();
        world.changed(Kind::Pod, pod("q", "u2", 9, "edge-2"));
        assert!(!session.changed.has_changed().unwrap());
        world.changed(Kind::ConfigMap, map("m1", 8));
        session.changed().await;
        assert_eq!(names(&session.view().unwrap()), ["map@8", "p@1"]);
    }
}
