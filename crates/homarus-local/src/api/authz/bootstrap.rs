//! The roles and bindings every cluster starts with, as far as our kinds go. Users may change them afterwards.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": rules,
    })
}

fn binding(name: &str, role: &str, groups: &[&str]) -> Value {
    let subject = |g: &&str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": g});
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": groups.iter().map(subject).collect::<Vec<_>>(),
    })
}

const WORKLOADS: &[(&[&str], &[&str])] = &[
    (
        &[""],
        &[
            "configmaps",
            "endpoints",
            "events",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "pods/log",
            "pods/status",
            "serviceaccounts",
            "services",
            "services/status",
            "namespaces",
        ],
    ),
    (
        &["apps"],
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    (&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    (&["discovery.k8s.io"], &["endpointslices"]),
];

fn view() -> Vec<Value> {
    WORKLOADS.iter().map(|(groups, resources)| rule(groups, resources, READ)).collect()
}

fn edit() -> Vec<Value> {
    let mut rules = view();
    rules.push(rule(&[""], &["secrets", "pods/exec", "pods/portforward", "pods/proxy"], READ));
    rules.push(rule(
        &[""],
        &[
            "configmaps",
            "endpoints",
            "events",
            "persistentvolumeclaims",
            "pods",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "secrets",
            "serviceaccounts",
            "services",
        ],
        WRITE,
    ));
    rules.push(rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]));
    let workloads = [
        "daemonsets",
        "deployments",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    rules.push(rule(&["apps"], &workloads, WRITE));
    rules.push(rule(&["batch"], &["cronjobs", "jobs"], WRITE));
    rules.push(rule(&["coordination.k8s.io"], &["leases"], &[READ, WRITE].concat()));
    rules
}

fn admin() -> Vec<Value> {
    let mut rules = edit();
    rules.push(rule(&["rbac.authorization.k8s.io"], &["roles", "rolebindings"], &[READ, WRITE].concat()));
    rules.push(rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]));
    rules
}

fn node() -> Vec<Value> {
    vec![
        rule(&[""], &["nodes", "nodes/status"], &["create", "get", "list", "watch", "patch", "update"]),
        rule(&[""], &["pods"], &["get", "list", "watch", "create", "delete", "patch"]),
        rule(&[""], &["pods/status"], &["get", "patch", "update"]),
        rule(&[""], &["pods/binding", "pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(&[""], &["configmaps", "secrets", "services", "endpoints", "namespaces", "serviceaccounts"], READ),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&["coordination.k8s.io"], &["leases"], &["create", "delete", "get", "patch", "update"]),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews", "localsubjectaccessreviews"], &["create"]),
    ]
}

/// The objects a fresh cluster has.
pub fn objects() -> Vec<Value> {
    let everything = rule(&["*"], &["*"], &["*"]);
    let paths = |paths: &[&str]| json!({"nonResourceURLs": paths, "verbs": ["get"]});
    let info = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"];
    let reviews = rule(&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]);
    let whoami = rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]);
    let authenticated = &["system:authenticated"];
    vec![
        role("cluster-admin", vec![everything, json!({"nonResourceURLs": ["*"], "verbs": ["*"]})]),
        role("admin", admin()),
        role("edit", edit()),
        role("view", view()),
        role("system:node", node()),
        role("system:discovery", vec![paths(&[&info[..], &discovery[..]].concat())]),
        role("system:basic-user", vec![reviews, whoami]),
        role("system:public-info-viewer", vec![paths(&info)]),
        role(
            "system:service-account-issuer-discovery",
            vec![paths(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ])],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        binding("cluster-admin", "cluster-admin", &["system:masters"]),
        binding("system:node", "system:node", &["system:nodes"]),
        binding("system:discovery", "system:discovery", authenticated),
        binding("system:basic-user", "system:basic-user", authenticated),
        binding("system:public-info-viewer", "system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
        binding("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", &["system:serviceaccounts"]),
    ]
}
