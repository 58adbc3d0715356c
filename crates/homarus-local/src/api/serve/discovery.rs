//! What is served at all: health, version, groups and resources (plain and aggregated), OpenAPI, token keys.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, header};
use serde_json::{Value, json};

use super::openapi;
use super::respond::{self, Body};
use crate::api::refusal::Answer;
use crate::api::schema::kinds::{Kind, Kinds, join_version};
use crate::api::{Core, ISSUER};

/// The Kubernetes that we answer like.
const MINOR: &str = "34";

/// Answers a path that isn't an object's.
pub fn answer(core: &Arc<Core>, head: &Request<()>) -> Answer<Response<Body>> {
    if !matches!(*head.method(), Method::GET | Method::HEAD) {
        return Ok(nothing());
    }
    let kinds = core.store.kinds();
    let path = head.uri().path().trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let aggregated = aggregated(head);
    let document = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => respond::text("ok"),
        ["version"] => respond::json(200, &version()),
        ["api"] if aggregated => aggregated_json(&groups_aggregated(&kinds, true)),
        ["apis"] if aggregated => aggregated_json(&groups_aggregated(&kinds, false)),
        ["api"] => respond::json(200, &core_versions(core)),
        ["apis"] => respond::json(200, &group_list(&kinds)),
        ["apis", group] => group_of(&kinds, group).map_or_else(nothing, |d| respond::json(200, &d)),
        ["api", version] => resources(&kinds, "", version).map_or_else(nothing, |d| respond::json(200, &d)),
        ["apis", group, version] => resources(&kinds, group, version).map_or_else(nothing, |d| respond::json(200, &d)),
        ["openapi", "v3"] => respond::json(200, &openapi::index(&kinds)),
        ["openapi", "v3", "api", version] => {
            openapi::document(&kinds, "", version).map_or_else(nothing, |d| respond::json(200, &d))
        }
        ["openapi", "v3", "apis", group, version] => {
            openapi::document(&kinds, group, version).map_or_else(nothing, |d| respond::json(200, &d))
        }
        ["openapi", "v2"] => openapi::old(&kinds, head),
        [".well-known", "openid-configuration"] => respond::json(200, &openid()),
        ["openid", "v1", "jwks"] => respond::json(200, &core.tokens.key_set()),
        [""] => respond::json(200, &paths(&kinds)),
        _ => nothing(),
    };
    Ok(document)
}

/// What a path gets that nobody knows: not even a Status.
fn nothing() -> Response<Body> {
    let mut response = respond::text("404 page not found\n");
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

fn openid() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+homarus"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        "emulationMajor": "1", "emulationMinor": MINOR, "minCompatibilityMajor": "1", "minCompatibilityMinor": MINOR,
    })
}

fn paths(kinds: &Kinds) -> Value {
    let mut paths = vec![
        "/api".to_owned(),
        "/apis".into(),
        "/healthz".into(),
        "/livez".into(),
        "/openapi/v3".into(),
        "/readyz".into(),
        "/version".into(),
    ];
    for (group, versions) in kinds.groups() {
        paths.extend(versions.iter().map(|version| match group.is_empty() {
            true => format!("/api/{version}"),
            false => format!("/apis/{group}/{version}"),
        }));
    }
    json!({"paths": paths})
}

