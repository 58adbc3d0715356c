//! Profiles, good and bad (control-plane §9).
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::webhook::review::Review;

fn asked(name: &str, spec: Value) -> Judgement {
    let object = json!({
        "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile", "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "kind": { "group": "linkerd.io", "version": "v1alpha2", "kind": "ServiceProfile" }, "object": object },
    });
    judge(&Review::parse(review.to_string().as_bytes()).unwrap().request)
}

const NAME: &str = "web.shop.svc.cluster.local";

fn route(fields: Value) -> Value {
    let mut route = json!({ "name": "GET /", "condition": { "method": "GET", "pathRegex": "/" } });
    route.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "routes": [route] })
}

#[test]
fn good_profiles_are_stored() {
    for spec in [
        json!({}),
        route(json!({ "timeout": "1m30s", "isRetryable": true })),
        route(json!({ "condition": { "all": [{ "pathRegex": "/a" }, { "not": { "method": "POST" } }] } })),
        route(json!({ "condition": { "any": [{ "method": "GET" }] } })),
        route(json!({ "responseClasses": [{ "condition": { "status": { "min": 500, "max": 599 } }, "isFailure": true }] })),
        route(json!({ "responseClasses": [{ "condition": { "not": { "status": { "max": 399 } } } }] })),
        json!({ "retryBudget": { "retryRatio": 0.2, "minRetriesPerSecond": 10, "ttl": "10s" } }),
        json!({ "dstOverrides": [{ "authority": "a.b:80", "weight": "500m" }, { "authority": "c.d:80", "weight": 1 }] }),
    ] {
        assert_eq!(asked(NAME, spec.clone()), Ok(Vec::new()), "{spec}");
    }
}

#[test]
fn bad_profiles_are_refused_with_their_field() {
    for (spec, field) in [
        (json!({ "rotes": [] }), "spec.rotes"),
        (json!({ "routes": [null] }), "spec.routes[0]: it is null"),
        (json!({ "routes": [{ "name": "a" }] }), "spec.routes[0].condition: it is missing"),
        (json!({ "routes": [{ "condition": { "method": "GET" } }] }), "spec.routes[0].name: it is missing"),
        (route(json!({ "timeout": "soon" })), "spec.routes[0].timeout: \"soon\""),
        (route(json!({ "condition": {} })), "spec.routes[0].condition: it is empty"),
        (route(json!({ "condition": { "all": [{}] } })), "condition: it is empty"),
        (route(json!({ "condition": { "any": [null] } })), "is null"),
        (route(json!({ "condition": { "not": [{ "method": "GET" }] } })), "write it inside of all or any"),
        (route(json!({ "condition": { "method": "GET", "path": "/" } })), "unknown field `path`"),
        (route(json!({ "isRetryable": "yes" })), "isRetryable"),
        (route(json!({ "responseClasses": [{ "isFailure": true }] })), "responseClasses[0].condition: it is missing"),
        (route(json!({ "responseClasses": [{ "condition": { "status": { "min": 99 } } }] })), "no range of statuses"),
        (route(json!({ "responseClasses": [{ "condition": { "status": { "max": 600 } } }] })), "no range of statuses"),
        (route(json!({ "responseClasses": [{ "condition": { "status": { "min": 500, "max": 400 } } }] })), "less than min"),
        (route(json!({ "responseClasses": [{ "condition": { "all": [{}] } }] })), "condition: it is empty"),
        (json!({ "retryBudget": { "retryRatio": -1, "ttl": "1s" } }), "retryRatio: it is negative"),
        (json!({ "retryBudget": { "retryRatio": 0.2, "minRetriesPerSecond": 1 } }), "ttl: it is missing"),
        (json!({ "retryBudget": { "ttl": "x" } }), "spec.retryBudget.ttl: \"x\""),
        (json!({ "retryBudget": { "ttl": "1s", "minRetriesPerSecond": -1 } }), "minRetriesPerSecond"),
        (json!({ "opaquePorts": ["80"] }), "config.linkerd.io/opaque-ports"),
    ] {
        let reason = asked(NAME, spec.clone()).unwrap_err();
        assert!(reason.contains(field), "{spec}: {reason}");
    }
}

#[test]
fn names_are_names_of_services() {
    for good in ["web", "web.shop.svc.cluster.local", "a-1.b"] {
        assert!(asked(good, json!({})).is_ok(), "{good}");
    }
    for bad in ["", "Web", "a..b", "-a", "a_b", "a.b-"] {
        assert!(asked(bad, json!({})).unwrap_err().starts_with("metadata.name"), "{bad}");
    }
}

#[test]
fn other_kinds_and_nothing_are_refused() {
    let of = |request: Value| {
        let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request });
        judge(&Review::parse(review.to_string().as_bytes()).unwrap().request)
    };
    assert!(of(json!({ "uid": "u", "kind": { "group": "", "kind": "Pod" }, "object": {} })).is_err());
    assert!(of(json!({ "uid": "u", "kind": { "group": "linkerd.io", "kind": "ServiceProfile" } })).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_answered(depth in 0..200usize, name in "\\PC{0,20}", timeout in "\\PC{0,8}") {
        let mut condition = json!({ "method": "GET" });
        for _ in 0..depth.min(60) {
            condition = json!({ "all": [condition] });
        }
        let _ = asked(&name, route(json!({ "condition": condition, "timeout": timeout })));
    }
}
