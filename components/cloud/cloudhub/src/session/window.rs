//! What was sent down and not acknowledged. Pure: time comes in as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::controllers::AcknowledgedRequest;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use wire::WireMessage;

/// 32 messages under way: KubeEdge's edge drops the oldest of more than 100 it has not read.
pub(crate) const WINDOW: usize = 32;

/// 5 s without an acknowledgement, as KubeEdge's hub waits.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// 5 transmissions, as KubeEdge's hub makes; a new session begins again.
const SENDS: u8 = 5;

/// A message that must be acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) id: String,
    pub(crate) text: Utf8Bytes,
    /// What controllers record once it is acknowledged.
    pub(crate) ack: AcknowledgedRequest,
}

#[derive(Debug)]
struct Entry {
    message: Pending,
    sends: u8,
    due: Instant,
}

/// At most [`WINDOW`] entries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
}

/// What the clock asks for.
#[derive(Debug)]
pub(crate) enum Due {
    /// Send this again.
    Resend(Utf8Bytes),
    /// Nothing more until the next session.
    GiveUp(Pending),
}

impl Pending {
    /// Reads what an acknowledgement must be recorded with. `text` is the message as controllers made it.
    pub(crate) fn new(node: &str, text: String) -> Result<Self, wire::WireError> {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Object {
            api_version: String,
            kind: String,
            metadata: Metadata,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Metadata {
            uid: String,
        }
        let message = WireMessage::decode(text.as_bytes())?;
        let object: Object =
            if message.content.is_object() { message.content.parse("an object")? } else { Object::default() };
        Ok(Self {
            ack: AcknowledgedRequest {
                node: node.to_owned(),
                resource_version: message.resource_version()?.unwrap_or(0),
                resource: message.route.resource,
                operation: message.route.operation.to_string(),
                uid: object.metadata.uid,
                api_version: object.api_version,
                kind: object.kind,
            },
            id: message.header.msg_id,
            text: text.into(),
        })
    }
}

impl Window {
    /// Whether `message` may be sent now. One message per object is under way at a time: KubeEdge's edge does not keep the
    /// order of two.
    pub(crate) fn admits(&self, message: &Pending) -> bool {
        self.entries.len() < WINDOW
            && self.entries.iter().all(|entry| entry.message.ack.resource != message.ack.resource)
    }

    /// Takes note of a message that was sent.
    pub(crate) fn sent(&mut self, message: Pending, now: Instant) {
        self.entries.push_back(Entry { message, sends: 1, due: now + RESEND_AFTER });
    }

    /// The message with this id is acknowledged. `None` for one that is not under way: an answer, a late repetition.
    pub(crate) fn acknowledged(&mut self, id: &str) -> Option<AcknowledgedRequest> {
        let at = self.entries.iter().position(|entry| entry.message.id == id)?;
        self.entries.remove(at).map(|entry| entry.message.ack)
    }

    /// Whether the message with this id is under way.
    pub(crate) fn resource_of(&self, id: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|entry| entry.message.id == id)
            .map(|entry| entry.message.ack.resource.as_str())
    }

    /// When to ask [`Self::due`] next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.due).min()
    }

    /// One thing that is due at `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        let at = self.entries.iter().position(|entry| entry.due <= now)?;
        let entry = &mut self.entries[at];
        if entry.sends < SENDS {
            entry.sends += 1;
            entry.due = now + RESEND_AFTER;
            return Some(Due::Resend(entry.message.text.clone()));
        }
        self.entries.remove(at).map(|entry| Due::GiveUp(entry.message))
    }

    /// Forgets everything: a new stream from controllers starts over.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Content, Operation};

    fn message(name: &str) -> Pending {
        let object = Content::json(format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"ns","uid":"uid-{name}"}}}}"#
        ));
        let path = format!("ns/pod/{name}").parse().unwrap();
        Pending::new("edge-1", wire::down::push(Operation::Insert, &path, "7", object.unwrap()).encode())
            .unwrap()
    }

    #[test]
    fn an_acknowledgement_says_what_controllers_record() {
        let mut window = Window::default();
        let sent = message("a");
        window.sent(sent.clone(), Instant::now());
        let ack = window.acknowledged(&sent.id).unwrap();
        assert_eq!(
            (ack.node.as_str(), ack.resource.as_str(), ack.operation.as_str()),
            ("edge-1", "ns/pod/a", "insert")
        );
        assert_eq!((ack.uid.as_str(), ack.resource_version), ("uid-a", 7));
        assert_eq!((ack.api_version.as_str(), ack.kind.as_str()), ("v1", "Pod"));
        assert!(window.acknowledged(&sent.id).is_none(), "a second one is late");
    }

    #[test]
    fn a_full_window_and_an_object_under_way_hold_the_next_message() {
        let mut window = Window::default();
        let now = Instant::now();
        let first = message("0");
        window.sent(first.clone(), now);
        assert!(!window.admits(&message("0")));
        for number in 1..WINDOW {
            let message = message(&number.to_string());
            assert!(window.admits(&message));
            window.sent(message, now);
        }
        assert!(!window.admits(&message("new")));
        window.acknowledged(&first.id);
        assert!(window.admits(&message("new")) && window.admits(&message("0")));
    }

    #[test]
    fn the_same_message_is_sent_five_times_then_given_up() {
        let mut window = Window::default();
        let start = Instant::now();
        let sent = message("a");
        window.sent(sent.clone(), start);
        for repetition in 1..5 {
            let now = start + RESEND_AFTER * repetition;
            assert_eq!(window.next_due(), Some(now));
            let early = start + RESEND_AFTER * (repetition - 1);
            assert!(window.due(early).is_none());
            assert!(matches!(window.due(now), Some(Due::Resend(text)) if text == sent.text));
            assert!(window.due(now).is_none());
        }
        assert!(
            matches!(window.due(start + RESEND_AFTER * 5), Some(Due::GiveUp(message)) if message.id == sent.id)
        );
        assert_eq!(window.next_due(), None);
    }
}
