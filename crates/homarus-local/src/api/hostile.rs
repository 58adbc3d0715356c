//! Hostile input: whatever a client sends to the parts that parse and change objects, they answer, at a bounded cost.
#![allow(clippy::unwrap_used)]

use http::Method;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::patch::{self, Format};
use super::schema::kinds::{Kind, Kinds};
use super::schema::{Shape, custom};
use super::serve::target::{Query, Target};
use super::store::selector::{Fields, Labels};
use super::validate::{self, decode, structural};

/// Names that mean something to one of the parts, so that they are reached.
const NAMES: &[&str] = &[
    "metadata",
    "name",
    "labels",
    "spec",
    "containers",
    "ports",
    "containerPort",
    "protocol",
    "finalizers",
    "status",
    "conditions",
    "type",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "ownerReferences",
    "uid",
    "other",
];
const WORDS: &[&str] = &["delete", "replace", "merge", "a", "b", "Ready", ""];

/// Keywords of schemas, and what may stand there.
const KEYWORDS: &[&str] = &[
    "type",
    "properties",
    "items",
    "additionalProperties",
    "required",
    "default",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "a",
    "b",
];
const TYPES: &[&str] = &["object", "array", "string", "integer", "number", "boolean", "date-time", "[", "(a*)*b", "map", "a"];

/// JSON of these names and words.
fn tree(names: &'static [&'static str], words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-4_i64..5).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(words).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(names), inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
            }),
        ]
    })
}

fn objects() -> impl Strategy<Value = Value> {
    tree(NAMES, WORDS)
}

fn schemas() -> impl Strategy<Value = Value> {
    tree(KEYWORDS, TYPES)
}

fn pods() -> std::sync::Arc<Kind> {
    Kinds::default().find("", "v1", "pods").unwrap()
}

fn pod() -> Value {
    json!({"metadata": {"name": "a", "finalizers": ["x", "y"]}, "spec": {"containers": [
        {"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}]}, {"name": "b"},
    ]}})
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_label_selector_or_refused(text in "[a-z0-9 ,!=()/._-]{0,40}|.{0,40}", object in objects()) {
        if let Ok(labels) = Labels::parse(&text) {
            let fits = labels.matches(&object);
            // What is shown is the same selector.
            prop_assert_eq!(Labels::parse(&labels.to_string()).map(|again| again.matches(&object)), Ok(fits), "{}", text);
        }
    }

    #[test]
    fn any_object_is_a_selector_or_none(selector in tree(&["matchLabels", "matchExpressions", "key", "operator", "values"], &["In", "NotIn", "Exists", "a"]), labels in objects()) {
        let _ = Labels::from_object(&selector).map(|s| s.matches_labels(&labels));
    }

    #[test]
    fn any_text_is_a_field_selector_or_refused(text in "[a-zA-Z.,!=]{0,40}|.{0,40}", object in objects()) {
        let _ = Fields::parse(&text).map(|fields| fields.matches(&object));
    }

    #[test]
    fn any_path_names_something_or_nothing(
        path in vec(select(&["api", "apis", "apps", "v1", "namespaces", "pods", "a", "status", "log", "%2f", "%zz", "..", ""][..]), 0..9)
            .prop_map(|parts| format!("/{}", parts.join("/"))),
        query in "[a-z=&%0-9+]{0,60}|.{0,40}",
        method in select(&[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS][..]),
    ) {
        if let Ok(Some(target)) = Target::parse(&Kinds::default(), &path, Some(&query), &method) {
            let _ = (target.action(), target.labels(), target.fields(), target.stored_name());
        }
        let values: usize = Query::all(&query, "a").iter().map(String::len).sum();
        // Replacement characters are three bytes for one.
        prop_assert!(values <= 3 * query.len());
    }

    #[test]
    fn merging_twice_is_merging_once(object in objects(), patch in objects()) {
        let mut once = object;
        patch::merge(&mut once, &patch);
        let mut twice = once.clone();
        patch::merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn any_patch_changes_an_object_or_is_refused(patch in objects(), object in objects()) {
        for format in [Format::Json, Format::Merge, Format::Strategic] {
            for old in [&pod(), &object] {
                if let Ok(new) = patch::patched(format, &pods(), old, &patch) {
                    prop_assert!(new.is_object());
                }
            }
        }
    }

    #[test]
    fn any_operations_change_an_object_or_are_refused(
        operations in vec((
            select(&["add", "remove", "replace", "move", "copy", "test", "nonsense"][..]),
            "(/(metadata|spec|containers|[0-9-]{1,3}|name|~[012])){0,4}", "(/(metadata|spec|containers|0|-))?{0,3}", objects(),
        ), 0..12),
    ) {
        let operations: Vec<Value> = operations
            .into_iter()
            .map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
            .collect();
        let _ = patch::patched(Format::Json, &pods(), &pod(), &operations.into());
    }

    #[test]
    fn any_object_is_cleaned_and_applied(object in objects(), other in objects()) {
        let mut cleaned = object.clone();
        decode::clean(&pods().shape, &mut cleaned, true);
        let set = patch::apply::owned(&pods(), "", &object);
        let _ = patch::fields::from_json(&patch::fields::to_json(&set));
        let _ = patch::apply::merged(&pods(), &other, &object);
        let _ = patch::fields::from_json(&other);
    }

    #[test]
    fn any_schema_judges_any_object(schema in schemas(), object in tree(&["a", "b"], TYPES)) {
        let mut object = object;
        structural::default(&schema, &mut object);
        prop_assert!(structural::validate(&schema, &object, "spec").len() <= 64);
        let shape: Shape = custom::shape(&schema);
        decode::prune(&shape, &mut object);
        let definition = json!({"metadata": {"name": "as.b"}, "spec": {
            "group": "b", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}, object],
        }});
        let _ = custom::kinds(&definition);
        let _ = custom::kinds(&object);
    }
}

#[test]
fn copies_that_double_an_object_end_somewhere() {
    let copies = (0..64).map(|n| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/x{n}")}));
    let refused = patch::patched(Format::Json, &pods(), &pod(), &copies.collect()).unwrap_err();
    assert_eq!(refused.code, 413, "{refused}");
}

#[test]
fn objects_are_bounded_however_they_grew() {
    let nested = |depth| (0..depth).fold(json!("x"), |inner, _| json!({"a": inner}));
    let judged = |value: Value| validate::on_update(&pods(), "", &pod(), &value).map_err(|r| r.code);
    assert_ne!(judged(nested(100)), Err(413));
    assert_eq!(judged(nested(101)), Err(413));
    assert_eq!(judged(json!({"a": ["x".repeat(2 << 20), "x".repeat(2 << 20)]})), Err(413));
    assert_eq!(judged(json!({"x".repeat(4 << 20): 1})), Err(413));
}
