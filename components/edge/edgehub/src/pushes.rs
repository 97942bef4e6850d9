//! Objects the cloud pushed, on their way into the store: batched while a commit runs, acknowledged only after it.

use std::collections::VecDeque;

use proto::metamanager::Change;
use wire::WireMessage;

/// Bytes of objects in one Apply, whose bound is 4 MiB; one larger object goes alone.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// Largest object handed to the store, bytes: it travels on in watch items, which are bounded to 4 MiB with their keys. An API
/// server stores at most 1.5 MiB.
pub(crate) const MAX_OBJECT: usize = 3 * 1024 * 1024;

/// Pushes that wait before reading from the hub pauses. CloudCore sends one at a time; our hub keeps a window.
const MAX_WAITING: usize = 128;

/// One pushed object and what the hub is to be told about it.
#[derive(Debug)]
pub(crate) struct Push {
    /// For the store.
    pub(crate) change: Change,
    /// The message it came in, without its content: ACK and refusal are built from it.
    pub(crate) envelope: WireMessage,
}

/// Why the store did not take a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplyFailure {
    /// The store's words.
    pub(crate) message: String,
}

/// What has been pushed and is not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    waiting: VecDeque<Push>,
    waiting_bytes: usize,
    applying: Vec<Push>,
    /// So many at the front of `waiting` failed together and are tried one by one, to find which of them it was.
    singles: usize,
}

impl Pushes {
    /// Takes a push. One whose message is already here is a repeat and dropped: the first will be answered.
    pub(crate) fn add(&mut self, push: Push) {
        let id = &push.envelope.header.msg_id;
        let here = self.applying.iter().chain(&self.waiting).any(|known| known.envelope.header.msg_id == *id);
        if !here {
            self.waiting_bytes += size(&push);
            self.waiting.push_back(push);
        }
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.waiting_bytes < 2 * BATCH_BYTES
    }

    /// The next batch, when none is being committed.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<Change>> {
        if !self.applying.is_empty() {
            return None;
        }
        let most = if self.singles > 0 { 1 } else { MAX_WAITING };
        let mut bytes = 0;
        while self.applying.len() < most
            && let Some(push) =
                self.waiting.pop_front_if(|next| bytes == 0 || bytes + size(next) <= BATCH_BYTES)
        {
            bytes += size(&push);
            self.applying.push(push);
        }
        self.waiting_bytes -= bytes;
        self.singles = self.singles.saturating_sub(1);
        (!self.applying.is_empty()).then(|| self.applying.iter().map(|push| push.change.clone()).collect())
    }

    /// The commit of the last batch ended: the messages to answer to, and with what. A batch that failed as a whole is
    /// tried again object by object.
    pub(crate) fn applied(&mut self, result: Result<(), ApplyFailure>) -> Vec<WireMessage> {
        let batch = std::mem::take(&mut self.applying);
        match result {
            Ok(()) => batch.iter().map(|push| push.envelope.ack()).collect(),
            Err(_) if batch.len() > 1 => {
                self.singles = batch.len();
                for push in batch.into_iter().rev() {
                    self.waiting_bytes += size(&push);
                    self.waiting.push_front(push);
                }
                Vec::new()
            }
            Err(failure) => batch
                .iter()
                .map(|push| push.envelope.nack(wire::source::METAMANAGER, &failure.message))
                .collect(),
        }
    }
}

fn size(push: &Push) -> usize {
    // 1 KiB for key, envelope and bookkeeping, so that a flood of deletes is bounded as well.
    push.change.json.as_ref().map_or(0, bytes::Bytes::len) + 1024
}
