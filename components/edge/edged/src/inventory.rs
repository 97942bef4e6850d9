//! What the runtime holds, by pod: the last answers of the runtime, merged so that a listing which was under way while
//! edged acted cannot undo what edged knows since.
//!
//! Two rules make every order of answers come out the same. States only move forward (created, running, exited; ready,
//! not ready), so an older answer about the same id changes nothing. And only a listing that began after an id became
//! known may conclude from the id's absence that it is gone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ContainerRecord, ContainerState, Observed, PodKey, Sandbox};

/// A container and what edged needs beside the record to decide about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    /// As status shows it.
    pub record: ContainerRecord,
    /// Annotation [`crate::labels::CONTAINER_HASH`]; `None` when it has none, which is taken for a match.
    pub hash: Option<String>,
    /// Its sandbox, once known.
    pub sandbox: Option<String>,
    /// Grace from its annotation.
    pub grace: Option<i64>,
    /// Its log file.
    pub log: Option<String>,
}

/// Everything of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodView {
    /// Newest sandbox, containers newest first.
    pub observed: Observed,
    /// All sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// All containers, newest first.
    pub containers: Vec<Container>,
}

/// When something became known, in listings: compared, never shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

#[derive(Debug)]
struct Stamped<T> {
    item: T,
    since: Stamp,
}

#[derive(Debug)]
struct PodEntry {
    key: PodKey,
    sandboxes: BTreeMap<String, Stamped<Sandbox>>,
    containers: BTreeMap<String, Stamped<Container>>,
}

/// The pods of the runtime by uid.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pods: BTreeMap<String, PodEntry>,
    clock: u64,
    /// Ids edged removed itself: a listing from before must not bring them back.
    removed: BTreeMap<String, Stamp>,
}

impl Inventory {
    /// Take this before asking for a listing, and hand it to [`Self::retain`].
    pub(crate) fn begin(&mut self) -> Stamp {
        self.clock += 1;
        Stamp(self.clock)
    }

    /// What is known of a pod; empty when nothing is.
    pub(crate) fn view(&self, uid: &str) -> PodView {
        let Some(entry) = self.pods.get(uid) else { return PodView::default() };
        let mut sandboxes: Vec<_> = entry.sandboxes.values().map(|s| s.item.clone()).collect();
        sandboxes.sort_by_key(|s: &Sandbox| Reverse((s.attempt, s.created_at)));
        let mut containers: Vec<_> = entry.containers.values().map(|c| c.item.clone()).collect();
        containers.sort_by_key(|c: &Container| Reverse((c.record.created_at, c.record.attempt)));
        let records = containers.iter().map(|c| c.record.clone()).collect();
        let observed = Observed { sandbox: sandboxes.first().cloned(), containers: records };
        PodView { observed, sandboxes, containers }
    }

    /// Uids and names of all pods the runtime holds something of.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&str, &PodKey)> {
        self.pods.iter().map(|(uid, entry)| (uid.as_str(), &entry.key))
    }

    /// What is known of a container or sandbox by its id: the pod's uid, and whether it is a container.
    pub(crate) fn owner(&self, id: &str) -> Option<(&str, bool)> {
        self.pods.iter().find_map(|(uid, entry)| {
            let is_container = entry.containers.contains_key(id);
            (is_container || entry.sandboxes.contains_key(id)).then_some((uid.as_str(), is_container))
        })
    }

    /// The state last known of a container.
    pub(crate) fn container(&self, uid: &str, id: &str) -> Option<&Container> {
        self.pods.get(uid)?.containers.get(id).map(|c| &c.item)
    }

    /// The state last known of a sandbox.
    pub(crate) fn sandbox(&self, uid: &str, id: &str) -> Option<&Sandbox> {
        self.pods.get(uid)?.sandboxes.get(id).map(|s| &s.item)
    }

    /// Notes a sandbox. Says whether that is news.
    pub(crate) fn put_sandbox(&mut self, uid: &str, key: &PodKey, sandbox: Sandbox, asked: Stamp) -> bool {
        if self.removed.get(&sandbox.id).is_some_and(|removed| *removed >= asked) {
            return false;
        }
        let since = self.begin();
        let entry = self.entry(uid, key);
        match entry.sandboxes.get_mut(&sandbox.id) {
            Some(known) if known.item == sandbox || (!known.item.ready && sandbox.ready) => false,
            Some(known) => {
                // A stopped sandbox has lost its addresses; they are worth keeping for the last status.
                let ips = if sandbox.ips.is_empty() { known.item.ips.clone() } else { sandbox.ips.clone() };
                known.item = Sandbox { ips, ..sandbox };
                true
            }
            None => {
                entry.sandboxes.insert(sandbox.id.clone(), Stamped { item: sandbox, since });
                true
            }
        }
    }

    /// Notes a container. Says whether that is news.
    pub(crate) fn put_container(
        &mut self,
        uid: &str,
        key: &PodKey,
        container: Container,
        asked: Stamp,
    ) -> bool {
        if self.removed.get(&container.record.id).is_some_and(|removed| *removed >= asked) {
            return false;
        }
        let since = self.begin();
        let entry = self.entry(uid, key);
        match entry.containers.get_mut(&container.record.id) {
            Some(known) if known.item == container => false,
            Some(known) if rank(&container.record.state) < rank(&known.item.record.state) => false,
            Some(known) => {
                known.item = container;
                true
            }
            None => {
                entry.containers.insert(container.record.id.clone(), Stamped { item: container, since });
                true
            }
        }
    }

    /// Forgets what edged removed.
    pub(crate) fn remove(&mut self, uid: &str, id: &str) {
        let stamp = self.begin();
        self.removed.insert(id.to_owned(), stamp);
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.containers.remove(id);
            entry.sandboxes.remove(id);
            // The runtime removes a sandbox's containers with it.
            entry.containers.retain(|_, c| c.item.sandbox.as_deref() != Some(id));
            if entry.containers.is_empty() && entry.sandboxes.is_empty() {
                self.pods.remove(uid);
            }
        }
    }

    /// Concludes a listing begun at `began`: what was known then and is not in `present` is gone. Returns the uids of
    /// pods that lost something.
    pub(crate) fn retain(&mut self, began: Stamp, present: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        self.pods.retain(|uid, entry| {
            let before = entry.sandboxes.len() + entry.containers.len();
            entry.sandboxes.retain(|id, s| s.since > began || present.contains(id));
            entry.containers.retain(|id, c| c.since > began || present.contains(id));
            let left = entry.sandboxes.len() + entry.containers.len();
            if left < before {
                changed.insert(uid.clone());
            }
            left > 0
        });
        self.removed.retain(|_, removed| *removed > began);
        changed
    }

    fn entry(&mut self, uid: &str, key: &PodKey) -> &mut PodEntry {
        self.pods.entry(uid.to_owned()).or_insert_with(|| PodEntry {
            key: key.clone(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
        })
    }
}

