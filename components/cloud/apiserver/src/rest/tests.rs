use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use super::*;
use crate::auth::ADMINISTRATORS;
use crate::registry::namespaces;
use crate::tokens::Issuer;

/// The whole surface, without TLS.
struct Api {
    router: Router,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Api {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.db"), 100).unwrap();
        store.write(namespaces::ensure).await.unwrap();
        let tokens = Issuer::open(&directory.path().join("token.key")).unwrap();
        let shutdown = CancellationToken::new();
        let router = router(store, Authenticator::new(tokens), shutdown.clone());
        Self { router, shutdown, _directory: directory }
    }

    async fn ask(
        &self,
        user: Option<&str>,
        method: &str,
        path: &str,
        media: &str,
        body: impl Into<Body>,
    ) -> Response {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, media)
            .body(body.into())
            .unwrap();
        if let Some(group) = user {
            request.extensions_mut().insert(User::test(group));
        }
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// As an administrator; code and JSON.
    async fn json(&self, method: &str, path: &str, media: &str, body: impl Into<Body>) -> (u16, Value) {
        let response = self.ask(Some(ADMINISTRATORS), method, path, media, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            code,
            serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{method} {path}: not JSON: {bytes:?}")),
        )
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        let (code, stored) = self.json("POST", path, "application/json", object.to_string()).await;
        assert_eq!(code, 201, "{stored}");
        stored
    }
}

/// The next line of a watch.
async fn event(response: &mut Response) -> Value {
    let frame = tokio::time::timeout(Duration::from_secs(5), response.body_mut().frame());
    let frame = frame.await.expect("no event").expect("the watch ended").unwrap();
    serde_json::from_slice(&frame.into_data().unwrap()).unwrap()
}

