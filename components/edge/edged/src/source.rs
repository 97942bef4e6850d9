//! The watch of metamanager: which pods are to run here, the objects they are made from, the node's own affairs. Keeps
//! one worker per pod, and one for each pod the runtime holds that the store does not know, once the store has told all
//! it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ipc::CallError;
use proto::metamanager::watch_event::Event;
use proto::metamanager::{Delivery, MetaManagerError, Object, UploadKind, WatchRequest};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::mailbox::Refused;
use crate::model::{Pod, PodKey, is_segment};
use crate::node::NodeEvent;
use crate::objects::{ObjectKind, references};
use crate::volumes;
use crate::worker::Worker;

const KINDS: [&str; 4] = ["pod", "configmap", "secret", "node"];
/// Between tries to open the watch: doubled from the first to the last.
const REOPEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The watch and the workers it keeps.
pub(crate) struct Source {
    agent: Arc<Agent>,
    node: mpsc::Sender<NodeEvent>,
    synced: watch::Sender<bool>,
    workers: JoinSet<String>,
    /// Which uid a name stands for now.
    pods: BTreeMap<PodKey, Pod>,
    /// Applied so far.
    revision: u64,
    /// During a listing: what it has named.
    listed: Option<BTreeSet<(String, String, String)>>,
}

impl Source {
    /// `synced` turns true when the store has told all it knows.
    pub(crate) fn new(agent: Arc<Agent>, node: mpsc::Sender<NodeEvent>, synced: watch::Sender<bool>) -> Self {
        Self {
            agent,
            node,
            synced,
            workers: JoinSet::new(),
            pods: BTreeMap::new(),
            revision: 0,
            listed: Some(BTreeSet::new()),
        }
    }

