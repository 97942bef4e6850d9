//! What kinds there are: `/api`, `/apis` and below, in the plain form (one document per group and version) and the
//! aggregated one (`apidiscovery.k8s.io`, all at once), which `kubectl` asks for first.

use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::resources::{self, RESOURCES, Resource, VERBS};
use crate::rest::json as json_response;
use crate::review::REVIEWS;

/// The Kubernetes release whose API this is, as far as it goes.
const GIT_VERSION: &str = concat!("v1.34.0+apiary-", env!("CARGO_PKG_VERSION"));

/// `GET /version`.
pub(crate) async fn version() -> Response {
    json_response(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": "34", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
            "platform": format!("linux/{}", std::env::consts::ARCH),
        }),
    )
}

/// The versions of the aggregated form, newest first.
const AGGREGATED: [&str; 2] = ["v2", "v2beta1"];

/// The aggregated form a client takes, by the first such range of its `Accept`.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|range| {
        let has = |parameter: &str| range.split(';').any(|part| part.trim() == parameter);
        AGGREGATED.into_iter().find(|version| {
            has("application/json")
                && has("g=apidiscovery.k8s.io")
                && has("as=APIGroupDiscoveryList")
                && has(&format!("v={version}"))
        })
    })
}

fn aggregated_response(version: &str, groups: Vec<&str>) -> Response {
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions_of(group)
                .map(|version| {
                    let mut resources: Vec<Value> = of(group, version).map(aggregated_resource).collect();
                    resources.extend(REVIEWS.iter().filter(|review| review.group == group).map(|review| {
                        json!({
                            "resource": review.plural, "singularResource": review.singular, "scope": "Cluster",
                            "responseKind": {"group": "", "version": "", "kind": review.kind}, "verbs": ["create"],
                        })
                    }));
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let meta = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    let mut response = json_response(
        StatusCode::OK,
        &json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {}, "items": items,
        }),
    );
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(media) = HeaderValue::try_from(media) {
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind =
        |kind: &str, group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
    let mut subresources = Vec::new();
    if resource.status {
        subresources.push(json!({
            "subresource": "status", "responseKind": kind(resource.kind, "", ""), "verbs": ["get", "patch", "update"],
        }));
    }
    subresources.extend(resource.subresources.iter().map(|sub| {
        let verb = if sub.name == "finalize" { "update" } else { "create" };
        json!({"subresource": sub.name, "responseKind": kind(sub.kind, sub.group, sub.version), "verbs": [verb]})
    }));
    let mut found = json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": VERBS,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": kind(resource.kind, resource.group, resource.version),
    });
    for (field, values) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
        if !values.is_empty() {
            found[field] = json!(values);
        }
    }
    if !subresources.is_empty() {
        found["subresources"] = subresources.into();
    }
    found
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |r| r.group == group && r.version == version)
}

/// Every group but the core one.
fn named_groups() -> Vec<&'static str> {
    let mut found: Vec<&str> = resources::group_versions().into_iter().map(|(group, _)| group).collect();
    found.extend(REVIEWS.iter().map(|review| review.group));
    found.retain(|group| !group.is_empty());
    found.sort_unstable();
    found.dedup();
    found
}

fn versions_of(group: &str) -> impl Iterator<Item = &'static str> {
    let mut found: Vec<&'static str> = resources::group_versions()
        .into_iter()
        .filter(|(g, _)| *g == group)
        .map(|(_, version)| version)
        .collect();
    if found.is_empty() && REVIEWS.iter().any(|review| review.group == group) {
        found.push("v1");
    }
    found.into_iter()
}

/// `GET /api`.
pub(crate) async fn core_versions(headers: HeaderMap) -> Response {
    match aggregated(&headers) {
        Some(version) => aggregated_response(version, vec![""]),
        None => json_response(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
    }
}

/// `GET /apis`.
pub(crate) async fn groups(headers: HeaderMap) -> Response {
    if let Some(version) = aggregated(&headers) {
        return aggregated_response(version, named_groups());
    }
    let groups: Vec<Value> = named_groups().into_iter().map(group_entry).collect();
    json_response(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

fn group_entry(group: &str) -> Value {
    let versions: Vec<Value> = versions_of(group)
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `GET /apis/<group>`.
pub(crate) async fn group(Path(group): Path<String>) -> Response {
    if !named_groups().contains(&group.as_str()) {
        return ApiError::no_route().into_response();
    }
    let mut entry = group_entry(&group);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    json_response(StatusCode::OK, &entry)
}

/// `GET /api/v1`.
pub(crate) async fn core_resources() -> Response {
    resource_list("", "v1")
}

/// `GET /apis/<group>/<version>`.
pub(crate) async fn group_resources(Path((group, version)): Path<(String, String)>, _: Request) -> Response {
    if group.is_empty() || !versions_of(&group).any(|known| known == version) {
        return ApiError::no_route().into_response();
    }
    resource_list(&group, &version)
}

fn resource_list(group: &str, version: &str) -> Response {
    let mut resources = Vec::new();
    for resource in of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS,
        });
        for (field, values) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
            if !values.is_empty() {
                entry[field] = json!(values);
            }
        }
        resources.push(entry);
        let below = |name: &str, kind: &str, verbs: &[&str]| {
            json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
            })
        };
        if resource.status {
            resources.push(below("status", resource.kind, &["get", "patch", "update"]));
        }
        for sub in resource.subresources {
            let mut entry =
                below(sub.name, sub.kind, &[if sub.name == "finalize" { "update" } else { "create" }]);
            if !sub.group.is_empty() {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            resources.push(entry);
        }
    }
    resources.extend(REVIEWS.iter().filter(|review| review.group == group).map(|review| {
        json!({
            "name": review.plural, "singularName": review.singular, "namespaced": false, "kind": review.kind,
            "verbs": ["create"],
        })
    }));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json_response(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_aggregated_form_a_client_takes_is_chosen() {
        let mut headers = HeaderMap::new();
        assert_eq!(aggregated(&headers), None);
        headers.insert(header::ACCEPT, HeaderValue::from_static(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"));
        assert_eq!(aggregated(&headers), Some("v2"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        assert_eq!(aggregated(&headers), None);
    }
}
