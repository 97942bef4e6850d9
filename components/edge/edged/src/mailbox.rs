//! What others have to tell a pod's worker. A box, not a queue: a newer word replaces the older, so it cannot overflow
//! and the worker never works off what is no longer true.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::Pod;
use crate::probes::Kind;

/// The box of one pod.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    wake: Notify,
}

/// What came in since the box was last emptied.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// The pod's newest object.
    pub pod: Option<Pod>,
    /// The store no longer has the pod.
    pub gone: bool,
    /// An object the pod is made from changed.
    pub refresh: bool,
    /// The cloud is back: what failed for want of it is worth a try at once.
    pub connected: bool,
    /// The cloud did not take this upload.
    pub refused: Refused,
    /// Probes' verdicts, by container id.
    pub verdicts: BTreeMap<(String, Kind), bool>,
}

/// Uploads to be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The status.
    pub status: bool,
    /// The report that the pod has ended.
    pub delete: bool,
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail());
        self.wake.notify_one();
    }

    /// The runtime's state of the pod changed, or may have.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A newer object.
    pub(crate) fn pod(&self, pod: Pod) {
        self.put(|mail| {
            mail.pod = Some(pod);
            mail.gone = false;
        });
    }

    /// The pod was removed from the store; `last` is its object as last known.
    pub(crate) fn gone(&self, last: Option<Pod>) {
        self.put(|mail| {
            mail.pod = last.or(mail.pod.take());
            mail.gone = true;
        });
    }

    /// A ConfigMap or Secret of the pod changed.
    pub(crate) fn refresh(&self) {
        self.put(|mail| mail.refresh = true);
    }

    /// The cloud link came up.
    pub(crate) fn connected(&self) {
        self.put(|mail| mail.connected = true);
    }

    /// The cloud refused an upload it may take later.
    pub(crate) fn refused(&self, refused: Refused) {
        self.put(|mail| {
            mail.refused.status |= refused.status;
            mail.refused.delete |= refused.delete;
        });
    }

    /// A probe's verdict changed.
    pub(crate) fn verdict(&self, container_id: &str, kind: Kind, ok: bool) {
        self.put(|mail| {
            mail.verdicts.insert((container_id.to_owned(), kind), ok);
        });
    }

    /// Empties the box.
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut self.mail())
    }

    /// Whether a newer object waits: looked at before a worker ends.
    pub(crate) fn has_pod(&self) -> bool {
        self.mail().pod.is_some()
    }

    /// Returns once there is something to look at.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}
