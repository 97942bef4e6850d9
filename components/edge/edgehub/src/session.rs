//! One session with the hub as a pure state machine: (state, event, now) → actions. It decides what is stored, what is
//! acknowledged, what is sent, and when the other end counts as gone; `link` carries the actions out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::metamanager::{Change, DeliveredRequest, Key, OutgoingItem};
use wire::{Answer, Content, Inbound, ObjectKey, WireMessage, ack_mode};

use crate::pushes::{ApplyFailure, MAX_OBJECT, Push, Pushes};
use crate::uploads::{Step, Uploads};

/// Between pings. Two intervals without a sign of life end the session, so a cut link is noticed within 20 s.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Longest silence of a hub whose messages we are reading.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// An upload that was given up is taken from the outbox again after this long, or in the next session.
const RETRY_ABANDONED: Duration = Duration::from_mins(5);

/// Kinds of odd messages counted apart; what a hub can invent beyond that is counted together.
const MAX_ODDITIES: usize = 32;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A whole text or binary message from the hub.
    Message(Bytes),
    /// A pong, with its payload.
    Pong(Bytes),
    /// Any other frame: a sign of life.
    Frame,
    /// metamanager has something for the cloud.
    Outgoing(OutgoingItem),
    /// The outgoing stream was opened anew after metamanager was away.
    OutgoingReopened,
    /// The Apply asked for last has ended.
    Applied(Result<(), ApplyFailure>),
    /// metamanager has been told the outcome of an item.
    Delivered {
        /// Which.
        seq: u64,
        /// Whether it could store it.
        stored: bool,
    },
    /// The instant [`Session::next_wake`] named has come.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Write a text message.
    Send(String),
    /// Write a WebSocket ping.
    Ping([u8; 8]),
    /// Commit these, then [`Event::Applied`].
    Apply(Vec<Change>),
    /// Report an outcome, then [`Event::Delivered`].
    Deliver(DeliveredRequest),
    /// Open the outgoing stream again: something in it was given up.
    ReopenOutgoing,
    /// Something an operator should read.
    Warn(String),
    /// The hub does not make sense: warn, and show it until [`Action::Recovered`].
    Complain(String),
    /// The hub makes sense again.
    Recovered,
    /// The other end is gone.
    End(&'static str),
}

/// The state between two ends.
#[derive(Debug)]
pub(crate) struct Session {
    heartbeat: Duration,
    pushes: Pushes,
    uploads: Uploads,
    next_keepalive: Instant,
    next_ping: Instant,
    /// Number of the next ping; it is the ping's payload.
    ping: u64,
    /// Pings below this number are answered.
    confirmed: u64,
    heard: Instant,
    retry_abandoned: Option<Instant>,
    oddities: HashMap<String, u64>,
    complaining: bool,
}

