//! Schemas, as little of them as clients need. `kubectl` 1.27 and later look in the v3 documents whether PATCH takes
//! `fieldValidation` and then leave validation to us; older ones download the v2 document, find no type in it and
//! validate nothing. With no merge keys in either, `kubectl apply` uses those it has built in. `kubectl explain` finds
//! nothing.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::resources::{RESOURCES, group_versions};
use crate::rest::{bytes, json as json_response};

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.34.0";
/// As kube-openapi answers; clients ask for `…v2@v1.0+protobuf`, which is not a media type that Go would parse.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The head of gnostic's `openapi.v2.Document`.
#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Empty>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// `GET /openapi/v2`.
pub(crate) async fn v2(headers: HeaderMap) -> Response {
    let wants_protobuf = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("proto-openapi.spec.v2"));
    if !wants_protobuf {
        return json_response(
            StatusCode::OK,
            &json!({"swagger": "2.0", "info": {"title": TITLE, "version": VERSION}, "paths": {}, "definitions": {}}),
        );
    }
    let document = Document {
        swagger: "2.0".to_owned(),
        info: Some(Info { title: TITLE.to_owned(), version: VERSION.to_owned() }),
        paths: Some(Empty {}),
        definitions: Some(Empty {}),
    };
    let mut response = bytes(StatusCode::OK, document.encode_to_vec());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    response
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `GET /openapi/v3`.
pub(crate) async fn v3_index() -> Response {
    let paths: Map<String, Value> = group_versions()
        .into_iter()
        .map(|(group, version)| {
            let path = path_of(group, version);
            // Clients cache a document by its hash; the document changes with the program only.
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json_response(StatusCode::OK, &json!({"paths": paths}))
}

/// `GET /openapi/v3/…`.
pub(crate) async fn v3_document(Path(path): Path<String>) -> Response {
    let Some((group, version)) = group_versions().into_iter().find(|(g, v)| path_of(g, v) == path) else {
        return ApiError::no_route().into_response();
    };
    let paths: Map<String, Value> = RESOURCES
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
        .map(|resource| {
            let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
            let operation = json!({
                "patch": {
                    "parameters": [
                        {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
                        {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
                    ],
                    "responses": {"200": {"description": "OK"}},
                    "x-kubernetes-action": "patch",
                    "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": resource.kind},
                },
            });
            (format!("/{path}/{scope}{}/{{name}}", resource.plural), operation)
        })
        .collect();
    json_response(
        StatusCode::OK,
        &json!({
            "openapi": "3.0.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths,
            "components": {"schemas": {}},
        }),
    )
}
