//! Properties over bytes nobody vouches for, and round trips.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use wire::{
    Answer, Content, ErrStatus, Inbound, MAX_MESSAGE, ObjectResp, Operation, ResourcePath, Upstream,
    WireError, WireMessage, ack_mode, down, up,
};

/// Everything a receiver does with bytes.
fn digest(bytes: &[u8]) {
    let Ok(message) = WireMessage::decode(bytes) else { return };
    let _ = ack_mode(&message);
    let _ = message.content.patch_text();
    let _ = message.ack().encode();
    let _ = Upstream::from_message(message.clone());
    let _ = Inbound::from_message(message);
}

fn decode(json: &str) -> Result<WireMessage, WireError> {
    WireMessage::decode(json.as_bytes())
}

fn push(resource: &str, content: &str) -> String {
    format!(
        r#"{{"header":{{"msg_id":"m"}},"route":{{"source":"edgecontroller","group":"resource","operation":"update","resource":"{resource}"}},"content":{content}}}"#
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        digest(&bytes);
    }

    #[test]
    fn arbitrary_fields_never_panic(
        resource in ".{0,40}", operation in "[a-z]{0,12}", group in "resource|func|user|.{0,4}",
        version in "[0-9]{0,25}|.{0,4}", content in r#"\{\}|null|"OK"|\{"metadata":\{"uid":"u"\}\}|\{"Object":1,"Err":[0-9n]\}|\{"ErrStatus":\{"code":-?[0-9]{1,12}\}\}"#,
    ) {
        let json = serde_json::json!({
            "header": {"msg_id": "m", "parent_msg_id": "p", "resourceversion": version},
            "route": {"group": group, "operation": operation, "resource": resource},
        });
        let text = json.to_string();
        digest(format!("{},\"content\":{content}}}", &text[..text.len() - 1]).as_bytes());
    }

    #[test]
    fn paths_round_trip(
        node in proptest::option::of("[a-z][a-z0-9.-]{0,20}"), namespace in proptest::option::of("[a-z][a-z0-9-]{4,20}"),
        kind in "[a-z]{1,20}", name in proptest::option::of("[a-z0-9:.-]{1,60}"),
    ) {
        // Cluster scope is the word `null`, and a bare path must not begin with the token that marks the other form.
        prop_assume!(namespace.as_deref() != Some("null"));
        prop_assume!(node.is_some() || namespace.as_deref() != Some("node"));
        let path = ResourcePath { node, namespace, kind, name };
        prop_assert_eq!(path.to_string().parse::<ResourcePath>().unwrap(), path);
    }

    #[test]
    fn messages_round_trip(
        id in "[!-~]{1,60}", parent in "[ -~]{0,60}", timestamp in any::<i64>(), operation in "[a-zA-Z]{0,20}",
        resource in "\\PC{0,60}", text in any::<String>(), sync in any::<bool>(),
    ) {
        let mut message = WireMessage::new("s", "g", Operation::from(operation.as_str()), resource, Content::text(&text));
        message.header.msg_id = id;
        message.header.parent_msg_id = parent;
        message.header.timestamp = timestamp;
        message.header.sync = sync;
        let again = WireMessage::decode(message.encode().as_bytes()).unwrap();
        prop_assert_eq!(again.content.as_str(), Some(text));
        prop_assert_eq!(again, message);
    }
}

