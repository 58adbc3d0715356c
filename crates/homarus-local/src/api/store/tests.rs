#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn object(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}})
}

fn bucket() -> Arc<str> {
    "/pods".into()
}

#[test]
fn revisions_grow_and_are_stamped() {
    let mut store = Store::starting_at(7);
    let change = store.put(&bucket(), object("a", "x"));
    assert_eq!(change.revision, 8);
    assert_eq!(change.after.value["metadata"]["resourceVersion"], "8");
    assert!(change.before.is_none());
    let change = store.remove(&bucket(), &Name::new("a", "x"), None).unwrap();
    assert_eq!(change.after.value["metadata"]["resourceVersion"], "9");
    assert!(store.remove(&bucket(), &Name::new("a", "x"), None).is_none());
}

#[test]
fn a_namespace_lists_only_its_own() {
    let mut store = Store::default();
    for (namespace, name) in [("a", "y"), ("ab", "x"), ("a", "x"), ("b", "x")] {
        store.put(&bucket(), object(namespace, name));
    }
    let names: Vec<_> = store.list("/pods", "a").map(|o| o.value["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["x", "y"]);
    assert_eq!(store.list("/pods", "").count(), 4);
    assert_eq!(store.list("/nothing", "").count(), 0);
}

#[test]
fn a_watch_resumes_within_the_window_and_not_before() {
    let mut store = Store::starting_at(100);
    assert_eq!(store.since("/pods", 99).unwrap_err(), Forgotten { oldest: 100 });
    for _ in 0..WINDOW + 10 {
        store.put(&bucket(), object("a", "x"));
    }
    assert_eq!(store.since("/pods", 100).unwrap_err(), Forgotten { oldest: 110 });
    assert_eq!(store.since("/pods", 110).unwrap().len(), WINDOW);
    assert_eq!(store.since("/pods", store.revision()).unwrap().len(), 0);
}
