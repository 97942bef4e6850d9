use std::collections::BTreeMap;
use std::path::Path;

use proto::metamanager::outgoing_item::Item;
use proto::metamanager::{QueryRequest, SubmitRequest, UploadKind};
use serde_json::{Value, json};
use wire::{ErrStatus, ObjectResp, Operation, ResourcePath, down, kind};

use super::*;
use crate::uploads::{ANSWER_TIMEOUT, WINDOW};

/// A session with its clock.
struct Rig {
    session: Session,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        Self { session: Session::new(Duration::from_secs(15), now), now }
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.session.on(event, self.now)
    }

    fn receive(&mut self, message: &WireMessage) -> Vec<Action> {
        self.on(Event::Message(message.encode().into()))
    }

    fn upload(&mut self, seq: u64, kind: UploadKind, name: &str, json: &Value) -> Vec<Action> {
        let key = Key { kind: "any".into(), namespace: "default".into(), name: name.into() };
        let upload = SubmitRequest {
            kind: kind.into(),
            key: Some(key),
            uid: "u".into(),
            json: json.to_string().into_bytes().into(),
        };
        self.on(Event::Outgoing(OutgoingItem { seq, item: Some(Item::Upload(upload)) }))
    }

    fn query(&mut self, seq: u64, kind: &str, name: &str) -> Vec<Action> {
        let key = Key { kind: kind.into(), namespace: "default".into(), name: name.into() };
        let query = QueryRequest { key: Some(key), json: Bytes::new() };
        self.on(Event::Outgoing(OutgoingItem { seq, item: Some(Item::Query(query)) }))
    }

    /// Lets time pass and ticks whenever the session asks for it, with a hub that answers every ping.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut seen = Vec::new();
        while self.session.next_wake() <= until {
            self.now = self.session.next_wake().max(self.now);
            let actions = self.on(Event::Tick);
            for action in &actions {
                if let Action::Ping(number) = action {
                    seen.extend(self.on(Event::Pong(Bytes::copy_from_slice(number))));
                }
            }
            seen.extend(actions);
        }
        self.now = until;
        seen
    }
}

fn sent(actions: &[Action]) -> Vec<WireMessage> {
    let texts = actions.iter().filter_map(|action| match action {
        Action::Send(text) => Some(WireMessage::decode(text.as_bytes()).unwrap()),
        _ => None,
    });
    texts.collect()
}

fn delivered(actions: &[Action]) -> Vec<DeliveredRequest> {
    let outcomes = actions.iter().filter_map(|action| match action {
        Action::Deliver(outcome) => Some(outcome.clone()),
        _ => None,
    });
    outcomes.collect()
}

fn applied(actions: &[Action]) -> Vec<Change> {
    actions
        .iter()
        .filter_map(|action| if let Action::Apply(changes) = action { Some(changes.clone()) } else { None })
        .flatten()
        .collect()
}

fn content(value: &Value) -> Content {
    Content::json(value.to_string()).unwrap()
}

fn push(name: &str, version: u64) -> WireMessage {
    let path = ResourcePath::object("default", kind::POD, name).unwrap();
    let object = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}});
    down::push(Operation::Update, &path, &version.to_string(), content(&object))
}

fn recording() -> Vec<(bool, WireMessage)> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/fixtures/kubeedge-1.23/wire.jsonl");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("the recorded traffic must be at {}: {e}", path.display()));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let messages = lines.filter(|line| line.get("msg").is_some()).map(|line| {
        (line["dir"] == "down", WireMessage::decode(line["msg"].to_string().as_bytes()).unwrap())
    });
    messages.collect()
}

#[test]
fn everything_kubeedge_pushed_is_stored_and_then_acknowledged() {
    let mut rig = Rig::new();
    let mut pushes = 0;
    for (_, message) in recording().into_iter().filter(|(down, _)| *down) {
        let is_push = message.header.parent_msg_id.is_empty() && message.route.group == "resource";
        let actions = rig.receive(&message);
        if !is_push {
            // An answer of the recording: nobody asked here, but one in ACK mode is an object all the same.
            assert!(applied(&actions).is_empty() || ack_mode(&message));
            rig.on(Event::Applied(Ok(())));
            continue;
        }
        pushes += 1;
        assert!(sent(&actions).is_empty(), "nothing is said before the commit");
        let changes = applied(&actions);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].json.is_none(), message.route.operation == Operation::Delete);
        assert!(changes[0].resource_version > 0 && !changes[0].uid.is_empty());
        let ack = sent(&rig.on(Event::Applied(Ok(())))).remove(0);
        assert_eq!(ack.header.parent_msg_id, message.header.msg_id);
        assert_eq!(ack.route, wire::Route { operation: Operation::Response, ..message.route });
        assert!(ack.content.is_ok());
    }
    assert!(pushes > 40, "only {pushes} pushes in the recording");
}

