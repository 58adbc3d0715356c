#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::schema::kinds::Kinds;

fn cells(api_version: &str, kind: &str, object: Value) -> Vec<Value> {
    let kind = Kinds::default().of(api_version, kind).unwrap();
    let table = render(&kind, &[&object], json!({"resourceVersion": "1"}), None, true);
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len());
    cells
}

#[test]
fn every_kind_fills_its_columns() {
    for kind in Kinds::default().all().filter(|k| !k.review) {
        cells(&kind.api_version(), &kind.kind, json!({"metadata": {"name": "x"}}));
    }
}

#[test]
fn pods_in_one_word() {
    let check = |pod: Value, word: &str| assert_eq!(rows::pod_status(&pod), word, "{pod}");
    check(json!({"status": {"phase": "Pending"}}), "Pending");
    check(
        json!({"status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
        "CrashLoopBackOff",
    );
    check(
        json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}]}, "status": {"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}}),
        "Init:1/2",
    );
    check(json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}), "Terminating");
    check(
        json!({"status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}}),
        "Completed",
    );
}

#[test]
fn sidecars_count_as_containers() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}],
        "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}],
            "initContainerStatuses": [{"name": "proxy", "ready": true, "started": true, "restartCount": 2, "state": {"running": {}}}]}});
    let cells = cells("v1", "Pod", pod);
    assert_eq!(cells[1], "2/2");
    assert_eq!(cells[2], "Running");
    assert_eq!(cells[3], "2");
}

#[test]
fn durations() {
    let check = |seconds, text: &str| assert_eq!(rows::duration(seconds), text);
    check(0, "0s");
    check(119, "119s");
    check(125, "2m5s");
    check(3600, "60m");
    check(3 * 3600, "3h");
    check(50 * 3600, "2d2h");
    check(400 * 86400, "400d");
}

#[test]
fn paths_of_columns() {
    let object = json!({"spec": {"a.b": 1, "hosts": ["x", "y"]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let check = |path: &str, found: &[Value]| assert_eq!(rows::path(&object, path), found.iter().collect::<Vec<_>>(), "{path}");
    check(".spec.hosts", &[json!(["x", "y"])]);
    check(".spec.hosts[1]", &[json!("y")]);
    check(".spec.hosts[*]", &[json!("x"), json!("y")]);
    check(".spec.a\\.b", &[json!(1)]);
    check(".status.conditions[?(@.type==\"Ready\")].status", &[json!("True")]);
    check(".status.nothing.here", &[]);
}
