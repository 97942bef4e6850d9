//! A store with just enough of metamanager for edged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proto::metamanager::watch_event::Event;
use proto::metamanager::*;
use serde_json::Value;
use tokio::sync::watch;

type Fail = ipc::Fail<MetaManagerError>;

pub(super) struct FakeStore {
    shared: Arc<Shared>,
    server: Option<ipc::Server<MetaManagerServer<Served>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// Objects and deletes, newest revision of each.
    objects: BTreeMap<String, (Object, bool)>,
    synced: bool,
    uploads: Vec<SubmitRequest>,
}

struct Served(Arc<Shared>);

impl FakeStore {
    pub(super) fn serve(path: &Path) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(0) });
        let mut store = Self { shared, server: None };
        store.restart(path);
        store
    }

    /// Ends every connection, then serves again what was stored.
    pub(super) fn restart(&mut self, path: &Path) {
        self.server = None;
        let service = MetaManagerServer::new(Served(self.shared.clone()));
        let server = ipc::Server::new(ipc::Identity::new("metamanager", 1), service);
        let listener = ipc::bind(path, 0o600).expect("bound");
        server.serve(listener, ipc::Admission::AnyUser).expect("served");
        self.server = Some(server);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.state.lock().expect("not poisoned");
        state.revision += 1;
        change(&mut state);
        self.shared.changed.send_replace(state.revision);
    }

    /// From now on a listing ends.
    pub(super) fn sync(&self) {
        self.change(|state| state.synced = true);
    }

    /// From now on it does not.
    pub(super) fn unsync(&self) {
        self.change(|state| state.synced = false);
    }

    /// A pod of one container, with further metadata.
    pub(super) fn put_pod(&self, name: &str, metadata: &str) {
        let mut metadata: Value = serde_json::from_str(metadata).expect("JSON");
        metadata["name"] = name.into();
        metadata["namespace"] = "default".into();
        metadata["uid"] = format!("uid-{name}").into();
        let container = serde_json::json!({"name": "c", "image": "busybox:1.35"});
        let pod = serde_json::json!({"metadata": metadata, "spec": {"nodeName": "edge-1", "containers": [container]}});
        self.change(|state| {
            let object = Object {
                key: Some(Key { kind: "pod".into(), namespace: "default".into(), name: name.into() }),
                uid: format!("uid-{name}"),
                resource_version: state.revision,
                revision: state.revision,
                json: pod.to_string().into_bytes().into(),
            };
            state.objects.insert(name.to_owned(), (object, true));
        });
    }

    /// As if the pod had never been.
    pub(super) fn lose_pod(&self, name: &str) {
        self.change(|state| {
            state.objects.remove(name);
        });
    }

    pub(super) fn uploads(&self, kind: UploadKind) -> Vec<Value> {
        let state = self.shared.state.lock().expect("not poisoned");
        let of_kind = state.uploads.iter().filter(|upload| upload.kind() == kind);
        of_kind.map(|upload| serde_json::from_slice(&upload.json).expect("JSON")).collect()
    }

    pub(super) fn forget_uploads(&self) {
        self.change(|state| state.uploads.clear());
    }

    /// The status last reported.
    pub(super) fn status(&self, name: &str) -> Option<Value> {
        let uid = format!("uid-{name}");
        let of_pod = |patch: &Value| patch["metadata"]["uid"] == uid.as_str();
        self.uploads(UploadKind::PodStatus).into_iter().rfind(of_pod).map(|mut patch| patch["status"].take())
    }

    pub(super) fn is_ready(&self, name: &str) -> bool {
        let status = self.status(name).unwrap_or_default();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }
}

impl MetaManager for Served {
    async fn watch(
        &self,
        _: &ipc::Peer,
        request: WatchRequest,
        out: ipc::Sink<WatchEvent>,
    ) -> Result<(), Fail> {
        let mut changed = self.0.changed.subscribe();
        let mut sent = request.from_revision;
        let mut bookmarked = false;
        loop {
            let (mut news, revision, synced) = {
                let state = self.0.state.lock().expect("not poisoned");
                let news = state.objects.values().filter(|(object, _)| object.revision > sent);
                (news.cloned().collect::<Vec<_>>(), state.revision, state.synced)
            };
            news.sort_by_key(|(object, _)| object.revision);
            for (object, present) in news {
                let event = if present { Event::Put(object) } else { Event::Delete(object) };
                if out.send(WatchEvent { event: Some(event) }).await.is_err() {
                    return Ok(());
                }
            }
            sent = revision;
            if synced && !bookmarked {
                bookmarked = true;
                let _ = out.send(WatchEvent { event: Some(Event::Bookmark(revision)) }).await;
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn submit(&self, _: &ipc::Peer, request: SubmitRequest) -> Result<SubmitReply, Fail> {
        let mut state = self.0.state.lock().expect("not poisoned");
        state.uploads.push(request);
        Ok(SubmitReply { seq: state.uploads.len() as u64 })
    }

    async fn query(&self, _: &ipc::Peer, _: QueryRequest) -> Result<QueryReply, Fail> {
        Err(Fail::new(MetaManagerError::Offline, "no cloud in this test"))
    }

    async fn get(&self, _: &ipc::Peer, _: GetRequest) -> Result<GetReply, Fail> {
        Err(Fail::new(MetaManagerError::NotFound, "only pods in this test"))
    }

    async fn apply(&self, _: &ipc::Peer, _: ApplyRequest) -> Result<ApplyReply, Fail> {
        Err(Fail::new(MetaManagerError::Invalid, "edged does not apply"))
    }

    async fn outgoing(
        &self,
        _: &ipc::Peer,
        _: OutgoingRequest,
        _: ipc::Sink<OutgoingItem>,
    ) -> Result<(), Fail> {
        Err(Fail::new(MetaManagerError::Invalid, "edged does not deliver"))
    }

    async fn delivered(&self, _: &ipc::Peer, _: DeliveredRequest) -> Result<DeliveredReply, Fail> {
        Err(Fail::new(MetaManagerError::Invalid, "edged does not deliver"))
    }

    async fn set_link(&self, _: &ipc::Peer, _: SetLinkRequest) -> Result<SetLinkReply, Fail> {
        Err(Fail::new(MetaManagerError::Invalid, "edged has no link"))
    }
}
