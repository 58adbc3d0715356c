#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn store() -> Store {
    let mut store = Store::default();
    let mut put = |plural: &str, object: Value| {
        store.put(&format!("{GROUP}/{plural}").as_str().into(), object);
    };
    put(
        "roles",
        json!({"metadata": {"namespace": "a", "name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]}),
    );
    put(
        "rolebindings",
        json!({"metadata": {"namespace": "a", "name": "web"}, "roleRef": {"kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "web"}]}),
    );
    put(
        "clusterroles",
        json!({"metadata": {"name": "one"},
        "rules": [{"apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["x"], "verbs": ["*"]}]}),
    );
    put(
        "clusterroles",
        json!({"metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "all"}}]}}),
    );
    put(
        "clusterroles",
        json!({"metadata": {"name": "part", "labels": {"part": "all"}},
        "rules": [{"nonResourceURLs": ["/healthz", "/logs/*"], "verbs": ["get"]}]}),
    );
    put(
        "clusterrolebindings",
        json!({"metadata": {"name": "one"}, "roleRef": {"kind": "ClusterRole", "name": "one"},
        "subjects": [{"kind": "User", "name": "eve"}]}),
    );
    put(
        "clusterrolebindings",
        json!({"metadata": {"name": "all"}, "roleRef": {"kind": "ClusterRole", "name": "all"},
        "subjects": [{"kind": "Group", "name": "ops"}]}),
    );
    store
}

fn action(verb: &str, what: &str, namespace: &str, name: &str) -> Action {
    let (group, resource) = what.split_once(':').unwrap();
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let [verb, group, resource, subresource, namespace, name] =
        [verb, group, resource, subresource, namespace, name].map(str::to_owned);
    Action { verb, group, resource, subresource, namespace, name, ..Action::default() }
}

#[test]
fn a_service_account_gets_what_its_role_says_and_no_more() {
    let store = store();
    let web = User { name: "system:serviceaccount:a:web".into(), ..User::default() };
    let check = |verb, what, namespace, yes| {
        assert_eq!(allowed(&store, &web, &action(verb, what, namespace, "p")), yes, "{verb} {what} {namespace}");
    };
    check("get", ":pods", "a", true);
    check("get", ":pods/log", "a", true);
    check("get", ":pods/status", "a", false);
    check("delete", ":pods", "a", false);
    check("get", ":pods", "b", false);
    check("list", ":pods", "", false);
    check("get", "apps:deployments", "a", false);
}

#[test]
fn names_groups_paths_and_masters() {
    let store = store();
    let eve = User { name: "eve".into(), ..User::default() };
    assert!(allowed(&store, &eve, &action("delete", "apps:deployments", "b", "x")));
    assert!(!allowed(&store, &eve, &action("delete", "apps:deployments", "b", "y")));
    let ops = User { name: "o".into(), groups: vec!["ops".into()], ..User::default() };
    let path = |path: &str| Action { verb: "get".into(), path: path.into(), ..Action::default() };
    assert!(allowed(&store, &ops, &path("/logs/a")));
    assert!(!allowed(&store, &ops, &path("/metrics")));
    assert!(!allowed(&store, &eve, &path("/healthz")));
    assert!(allowed(&store, &User::admin(), &path("/metrics")));
}
