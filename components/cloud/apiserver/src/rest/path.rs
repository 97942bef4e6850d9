use crate::error::ApiError;
use crate::resources::{self, Resource};

/// What a path names.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) resource: &'static Resource,
    /// `None`: all namespaces, or a cluster-scoped resource.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    /// Parses `/api/v1/…` and `/apis/<group>/<version>/…`.
    pub(super) fn parse(path: &str) -> Result<Self, ApiError> {
        let segments =
            path.trim_matches('/').split('/').map(decode).collect::<Option<Vec<_>>>().ok_or_else(|| {
                ApiError::bad_request("the path is not valid percent-encoded UTF-8, or a segment has a slash")
            })?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::no_route()),
        };
        let (namespace, rest) = match rest {
            // `/namespaces/x` and its subresources are about the namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource, ..] => (plural, Some(*name), Some(*subresource)),
            [] => return Err(ApiError::no_route()),
        };
        let resource = resources::find(group, version, plural).ok_or_else(ApiError::no_route)?;
        if resource.namespaced != namespace.is_some() && !(resource.namespaced && name.is_none()) {
            return Err(ApiError::no_route());
        }
        if subresource == Some("status") && !resource.status {
            return Err(ApiError::no_route());
        }
        Ok(Self {
            resource,
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }
}

/// Undoes percent-encoding; `None` for bad escapes, bad UTF-8, and a slash that was hidden in one.
fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_name_their_objects() {
        for (path, plural, namespace, name, subresource) in [
            ("/api/v1/pods", "pods", None, None, None),
            ("/api/v1/namespaces/x/pods", "pods", Some("x"), None, None),
            ("/api/v1/namespaces/x/pods/p", "pods", Some("x"), Some("p"), None),
            ("/api/v1/namespaces/x/pods/p/status", "pods", Some("x"), Some("p"), Some("status")),
            ("/api/v1/namespaces/x", "namespaces", None, Some("x"), None),
            ("/api/v1/namespaces/x/finalize", "namespaces", None, Some("x"), Some("finalize")),
            ("/api/v1/nodes/n/status", "nodes", None, Some("n"), Some("status")),
            ("/apis/coordination.k8s.io/v1/namespaces/x/leases/l", "leases", Some("x"), Some("l"), None),
        ] {
            let target = Target::parse(path).unwrap();
            assert_eq!(target.resource.plural, plural, "{path}");
            assert_eq!(
                (target.namespace.as_deref(), target.name.as_deref(), target.subresource.as_deref()),
                (namespace, name, subresource),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in [
            "/",
            "/api",
            "/api/v1/deployments",
            "/apis/apps/v1/deployments",
            "/api/v1/pods/p",
            "/api/v1/namespaces/x/nodes/n",
            "/api/v1/namespaces/x/configmaps/c/status",
            "/api/v1/namespaces/x/pods/%2e%2f",
        ] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path in ".{0,60}") {
            let _ = Target::parse(&path);
            let _ = Target::parse(&format!("/api/v1/namespaces/{path}"));
        }
    }
}
