//! A Kubernetes API small enough to read: objects by path, resource versions, watches that resume, and a switch that makes
//! it go away. It checks nothing and merges every patch alike.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

type Body = BoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub(super) struct ApiDouble(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    address: SocketAddr,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    /// Path, event type, object.
    history: Vec<(u64, String, &'static str, Value)>,
    /// Method and path of every request.
    requests: Vec<String>,
    away: bool,
}

/// `/apis/g/v1/namespaces/ns/things/name/sub`, taken apart.
struct Target {
    namespace: String,
    plural: String,
    name: String,
    subresource: String,
}

impl Target {
    fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.first() {
            Some(&"api") => &parts[2..],
            _ => &parts[3.min(parts.len())..],
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        Self { namespace: namespace.to_owned(), plural: part(0), name: part(1), subresource: part(2) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.plural, self.namespace)
    }
}

impl ApiDouble {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner {
            state: Mutex::new(State::default()),
            version: watch::Sender::new(0),
            address: listener.local_addr().unwrap(),
        };
        let double = Self(Arc::new(inner));
        let served = double.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let service =
                        service_fn(|request| async { Ok::<_, Infallible>(served.answer(request).await) });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        double
    }

    pub(super) fn kubeconfig(&self) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: l, user: u}}}}], \
             clusters: [{{name: l, cluster: {{server: 'http://{}'}}}}], users: [{{name: u, user: {{}}}}]}}",
            self.0.address
        )
    }

    /// Stores an object as somebody else's write.
    pub(super) fn put(&self, path: &str, object: Value) -> Value {
        let target = Target::of(path);
        let mut state = self.0.state.lock().unwrap();
        let stored = store(&mut state, &target.key(&target.name), object);
        self.0.version.send_replace(state.version);
        stored
    }

    pub(super) fn remove(&self, path: &str) {
        let target = Target::of(path);
        let mut state = self.0.state.lock().unwrap();
        assert!(remove(&mut state, &target.key(&target.name)), "{path} is there");
        self.0.version.send_replace(state.version);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        let target = Target::of(path);
        self.0.state.lock().unwrap().objects.get(&target.key(&target.name)).cloned()
    }

    /// While away, every request is answered 503 and no watch says anything.
    pub(super) fn set_away(&self, away: bool) {
        self.0.state.lock().unwrap().away = away;
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.0.state.lock().unwrap().requests.clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let target = Target::of(&path);
        let mut state = self.0.state.lock().unwrap();
        state.requests.push(format!("{} {path}", parts.method));
        if state.away {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "away");
        }
        if path == "/version" {
            return json_body(StatusCode::OK, &json!({"gitVersion": "v1.36.0"}));
        }
        if query.contains("watch=") {
            drop(state);
            return self.watch(target.plural, &query);
        }
        let content: Value = serde_json::from_slice(&body).unwrap_or_default();
        let key = target.key(&target.name);
        let response = match parts.method {
            Method::GET if target.name.is_empty() => {
                let selected = state.objects.iter().filter(|(key, object)| {
                    key.starts_with(&format!("{}/{}", target.plural, target.namespace))
                        && selects(&query, object)
                });
                let items: Vec<&Value> = selected.map(|(_, object)| object).collect();
                json_body(
                    StatusCode::OK,
                    &json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
                )
            }
            Method::POST if !target.subresource.is_empty() => json_body(StatusCode::CREATED, &content),
            Method::POST => {
                let name = content["metadata"]["name"].as_str().unwrap_or_default();
                let key = target.key(name);
                let namespace = format!("namespaces//{}", target.namespace);
                if state.objects.contains_key(&key) {
                    failure(StatusCode::CONFLICT, "AlreadyExists", &format!("{key} already exists"))
                } else if !target.namespace.is_empty() && !state.objects.contains_key(&namespace) {
                    failure(StatusCode::NOT_FOUND, "NotFound", "namespace not found")
                } else {
                    json_body(StatusCode::CREATED, &store(&mut state, &key, content))
                }
            }
            _ => match state.objects.get(&key).cloned() {
                None => failure(StatusCode::NOT_FOUND, "NotFound", &format!("{key} not found")),
                Some(object) => match parts.method {
                    Method::GET => json_body(StatusCode::OK, &object),
                    Method::PATCH => {
                        let mut object = object;
                        merge(&mut object, content);
                        json_body(StatusCode::OK, &store(&mut state, &key, object))
                    }
                    Method::PUT => json_body(StatusCode::OK, &store(&mut state, &key, content)),
                    Method::DELETE => {
                        let wanted = &content["preconditions"]["uid"];
                        if wanted.is_string() && *wanted != object["metadata"]["uid"] {
                            failure(StatusCode::CONFLICT, "Conflict", "another uid")
                        } else {
                            remove(&mut state, &key);
                            json_body(StatusCode::OK, &object)
                        }
                    }
                    _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "no"),
                },
            },
        };
        self.0.version.send_replace(state.version);
        response
    }

    fn watch(&self, plural: String, query: &str) -> Response<Body> {
        let from = query
            .split('&')
            .find_map(|part| part.strip_prefix("resourceVersion="))
            .and_then(|v| v.parse().ok());
        let seed = (self.clone(), from.unwrap_or(0), self.0.version.subscribe(), plural, query.to_owned());
        let events = stream::unfold(seed, |(double, from, mut changed, plural, query)| async move {
            loop {
                changed.mark_unchanged();
                let next = {
                    let state = double.0.state.lock().unwrap();
                    let fits = |(version, key, _, object): &&(u64, String, &'static str, Value)| {
                        *version > from && key.starts_with(&format!("{plural}/")) && selects(&query, object)
                    };
                    let next = state.history.iter().find(fits);
                    next.filter(|_| !state.away)
                        .map(|(version, _, kind, object)| (*version, *kind, object.clone()))
                };
                if let Some((version, kind, object)) = next {
                    let line = format!("{}\n", json!({"type": kind, "object": object}));
                    return Some((line, (double, version, changed, plural, query)));
                }
                changed.changed().await.ok()?;
            }
        });
        let frames = events.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }
}

fn store(state: &mut State, key: &str, mut object: Value) -> Value {
    state.version += 1;
    let before = state.objects.get(key);
    let uid = before
        .map_or_else(|| json!(format!("uid-{}", state.version)), |before| before["metadata"]["uid"].clone());
    object["metadata"]["uid"] = uid;
    object["metadata"]["resourceVersion"] = state.version.to_string().into();
    let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
    state.objects.insert(key.to_owned(), object.clone());
    state.history.push((state.version, key.to_owned(), kind, object.clone()));
    object
}

fn remove(state: &mut State, key: &str) -> bool {
    let Some(mut object) = state.objects.remove(key) else { return false };
    state.version += 1;
    object["metadata"]["resourceVersion"] = state.version.to_string().into();
    state.history.push((state.version, key.to_owned(), "DELETED", object));
    true
}

/// `spec.nodeName=x` and the edge label; everything else selects all.
fn selects(query: &str, object: &Value) -> bool {
    if let Some((_, rest)) = query.split_once("fieldSelector=spec.nodeName%3D") {
        return object["spec"]["nodeName"] == rest.split('&').next().unwrap_or_default();
    }
    if query.contains("labelSelector=node-role") {
        return object["metadata"]["labels"].get("node-role.kubernetes.io/edge").is_some();
    }
    true
}

fn merge(object: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, part) in patch {
                merge(&mut object[name.as_str()], part);
            }
        }
        other => *object = other,
    }
}

fn json_body(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = status;
    response
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let code = status.as_u16();
    json_body(
        status,
        &json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}),
    )
}
