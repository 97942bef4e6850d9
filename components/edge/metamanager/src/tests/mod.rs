//! The interface over a real socket.

mod outgoing;
mod query;
mod secrets;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use ipc::{Admission, CallError, Channel, Identity, Server, Streaming};
use proto::metamanager::watch_event::Event;
use proto::metamanager::{
    ApplyRequest, Change, DeliveredRequest, Key, MetaManagerClient, MetaManagerError, MetaManagerServer,
    OutgoingItem, OutgoingRequest, SetLinkRequest, SubmitRequest, UploadKind, WatchEvent, WatchRequest,
};
use tempfile::TempDir;

use crate::server::State;
use crate::store::Store;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

type Events = Streaming<WatchEvent, MetaManagerError>;
type Items = Streaming<OutgoingItem, MetaManagerError>;

/// A server on a store of its own.
struct Rig {
    dir: TempDir,
    server: Server<MetaManagerServer<State>>,
}

impl Rig {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(dir: TempDir) -> Self {
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        let service = MetaManagerServer::new(State::new(Arc::new(store)));
        let server = Server::new(Identity::new("metamanager", 1), service);
        server.serve(ipc::bind(&dir.path().join("sock"), 0o600).unwrap(), Admission::AnyUser).unwrap();
        Self { dir, server }
    }

    /// The same store in a new process, as far as a client can tell.
    fn restart(self) -> Self {
        let Self { dir, server } = self;
        drop(server);
        Self::on(dir)
    }

    /// A connection of its own, as each component has one.
    fn client(&self, component: &str) -> MetaManagerClient {
        MetaManagerClient::new(Channel::new(self.dir.path().join("sock"), Identity::new(component, 1)))
    }
}

fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.into(), namespace: "default".into(), name: name.into() }
}

fn put(kind: &str, name: &str, resource_version: u64, json: &str) -> Change {
    let json = Some(json.as_bytes().to_vec().into());
    Change { key: Some(key(kind, name)), uid: "a".into(), resource_version, json }
}

fn delete(kind: &str, name: &str) -> Change {
    Change { json: None, ..put(kind, name, 0, "") }
}

async fn apply(client: &MetaManagerClient, changes: Vec<Change>) -> u64 {
    client.apply(ApplyRequest { changes }).await.unwrap().revision
}

async fn submit(client: &MetaManagerClient, kind: UploadKind, name: &str, json: &str) -> u64 {
    let json = json.as_bytes().to_vec().into();
    let request = SubmitRequest { kind: kind.into(), key: Some(key("pod", name)), uid: "a".into(), json };
    client.submit(request).await.unwrap().seq
}

async fn delivered(client: &MetaManagerClient, seq: u64, code: u32, message: &str, object: Option<Change>) {
    let request = DeliveredRequest { seq, code, message: message.into(), object };
    client.delivered(request).await.unwrap();
}

async fn set_link(client: &MetaManagerClient, connected: bool) {
    client.set_link(SetLinkRequest { connected }).await.unwrap();
}

async fn watch(client: &MetaManagerClient, kinds: &[&str], from_revision: u64) -> Events {
    let kinds = kinds.iter().map(|&kind| kind.to_owned()).collect();
    client.watch(WatchRequest { kinds, from_revision, deliveries: false }).await.unwrap()
}

async fn outgoing(client: &MetaManagerClient) -> Items {
    client.outgoing(OutgoingRequest {}).await.unwrap()
}

/// What comes next, or why the stream ended.
async fn next(events: &mut Events) -> Event {
    let item = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event comes");
    item.expect("the stream goes on").unwrap().event.unwrap()
}

async fn next_item(items: &mut Items) -> OutgoingItem {
    let item = tokio::time::timeout(PATIENCE, items.next()).await.expect("an item comes");
    item.expect("the stream goes on").unwrap()
}

/// An event in short: `+web-0`, `-web-0`, `bookmark`, `delivery web-0 200`, `connected false`.
fn short(event: &Event) -> String {
    let name = |key: &Option<Key>| key.as_ref().unwrap().name.clone();
    match event {
        Event::Put(object) => format!("+{}", name(&object.key)),
        Event::Delete(object) => format!("-{}", name(&object.key)),
        Event::Bookmark(_) => "bookmark".to_owned(),
        Event::Delivery(delivery) => format!("delivery {} {}", name(&delivery.key), delivery.code),
        Event::Connected(connected) => format!("connected {connected}"),
    }
}

async fn shorts(events: &mut Events, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(short(&next(events).await));
    }
    all
}
