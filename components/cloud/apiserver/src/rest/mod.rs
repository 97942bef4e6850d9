//! The HTTP surface: paths, query parameters, media types in; objects, lists, tables, watches and `Status` out.

mod body;
mod negotiate;
mod path;
mod query;
mod resource;
mod subresource;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, User};
use crate::discovery;
use crate::error::ApiError;
use crate::openapi;
use crate::review;
use crate::store::Store;

/// Watches at one time, over all clients; each holds a feed and a connection or stream.
const WATCHES: usize = 512;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) auth: Authenticator,
    /// Ends every watch when the process drains.
    pub(crate) shutdown: CancellationToken,
    pub(crate) watches: Arc<Semaphore>,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Everything the server answers.
pub(crate) fn router(store: Store, auth: Authenticator, shutdown: CancellationToken) -> Router {
    let app = App(Arc::new(Shared { store, auth, shutdown, watches: Arc::new(Semaphore::new(WATCHES)) }));
    let closed = Router::new()
        .route("/api", get(discovery::core_versions))
        .route("/api/v1", get(discovery::core_resources))
        .route("/apis", get(discovery::groups))
        .route("/apis/{group}", get(discovery::group))
        .route("/apis/{group}/{version}", get(discovery::group_resources))
        .route("/openapi/v2", get(openapi::v2))
        .route("/openapi/v3", get(openapi::v3_index))
        .route("/openapi/v3/{*path}", get(openapi::v3_document))
        .fallback(any(dispatch))
        .layer(axum::middleware::from_fn_with_state(app.clone(), authenticate))
        .with_state(app);
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/version", get(discovery::version))
        .merge(closed)
}

/// Finds out who asks; nobody unknown gets further.
async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: axum::middleware::Next,
) -> Response {
    let certificate = request.extensions().get::<User>().cloned();
    let user = match certificate.map_or_else(|| app.auth.bearer(request.headers()), Ok) {
        Ok(user) => user,
        Err(refused) => return refused.into_response(),
    };
    let path = request.uri().path();
    if !user.may_use(path) {
        let verb = request.method().as_str().to_lowercase();
        let message =
            format!("forbidden: User {:?} cannot {verb} path {path:?}: only administrators may", user.name);
        return ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).into_response();
    }
    request.extensions_mut().insert(user);
    next.run(request).await
}

async fn dispatch(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let query = query::Query::parse(request.uri())?;
        if let Some(review) = review::find(request.uri().path()) {
            return review::answer(&app, review, request).await;
        }
        let target = path::Target::parse(request.uri().path())?;
        if target.subresource.as_deref().is_some_and(|sub| sub != "status") {
            return subresource::answer(&app, target, &query, request).await;
        }
        resource::answer(&app, target, &query, request).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

/// A JSON answer.
pub(crate) fn json(code: StatusCode, body: &Value) -> Response {
    bytes(code, body.to_string())
}

/// An answer whose bytes are JSON already.
pub(crate) fn bytes(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) use body::read as read_body;

#[cfg(test)]
mod tests;
