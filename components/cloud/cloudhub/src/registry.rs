//! Which node has a session. A node has one: a newer replaces the older, and only that one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pki::NodeName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub(crate) struct Registry(Arc<Inner>);

struct Inner {
    sessions: Mutex<HashMap<NodeName, Entry>>,
    limit: usize,
    next: AtomicU64,
    open: watch::Sender<usize>,
}

struct Entry {
    number: u64,
    end: CancellationToken,
}

/// A session's place; dropping it gives the place back, unless a newer session has it.
pub(crate) struct Place {
    registry: Registry,
    node: NodeName,
    number: u64,
    end: CancellationToken,
}

/// As many nodes as configured are connected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} nodes are connected, as many as nodeLimit allows")]
pub(crate) struct Full {
    limit: usize,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            sessions: Mutex::new(HashMap::new()),
            limit,
            next: AtomicU64::new(1),
            open: watch::Sender::new(0),
        }))
    }

    /// A place for a session of `node`. A session the node has already is told to end: it may be a dead connection the
    /// node has left behind, so it never counts against the limit.
    pub(crate) fn enter(&self, node: &NodeName) -> Result<Place, Full> {
        let mut sessions = self.lock();
        if sessions.len() >= self.0.limit && !sessions.contains_key(node) {
            return Err(Full { limit: self.0.limit });
        }
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let end = CancellationToken::new();
        if let Some(older) = sessions.insert(node.clone(), Entry { number, end: end.clone() }) {
            older.end.cancel();
        }
        self.0.open.send_modify(|open| *open += 1);
        Ok(Place { registry: self.clone(), node: node.clone(), number, end })
    }

    /// Waits until no session is open.
    pub(crate) async fn drained(&self) {
        // An error would mean that the sender is gone, which is in `self`.
        let _ = self.0.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Entry>> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Done when a newer session of the node has taken this place.
    pub(crate) async fn replaced(&self) {
        self.end.cancelled().await;
    }

    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.registry.lock();
        if sessions.get(&self.node).is_some_and(|entry| entry.number == self.number) {
            sessions.remove(&self.node);
        }
        self.registry.0.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn a_newer_session_ends_the_older_and_survives_its_end() {
        let registry = Registry::new(10);
        let older = registry.enter(&node("a")).unwrap();
        let newer = registry.enter(&node("a")).unwrap();
        older.replaced().await;
        drop(older);
        assert!(!newer.end.is_cancelled());
        assert_eq!(registry.lock().len(), 1);
        drop(newer);
        registry.drained().await;
        assert!(registry.lock().is_empty());
    }

    #[test]
    fn a_full_hub_still_takes_back_a_node_it_has() {
        let registry = Registry::new(1);
        let first = registry.enter(&node("a")).unwrap();
        assert_eq!(registry.enter(&node("b")).err(), Some(Full { limit: 1 }));
        let again = registry.enter(&node("a")).unwrap();
        drop(first);
        assert!(registry.enter(&node("b")).is_err());
        drop(again);
        assert!(registry.enter(&node("b")).is_ok());
    }
}
