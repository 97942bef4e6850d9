//! What all workers share: the node's settings, the runtime and what it holds, known objects, ways to report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::metamanager::MetaManagerClient;
use tokio::sync::{Notify, Semaphore};

use crate::events::Recorder;
use crate::inventory::{Container, Inventory, PodView, Stamp};
use crate::mailbox::Mailbox;
use crate::model::{NodeFacts, Pod, PodKey, Sandbox};
use crate::objects::Objects;
use crate::observe;
use crate::runtime::{Runtime, RuntimeError};
use crate::settings::Settings;

/// Shared by all of edged's tasks. Locks are held for memory only, never across a call.
pub(crate) struct Agent {
    /// From edgecore.yaml.
    pub settings: Settings,
    /// The runtime.
    pub runtime: Runtime,
    /// The store.
    pub meta: MetaManagerClient,
    /// Events.
    pub recorder: Recorder,
    /// Held while pulling when pulls are one at a time.
    pub pull_turn: Option<Semaphore>,
    /// Asks for a listing soon: the inventory may be behind.
    pub relist: Notify,
    /// The runtime holds a pod nobody takes care of.
    pub strangers: Notify,
    facts: Mutex<Arc<NodeFacts>>,
    inventory: Mutex<Inventory>,
    objects: Mutex<Objects>,
    mailboxes: Mutex<BTreeMap<String, Arc<Mailbox>>>,
    /// The inventory is true: the runtime has been listed and answers.
    usable: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Nothing is known yet.
    pub(crate) fn new(
        settings: Settings,
        runtime: Runtime,
        meta: MetaManagerClient,
        recorder: Recorder,
        facts: NodeFacts,
    ) -> Self {
        let pull_turn = settings.serialize_image_pulls.then(|| Semaphore::new(1));
        Self {
            settings,
            runtime,
            meta,
            recorder,
            pull_turn,
            relist: Notify::new(),
            strangers: Notify::new(),
            facts: Mutex::new(Arc::new(facts)),
            inventory: Mutex::default(),
            objects: Mutex::default(),
            mailboxes: Mutex::default(),
            usable: AtomicBool::new(false),
        }
    }

    /// What is the same for every pod.
    pub(crate) fn facts(&self) -> Arc<NodeFacts> {
        lock(&self.facts).clone()
    }

    /// The runtime has told its name.
    pub(crate) fn set_runtime_name(&self, name: &str) {
        let mut facts = lock(&self.facts);
        if facts.runtime_name != name {
            *facts = Arc::new(NodeFacts { runtime_name: name.to_owned(), ..(**facts).clone() });
        }
    }

    /// What the runtime holds.
    pub(crate) fn inventory(&self) -> MutexGuard<'_, Inventory> {
        lock(&self.inventory)
    }

    /// What the runtime holds of a pod.
    pub(crate) fn view(&self, uid: &str) -> PodView {
        self.inventory().view(uid)
    }

    /// Known ConfigMaps and Secrets.
    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    /// Whether pods may be acted on.
    pub(crate) fn usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// The runtime came or went; all workers look again when it came.
    pub(crate) fn set_usable(&self, usable: bool) {
        if self.usable.swap(usable, Ordering::Relaxed) != usable && usable {
            for mailbox in self.mailboxes() {
                mailbox.wake();
            }
            self.strangers.notify_one();
        }
    }

    /// Gives a pod a mailbox; the old one, if it has one.
    pub(crate) fn open_mailbox(&self, uid: &str) -> (Arc<Mailbox>, bool) {
        let mut boxes = lock(&self.mailboxes);
        if let Some(found) = boxes.get(uid) {
            return (found.clone(), false);
        }
        let fresh = Arc::<Mailbox>::default();
        boxes.insert(uid.to_owned(), fresh.clone());
        (fresh, true)
    }

    /// A worker ended.
    pub(crate) fn close_mailbox(&self, uid: &str) {
        lock(&self.mailboxes).remove(uid);
    }

    /// The mailbox of a pod that has a worker.
    pub(crate) fn mailbox(&self, uid: &str) -> Option<Arc<Mailbox>> {
        lock(&self.mailboxes).get(uid).cloned()
    }

    /// All of them.
    pub(crate) fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        lock(&self.mailboxes).values().cloned().collect()
    }

    /// Pods exist: something can change.
    pub(crate) fn has_pods(&self) -> bool {
        !lock(&self.mailboxes).is_empty()
    }

    /// A pod's state in the runtime changed.
    pub(crate) fn wake(&self, uid: &str) {
        match self.mailbox(uid) {
            Some(mailbox) => mailbox.wake(),
            None => self.strangers.notify_one(),
        }
    }

    /// Asks the runtime for a container and notes the answer.
    pub(crate) async fn observe_container(
        &self,
        uid: &str,
        key: &PodKey,
        id: &str,
        sandbox: Option<String>,
    ) -> Result<Container, RuntimeError> {
        let asked = self.inventory().begin();
        let status = self.runtime.container(id).await;
        if status.as_ref().is_err_and(RuntimeError::is_not_found) {
            self.inventory().remove(uid, id);
            self.wake(uid);
        }
        let container = observe::container(status?, sandbox);
        if self.inventory().put_container(uid, key, container.clone(), asked) {
            self.wake(uid);
        }
        Ok(container)
    }

    /// Asks the runtime for a sandbox and notes the answer.
    pub(crate) async fn observe_sandbox(
        &self,
        uid: &str,
        key: &PodKey,
        id: &str,
    ) -> Result<Sandbox, RuntimeError> {
        let asked = self.inventory().begin();
        let sandbox = self.runtime.sandbox(id).await;
        if sandbox.as_ref().is_err_and(RuntimeError::is_not_found) {
            self.inventory().remove(uid, id);
            self.wake(uid);
        }
        let sandbox = sandbox?;
        self.note_sandbox(uid, key, sandbox.clone(), asked);
        Ok(sandbox)
    }

    /// Notes a sandbox.
    pub(crate) fn note_sandbox(&self, uid: &str, key: &PodKey, sandbox: Sandbox, asked: Stamp) {
        if self.inventory().put_sandbox(uid, key, sandbox, asked) {
            self.wake(uid);
        }
    }

    /// The host's resolver file, empty when it cannot be read.
    pub(crate) fn resolv_conf(&self) -> String {
        std::fs::read_to_string(&self.settings.resolv_conf).unwrap_or_default()
    }

    /// The sandbox configuration of a pod.
    pub(crate) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> cri::runtime::PodSandboxConfig {
        crate::sandbox::config(pod, &self.settings, &self.resolv_conf(), attempt)
    }
}
