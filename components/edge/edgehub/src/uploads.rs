//! What the node tells the cloud and asks of it: a window of unanswered messages, order per object, answers matched by id.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::metamanager::outgoing_item::Item;
use proto::metamanager::{
    Change, DeliveredRequest, Key, OutgoingItem, QueryRequest, SubmitRequest, UploadKind,
};
use wire::{Answer, Content, WireError, WireMessage, kind, up};

/// Items taken from metamanager and not finished. Below the 100 messages a KubeEdge peer buffers.
pub(crate) const WINDOW: usize = 32;

/// After this long without an answer an upload is sent once more, and after this long again it is left for later. KubeEdge's
/// remote queries wait as long.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// What is to be done about an upload.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Write it to the hub.
    Send(String),
    /// Ask the hub for a pong: events sent before it have arrived once it comes.
    Confirm,
    /// Tell metamanager the outcome.
    Deliver(DeliveredRequest),
    /// The cloud never answered; it stays in metamanager's outbox.
    Abandoned(String),
}

#[derive(Debug)]
enum State {
    /// Behind an earlier one of the same object.
    Queued,
    /// Sent; the text is kept for a second try.
    InFlight { text: String, msg_id: String, sent_at: Instant, resent: bool },
    /// An event, which the cloud never answers; arrived once this ping is answered.
    Unconfirmed { ping: u64 },
    /// metamanager is being told; then this ACK is due.
    Delivering { ack: Option<String> },
}

#[derive(Debug)]
struct Held {
    item: Item,
    state: State,
}

/// Uploads and queries between metamanager and the cloud.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    held: BTreeMap<u64, Held>,
}

impl Uploads {
    /// Whether another item fits.
    pub(crate) fn has_room(&self) -> bool {
        self.held.len() < WINDOW
    }

    /// Takes an item of the outgoing stream. `ping` is the number the next ping will have.
    pub(crate) fn add(&mut self, item: OutgoingItem, ping: u64, now: Instant) -> Vec<Step> {
        let seq = item.seq;
        // A new stream repeats what is already under way.
        if self.held.contains_key(&seq) {
            return Vec::new();
        }
        let Some(item) = item.item else { return self.refuse(seq, "the item is empty") };
        if let Item::Upload(new) = &item {
            // A newer state replaces one that has not left yet.
            self.held.retain(|_, held| !(matches!(held.state, State::Queued) && replaces(new, &held.item)));
        }
        self.held.insert(seq, Held { item, state: State::Queued });
        self.send_ready(ping, now)
    }

    /// Whether an event waits for a pong to a ping that has this number or a later one.
    pub(crate) fn needs_ping(&self, next: u64) -> bool {
        self.held.values().any(|held| matches!(held.state, State::Unconfirmed { ping } if ping >= next))
    }

    /// The hub answered ping number `ping`: everything written before it has been read there.
    pub(crate) fn confirmed(&mut self, number: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        for (&seq, held) in &mut self.held {
            if matches!(held.state, State::Unconfirmed { ping } if ping <= number) {
                held.state = State::Delivering { ack: None };
                steps.push(Step::Deliver(DeliveredRequest { seq, code: 200, ..Default::default() }));
            }
        }
        steps
    }

    /// An answer came. `None` when nobody waits for it; `ack` is the ACK to send once metamanager has it.
    pub(crate) fn answered(
        &mut self,
        parent: &str,
        answer: &Answer,
        ack: Option<String>,
        ping: u64,
        now: Instant,
    ) -> Option<Vec<Step>> {
        let (&seq, held) = self
            .held
            .iter_mut()
            .find(|(_, held)| matches!(&held.state, State::InFlight { msg_id, .. } if msg_id == parent))?;
        let outcome = outcome(seq, &held.item, answer);
        held.state = State::Delivering { ack };
        let mut steps = vec![Step::Deliver(outcome)];
        steps.extend(self.send_ready(ping, now));
        Some(steps)
    }

    /// metamanager has the outcome of `seq`, or could not store it. The ACK to send: only for what is stored. `Err` names an
    /// upload whose outcome is not known there, so that it stays in the outbox.
    pub(crate) fn delivered(&mut self, seq: u64, stored: bool) -> Result<Option<String>, String> {
        match self.held.remove(&seq) {
            Some(Held { state: State::Delivering { ack }, .. }) if stored => Ok(ack),
            Some(Held { item: Item::Upload(upload), .. }) if !stored => Err(describe(&upload)),
            _ => Ok(None),
        }
    }

