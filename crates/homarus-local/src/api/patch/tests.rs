#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::fields::Writer;
use super::*;
use crate::api::schema::kinds::Kinds;

fn kind(api_version: &str, kind: &str) -> std::sync::Arc<Kind> {
    Kinds::default().of(api_version, kind).unwrap()
}

#[test]
fn merge_patches() {
    let check = |mut target: Value, patch: Value, result: Value| {
        merge(&mut target, &patch);
        assert_eq!(target, result);
    };
    // RFC 7386, appendix A.
    check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
    check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
    check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
    check(json!({"a": "foo"}), json!("bar"), json!("bar"));
    check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
}

#[test]
fn strategic_patches() {
    let deployment = kind("apps/v1", "Deployment");
    let pod = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let check = |old: Value, patch: Value, new: Value| {
        assert_eq!(patched(Format::Strategic, &deployment, &old, &patch).unwrap(), new, "{patch}");
    };
    let two = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    check(
        pod(two.clone()),
        pod(json!([{"name": "b", "image": "2"}])),
        pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
    );
    check(pod(two.clone()), pod(json!([{"name": "a", "$patch": "delete"}])), pod(json!([{"name": "b", "image": "1"}])));
    check(pod(two.clone()), pod(json!([{"$patch": "replace"}, {"name": "c"}])), pod(json!([{"name": "c"}])));
    check(
        pod(two.clone()),
        json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}}}),
        pod(json!([{"name": "b", "image": "1"}, {"name": "a", "image": "1"}])),
    );
    let volumes = |v: Value| json!({"spec": {"template": {"spec": {"volumes": v}}}});
    check(
        volumes(json!([{"name": "v", "emptyDir": {}}])),
        volumes(json!([{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}])),
        volumes(json!([{"name": "v", "secret": {"secretName": "s"}}])),
    );
    let finalizers = |f: Value| json!({"metadata": {"finalizers": f}});
    check(finalizers(json!(["a"])), finalizers(json!(["b", "a"])), finalizers(json!(["b", "a"])));
    check(
        finalizers(json!(["a", "b"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        finalizers(json!(["b"])),
    );
    let selector = |s: Value| json!({"spec": {"selector": s}});
    check(
        selector(json!({"matchLabels": {"a": "b"}})),
        selector(json!({"$patch": "replace", "matchLabels": {"c": "d"}})),
        selector(json!({"matchLabels": {"c": "d"}})),
    );
    let nameless = patched(Format::Strategic, &deployment, &pod(two), &pod(json!([{"image": "x"}])));
    assert_eq!(nameless.unwrap_err().code, 500);
}

fn writer(manager: &str, operation: &'static str) -> Writer {
    let [subresource, api_version, time] = ["", "v1", "2026-01-01T00:00:00Z"].map(str::to_owned);
    Writer { manager: manager.into(), operation, subresource, api_version, time }
}

fn applied(old: &Value, patch: &Value, manager: &str, force: bool) -> Answer<Value> {
    let kind = kind("v1", old["kind"].as_str().unwrap());
    let set = apply::owned(&kind, "", patch);
    let writer = writer(manager, "Apply");
    let mut new = apply::apply(&kind, old, patch, &set, &writer, force)?;
    fields::record_apply(&mut new, &set, &writer);
    Ok(new)
}

#[test]
fn apply_keeps_others_fields_and_drops_its_own_former_ones() {
    let old = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "1"}});
    let one = applied(&old, &json!({"data": {"a": "1", "b": "1"}}), "one", false).unwrap();
    assert_eq!(one["data"], json!({"a": "1", "b": "1", "x": "1"}));
    let again = applied(&one, &json!({"data": {"a": "2"}}), "one", false).unwrap();
    assert_eq!(again["data"], json!({"a": "2", "x": "1"}));
    assert_eq!(again["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:data": {"f:a": {}}}));
}

#[test]
fn apply_conflicts_unless_forced() {
    let old = json!({"kind": "ConfigMap", "metadata": {"name": "c"}});
    let one = applied(&old, &json!({"data": {"a": "1"}}), "one", false).unwrap();
    let refusal = applied(&one, &json!({"data": {"a": "2"}}), "two", false).unwrap_err();
    assert_eq!(refusal.code, 409);
    assert_eq!(refusal.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let same = applied(&one, &json!({"data": {"a": "1"}}), "two", false).unwrap();
    assert_eq!(same["metadata"]["managedFields"].as_array().unwrap().len(), 2);
    let forced = applied(&one, &json!({"data": {"a": "2"}}), "two", true).unwrap();
    assert_eq!(forced["data"]["a"], "2");
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

#[test]
fn apply_merges_lists_by_their_keys() {
    let old = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "side", "image": "s"}]}});
    let ports = |ports: Value| json!({"spec": {"containers": [{"name": "app", "image": "a", "ports": ports}]}});
    let one = applied(&old, &ports(json!([{"containerPort": 80}])), "one", false).unwrap();
    assert_eq!(one["spec"]["containers"].as_array().unwrap().len(), 2);
    let two = applied(&one, &ports(json!([{"containerPort": 81}])), "one", false).unwrap();
    assert_eq!(two["spec"]["containers"][1]["ports"], json!([{"containerPort": 81}]));
}

#[test]
fn updates_take_what_they_change() {
    let kind = kind("v1", "ConfigMap");
    let mut first = json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}});
    fields::record_update(&kind, None, &first.clone(), &mut first, &writer("one", "Update"));
    let mut second = first.clone();
    second["data"] = json!({"a": "2"});
    fields::record_update(&kind, Some(&first), &second.clone(), &mut second, &writer("two", "Update"));
    let entries = fields::entries(&second);
    let of = |manager: &str| entries.iter().find(|e| e.manager == manager).map(|e| fields::to_json(&e.set));
    assert_eq!(of("two"), Some(json!({"f:data": {"f:a": {}}})));
    // Who made the map keeps it.
    assert_eq!(of("one"), Some(json!({"f:data": {}})));
}

#[test]
fn field_sets_survive_being_written() {
    let pod = kind("v1", "Pod");
    let object = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["f"]},
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}});
    let set = fields::owned(&pod, "", &object, true);
    assert_eq!(fields::from_json(&fields::to_json(&set)), set);
    let text = fields::to_json(&set).to_string();
    assert!(text.contains(r#"k:{\"containerPort\":80,\"protocol\":\"TCP\"}"#), "{text}");
}