    /// Runs until `shutdown`; then ends every worker, but nothing that runs in the runtime.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut pause = REOPEN.0;
        loop {
            let Some(ended) = shutdown.run_until_cancelled(self.follow(&mut pause)).await else { return };
            if ended.code() == Some(MetaManagerError::Compacted) {
                self.revision = 0;
                self.listed = Some(BTreeSet::new());
            }
            tracing::debug!(error = %ended, revision = self.revision, "watch ended, opening it again");
            let jitter = Duration::from_millis(fastrand::u64(0..20));
            // Workers go on meanwhile, but new strangers wait: metamanager is seldom away for long.
            shutdown.run_until_cancelled(tokio::time::sleep(pause + jitter)).await;
            pause = (pause * 2).min(REOPEN.1);
        }
    }

    /// One stream, to its end.
    async fn follow(&mut self, pause: &mut Duration) -> CallError<MetaManagerError> {
        let request = WatchRequest {
            kinds: KINDS.map(str::to_owned).to_vec(),
            from_revision: self.revision,
            deliveries: true,
        };
        let mut events = match self.agent.meta.watch(request).await {
            Ok(events) => events,
            Err(e) => return e,
        };
        let agent = self.agent.clone();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        *pause = REOPEN.0;
                        if let Some(event) = event.event {
                            self.apply(event);
                        }
                    }
                    Some(Err(e)) => return e,
                    None => return CallError::Disconnected("the watch ended".to_owned()),
                },
                () = agent.strangers.notified() => self.adopt_strangers(),
                Some(ended) = self.workers.join_next() => self.ended(ended),
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Put(object) => {
                let revision = object.revision;
                self.put(&object);
                // During a listing objects come in any order: only its end says how far it reaches.
                if self.listed.is_none() {
                    self.revision = self.revision.max(revision);
                }
            }
            Event::Delete(object) => {
                let revision = object.revision;
                self.delete(&object);
                if self.listed.is_none() {
                    self.revision = self.revision.max(revision);
                }
            }
            Event::Bookmark(revision) => {
                self.revision = revision;
                if let Some(listed) = self.listed.take() {
                    self.conclude(&listed);
                }
            }
            Event::Delivery(delivery) => self.delivered(&delivery),
            Event::Connected(connected) => {
                self.tell_node(NodeEvent::Connected(connected));
                if connected {
                    self.agent.mailboxes().iter().for_each(|mailbox| mailbox.connected());
                }
            }
        }
    }

    fn put(&mut self, object: &Object) {
        let Some(key) = object.key.clone() else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert((key.kind.clone(), key.namespace.clone(), key.name.clone()));
        }
        match key.kind.as_str() {
            "pod" => match Pod::parse(&object.json) {
                Ok(pod) => self.put_pod(pod),
                // The cloud's bytes: one bad pod is named and keeps no other from running.
                Err(e) => {
                    tracing::error!(namespace = key.namespace, name = key.name, error = %e, "pod refused");
                }
            },
            "node" => {
                if key.name == self.agent.settings.node_name {
                    self.tell_node(NodeEvent::Node(Some(object.json.to_vec())));
                }
            }
            kind => {
                let Some(kind) = ObjectKind::from_token(kind) else { return };
                let put = self.agent.objects().put(kind, &key.namespace, &key.name, &object.json);
                match put {
                    Ok(true) => self.object_changed(kind, &key.namespace, &key.name),
                    Ok(false) => {}
                    Err(e) => {
                        tracing::error!(%kind, namespace = key.namespace, name = key.name, error = %e, "object refused");
                    }
                }
            }
        }
    }

    fn delete(&mut self, object: &Object) {
        let Some(key) = &object.key else { return };
        match key.kind.as_str() {
            "pod" => {
                let key = PodKey { namespace: key.namespace.clone(), name: key.name.clone() };
                let last = Pod::parse(&object.json).ok();
                // Of a pod that was made again under its name only the old one goes.
                if self.pods.get(&key).is_some_and(|pod| object.uid.is_empty() || pod.uid == object.uid) {
                    self.remove_pod(&key, last);
                }
            }
            "node" => {
                if key.name == self.agent.settings.node_name {
                    self.tell_node(NodeEvent::Node(None));
                }
            }
            kind => {
                if let Some(kind) = ObjectKind::from_token(kind) {
                    self.agent.objects().remove(kind, &key.namespace, &key.name);
                }
            }
        }
    }

    fn put_pod(&mut self, pod: Pod) {
        if pod.spec().node_name.as_deref() != Some(self.agent.settings.node_name.as_str()) {
            return self.remove_pod(&pod.key, None);
        }
        if self.pods.get(&pod.key).is_some_and(|known| known.uid != pod.uid) {
            self.remove_pod(&pod.key, None);
        }
        self.pods.insert(pod.key.clone(), pod.clone());
        let (mailbox, fresh) = self.agent.open_mailbox(&pod.uid);
        if fresh {
            let uid = pod.uid.clone();
            let worker = Worker::new(self.agent.clone(), mailbox, pod).run();
            self.workers.spawn(async move {
                worker.await;
                uid
            });
        } else {
            mailbox.pod(pod);
        }
    }

    fn remove_pod(&mut self, key: &PodKey, last: Option<Pod>) {
        if let Some(pod) = self.pods.remove(key)
            && let Some(mailbox) = self.agent.mailbox(&pod.uid)
        {
            mailbox.gone(last.filter(|last| last.uid == pod.uid));
        }
    }

    fn object_changed(&self, kind: ObjectKind, namespace: &str, name: &str) {
        for pod in self.pods.values().filter(|pod| pod.key.namespace == namespace) {
            if references(pod).iter().any(|r| r.kind == kind && r.name == name)
                && let Some(mailbox) = self.agent.mailbox(&pod.uid)
            {
                mailbox.refresh();
            }
        }
    }

    /// A listing has ended: what it did not name is gone, and what the runtime holds beyond it is nobody's.
    fn conclude(&mut self, listed: &BTreeSet<(String, String, String)>) {
        let is_listed =
            |key: &PodKey| listed.contains(&("pod".to_owned(), key.namespace.clone(), key.name.clone()));
        let missing: Vec<_> = self.pods.keys().filter(|key| !is_listed(key)).cloned().collect();
        for key in missing {
            self.remove_pod(&key, None);
        }
        self.synced.send_replace(true);
        self.adopt_strangers();
    }

    fn adopt_strangers(&mut self) {
        if self.listed.is_some() || !self.agent.usable() {
            // Before all pods are known every pod is a stranger.
            return;
        }
        let known: Vec<(String, PodKey)> =
            self.agent.inventory().pods().map(|(uid, key)| (uid.to_owned(), key.clone())).collect();
        for (uid, key) in &known {
            if self.agent.mailbox(uid).is_none() {
                let grace = self.agent.view(uid).containers.iter().find_map(|c| c.grace).unwrap_or(30);
                tracing::info!(pod = %key, uid, "the runtime holds a pod the store does not have, taking it down");
                self.take_down(uid, key, grace);
            }
        }
        self.remove_left_files();
    }

    fn take_down(&mut self, uid: &str, key: &PodKey, grace: i64) {
        let object = json!({
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "spec": {"containers": [], "terminationGracePeriodSeconds": grace},
        });
        match Pod::parse(object.to_string().as_bytes()) {
            Ok(pod) => {
                let (mailbox, _) = self.agent.open_mailbox(uid);
                let worker = Worker::stranger(self.agent.clone(), mailbox, pod).run();
                let uid = uid.to_owned();
                self.workers.spawn(async move {
                    worker.await;
                    uid
                });
            }
            Err(e) => tracing::warn!(pod = %key, uid, error = %e, "labels of a sandbox make no pod"),
        }
    }

    /// Directories of pods that neither store nor runtime know.
    fn remove_left_files(&self) {
        let known = |uid: &str| self.agent.mailbox(uid).is_some();
        let names = |dir: &std::path::Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let dirs = &self.agent.settings.dirs;
        for uid in names(&dirs.root.join("pods")) {
            if is_segment(&uid)
                && !known(&uid)
                && let Err(e) = volumes::tear_down(&uid, dirs)
            {
                tracing::warn!(uid, error = %e, "a removed pod's files are left");
            }
        }
        let logs = &self.agent.settings.pod_logs_dir;
        for name in names(logs) {
            // `<namespace>_<name>_<uid>`: neither of the three holds an underscore.
            let parts: Vec<_> = name.split('_').collect();
            if let [_, _, uid] = parts[..]
                && !known(uid)
                && let Err(e) = fs::remove_dir_all(logs.join(&name))
            {
                tracing::warn!(directory = name, error = %e, "a removed pod's logs are left");
            }
        }
    }

    fn delivered(&self, delivery: &Delivery) {
        let kind = delivery.kind();
        match kind {
            UploadKind::Node | UploadKind::NodeStatus | UploadKind::Lease => {
                self.tell_node(NodeEvent::Delivered { kind, code: delivery.code });
            }
            UploadKind::PodStatus | UploadKind::PodDelete => {
                let mailbox = self.agent.mailbox(&delivery.uid);
                // Refused for what is so (no such pod, another one by now) is final; the rest may pass.
                if matches!(delivery.code, 200..=299 | 404 | 409 | 422) {
                    if let Some(mailbox) = mailbox
                        && kind == UploadKind::PodDelete
                        && delivery.code == 404
                    {
                        // The cloud had forgotten the pod: no delete will come.
                        mailbox.gone(None);
                    }
                    return;
                }
                tracing::warn!(
                    uid = delivery.uid,
                    code = delivery.code,
                    message = delivery.message,
                    upload = kind.as_str_name(),
                    "the cloud refused an upload, it will be repeated"
                );
                if let Some(mailbox) = mailbox {
                    let status = kind == UploadKind::PodStatus;
                    mailbox.refused(Refused { status, delete: !status });
                }
            }
            UploadKind::Event | UploadKind::Unspecified => {}
        }
    }

    fn tell_node(&self, event: NodeEvent) {
        if self.node.try_send(event).is_err() {
            tracing::warn!("the node's task is behind, an event for it was dropped");
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            // Nothing of it is left, unless the runtime shows something again.
            Ok(uid) => {
                if self.agent.inventory().pods().any(|(known, _)| known == uid) {
                    self.agent.strangers.notify_one();
                }
            }
            Err(e) => tracing::error!(error = %e, "a worker ended unexpectedly"),
        }
    }
}
