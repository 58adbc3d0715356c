#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::api::schema::kinds::Kinds;

fn check(api_version: &str, kind: &str, object: Value, fields: &[&str]) {
    let kind = Kinds::default().of(api_version, kind).unwrap();
    let found: Vec<String> = content(&kind, &object, "").into_iter().map(|c| c.field).collect();
    assert_eq!(found, fields, "{object}");
}

#[test]
fn what_kinds_demand() {
    let container = json!({"name": "a", "image": "b"});
    check("v1", "Pod", json!({"spec": {"containers": [container]}}), &[]);
    check("v1", "Pod", json!({"spec": {"containers": [{"name": "A"}]}}), &["spec.containers[0].name", "spec.containers[0].image"]);
    check("v1", "Pod", json!({}), &["spec.containers"]);
    let mounted = json!({"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    check("v1", "Pod", json!({"spec": {"containers": [mounted]}}), &["spec.containers[0].volumeMounts[0].name"]);
    check("v1", "Service", json!({"spec": {}}), &["spec.ports"]);
    check("v1", "Service", json!({"spec": {"clusterIP": "None"}}), &[]);
    check(
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 0, "name": "x"}]}}),
        &["spec.ports[0].name", "spec.ports[1].port"],
    );
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
    let deployment = |label: &str| json!({"spec": {"selector": {"matchLabels": {"a": label}}, "template": template}});
    check("apps/v1", "Deployment", deployment("b"), &[]);
    check("apps/v1", "Deployment", deployment("c"), &["spec.template.metadata.labels"]);
}

#[test]
fn what_may_not_change() {
    let kinds = Kinds::default();
    let pod = kinds.of("v1", "Pod").unwrap();
    let with = |image: &str, arg: &str| json!({"spec": {"containers": [{"name": "a", "image": image, "args": [arg]}]}});
    assert!(immutable(&pod, "", &with("a", "x"), &with("b", "x")).is_empty());
    assert_eq!(immutable(&pod, "", &with("a", "x"), &with("a", "y")).len(), 1);
    let role = kinds.of("rbac.authorization.k8s.io/v1", "RoleBinding").unwrap();
    let to = |name: &str| json!({"roleRef": {"name": name}});
    assert_eq!(immutable(&role, "", &to("a"), &to("b")).len(), 1);
}