const JSON: &str = "application/json";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn every_bad_request_gets_a_status_that_fits() {
    let api = Api::start().await;
    let object = json!({"metadata": {"name": "a"}}).to_string();
    let deep = "[".repeat(100_000);
    let large = format!("{{\"data\": {{\"a\": \"{}\"}}}}", "x".repeat(4 << 20));
    let one = format!("{CONFIGMAPS}/a");
    for (method, path, media, body, code, reason) in [
        ("GET", "/nowhere", JSON, "", 404, "NotFound"),
        ("GET", "/api/v1/deployments", JSON, "", 404, "NotFound"),
        ("GET", "/apis/nope/v1", JSON, "", 404, "NotFound"),
        ("GET", "/openapi/v3/nope", JSON, "", 404, "NotFound"),
        ("GET", &one, JSON, "", 404, "NotFound"),
        ("POST", &one, JSON, object.as_str(), 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces", JSON, "", 405, "MethodNotAllowed"),
        ("POST", "/api/v1/configmaps", JSON, &object, 405, "MethodNotAllowed"),
        ("POST", CONFIGMAPS, JSON, "{", 400, "BadRequest"),
        ("POST", CONFIGMAPS, JSON, "", 400, "BadRequest"),
        ("POST", CONFIGMAPS, JSON, "[]", 400, "BadRequest"),
        ("POST", CONFIGMAPS, JSON, deep.as_str(), 400, "BadRequest"),
        ("POST", CONFIGMAPS, "application/yaml", "a: [", 400, "BadRequest"),
        ("POST", CONFIGMAPS, JSON, &large, 413, "RequestEntityTooLarge"),
        ("POST", CONFIGMAPS, "text/csv", "a,b", 415, "UnsupportedMediaType"),
        ("POST", CONFIGMAPS, crate::protobuf::MEDIA_TYPE, "nonsense", 400, "BadRequest"),
        ("POST", CONFIGMAPS, JSON, "{}", 422, "Invalid"),
        ("POST", "/api/v1/namespaces/none/configmaps", JSON, &object, 404, "NotFound"),
        ("PATCH", &one, JSON, "{}", 415, "UnsupportedMediaType"),
        ("PATCH", &one, "application/merge-patch+json", "{", 400, "BadRequest"),
        ("PATCH", &one, "application/merge-patch+json", "{}", 404, "NotFound"),
        ("DELETE", &one, JSON, "{\"gracePeriodSeconds\": \"x\"}", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?limit=x", JSON, "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?continue=x", JSON, "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?labelSelector=a%20b", JSON, "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?fieldSelector=data.a%3Dx", JSON, "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?resourceVersion=999999", JSON, "", 504, "Timeout"),
        ("GET", "/api/v1/configmaps?resourceVersion=2&resourceVersionMatch=Exact", JSON, "", 410, "Expired"),
        ("GET", "/api/v1/configmaps?watch=1&resourceVersion=999999", JSON, "", 504, "Timeout"),
        ("GET", "/api/v1/configmaps?watch=1&sendInitialEvents=true", JSON, "", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/pods/p/log", JSON, "", 501, "NotImplemented"),
        ("POST", "/api/v1/namespaces/default/pods/p/binding", JSON, "{}", 400, "BadRequest"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", JSON, "[]", 400, "BadRequest"),
        (
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            JSON,
            "{\"spec\": {\"expirationSeconds\": 5}}",
            422,
            "Invalid",
        ),
        ("DELETE", "/api/v1/namespaces/default", JSON, "", 403, "Forbidden"),
    ] {
        let (found, status) = api.json(method, path, media, body.to_owned()).await;
        assert_eq!((found, status["reason"].as_str()), (code, Some(reason)), "{method} {path}: {status}");
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{method} {path}");
    }
}

#[tokio::test]
async fn strangers_see_health_and_version_only() {
    let api = Api::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(api.ask(None, "GET", path, JSON, "").await.status(), 200, "{path}");
    }
    for path in ["/api", "/api/v1/secrets", "/openapi/v2", "/nowhere"] {
        assert_eq!(api.ask(None, "GET", path, JSON, "").await.status(), 401, "{path}");
    }
    assert_eq!(api.ask(Some("system:nodes"), "GET", "/api/v1/secrets", JSON, "").await.status(), 403);
}

#[tokio::test]
async fn a_token_says_who_a_pod_is_and_gives_no_rights() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = api.create(path, json!({"spec": {"audiences": ["x"], "expirationSeconds": 600}})).await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = async |audience: &str| {
        let spec = json!({"token": issued["status"]["token"], "audiences": [audience]});
        api.create(reviews, json!({"spec": spec})).await["status"].clone()
    };
    assert_eq!(review("x").await["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(review("y").await["authenticated"], false);
    let bearer = Request::builder()
        .uri("/api/v1/secrets")
        .header(header::AUTHORIZATION, format!("Bearer {}", issued["status"]["token"].as_str().unwrap()))
        .body(Body::empty())
        .unwrap();
    // Not even known: the token is for another audience.
    assert_eq!(api.router.clone().oneshot(bearer).await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_follows() {
    let api = Api::start().await;
    api.create(CONFIGMAPS, json!({"metadata": {"name": "a"}})).await;
    let mut watch = api.ask(Some(ADMINISTRATORS), "GET", "/api/v1/configmaps?watch=1", JSON, "").await;
    assert_eq!(event(&mut watch).await["object"]["metadata"]["name"], "a");
    api.create(CONFIGMAPS, json!({"metadata": {"name": "b"}})).await;
    let added = event(&mut watch).await;
    assert_eq!((&added["type"], &added["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    api.json("DELETE", &format!("{CONFIGMAPS}/b"), JSON, "").await;
    let deleted = event(&mut watch).await;
    assert_eq!(deleted["type"], "DELETED");
    let version = |event: &Value| -> u64 {
        event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    assert!(version(&deleted) > version(&added));
}

#[tokio::test]
async fn a_label_that_goes_is_a_deletion_to_who_selects_by_it() {
    let api = Api::start().await;
    let path = "/api/v1/configmaps?watch=1&labelSelector=app%3Dweb";
    let mut watch = api.ask(Some(ADMINISTRATORS), "GET", path, JSON, "").await;
    api.create(CONFIGMAPS, json!({"metadata": {"name": "a", "labels": {"app": "web"}}})).await;
    assert_eq!(event(&mut watch).await["type"], "ADDED");
    let other = json!({"metadata": {"labels": {"app": "db"}}}).to_string();
    api.json("PATCH", &format!("{CONFIGMAPS}/a"), "application/merge-patch+json", other).await;
    assert_eq!(event(&mut watch).await["type"], "DELETED");
}

#[tokio::test]
async fn a_compacted_version_ends_the_watch_with_410() {
    let api = Api::start().await;
    let first = api.create(CONFIGMAPS, json!({"metadata": {"name": "a"}})).await;
    for number in 0..200 {
        let patch = json!({"data": {"n": number.to_string()}}).to_string();
        api.json("PATCH", &format!("{CONFIGMAPS}/a"), "application/merge-patch+json", patch).await;
    }
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("/api/v1/configmaps?watch=1&resourceVersion={version}");
    let (code, error) = api.json("GET", &path, JSON, "").await;
    assert_eq!((code, &error["type"], &error["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_when_something_has_happened() {
    let api = Api::start().await;
    let path = "/api/v1/secrets?watch=1&allowWatchBookmarks=true&timeoutSeconds=600";
    let mut watch = api.ask(Some(ADMINISTRATORS), "GET", path, JSON, "").await;
    let other = api.create(CONFIGMAPS, json!({"metadata": {"name": "a"}})).await;
    let frame = watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let bookmark: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], other["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let api = Api::start().await;
    let mut watch = api.ask(Some(ADMINISTRATORS), "GET", "/api/v1/pods?watch=1", JSON, "").await;
    api.shutdown.cancel();
    assert!(watch.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn delete_collection_honours_the_selector() {
    let api = Api::start().await;
    for (name, app) in [("a", "web"), ("b", "db")] {
        api.create(CONFIGMAPS, json!({"metadata": {"name": name, "labels": {"app": app}}})).await;
    }
    let (code, list) = api.json("DELETE", &format!("{CONFIGMAPS}?labelSelector=app%3Dweb"), JSON, "").await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    let (_, left) = api.json("GET", CONFIGMAPS, JSON, "").await;
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    assert_eq!(left["kind"], "ConfigMapList");
}

#[tokio::test]
async fn unknown_fields_are_warned_of_or_refused() {
    let api = Api::start().await;
    let object = json!({"metadata": {"name": "a"}, "dtaa": {}, "extra": 1}).to_string();
    let strict = format!("{CONFIGMAPS}?fieldValidation=Strict");
    assert_eq!(api.json("POST", &strict, JSON, object.clone()).await.0, 400);
    let warned = api.ask(Some(ADMINISTRATORS), "POST", CONFIGMAPS, JSON, object).await;
    assert_eq!(warned.status(), 201);
    assert_eq!(warned.headers()[header::WARNING], "299 - \"unknown field \\\"extra\\\"\"");
}