impl Session {
    /// A session that begins now; the first [`Event::Tick`] is due at once and sends the keepalive the hub waits for.
    pub(crate) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self {
            heartbeat,
            pushes: Pushes::default(),
            uploads: Uploads::default(),
            next_keepalive: now,
            next_ping: now + PING_INTERVAL,
            ping: 0,
            confirmed: 0,
            heard: now,
            retry_abandoned: None,
            oddities: HashMap::new(),
            complaining: false,
        }
    }

    /// Whether to read from the hub. Not while the store lags behind: the hub's window fills and it waits.
    pub(crate) fn wants_messages(&self) -> bool {
        self.pushes.has_room()
    }

    /// Whether to take another item from metamanager.
    pub(crate) fn wants_outgoing(&self) -> bool {
        self.uploads.has_room()
    }

    /// When the next [`Event::Tick`] is due.
    pub(crate) fn next_wake(&self) -> Instant {
        [Some(self.next_keepalive), Some(self.next_ping), self.uploads.next_timeout(), self.retry_abandoned]
            .into_iter()
            .flatten()
            .min()
            .expect("two of them are always there")
            // Silence is only judged while we listen; without that a time in the past would spin.
            .min(if self.wants_messages() { self.heard + SILENCE_LIMIT } else { self.next_ping })
    }

    /// Takes one event.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let listening = self.wants_messages();
        match event {
            Event::Message(bytes) => {
                self.heard = now;
                self.message(&bytes, now, &mut actions);
            }
            Event::Pong(payload) => {
                self.heard = now;
                // Only numbers we sent: a pong may also come unasked.
                if let Ok(number) = payload.as_ref().try_into().map(u64::from_be_bytes)
                    && number < self.ping
                {
                    self.confirmed = self.confirmed.max(number + 1);
                    let steps = self.uploads.confirmed(number);
                    self.steps(steps, now, &mut actions);
                }
                if self.confirmed == self.ping && self.uploads.needs_ping(self.ping) {
                    self.send_ping(now, &mut actions);
                }
            }
            Event::Frame => self.heard = now,
            Event::Outgoing(item) => {
                let steps = self.uploads.add(item, self.ping, now);
                self.steps(steps, now, &mut actions);
            }
            Event::OutgoingReopened => self.uploads.forget_queries(),
            Event::Applied(result) => {
                if let Err(failure) = &result {
                    actions.push(Action::Warn(format!(
                        "the store did not take objects from the cloud: {}",
                        failure.message
                    )));
                }
                let answers = self.pushes.applied(result);
                actions.extend(answers.iter().map(|answer| Action::Send(answer.encode())));
            }
            Event::Delivered { seq, stored } => match self.uploads.delivered(seq, stored) {
                Ok(ack) => actions.extend(ack.map(Action::Send)),
                Err(what) => {
                    self.retry_later(
                        &format!("the cloud's answer was not stored: {what}"),
                        now,
                        &mut actions,
                    );
                }
            },
            Event::Tick => self.tick(now, &mut actions),
        }
        actions.extend(self.pushes.next_batch().map(Action::Apply));
        if !listening && self.wants_messages() {
            // While we did not read we could not hear.
            self.heard = now;
        }
        actions
    }

    fn message(&mut self, bytes: &[u8], now: Instant, actions: &mut Vec<Action>) {
        let message = match WireMessage::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                if self.is_news("undecodable") {
                    actions.push(Action::Complain(error.to_string()));
                    self.complaining = true;
                }
                return;
            }
        };
        if std::mem::take(&mut self.complaining) {
            actions.push(Action::Recovered);
        }
        let envelope = WireMessage {
            header: message.header.clone(),
            route: message.route.clone(),
            content: Content::null(),
        };
        let wants_ack = ack_mode(&message);
        let inbound = match Inbound::from_message(message) {
            Ok(inbound) => inbound,
            Err(error) => return self.refuse(&envelope, &error.to_string(), actions),
        };
        match inbound {
            Inbound::Put { key, uid, resource_version, object } => {
                self.push(envelope, key, uid, resource_version, Some(object), actions);
            }
            Inbound::Delete { key, uid, resource_version } => {
                self.push(envelope, key, uid, resource_version, None, actions);
            }
            Inbound::Answer { parent, answer } => {
                let ack = wants_ack.then(|| envelope.ack().encode());
                match self.uploads.answered(&parent, &answer, ack, self.ping, now) {
                    Some(steps) => self.steps(steps, now, actions),
                    None => self.late_answer(envelope, answer, wants_ack, actions),
                }
            }
            Inbound::Other => {
                let route = &envelope.route;
                let what = format!("{} of group {:?} from {:?}", route.operation, route.group, route.source);
                if self.is_news(&what) {
                    actions.push(Action::Warn(format!(
                        "message not handled by this edge: {what}, resource {:?}",
                        route.resource
                    )));
                }
            }
        }
    }

    /// An answer nobody waits for, because the question was of an earlier session or its answer is repeated. An object in
    /// ACK mode is the cloud's present state of it and would be sent again until it is acknowledged.
    fn late_answer(
        &mut self,
        envelope: WireMessage,
        answer: Answer,
        wants_ack: bool,
        actions: &mut Vec<Action>,
    ) {
        let Answer::Object(object) = answer else { return };
        let mut as_push = envelope.clone();
        as_push.header.parent_msg_id.clear();
        as_push.route.operation = wire::Operation::Update;
        as_push.content = object;
        if wants_ack
            && let Ok(Inbound::Put { key, uid, resource_version, object }) = Inbound::from_message(as_push)
        {
            self.push(envelope, key, uid, resource_version, Some(object), actions);
        }
    }

    fn push(
        &mut self,
        envelope: WireMessage,
        key: ObjectKey,
        uid: String,
        resource_version: u64,
        object: Option<Content>,
        actions: &mut Vec<Action>,
    ) {
        let json = object.map(|object| Bytes::from(object.into_json()));
        let size = json.as_ref().map_or(0, Bytes::len);
        if size > MAX_OBJECT {
            let text = format!("{key} has {size} bytes, the store takes objects up to {MAX_OBJECT}");
            return self.refuse(&envelope, &text, actions);
        }
        let ObjectKey { kind, namespace, name } = key;
        let change = Change { key: Some(Key { kind, namespace, name }), uid, resource_version, json };
        self.pushes.add(Push { change, envelope });
    }

    fn refuse(&mut self, envelope: &WireMessage, reason: &str, actions: &mut Vec<Action>) {
        let resource = &envelope.route.resource;
        if self.is_news(&format!("refused {resource}")) {
            actions.push(Action::Warn(format!("message about {resource:?} refused: {reason}")));
        }
        actions.push(Action::Send(envelope.nack(wire::source::METAMANAGER, reason).encode()));
    }

    fn steps(&mut self, steps: Vec<Step>, now: Instant, actions: &mut Vec<Action>) {
        let mut confirm = false;
        for step in steps {
            match step {
                Step::Send(text) => actions.push(Action::Send(text)),
                Step::Deliver(outcome) => actions.push(Action::Deliver(outcome)),
                Step::Confirm => confirm = true,
                Step::Abandoned(what) => {
                    self.retry_later(&format!("the cloud did not answer: {what}"), now, actions);
                }
            }
        }
        // One such ping at a time: what is sent meanwhile is confirmed by the next, after this one's pong.
        if confirm && self.confirmed == self.ping {
            self.send_ping(now, actions);
        }
    }

    /// Something stays in the outbox and is not under way any more.
    fn retry_later(&mut self, why: &str, now: Instant, actions: &mut Vec<Action>) {
        self.retry_abandoned.get_or_insert(now + RETRY_ABANDONED);
        actions.push(Action::Warn(format!("{why}; kept for later")));
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.wants_messages() && now >= self.heard + SILENCE_LIMIT {
            actions.push(Action::End("the hub has not answered for 20 s"));
            return;
        }
        if now >= self.next_keepalive {
            self.next_keepalive = now + self.heartbeat;
            actions.push(Action::Send(wire::up::keepalive().encode()));
        }
        if now >= self.next_ping {
            self.send_ping(now, actions);
        }
        if self.retry_abandoned.is_some_and(|at| now >= at) {
            self.retry_abandoned = None;
            actions.push(Action::ReopenOutgoing);
        }
        let steps = self.uploads.expire(self.ping, now);
        self.steps(steps, now, actions);
    }

    fn send_ping(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Ping(self.ping.to_be_bytes()));
        self.ping += 1;
        self.next_ping = now + PING_INTERVAL;
    }

    /// Counts an oddity; whether this one is worth a line: the 1st, 10th, 100th… of its kind.
    fn is_news(&mut self, what: &str) -> bool {
        let what = if self.oddities.len() < MAX_ODDITIES || self.oddities.contains_key(what) {
            what
        } else {
            "more"
        };
        let count = self.oddities.entry(what.to_owned()).or_default();
        *count += 1;
        10_u64.pow(count.ilog10()) == *count
    }
}

#[cfg(test)]
mod tests;
