//! Questions that wait for the cloud's answer. They live in memory only: who asked is gone when this process is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ipc::Fail;
use proto::metamanager::MetaManagerError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::object::{Json, Key};

/// Questions without an answer at one time.
const PENDING: usize = 256;

/// Set in the number of a question, never in the number of an upload.
const QUESTION: u64 = 1 << 63;

type Answer = Result<Bytes, Fail<MetaManagerError>>;

/// A question on its way out.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) seq: u64,
    pub(crate) key: Key,
    pub(crate) json: Json,
}

/// All questions without an answer, and the stream they leave by.
#[derive(Debug)]
pub(crate) struct Queries(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    pending: HashMap<u64, Pending>,
    way_out: Option<WayOut>,
    connected: bool,
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Answer>,
    about: Option<About>,
}

/// What a plain get asked for, and the revision the store had before it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) key: Key,
    pub(crate) asked_at: u64,
}

#[derive(Debug)]
struct WayOut {
    questions: mpsc::Sender<Question>,
    superseded: CancellationToken,
}

/// Whether a number on the way out is a question's.
pub(crate) fn is_question(seq: u64) -> bool {
    seq & QUESTION != 0
}

impl Queries {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            // Random, so that an answer to a question of an earlier process answers none of this one.
            next: fastrand::u64(..),
            pending: HashMap::new(),
            way_out: None,
            connected: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits. Dropping the future withdraws the question. `asked_at` is the store's revision by now.
    pub(crate) async fn ask(&self, key: Key, json: Json, asked_at: u64) -> Answer {
        let (asked, answer) = self.send(key, json, asked_at)?;
        // Whoever takes a question out of the table answers it, so this cannot fail.
        let answer = answer.await.unwrap_or_else(|_| Err(offline("the question was dropped")));
        drop(asked);
        answer
    }

    fn send(
        &self,
        key: Key,
        json: Json,
        asked_at: u64,
    ) -> Result<(Asked<'_>, oneshot::Receiver<Answer>), Fail<MetaManagerError>> {
        let mut state = self.state();
        if !state.connected {
            return Err(offline("no link to the cloud"));
        }
        if state.pending.len() >= PENDING {
            let message = format!("{PENDING} queries wait for the cloud already; {key} was not asked for");
            return Err(Fail::new(MetaManagerError::Refused, message));
        }
        let seq = state.next | QUESTION;
        // What comes with a body is a request for something else, of which the object is only the subject.
        let about = json.0.is_empty().then(|| About { key: key.clone(), asked_at });
        let sent = match &state.way_out {
            None => return Err(offline("edgehub takes nothing")),
            Some(way_out) => way_out.questions.try_send(Question { seq, key, json }),
        };
        if sent.is_err() {
            return Err(offline("edgehub takes nothing more"));
        }
        let (answer, receiver) = oneshot::channel();
        state.next = state.next.wrapping_add(1);
        state.pending.insert(seq, Pending { answer, about });
        Ok((Asked { queries: self, seq }, receiver))
    }

    /// Answers a question, if someone still waits for it.
    pub(crate) fn answer(&self, seq: u64, answer: Answer) {
        if let Some(waiting) = self.state().pending.remove(&seq) {
            let _ = waiting.answer.send(answer);
        }
    }

    /// What a question asks for, if someone still waits for it and it is a plain get.
    pub(crate) fn about(&self, seq: u64) -> Option<About> {
        self.state().pending.get(&seq).and_then(|pending| pending.about.clone())
    }

    /// Whether someone waits for this answer.
    pub(crate) fn is_pending(&self, seq: u64) -> bool {
        self.state().pending.contains_key(&seq)
    }

    /// Says whether questions can reach the cloud; those that waited when it went away will not be answered.
    pub(crate) fn set_connected(&self, connected: bool) {
        let mut state = self.state();
        state.connected = connected;
        if !connected {
            state.fail_all("the link to the cloud went down");
        }
    }