#[test]
fn everything_kubeedge_answered_reaches_metamanager() {
    let recording = recording();
    let mut rig = Rig::new();
    let mut codes = BTreeMap::new();
    let requests =
        recording.iter().filter(|(down, m)| !down && m.route.group == "meta" && m.route.source == "edged");
    for (seq, (_, request)) in requests.enumerate() {
        let seq = seq as u64 + 1;
        let Some((_, answer)) =
            recording.iter().find(|(down, m)| *down && m.header.parent_msg_id == request.header.msg_id)
        else {
            continue;
        };
        let path: ResourcePath = request.route.resource.parse().unwrap();
        let (namespace, name) = (path.namespace.unwrap_or_default(), path.name.unwrap());
        let upload_kind = match (&request.route.operation, path.kind.as_str()) {
            (Operation::Query, _) => None,
            (Operation::Insert, "node") => Some(UploadKind::Node),
            (Operation::Patch, "nodepatch") => Some(UploadKind::NodeStatus),
            (Operation::Patch, "podpatch") => Some(UploadKind::PodStatus),
            (Operation::Delete, "pod") => Some(UploadKind::PodDelete),
            (Operation::Update, "lease") => Some(UploadKind::Lease),
            other => panic!("a request this edge does not make: {other:?}"),
        };
        let json: Bytes = request.content.data().into();
        let item = match upload_kind {
            None => Item::Query(QueryRequest {
                key: Some(Key { kind: path.kind, namespace, name }),
                json: if request.content.is_null() { Bytes::new() } else { json },
            }),
            Some(kind) => Item::Upload(SubmitRequest {
                kind: kind.into(),
                key: Some(Key { kind: String::new(), namespace, name }),
                uid: "u".into(),
                json,
            }),
        };
        let ours = sent(&rig.on(Event::Outgoing(OutgoingItem { seq, item: Some(item) }))).remove(0);
        assert_eq!(ours.route, request.route);
        assert_eq!(ours.content, request.content);

        let mut answer = answer.clone();
        answer.header.parent_msg_id = ours.header.msg_id;
        let outcome = delivered(&rig.receive(&answer)).remove(0);
        assert_eq!(outcome.seq, seq);
        *codes.entry(outcome.code).or_insert(0) += 1;
        let acks = sent(&rig.on(Event::Delivered { seq, stored: true }));
        assert_eq!(acks.len(), usize::from(ack_mode(&answer)), "{}", answer.route.resource);
    }
    // The node was registered before the recording began.
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(200, 31), (409, 1)]);
}

#[test]
fn pushes_that_come_during_a_commit_are_committed_together() {
    let mut rig = Rig::new();
    assert_eq!(applied(&rig.receive(&push("a", 1))).len(), 1);
    for name in ["b", "c", "d"] {
        assert!(applied(&rig.receive(&push(name, 1))).is_empty());
    }
    let actions = rig.on(Event::Applied(Ok(())));
    assert_eq!(sent(&actions).len(), 1);
    assert_eq!(applied(&actions).len(), 3);
    assert_eq!(sent(&rig.on(Event::Applied(Ok(())))).len(), 3);
}

#[test]
fn only_the_object_the_store_refuses_is_refused() {
    let mut rig = Rig::new();
    rig.receive(&push("first", 1));
    for name in ["good", "bad", "fine"] {
        rig.receive(&push(name, 1));
    }
    let mut actions = rig.on(Event::Applied(Ok(())));
    let failure = || Err(ApplyFailure { message: "disk full".into() });
    let mut answers = Vec::new();
    assert_eq!(applied(&actions).len(), 3);
    actions = rig.on(Event::Applied(failure()));
    while let [change] = &applied(&actions)[..] {
        let bad = change.uid == "uid-bad";
        actions = rig.on(Event::Applied(if bad { failure() } else { Ok(()) }));
        answers.extend(sent(&actions));
    }
    let refused: Vec<_> = answers.iter().filter(|m| m.route.operation == Operation::Error).collect();
    assert_eq!((answers.len(), refused.len()), (3, 1));
    assert_eq!(refused[0].route.resource, "default/pod/bad");
    assert_eq!(refused[0].content.as_str().unwrap(), "disk full");
}

