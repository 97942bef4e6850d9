//! The verbs of stored objects.

use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::negotiate::Form;
use super::path::Target;
use super::query::Query;
use super::{App, bytes, json as json_response, watch};
use crate::error::ApiError;
use crate::object;
use crate::patch;
use crate::registry::{self, DeleteOptions, Deleted, Part, Written};
use crate::resources::Resource;
use crate::selectors::{Facets, Selector};
use crate::store::{Key, Listed};
use crate::table;

pub(super) async fn answer(
    app: &App,
    target: Target,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let resource = target.resource;
    let form = Form::of(request.headers())?;
    let part = if target.subresource.is_some() { Part::Status } else { Part::Main };
    let namespace = target.namespace.clone();
    match (request.method().clone(), target.name) {
        (Method::GET | Method::HEAD, None) if query.flag("watch")? => {
            watch::start(app, resource, namespace, None, query, form).await
        }
        (Method::GET | Method::HEAD, None) => list(app, resource, namespace, query, form).await,
        (Method::POST, None) => {
            if resource.namespaced && namespace.is_none() {
                return Err(ApiError::method_not_allowed());
            }
            let options = query.write_options()?;
            let object = body::read(request).await?.object()?;
            let namespace = namespace.unwrap_or_default();
            let written = app
                .store
                .write(move |work| registry::create(work, resource, &namespace, object, options))
                .await?;
            written_response(resource, &written, form, query)
        }
        (Method::DELETE, None) => delete_collection(app, resource, namespace, query, request).await,
        (method, Some(name)) => {
            let key = Key { resource, namespace: namespace.unwrap_or_default(), name };
            match method {
                Method::GET | Method::HEAD if query.flag("watch")? => {
                    watch::start(app, resource, target.namespace, Some(&key.name), query, form).await
                }
                Method::GET | Method::HEAD => get(app, key, query, form).await,
                Method::PUT => {
                    let options = query.write_options()?;
                    let object = body::read(request).await?.object()?;
                    let written = app
                        .store
                        .write(move |work| registry::update(work, &key, part, object, options))
                        .await?;
                    written_response(resource, &written, form, query)
                }
                Method::PATCH => {
                    let options = query.write_options()?;
                    let body = body::read(request).await?;
                    let (kind, patch) = patch_of(&body)?;
                    let written = app
                        .store
                        .write(move |work| registry::patch(work, &key, part, kind, &patch, options))
                        .await?;
                    written_response(resource, &written, form, query)
                }
                Method::DELETE if part == Part::Main => {
                    let options = delete_options(query, request).await?;
                    let deleted = app.store.write(move |work| registry::delete(work, &key, &options)).await?;
                    Ok(deleted_response(resource, &deleted))
                }
                _ => Err(ApiError::method_not_allowed()),
            }
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn patch_of(body: &Body) -> Result<(patch::Kind, Value), ApiError> {
    let kind = patch::Kind::of(&body.media_type)
        .ok_or_else(|| ApiError::unsupported_media_type(&body.media_type, &patch::MEDIA_TYPES))?;
    let patch = if kind == patch::Kind::Apply { body.yaml()? } else { body.json()? };
    Ok((kind, patch))
}

async fn get(app: &App, key: Key, query: &Query, form: Form) -> Result<Response, ApiError> {
    let (resource, name) = (key.resource, key.name.clone());
    let found = app.store.read(move |work| work.get_bytes(&key)).await?;
    let stored = found.ok_or_else(|| ApiError::not_found(resource, &name))?;
    if form == Form::Object {
        return Ok(bytes(StatusCode::OK, stored));
    }
    let object = parse(&stored)?;
    Ok(json_response(StatusCode::OK, &formed(resource, object, form, query)?))
}

fn parse(stored: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(stored).map_err(ApiError::internal)
}

/// One object in the form the client wants.
fn formed(resource: &Resource, object: Value, form: Form, query: &Query) -> Result<Value, ApiError> {
    Ok(match form {
        Form::Object => object,
        Form::Partial => table::partial(&object),
        Form::Table => {
            let meta = json!({"resourceVersion": object::version(&object)});
            table::table(resource.columns, &[object], &meta, query.include()?, true)
        }
    })
}

fn written_response(
    resource: &Resource,
    written: &Written,
    form: Form,
    query: &Query,
) -> Result<Response, ApiError> {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json_response(code, &formed(resource, written.object.clone(), form, query)?);
    for warning in &written.warnings {
        // RFC 7234 warn-text: a quoted string.
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn deleted_response(resource: &Resource, deleted: &Deleted) -> Response {
    match deleted {
        Deleted::Waiting(object) => json_response(StatusCode::OK, object),
        // A pod that is deleted at once is answered with itself, as kube-apiserver does.
        Deleted::Gone(object) if resource.kind == "Pod" => json_response(StatusCode::OK, object),
        Deleted::Gone(object) => {
            let mut details =
                json!({"name": object::name(object), "kind": resource.plural, "uid": object::uid(object)});
            if !resource.group.is_empty() {
                details["group"] = resource.group.into();
            }
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            json_response(StatusCode::OK, &status)
        }
    }
}

/// From the body, or from the query as old clients send them.
async fn delete_options(query: &Query, request: Request) -> Result<DeleteOptions, ApiError> {
    let body = body::read(request).await?;
    let mut options = if body.is_empty() {
        DeleteOptions::default()
    } else {
        serde_json::from_value(body.object()?)
            .map_err(|e| ApiError::bad_request(format!("DeleteOptions cannot be read: {e}")))?
    };
    if options.grace_period_seconds.is_none()
        && let Some(seconds) = query.number("gracePeriodSeconds")?
    {
        options.grace_period_seconds = i64::try_from(seconds).ok();
    }
    if query.write_options()?.dry_run {
        options.dry_run = Some(vec!["All".to_owned()]);
    }
    Ok(options)
}

async fn delete_collection(
    app: &App,
    resource: &'static Resource,
    namespace: Option<String>,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    if resource.kind == "Namespace" {
        return Err(ApiError::method_not_allowed());
    }
    let selector = selector(resource, query)?;
    let options = delete_options(query, request).await?;
    let items = app
        .store
        .write(move |work| {
            let mut items = Vec::new();
            for object in work.all(resource, namespace.as_deref())? {
                if selector.matches(&Facets::of(resource, &object)) {
                    let deleted = registry::delete(work, &Key::of(resource, &object), &options)?;
                    items.push(deleted.object().clone());
                }
            }
            Ok(json!({"metadata": {"resourceVersion": work.version().to_string()}, "items": items}))
        })
        .await?;
    let mut list = items;
    list["kind"] = format!("{}List", resource.kind).into();
    list["apiVersion"] = resource.api_version().into();
    Ok(json_response(StatusCode::OK, &list))
}

pub(super) fn selector(resource: &Resource, query: &Query) -> Result<Selector, ApiError> {
    Selector::parse(resource, query.text("labelSelector"), query.text("fieldSelector"))
}

/// Where a page ended.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    /// The version of the first page: what happened since comes to a client that watches from it.
    version: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Objects read from the store at a time while a page with a selector fills.
const CHUNK: usize = 500;

/// A page of objects: later pages see the store as it is then, but carry the first page's version, so that a watch from
/// it brings a client up to date.
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) rows: Vec<Listed>,
    next: Option<String>,
}

async fn list(
    app: &App,
    resource: &'static Resource,
    namespace: Option<String>,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let selector = selector(resource, query)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let token = Some(query.text("continue")).filter(|token| !token.is_empty());
    let token = token.map(Continue::decode).transpose()?;
    let exact = query.text("resourceVersionMatch") == "Exact";
    let wanted = query.number("resourceVersion")?.unwrap_or(0);
    let page = app
        .store
        .read(move |work| {
            let current = work.version();
            if wanted > current {
                return Err(ApiError::version_ahead(wanted, current));
            }
            if exact && wanted != current {
                return Err(ApiError::expired("the requested resource version is no longer the current one"));
            }
            let version = token.as_ref().map_or(current, |token| token.version);
            let mut start = token.map(|token| (token.namespace, token.name));
            let mut rows: Vec<Listed> = Vec::new();
            loop {
                // One more than fits tells whether there is a next page.
                let want = limit.saturating_sub(rows.len()).saturating_add(1).clamp(1, CHUNK);
                let after = start.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
                let chunk = work.list(resource, namespace.as_deref(), after, want)?;
                let last = chunk.len() < want;
                start = chunk.last().map(|row| (row.namespace.clone(), row.name.clone())).or(start);
                for row in chunk {
                    if selector.is_empty() || selector.matches(&Facets::of(resource, &parse(&row.body)?)) {
                        rows.push(row);
                    }
                }
                if last || rows.len() > limit {
                    break;
                }
            }
            let next = (rows.len() > limit).then(|| {
                rows.truncate(limit);
                let last = rows.last();
                let place = |of: fn(&Listed) -> &String| last.map(of).cloned().unwrap_or_default();
                Continue { version, namespace: place(|row| &row.namespace), name: place(|row| &row.name) }
                    .encode()
            });
            Ok(Page { version, rows, next })
        })
        .await?;
    page_response(resource, &page, form, query)
}

fn page_response(resource: &Resource, page: &Page, form: Form, query: &Query) -> Result<Response, ApiError> {
    let mut meta = json!({"resourceVersion": page.version.to_string()});
    if let Some(next) = &page.next {
        meta["continue"] = next.as_str().into();
    }
    let (api_version, kind) = match form {
        Form::Object => (resource.api_version(), format!("{}List", resource.kind)),
        Form::Partial => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        Form::Table => {
            let objects = page.rows.iter().map(|row| parse(&row.body)).collect::<Result<Vec<_>, _>>()?;
            let table = table::table(resource.columns, &objects, &meta, query.include()?, true);
            return Ok(json_response(StatusCode::OK, &table));
        }
    };
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{meta},\"items\":[",
        json!(kind),
        json!(api_version)
    );
    let mut text = head.into_bytes();
    for (index, row) in page.rows.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        if form == Form::Partial {
            text.extend_from_slice(table::partial(&parse(&row.body)?).to_string().as_bytes());
        } else {
            text.extend_from_slice(&row.body);
        }
    }
    text.extend_from_slice(b"]}");
    Ok(bytes(StatusCode::OK, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_a_round_trip() {
        let token = Continue { version: 7, namespace: "default".into(), name: "a.b".into() }.encode();
        let back = Continue::decode(&token).unwrap();
        assert_eq!((back.version, back.namespace.as_str(), back.name.as_str()), (7, "default", "a.b"));
        assert!(Continue::decode("!").is_err());
        assert!(Continue::decode("AAAA").is_err());
    }
}
