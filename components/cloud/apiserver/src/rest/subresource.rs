//! Paths below an object, other than its status.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};

use super::path::Target;
use super::query::Query;
use super::{App, body, json};
use crate::error::ApiError;
use crate::registry::{self, DeleteOptions, Part, binding};
use crate::store::Key;
use crate::tokens;

/// Kubernetes has them; they need the node's streaming server.
const STREAMING: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

pub(super) async fn answer(
    app: &App,
    target: Target,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let Target { resource, namespace, name, subresource } = target;
    let (Some(name), Some(subresource)) = (name, subresource) else { return Err(ApiError::no_route()) };
    let key = Key { resource, namespace: namespace.unwrap_or_default(), name };
    let options = query.write_options()?;
    match (resource.plural, subresource.as_str(), request.method()) {
        ("pods", "binding", &Method::POST) => {
            let binding = body::read(request).await?.object()?;
            app.store.write(move |work| binding::bind(work, &key, &binding)).await?;
            Ok(json(StatusCode::CREATED, &binding::success()))
        }
        ("pods", "eviction", &Method::POST) => {
            let mut eviction = body::read(request).await?.object()?;
            let mut delete: DeleteOptions = match eviction.get_mut("deleteOptions") {
                Some(options) => serde_json::from_value(options.take())
                    .map_err(|e| ApiError::bad_request(format!("deleteOptions: {e}")))?,
                None => DeleteOptions::default(),
            };
            if options.dry_run {
                delete.dry_run = Some(vec!["All".to_owned()]);
            }
            app.store.write(move |work| registry::delete(work, &key, &delete)).await?;
            Ok(json(StatusCode::CREATED, &binding::success()))
        }
        ("serviceaccounts", "token", &Method::POST) => {
            let wanted = body::read(request).await?.object()?;
            let issuer = app.auth.tokens().clone();
            let answer = app.store.read(move |work| tokens::issue(work, &issuer, &key, wanted)).await?;
            Ok(json(StatusCode::CREATED, &answer))
        }
        ("namespaces", "finalize", &Method::PUT) => {
            let object = body::read(request).await?.object()?;
            let written = app
                .store
                .write(move |work| registry::update(work, &key, Part::Main, object, options))
                .await?;
            Ok(json(StatusCode::OK, &written.object))
        }
        ("pods" | "nodes" | "services", other, _) if STREAMING.contains(&other) => {
            Err(ApiError::not_implemented(&format!("{}/{other}", resource.plural)))
        }
        (_, known, _) if resource.subresources.iter().any(|sub| sub.name == known) => {
            Err(ApiError::method_not_allowed())
        }
        _ => Err(ApiError::no_route()),
    }
}