#[test]
fn a_push_repeated_while_it_is_being_stored_is_stored_once() {
    let mut rig = Rig::new();
    let message = push("a", 1);
    rig.receive(&message);
    rig.receive(&message);
    let actions = rig.on(Event::Applied(Ok(())));
    assert_eq!((sent(&actions).len(), applied(&actions).len()), (1, 0));
}

#[test]
fn reading_pauses_while_the_store_lags_and_silence_does_not_count_then() {
    let mut rig = Rig::new();
    let mut count = 0;
    while rig.session.wants_messages() {
        rig.receive(&push(&format!("pod-{count}"), 1));
        count += 1;
        assert!(count < 1000);
    }
    rig.now += SILENCE_LIMIT * 3;
    assert!(!rig.on(Event::Tick).iter().any(|action| matches!(action, Action::End(_))));
    rig.on(Event::Applied(Ok(())));
    assert!(rig.session.wants_messages());
    assert!(!rig.on(Event::Tick).iter().any(|action| matches!(action, Action::End(_))));
}

#[test]
fn an_object_too_large_for_the_store_is_refused_by_message() {
    let mut rig = Rig::new();
    let object = json!({"metadata": {"name": "a", "uid": "u"}, "data": "x".repeat(MAX_OBJECT)});
    let path = ResourcePath::object("default", kind::CONFIG_MAP, "a").unwrap();
    let actions = rig.receive(&down::push(Operation::Update, &path, "1", content(&object)));
    assert!(applied(&actions).is_empty());
    assert_eq!(sent(&actions)[0].route.operation, Operation::Error);
}

#[test]
fn what_is_not_json_is_shown_once_and_until_a_message_makes_sense_again() {
    let mut rig = Rig::new();
    let complaints = rig.on(Event::Message(Bytes::from_static(b"hello")));
    assert!(matches!(&complaints[..], [Action::Complain(text)] if text.contains("hello")));
    assert!(rig.on(Event::Message(Bytes::from_static(b"hello"))).is_empty());
    assert!(rig.receive(&push("a", 1)).contains(&Action::Recovered));
}

#[test]
fn an_upload_is_answered_with_the_code_of_the_cloud() {
    let mut rig = Rig::new();
    let lease = json!({"metadata": {"name": "edge-1"}});
    let request = sent(&rig.upload(1, UploadKind::Lease, "edge-1", &lease)).remove(0);
    assert_eq!(request.route.operation, Operation::Insert, "a lease without a version is new");
    let stored = json!({"metadata": {"name": "edge-1", "uid": "u", "resourceVersion": "9"}});
    let answer = down::answer_resp(&request, "9", &ObjectResp::success(content(&stored)));
    let outcome = delivered(&rig.receive(&answer)).remove(0);
    assert_eq!(outcome.code, 200);
    let object = outcome.object.unwrap();
    assert_eq!((object.key.unwrap().kind.as_str(), object.resource_version), ("lease", 9));
    assert!(
        rig.on(Event::Delivered { seq: 1, stored: true }).is_empty(),
        "lease answers are not acknowledged"
    );

    let request = sent(&rig.upload(2, UploadKind::PodStatus, "gone", &json!({"status": {}}))).remove(0);
    let missing = ErrStatus::new(404, "NotFound", "pods \"gone\" not found");
    let outcome =
        delivered(&rig.receive(&down::answer_resp(&request, "", &ObjectResp::failure(missing)))).remove(0);
    assert_eq!((outcome.code, outcome.message.as_str()), (404, "pods \"gone\" not found"));
}

