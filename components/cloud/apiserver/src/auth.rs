//! Who asks. There is no RBAC: administrators and our controllers may do everything, a pod's token only proves who the
//! pod is, and everybody else is refused.

use http::{HeaderMap, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::tokens::Issuer;

/// Kubernetes' group of those who may do everything.
pub(crate) const ADMINISTRATORS: &str = "system:masters";
/// The client of our controllers.
pub(crate) const CONTROLLERS: &str = "apiary:controllers";

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    uid: String,
}

impl User {
    /// From a client certificate that TLS has verified: CN is the name, O the group.
    pub(crate) fn from_certificate(der: &[u8]) -> Option<Self> {
        let certificate = pki::CertificateInfo::from_der(der)?;
        if certificate.common_name.is_empty() {
            return None;
        }
        let groups = vec![certificate.organization, "system:authenticated".to_owned()];
        Some(Self { name: certificate.common_name, groups, uid: String::new() })
    }

    /// A caller of one group.
    #[cfg(test)]
    pub(crate) fn test(group: &str) -> Self {
        Self { name: "x".into(), groups: vec![group.into()], uid: String::new() }
    }

    /// Whether everything is allowed.
    pub(crate) fn is_administrator(&self) -> bool {
        self.groups.iter().any(|group| group == ADMINISTRATORS || group == CONTROLLERS)
    }

    /// Whether the path may be used at all. Discovery, and asking about oneself, is open to every authenticated caller.
    pub(crate) fn may_use(&self, path: &str) -> bool {
        let open = matches!(
            path.trim_end_matches('/'),
            "/api" | "/apis" | "/api/v1" | "/openapi/v2" | "/openapi/v3"
        ) || path.starts_with("/apis/authentication.k8s.io/v1/selfsubject")
            || path.starts_with("/apis/authorization.k8s.io/v1/selfsubject")
            || path.starts_with("/apis/") && path.trim_matches('/').split('/').count() == 3;
        open || self.is_administrator()
    }

    /// As in `TokenReview` and `SelfSubjectReview`.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        info
    }
}

/// Checks bearer tokens.
pub(crate) struct Authenticator {
    tokens: Issuer,
}

impl Authenticator {
    pub(crate) fn new(tokens: Issuer) -> Self {
        Self { tokens }
    }

    pub(crate) fn tokens(&self) -> &Issuer {
        &self.tokens
    }

    /// The caller named by the `Authorization` header.
    pub(crate) fn bearer(&self, headers: &HeaderMap) -> Result<User, ApiError> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(ApiError::unauthorized)?;
        let claims = self.tokens.verify(token, Timestamp::now()).ok_or_else(ApiError::unauthorized)?;
        if claims.audiences(&[]).is_empty() {
            return Err(ApiError::unauthorized());
        }
        Ok(User { name: claims.user().to_owned(), groups: claims.groups(), uid: claims.uid().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_may_look_around_and_ask_about_themselves_only() {
        let pod = User::test("system:serviceaccounts");
        for path in [
            "/api",
            "/api/v1",
            "/apis/coordination.k8s.io/v1",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        ] {
            assert!(pod.may_use(path), "{path}");
        }
        for path in [
            "/api/v1/secrets",
            "/apis/coordination.k8s.io/v1/leases",
            "/apis/authentication.k8s.io/v1/tokenreviews",
        ] {
            assert!(!pod.may_use(path), "{path}");
            assert!(User::test(ADMINISTRATORS).may_use(path), "{path}");
        }
    }
}