fn rank(state: &ContainerState) -> u8 {
    match state {
        ContainerState::Created => 0,
        ContainerState::Running { .. } => 1,
        // The runtime may find again what it had lost.
        ContainerState::Unknown => 1,
        ContainerState::Exited { .. } => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn key() -> PodKey {
        PodKey { namespace: "default".into(), name: "web-0".into() }
    }

    fn container(id: &str, state: ContainerState) -> Container {
        let record = ContainerRecord {
            name: "c".into(),
            id: id.into(),
            image: String::new(),
            image_id: String::new(),
            attempt: 0,
            created_at: Timestamp::UNIX_EPOCH,
            state,
        };
        Container { record, hash: None, sandbox: Some("s".into()), grace: None, log: None }
    }

    fn running() -> ContainerState {
        ContainerState::Running { started_at: Timestamp::UNIX_EPOCH }
    }

    fn exited() -> ContainerState {
        ContainerState::Exited {
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            exit_code: 1,
            reason: "Error".into(),
            message: String::new(),
        }
    }

    #[test]
    fn an_older_answer_does_not_bring_a_dead_container_back() {
        let mut inventory = Inventory::default();
        let asked = inventory.begin();
        assert!(inventory.put_container("u", &key(), container("a", exited()), asked));
        assert!(!inventory.put_container("u", &key(), container("a", running()), asked));
        assert_eq!(inventory.view("u").observed.containers[0].state, exited());
    }

    #[test]
    fn a_listing_from_before_does_not_lose_a_new_container() {
        let mut inventory = Inventory::default();
        let began = inventory.begin();
        inventory.put_container("u", &key(), container("a", running()), began);
        assert!(inventory.retain(began, &BTreeSet::new()).is_empty());
        let later = inventory.begin();
        assert_eq!(inventory.retain(later, &BTreeSet::new()), BTreeSet::from(["u".to_owned()]));
        assert_eq!(inventory.pods().count(), 0);
    }

    #[test]
    fn a_listing_from_before_does_not_bring_a_removed_container_back() {
        let mut inventory = Inventory::default();
        let began = inventory.begin();
        inventory.put_container("u", &key(), container("a", exited()), began);
        inventory.remove("u", "a");
        assert!(!inventory.put_container("u", &key(), container("a", exited()), began));
        inventory.retain(began, &BTreeSet::from(["a".to_owned()]));
        assert_eq!(inventory.pods().count(), 0);
    }

    #[test]
    fn a_stopped_sandbox_keeps_its_addresses() {
        let mut inventory = Inventory::default();
        let ips = vec!["10.0.0.7".parse().expect("ip")];
        let sandbox =
            Sandbox { id: "s".into(), ready: true, ips, attempt: 0, created_at: Timestamp::UNIX_EPOCH };
        let asked = inventory.begin();
        inventory.put_sandbox("u", &key(), sandbox.clone(), asked);
        let stopped = Sandbox { ready: false, ips: vec![], ..sandbox.clone() };
        assert!(inventory.put_sandbox("u", &key(), stopped, asked));
        let view = inventory.view("u");
        assert_eq!((view.sandboxes[0].ready, &view.sandboxes[0].ips), (false, &sandbox.ips));
    }

    #[test]
    fn removing_a_sandbox_takes_its_containers() {
        let mut inventory = Inventory::default();
        let asked = inventory.begin();
        inventory.put_container("u", &key(), container("a", exited()), asked);
        inventory.remove("u", "s");
        assert_eq!(inventory.view("u"), PodView::default());
    }
}