#[test]
fn the_zero_object_of_a_half_failed_registration_is_not_stored() {
    let mut rig = Rig::new();
    let request = sent(&rig.upload(1, UploadKind::Node, "edge-1", &json!({}))).remove(0);
    let zero = json!({"metadata": {"creationTimestamp": null}, "spec": {}});
    let answer = down::answer_resp(&request, "", &ObjectResp::success(content(&zero)));
    let outcome = delivered(&rig.receive(&answer)).remove(0);
    assert_eq!((outcome.code, outcome.object), (200, None));
}

#[test]
fn an_answer_in_ack_mode_is_acknowledged_after_metamanager_has_it() {
    let mut rig = Rig::new();
    let request = sent(&rig.query(1, "configmap", "a")).remove(0);
    let object =
        json!({"metadata": {"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "5"}});
    let answer = down::answer_object(&request, "5", content(&object));
    let actions = rig.receive(&answer);
    assert!(sent(&actions).is_empty());
    assert_eq!(delivered(&actions)[0].object.as_ref().unwrap().key.as_ref().unwrap().kind, "configmap");
    let ack = sent(&rig.on(Event::Delivered { seq: 1, stored: true })).remove(0);
    assert_eq!(ack.header.parent_msg_id, answer.header.msg_id);

    // The ACK was lost and the hub repeats: nobody waits any more, so it is stored as a push.
    let actions = rig.receive(&answer);
    assert_eq!(applied(&actions)[0].resource_version, 5);
    assert_eq!(sent(&rig.on(Event::Applied(Ok(())))).len(), 1);
}

#[test]
fn a_token_goes_to_its_caller_and_not_into_the_store() {
    let mut rig = Rig::new();
    let request = sent(&rig.query(1, "serviceaccounttoken", "app")).remove(0);
    let token = json!({"metadata": {"name": "app"}, "status": {"token": "t"}});
    let outcome = delivered(&rig.receive(&down::answer_object(&request, "", content(&token)))).remove(0);
    let object = outcome.object.unwrap();
    assert_eq!((outcome.code, object.key.is_none(), object.json.is_some()), (200, true, true));
}

#[test]
fn uploads_of_one_pod_keep_their_order_and_the_newest_waiting_one_wins() {
    let mut rig = Rig::new();
    let first = sent(&rig.upload(1, UploadKind::PodStatus, "a", &json!({"n": 1}))).remove(0);
    assert!(rig.upload(2, UploadKind::PodStatus, "a", &json!({"n": 2})).is_empty());
    assert!(rig.upload(3, UploadKind::PodStatus, "a", &json!({"n": 3})).is_empty());
    assert!(rig.upload(4, UploadKind::PodDelete, "a", &json!({})).is_empty());
    assert_eq!(
        sent(&rig.upload(5, UploadKind::PodStatus, "b", &json!({}))).len(),
        1,
        "another pod does not wait"
    );

    let next = sent(&rig.receive(&down::answer_ok(&first, "")));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].content.patch_text().unwrap(), r#"{"n":3}"#);
    let last = sent(&rig.receive(&down::answer_ok(&next[0], "")));
    assert_eq!(last[0].route.operation, Operation::Delete);
}

#[test]
fn an_event_is_delivered_once_the_hub_has_answered_a_later_ping() {
    let mut rig = Rig::new();
    let event = json!({"reason": "Started"});
    let actions = rig.upload(1, UploadKind::Event, "e1", &event);
    let [Action::Send(_), Action::Ping(ping)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(rig.upload(2, UploadKind::Event, "e2", &event).len(), 1, "one ping at a time");
    let actions = rig.on(Event::Pong(Bytes::copy_from_slice(ping)));
    assert_eq!(delivered(&actions).iter().map(|d| d.seq).collect::<Vec<_>>(), [1]);
    let Some(Action::Ping(ping)) = actions.last() else {
        panic!("the second event waits for a ping: {actions:?}")
    };
    let actions = rig.on(Event::Pong(Bytes::copy_from_slice(ping)));
    assert_eq!(delivered(&actions).iter().map(|d| d.seq).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_pong_nobody_asked_for_confirms_nothing() {
    let mut rig = Rig::new();
    rig.upload(1, UploadKind::Event, "e1", &json!({}));
    let mut actions = rig.on(Event::Pong(Bytes::copy_from_slice(&u64::MAX.to_be_bytes())));
    actions.extend(rig.on(Event::Pong(Bytes::from_static(b"hi"))));
    assert!(delivered(&actions).is_empty());
}

#[test]
fn an_unanswered_upload_is_sent_twice_and_then_left_for_later() {
    let mut rig = Rig::new();
    let first = sent(&rig.upload(1, UploadKind::PodStatus, "a", &json!({}))).remove(0);
    let again = rig.pass(ANSWER_TIMEOUT);
    assert!(sent(&again).contains(&first), "the same message once more");
    let given_up = rig.pass(ANSWER_TIMEOUT);
    assert!(!sent(&given_up).contains(&first) && delivered(&given_up).is_empty());
    assert!(given_up.iter().any(|action| matches!(action, Action::Warn(text) if text.contains("default/a"))));
    assert!(rig.pass(RETRY_ABANDONED).contains(&Action::ReopenOutgoing));
    assert_eq!(sent(&rig.upload(1, UploadKind::PodStatus, "a", &json!({}))).len(), 1);
}

#[test]
fn an_unanswered_query_times_out_and_is_not_repeated() {
    let mut rig = Rig::new();
    let request = sent(&rig.query(1, "secret", "s")).remove(0);
    let actions = rig.pass(ANSWER_TIMEOUT);
    assert!(!sent(&actions).contains(&request));
    assert_eq!(delivered(&actions)[0].code, 504);
}

#[test]
fn an_answer_the_store_did_not_take_is_not_acknowledged_and_its_upload_comes_again() {
    let mut rig = Rig::new();
    let request = sent(&rig.query(1, "configmap", "a")).remove(0);
    let object =
        json!({"metadata": {"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "5"}});
    rig.receive(&down::answer_object(&request, "5", content(&object)));
    assert!(rig.on(Event::Delivered { seq: 1, stored: false }).is_empty());

    let request = sent(&rig.upload(2, UploadKind::PodStatus, "a", &json!({}))).remove(0);
    rig.receive(&down::answer_ok(&request, ""));
    rig.on(Event::Delivered { seq: 2, stored: false });
    assert!(rig.pass(RETRY_ABANDONED).contains(&Action::ReopenOutgoing));
    assert_eq!(sent(&rig.upload(2, UploadKind::PodStatus, "a", &json!({}))).len(), 1);
}

#[test]
fn a_new_outgoing_stream_repeats_nothing_that_is_under_way() {
    let mut rig = Rig::new();
    assert_eq!(rig.upload(1, UploadKind::PodStatus, "a", &json!({})).len(), 1);
    rig.on(Event::OutgoingReopened);
    assert!(rig.upload(1, UploadKind::PodStatus, "a", &json!({})).is_empty());
}

#[test]
fn the_window_is_bounded() {
    let mut rig = Rig::new();
    for seq in 0..WINDOW as u64 {
        assert!(rig.session.wants_outgoing());
        rig.query(seq, "secret", &format!("s{seq}"));
    }
    assert!(!rig.session.wants_outgoing());
}

#[test]
fn an_upload_that_cannot_be_put_on_the_wire_is_refused_and_blocks_nothing() {
    let mut rig = Rig::new();
    let outcome = delivered(&rig.upload(1, UploadKind::PodStatus, "a/b", &json!({}))).remove(0);
    assert_eq!(outcome.code, 400);
    assert!(outcome.message.contains("a/b"), "{}", outcome.message);
    assert_eq!(sent(&rig.upload(2, UploadKind::PodStatus, "a", &json!({}))).len(), 1);
}

#[test]
fn keepalives_keep_their_pace() {
    let mut rig = Rig::new();
    let keepalives = |actions: &[Action]| {
        sent(actions).iter().filter(|m| m.route.operation == Operation::Keepalive).count()
    };
    assert_eq!(keepalives(&rig.on(Event::Tick)), 1, "at once");
    assert_eq!(keepalives(&rig.pass(Duration::from_mins(1))), 4);
}

#[test]
fn a_silent_hub_is_left_after_twenty_seconds() {
    let mut rig = Rig::new();
    let start = rig.now;
    rig.on(Event::Tick);
    loop {
        rig.now = rig.session.next_wake();
        if rig.on(Event::Tick).iter().any(|action| matches!(action, Action::End(_))) {
            break;
        }
    }
    assert_eq!(rig.now - start, SILENCE_LIMIT);
}