fn core_versions(core: &Core) -> Value {
    let address = core.config.addresses.first().map(ToString::to_string).unwrap_or_default();
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group(name: &str, versions: &[String]) -> Value {
    let each = |v: &String| json!({"groupVersion": join_version(name, v), "version": v});
    let versions: Vec<Value> = versions.iter().map(each).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn group_list(kinds: &Kinds) -> Value {
    let groups = kinds.groups().iter().filter(|(name, _)| !name.is_empty());
    let groups: Vec<Value> = groups.map(|(name, versions)| group(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_of(kinds: &Kinds, name: &str) -> Option<Value> {
    let (name, versions) = kinds.groups().iter().find(|(g, _)| g == name && !g.is_empty())?;
    let mut group = group(name, versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// What may be done with a kind.
pub fn verbs(kind: &Kind) -> Vec<&'static str> {
    if kind.review {
        return vec!["create"];
    }
    if kind.custom.is_some() {
        return vec!["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    }
    let mut verbs = vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    if matches!(&*kind.bucket, "/namespaces") {
        verbs.retain(|v| *v != "deletecollection");
    }
    verbs
}

/// A subresource: name, kind it speaks, verbs.
type Subresource = (&'static str, (String, String, String), &'static [&'static str]);

/// The subresources of a kind.
pub fn subresources(kind: &Kind) -> Vec<Subresource> {
    let of = |group: &str, version: &str, name: &str| (group.to_owned(), version.to_owned(), name.to_owned());
    let own = || of(&kind.group, &kind.version, &kind.kind);
    let mut all: Vec<Subresource> = Vec::new();
    match &*kind.bucket {
        "/pods" => {
            all.push(("attach", of("", "v1", "PodAttachOptions"), &["create", "get"]));
            all.push(("binding", of("", "v1", "Binding"), &["create"]));
            all.push(("ephemeralcontainers", own(), &["get", "patch", "update"]));
            all.push(("eviction", of("policy", "v1", "Eviction"), &["create"]));
            all.push(("exec", of("", "v1", "PodExecOptions"), &["create", "get"]));
            all.push(("log", own(), &["get"]));
            all.push(("portforward", of("", "v1", "PodPortForwardOptions"), &["create", "get"]));
        }
        "/namespaces" => all.push(("finalize", own(), &["update"])),
        "/serviceaccounts" => all.push(("token", of("authentication.k8s.io", "v1", "TokenRequest"), &["create"])),
        _ => {}
    }
    let status: Subresource = ("status", own(), &["get", "patch", "update"]);
    if kind.status && kind.custom.is_some() {
        all.push(status.clone());
    }
    if kind.scale.is_some() {
        all.push(("scale", of("autoscaling", "v1", "Scale"), &["get", "patch", "update"]));
    }
    if kind.status && kind.custom.is_none() {
        all.push(status);
    }
    all
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in kinds.in_version(group, version) {
        let mut entry = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": verbs(&kind)});
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for (name, (group, version, speaks), verbs) in subresources(&kind) {
            let mut entry = json!({"name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": speaks, "verbs": verbs});
            if (group.as_str(), version.as_str()) != (kind.group.as_str(), kind.version.as_str()) {
                entry["version"] = version.into();
                entry["group"] = group.into();
            }
            list.push(entry);
        }
    }
    let exists = !list.is_empty();
    let document =
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": join_version(group, version), "resources": list});
    exists.then_some(document)
}

fn aggregated(head: &Request<()>) -> bool {
    let accept = head.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|a| {
        let has = |part: &str| a.split(';').any(|p| p.trim() == part);
        has("application/json") && has("as=APIGroupDiscoveryList") && has("v=v2")
    })
}

fn aggregated_json(list: &Value) -> Response<Body> {
    let mut response = respond::json(200, list);
    let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    response
}

fn groups_aggregated(kinds: &Kinds, core: bool) -> Value {
    let groups = kinds.groups().iter().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|(name, versions)| {
            let versions = versions.iter().map(|version| {
                let resources: Vec<Value> = kinds.in_version(name, version).map(|k| resource_aggregated(&k)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn resource_aggregated(kind: &Kind) -> Value {
    let scope = if kind.namespaced { "Namespaced" } else { "Cluster" };
    let speaks = |group: &str, version: &str, name: &str| json!({"group": group, "version": version, "kind": name});
    let subresources: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, (group, version, kind), verbs)| {
            json!({"subresource": name, "responseKind": speaks(&group, &version, &kind), "verbs": verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": kind.plural, "responseKind": speaks(&kind.group, &kind.version, &kind.kind), "scope": scope,
        "singularResource": kind.singular, "verbs": verbs(kind),
    });
    for (field, values) in
        [("shortNames", json!(kind.short_names)), ("categories", json!(kind.categories)), ("subresources", json!(subresources))]
    {
        if values.as_array().is_some_and(|v| !v.is_empty()) {
            entry[field] = values;
        }
    }
    entry
}