#[test]
fn numbers_beyond_a_float_survive() {
    let json =
        push("default/configmap/a", r#"{"metadata":{"name":"a","generation":9007199254740993},"x":1e400}"#);
    let encoded = decode(&json).unwrap().encode();
    assert!(encoded.contains("9007199254740993") && encoded.contains("1e400"), "{encoded}");
}

#[test]
fn a_message_over_the_limit_is_refused_by_size() {
    let error = WireMessage::decode(&vec![b' '; MAX_MESSAGE + 1]).unwrap_err();
    assert!(matches!(error, WireError::TooLarge { size } if size == MAX_MESSAGE + 1));
}

#[test]
fn deep_nesting_is_carried_without_recursion() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let message =
        decode(&push("default/configmap/a", &format!(r#"{{"metadata":{{"name":"a"}},"x":{deep}}}"#)))
            .unwrap();
    assert!(matches!(Inbound::from_message(message), Ok(Inbound::Put { .. })));
}

#[test]
fn text_that_is_not_json_names_the_place_and_the_beginning() {
    let error = decode("hello there").unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("hello there"), "{error}");
}

#[test]
fn an_oversized_field_is_named() {
    let error = decode(&push(&"x".repeat(2000), "null")).unwrap_err().to_string();
    assert!(error.starts_with("route.resource"), "{error}");
}

#[test]
fn a_resource_version_that_is_not_a_number_is_named() {
    for version in ["abc", "-1", "+1", "99999999999999999999999"] {
        let content = format!(r#"{{"metadata":{{"name":"a","resourceVersion":"{version}"}}}}"#);
        let error =
            Inbound::from_message(decode(&push("default/pod/a", &content)).unwrap()).unwrap_err().to_string();
        assert!(error.contains("resourceVersion") && error.contains(version), "{error}");
    }
}

#[test]
fn content_that_contradicts_its_path_is_refused() {
    let other_name = push("default/pod/a", r#"{"metadata":{"name":"b","namespace":"default"}}"#);
    let other_namespace = push("default/pod/a", r#"{"metadata":{"name":"a","namespace":"kube-system"}}"#);
    for json in [other_name, other_namespace] {
        assert!(Inbound::from_message(decode(&json).unwrap()).is_err(), "{json}");
    }
}

#[test]
fn a_trailing_newline_is_taken() {
    assert!(decode(&format!("{}\n", push("default/pod/a", "null"))).is_ok());
}

#[test]
fn answers_are_read_in_all_their_forms() {
    let answer = |json: &str| Answer::from_content(Content::json(json).unwrap()).unwrap();
    assert_eq!(answer(r#""OK""#), Answer::Ok);
    assert_eq!(answer("null"), Answer::Empty);
    assert_eq!(answer(r#"{"Object":null,"Err":null}"#), Answer::Empty);
    assert_eq!(
        answer(r#"{"Object":{"a":1},"Err":null}"#),
        Answer::Object(Content::json(r#"{"a":1}"#).unwrap())
    );
    assert_eq!(
        answer(r#"{"kind":"Secret"}"#),
        Answer::Object(Content::json(r#"{"kind":"Secret"}"#).unwrap())
    );
    let code = |json: &str| match answer(json) {
        Answer::Refused(status) => status.http_code(),
        other => panic!("{json} is {other:?}"),
    };
    assert_eq!(code(r#"{"ErrStatus":{"code":404,"reason":"NotFound"}}"#), 404);
    assert_eq!(code(r#"{"Object":{"metadata":{}},"Err":{"ErrStatus":{"code":409}}}"#), 409);
    // Errors Go cannot write down: never success.
    assert_eq!(code(r#"{"Object":{"metadata":{}},"Err":{}}"#), 500);
    assert_eq!(code(r#"{"Object":null,"Err":{"Op":"Put","URL":"https://x"}}"#), 500);
    assert_eq!(code("{}"), 500);
    assert_eq!(code(r#""failed to create""#), 500);
}

#[test]
fn what_the_cloud_answers_is_read_back_by_the_edge() {
    let request = up::query("default", "configmap", "a", Content::null()).unwrap();
    let object = Content::json(r#"{"metadata":{"name":"a"}}"#).unwrap();
    let missing = ErrStatus::new(404, "NotFound", "configmaps \"a\" not found");
    let read = |message: WireMessage| {
        let message = WireMessage::decode(message.encode().as_bytes()).unwrap();
        match Inbound::from_message(message).unwrap() {
            Inbound::Answer { parent, answer } if parent == request.header.msg_id => answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(down::answer_ok(&request, "7")), Answer::Ok);
    assert_eq!(read(down::answer_object(&request, "7", object.clone())), Answer::Object(object.clone()));
    assert_eq!(read(down::answer_error(&request, &missing)), Answer::Refused(missing.clone()));
    assert_eq!(
        read(down::answer_resp(&request, "7", &ObjectResp::success(object.clone()))),
        Answer::Object(object)
    );
    assert_eq!(
        read(down::answer_resp(&request, "", &ObjectResp::failure(missing.clone()))),
        Answer::Refused(missing)
    );
}

#[test]
fn an_object_named_like_a_no_ack_word_keeps_reliable_delivery() {
    for resource in
        ["default/configmap/app-membership", "default/configmap/podlist-x", "membership/configmap/a"]
    {
        let message = decode(&push(resource, r#"{"metadata":{"name":"x"}}"#)).unwrap();
        assert!(ack_mode(&message), "{resource}");
    }
    for resource in ["membership", "k8s/ca.crt", "default/serviceaccounttoken/x", "null/lease/x"] {
        assert!(!ack_mode(&decode(&push(resource, "null")).unwrap()), "{resource}");
    }
}
