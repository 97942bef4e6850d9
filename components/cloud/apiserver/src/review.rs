//! Questions that are asked by creating an object which is not stored: who am I, whose token is this, is that allowed.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::auth::{ADMINISTRATORS, CONTROLLERS, User};
use crate::error::ApiError;
use crate::object::{self, list, text};
use crate::rest::{App, json as json_response, read_body};

/// One kind of question.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
}

const fn review(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Review {
    Review { group, plural, singular, kind }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All of them, version `v1`.
pub(crate) static REVIEWS: [Review; 4] = [
    review(AUTHENTICATION, "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    review(AUTHENTICATION, "tokenreviews", "tokenreview", "TokenReview"),
    review(AUTHORIZATION, "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview"),
    review(AUTHORIZATION, "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
];

pub(crate) fn find(path: &str) -> Option<&'static Review> {
    REVIEWS.iter().find(|review| {
        path.strip_prefix("/apis/")
            .and_then(|path| path.strip_prefix(review.group))
            .and_then(|path| path.strip_prefix("/v1/"))
            .is_some_and(|plural| plural.trim_end_matches('/') == review.plural)
    })
}

/// Answers a question.
pub(crate) async fn answer(
    app: &App,
    review: &'static Review,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let user = request.extensions().get::<User>().cloned().ok_or_else(ApiError::unauthorized)?;
    let mut object = read_body(request).await?.object()?;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    }
    let status = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": user.info()}),
        "TokenReview" => token(app, &object).await?,
        "SelfSubjectAccessReview" => access(user.is_administrator()),
        _ => access(list(&object, "/spec/groups").iter().any(|g| g == ADMINISTRATORS || g == CONTROLLERS)),
    };
    object["apiVersion"] = format!("{}/v1", review.group).into();
    object["kind"] = review.kind.into();
    object::metadata(&mut object);
    object["status"] = status;
    Ok(json_response(StatusCode::CREATED, &object))
}

fn access(allowed: bool) -> Value {
    json!({"allowed": allowed, "reason": "the standalone API has no RBAC: administrators may do everything"})
}

async fn token(app: &App, object: &Value) -> Result<Value, ApiError> {
    let refused = || json!({"authenticated": false, "error": "the token is not valid"});
    let Some(claims) = app.auth.tokens().verify(text(object, "/spec/token"), Timestamp::now()) else {
        return Ok(refused());
    };
    let wanted: Vec<&str> = list(object, "/spec/audiences").iter().filter_map(Value::as_str).collect();
    let audiences = claims.audiences(&wanted);
    let asked = claims.clone();
    if audiences.is_empty() || !app.store.read(move |work| asked.is_current(work)).await? {
        return Ok(refused());
    }
    Ok(json!({
        "authenticated": true,
        "user": {"username": claims.user(), "uid": claims.uid(), "groups": claims.groups()},
        "audiences": audiences,
    }))
}
