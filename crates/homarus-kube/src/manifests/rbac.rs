//! Who may do what (control-plane §1.6).

use serde_json::{Value, json};

const READ: [&str; 3] = ["get", "list", "watch"];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

/// ServiceAccounts, roles and bindings.
pub(super) fn objects(namespace: &str) -> Vec<Value> {
    let mut objects: Vec<_> = ["identity", "destination", "proxy-injector"].map(|c| account(namespace, c)).into();
    let named = |component: &str| format!("linkerd-{namespace}-{component}");
    let roles = [
        (named("destination"), named("destination"), "destination", destination()),
        ("linkerd-policy".into(), "linkerd-destination-policy".into(), "destination", policy()),
        (named("identity"), named("identity"), "identity", identity()),
        (named("proxy-injector"), named("proxy-injector"), "proxy-injector", injector()),
    ];
    for (role, binding, component, rules) in roles {
        objects.extend(cluster_role(namespace, &role, &binding, component, rules));
    }
    objects.extend(remote_discovery(namespace));
    objects.push(role(
        namespace,
        "ext-namespace-metadata-linkerd-config",
        json!([{
            "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["linkerd-config"],
        }]),
    ));
    objects
}

fn labels(namespace: &str, component: &str) -> Value {
    json!({ "linkerd.io/control-plane-component": component, "linkerd.io/control-plane-ns": namespace })
}

fn account(namespace: &str, component: &str) -> Value {
    let metadata = json!({
        "name": format!("linkerd-{component}"), "namespace": namespace, "labels": labels(namespace, component),
    });
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })
}

fn cluster_role(namespace: &str, role: &str, binding: &str, component: &str, rules: Value) -> [Value; 2] {
    let metadata = |name: &str| json!({ "name": name, "labels": labels(namespace, component) });
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": metadata(role),
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata(binding),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": format!("linkerd-{component}"), "namespace": namespace }],
        }),
    ]
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": name, "namespace": namespace, "labels": labels(namespace, "destination") },
        "rules": rules,
    })
}

fn remote_discovery(namespace: &str) -> [Value; 2] {
    [
        role(namespace, "remote-discovery", json!([rule("", &["secrets"], &READ)])),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {
                "name": "linkerd-destination-remote-discovery",
                "namespace": namespace,
                "labels": labels(namespace, "destination"),
            },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "remote-discovery" },
            "subjects": [{ "kind": "ServiceAccount", "name": "linkerd-destination", "namespace": namespace }],
        }),
    ]
}

fn destination() -> Value {
    json!([
        rule("apps", &["replicasets"], &READ),
        rule("batch", &["jobs"], &READ),
        rule("", &["pods", "endpoints", "services", "nodes"], &READ),
        rule("linkerd.io", &["serviceprofiles"], &READ),
        rule("workload.linkerd.io", &["externalworkloads"], &READ),
        rule("coordination.k8s.io", &["leases"], &["create", "get", "update", "patch"]),
        rule("discovery.k8s.io", &["endpointslices"], &["list", "get", "watch", "create", "update", "patch", "delete"]),
    ])
}

fn policy() -> Value {
    let policies = [
        "authorizationpolicies",
        "httplocalratelimitpolicies",
        "httproutes",
        "meshtlsauthentications",
        "networkauthentications",
        "servers",
        "serverauthorizations",
        "egressnetworks",
    ];
    let routes = ["httproutes", "grpcroutes", "tlsroutes", "tcproutes"];
    let status = |kinds: &[&str]| kinds.iter().map(|kind| format!("{kind}/status")).collect::<Vec<_>>();
    json!([
        rule("", &["pods"], &READ),
        rule("apps", &["deployments"], &["get"]),
        rule("policy.linkerd.io", &policies, &READ),
        rule("gateway.networking.k8s.io", &routes, &READ),
        rule("workload.linkerd.io", &["externalworkloads"], &READ),
        {
            "apiGroups": ["policy.linkerd.io"],
            "resources": status(&["httproutes", "httplocalratelimitpolicies", "egressnetworks"]),
            "verbs": ["patch"],
        },
        { "apiGroups": ["gateway.networking.k8s.io"], "resources": status(&routes), "verbs": ["patch"] },
        rule("coordination.k8s.io", &["leases"], &["create", "get", "patch"]),
    ])
}

fn identity() -> Value {
    json!([rule("authentication.k8s.io", &["tokenreviews"], &["create"]), events(),])
}

/// Both groups that Events have.
fn events() -> Value {
    json!({ "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] })
}

fn injector() -> Value {
    json!([
        events(),
        rule("", &["namespaces", "replicationcontrollers"], &READ),
        rule("", &["pods"], &["list", "watch"]),
        rule("", &["pods/eviction"], &["create"]),
        rule("coordination.k8s.io", &["leases"], &["create", "get", "update"]),
        rule("extensions", &["deployments", "replicasets", "daemonsets", "statefulsets"], &READ),
        rule("apps", &["deployments", "replicasets", "daemonsets", "statefulsets"], &READ),
        rule("batch", &["cronjobs", "jobs"], &READ),
    ])
}