    /// A new outgoing stream began: metamanager has answered or forgotten the queries of the earlier one.
    pub(crate) fn forget_queries(&mut self) {
        self.held.retain(|_, held| matches!(held.item, Item::Upload(_)));
    }

    /// The earliest instant at which [`Self::expire`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let sent = self.held.values().filter_map(|held| match &held.state {
            State::InFlight { sent_at, .. } => Some(*sent_at + ANSWER_TIMEOUT),
            _ => None,
        });
        sent.min()
    }

    /// Acts on what has waited too long.
    pub(crate) fn expire(&mut self, ping: u64, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut abandoned = Vec::new();
        for (&seq, held) in &mut self.held {
            let State::InFlight { text, sent_at, resent, .. } = &mut held.state else { continue };
            if now < *sent_at + ANSWER_TIMEOUT {
                continue;
            }
            match &held.item {
                Item::Query(_) => {
                    held.state = State::Delivering { ack: None };
                    steps.push(Step::Deliver(failed(seq, 504, "the cloud did not answer within 60 s")));
                }
                Item::Upload(_) if !*resent => {
                    (*resent, *sent_at) = (true, now);
                    steps.push(Step::Send(text.clone()));
                }
                Item::Upload(upload) => {
                    abandoned.push(seq);
                    steps.push(Step::Abandoned(describe(upload)));
                }
            }
        }
        for seq in abandoned {
            self.held.remove(&seq);
        }
        steps.extend(self.send_ready(ping, now));
        steps
    }

    /// Sends whatever is not behind an earlier one of the same object.
    fn send_ready(&mut self, ping: u64, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut busy: Vec<(Subject, Key)> = Vec::new();
        for (&seq, held) in &mut self.held {
            let subject = subject(&held.item);
            match held.state {
                State::InFlight { .. } => busy.extend(subject),
                State::Queued if subject.as_ref().is_none_or(|subject| !busy.contains(subject)) => {
                    let message = match message(&held.item) {
                        Ok(message) => message,
                        Err(error) => {
                            held.state = State::Delivering { ack: None };
                            steps.push(Step::Deliver(failed(seq, 400, &error.to_string())));
                            continue;
                        }
                    };
                    let text = message.encode();
                    forget_body(&mut held.item);
                    steps.push(Step::Send(text.clone()));
                    held.state = if is_event(&held.item) {
                        steps.push(Step::Confirm);
                        State::Unconfirmed { ping }
                    } else {
                        State::InFlight { text, msg_id: message.header.msg_id, sent_at: now, resent: false }
                    };
                    busy.extend(subject);
                }
                State::Queued => busy.extend(subject),
                State::Unconfirmed { .. } | State::Delivering { .. } => {}
            }
        }
        steps
    }

    fn refuse(&mut self, seq: u64, why: &str) -> Vec<Step> {
        let item = Item::Query(QueryRequest::default());
        self.held.insert(seq, Held { item, state: State::Delivering { ack: None } });
        vec![Step::Deliver(failed(seq, 400, why))]
    }
}

/// What is ordered among itself: a pod's patch and its delete, a node's insert and its patch.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Node,
    Pod,
    Lease,
}

fn subject(item: &Item) -> Option<(Subject, Key)> {
    let Item::Upload(upload) = item else { return None };
    let subject = match upload.kind() {
        UploadKind::Node | UploadKind::NodeStatus => Subject::Node,
        UploadKind::PodStatus | UploadKind::PodDelete => Subject::Pod,
        UploadKind::Lease => Subject::Lease,
        UploadKind::Event | UploadKind::Unspecified => return None,
    };
    let key = upload.key.clone().unwrap_or_default();
    Some((subject, Key { kind: String::new(), ..key }))
}

/// What was sent is kept as text; the body is a slice of a bus buffer that would stay as a whole.
fn forget_body(item: &mut Item) {
    match item {
        Item::Upload(upload) => upload.json = Bytes::new(),
        Item::Query(query) => query.json = Bytes::new(),
    }
}

fn is_event(item: &Item) -> bool {
    matches!(item, Item::Upload(upload) if upload.kind() == UploadKind::Event)
}