    /// Becomes the way out. The earlier one ends, and so do the questions that left by it.
    pub(crate) fn way_out(self: &Arc<Self>) -> Outlet {
        let (questions, receiver) = mpsc::channel(PENDING);
        let superseded = CancellationToken::new();
        let mut state = self.state();
        state.fail_all("edgehub began anew");
        let earlier = state.way_out.replace(WayOut { questions, superseded: superseded.clone() });
        drop(state);
        if let Some(earlier) = earlier {
            earlier.superseded.cancel();
        }
        Outlet { queries: Arc::clone(self), questions: receiver, superseded }
    }
}

impl State {
    fn fail_all(&mut self, why: &str) {
        for (_, waiting) in self.pending.drain() {
            let _ = waiting.answer.send(Err(offline(why)));
        }
    }
}

fn offline(why: &str) -> Fail<MetaManagerError> {
    Fail::new(MetaManagerError::Offline, why)
}

/// Takes the question back when nobody waits any more.
struct Asked<'a> {
    queries: &'a Queries,
    seq: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.queries.state().pending.remove(&self.seq);
    }
}

/// The end of the way out that questions come from.
#[derive(Debug)]
pub(crate) struct Outlet {
    queries: Arc<Queries>,
    questions: mpsc::Receiver<Question>,
    superseded: CancellationToken,
}

impl Outlet {
    /// Ends when a newer way out has taken over.
    pub(crate) fn superseded(&self) -> CancellationToken {
        self.superseded.clone()
    }

    /// The next question that someone still waits for.
    pub(crate) async fn next(&mut self) -> Option<Question> {
        loop {
            let question = self.questions.recv().await?;
            if self.queries.is_pending(question.seq) {
                return Some(question);
            }
        }
    }

    /// As [`Outlet::next`], without waiting.
    pub(crate) fn try_next(&mut self) -> Option<Question> {
        loop {
            let question = self.questions.try_recv().ok()?;
            if self.queries.is_pending(question.seq) {
                return Some(question);
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.queries.state();
        // A newer way out has failed our questions already.
        if !self.superseded.is_cancelled() {
            state.way_out = None;
            state.fail_all("edgehub went away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(queries: &Queries) -> Result<(Asked<'_>, oneshot::Receiver<Answer>), Fail<MetaManagerError>> {
        let key = Key { kind: "pod".into(), namespace: String::new(), name: "a".into() };
        queries.send(key, Json(Bytes::new()), 0)
    }

    #[test]
    fn questions_beyond_the_bound_are_refused_until_one_is_answered_or_withdrawn() {
        let queries = Arc::new(Queries::new());
        queries.set_connected(true);
        let mut outlet = queries.way_out();
        let mut asked: Vec<_> = (0..PENDING).map(|_| ask(&queries).unwrap()).collect();
        assert_eq!(ask(&queries).err().unwrap().code, MetaManagerError::Refused);
        drop(asked.pop());
        // Its place in the queue to edgehub is free once edgehub has looked at what is queued.
        let first = outlet.try_next().unwrap();
        assert!(ask(&queries).is_ok());
        queries.answer(first.seq, Ok(Bytes::new()));
        assert!(outlet.try_next().is_some());
        assert!(ask(&queries).is_ok());
    }

    #[test]
    fn withdrawn_question_does_not_leave() {
        let queries = Arc::new(Queries::new());
        queries.set_connected(true);
        let mut outlet = queries.way_out();
        drop(ask(&queries).unwrap());
        assert!(outlet.try_next().is_none());
    }

    #[test]
    fn numbers_of_questions_are_not_those_of_uploads() {
        let queries = Arc::new(Queries::new());
        queries.set_connected(true);
        let mut outlet = queries.way_out();
        let _asked = ask(&queries).unwrap();
        assert!(is_question(outlet.try_next().unwrap().seq));
        // An upload's number begins below 2^48 and rises by one.
        assert!(!is_question(1 << 62));
    }
}