fn replaces(new: &SubmitRequest, old: &Item) -> bool {
    let Item::Upload(old) = old else { return false };
    new.kind() != UploadKind::Event && new.kind == old.kind && new.key == old.key && new.uid == old.uid
}

fn describe(upload: &SubmitRequest) -> String {
    let key = upload.key.clone().unwrap_or_default();
    format!("{} of {}/{}", upload.kind().as_str_name(), key.namespace, key.name)
}

/// The wire message of an item.
fn message(item: &Item) -> Result<WireMessage, WireError> {
    match item {
        Item::Query(QueryRequest { key, json }) => {
            let key = key.clone().unwrap_or_default();
            let body = if json.is_empty() { Content::null() } else { Content::json_bytes(json)? };
            up::query(&key.namespace, &key.kind, &key.name, body)
        }
        Item::Upload(upload) => {
            let Key { namespace, name, .. } = &upload.key.clone().unwrap_or_default();
            let content = Content::json_bytes(&upload.json)?;
            match upload.kind() {
                UploadKind::Node => up::node_insert(name, content),
                UploadKind::NodeStatus => up::node_patch(name, content.get()),
                UploadKind::PodStatus => up::pod_patch(namespace, name, content.get()),
                UploadKind::PodDelete => up::pod_delete(namespace, name, content),
                UploadKind::Lease if content.object_meta()?.resource_version.is_empty() => {
                    up::lease_insert(namespace, name, content)
                }
                UploadKind::Lease => up::lease_update(namespace, name, content),
                UploadKind::Event => up::event_insert(namespace, name, content),
                UploadKind::Unspecified => Err(WireError::Field {
                    field: "SubmitRequest.kind",
                    value: upload.kind.to_string(),
                    reason: "is no upload kind of this build",
                }),
            }
        }
    }
}

/// What metamanager is told about an answer.
fn outcome(seq: u64, item: &Item, answer: &Answer) -> DeliveredRequest {
    match (answer, item) {
        (Answer::Refused(status), _) => failed(seq, status.http_code(), &status.message),
        (Answer::Ok | Answer::Empty, Item::Query(_)) => {
            failed(seq, 502, "the cloud answered without an object")
        }
        (Answer::Ok | Answer::Empty, Item::Upload(_)) => {
            DeliveredRequest { seq, code: 200, ..Default::default() }
        }
        (Answer::Object(object), Item::Upload(upload)) => {
            DeliveredRequest { seq, code: 200, object: upload_echo(upload, object), ..Default::default() }
        }
        (Answer::Object(object), Item::Query(query)) => {
            let meta = object.object_meta().unwrap_or_default();
            // One ServiceAccount has many tokens: they go to the caller and are not an object of the store.
            let key = query.key.clone().filter(|key| key.kind != kind::SERVICE_ACCOUNT_TOKEN);
            let change = Change {
                key,
                resource_version: meta.version().ok().flatten().unwrap_or(0),
                uid: meta.uid,
                json: Some(Bytes::from(object.get().to_owned())),
            };
            DeliveredRequest { seq, code: 200, object: Some(change), ..Default::default() }
        }
    }
}

/// The object in the answer to an upload, where the store shall have it: the node and its lease. Not pods: the answer to a
/// status patch travels beside the pushes, and one that arrives after the pod's delete would bring the pod back.
fn upload_echo(upload: &SubmitRequest, object: &Content) -> Option<Change> {
    let kind = match upload.kind() {
        UploadKind::Node | UploadKind::NodeStatus => kind::NODE,
        UploadKind::Lease => kind::LEASE,
        _ => return None,
    };
    let key = upload.key.clone()?;
    let meta = object.object_meta().ok()?;
    let resource_version = meta.version().ok()??;
    // CloudCore sends a zero object where its second call failed: no name, no uid, no version.
    if meta.name != key.name || meta.uid.is_empty() {
        return None;
    }
    Some(Change {
        key: Some(Key { kind: kind.to_owned(), ..key }),
        uid: meta.uid,
        resource_version,
        json: Some(Bytes::from(object.get().to_owned())),
    })
}

fn failed(seq: u64, code: u32, message: &str) -> DeliveredRequest {
    // Bounded: the text is the cloud's.
    let message = message.chars().take(1024).collect();
    DeliveredRequest { seq, code, message, object: None }
}
