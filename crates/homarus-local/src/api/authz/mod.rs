//! Who may do what: RBAC over the stored roles and bindings. Whatever no rule allows is refused.

pub mod bootstrap;

use serde_json::Value;

use super::authn::{MASTERS, User};
use super::refusal::Refusal;
use super::store::selector::Labels;
use super::store::{Name, Store};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What someone wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// `get`, `list`, ...
    pub verb: String,
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural; empty for a path.
    pub resource: String,
    /// `status`, `log`, ...
    pub subresource: String,
    /// Empty: all.
    pub namespace: String,
    /// Empty: all.
    pub name: String,
    /// What isn't a resource: `/healthz`.
    pub path: String,
}

/// Whether the roles of a store allow it.
pub fn allowed(store: &Store, user: &User, action: &Action) -> bool {
    user.groups.iter().any(|g| g == MASTERS) || rules(store, user, &action.namespace).iter().any(|r| covers(r, action))
}

/// All rules that hold for someone: cluster-wide ones and those of one namespace.
pub fn rules(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for binding in store.list(&format!("{GROUP}/clusterrolebindings"), "") {
        if names(&binding.value, user, "") {
            found.extend(role_rules(store, &binding.value["roleRef"], ""));
        }
    }
    if !namespace.is_empty() {
        for binding in store.list(&format!("{GROUP}/rolebindings"), namespace) {
            if names(&binding.value, user, namespace) {
                found.extend(role_rules(store, &binding.value["roleRef"], namespace));
            }
        }
    }
    found
}

/// Whether a binding names someone.
fn names(binding: &Value, user: &User, namespace: &str) -> bool {
    let subjects = binding["subjects"].as_array();
    subjects.into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => user.name == name,
            Some("Group") => user.groups.iter().any(|g| g == name),
            Some("ServiceAccount") => {
                let of = subject["namespace"].as_str().unwrap_or(namespace);
                user.service_account() == Some((of, name))
            }
            _ => false,
        }
    })
}

fn role_rules(store: &Store, reference: &Value, namespace: &str) -> Vec<Value> {
    let name = reference["name"].as_str().unwrap_or_default();
    let role = match reference["kind"].as_str() {
        Some("ClusterRole") => store.find(&format!("{GROUP}/clusterroles"), &Name::new("", name)),
        Some("Role") => store.find(&format!("{GROUP}/roles"), &Name::new(namespace, name)),
        _ => None,
    };
    let Some(role) = role else { return Vec::new() };
    let own = |role: &Value| role["rules"].as_array().cloned().unwrap_or_default();
    let mut rules = own(&role.value);
    for selector in role.value["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        let Some(selector) = Labels::from_object(selector) else { continue };
        let parts = store.list(&format!("{GROUP}/clusterroles"), "").filter(|r| selector.matches(&r.value));
        rules.extend(parts.flat_map(|part| own(&part.value)));
    }
    rules
}

/// Whether one rule covers an action.
fn covers(rule: &Value, action: &Action) -> bool {
    let has = |key: &str, wanted: &str| {
        rule[key].as_array().is_some_and(|all| all.iter().any(|v| v == "*" || v.as_str() == Some(wanted)))
    };
    if !has("verbs", &action.verb) {
        return false;
    }
    if action.resource.is_empty() {
        let paths = rule["nonResourceURLs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        return paths.into_iter().any(|path| match path.strip_suffix('*') {
            Some(prefix) => action.path.starts_with(prefix),
            None => action.path == path,
        });
    }
    let resource = match action.subresource.as_str() {
        "" => has("resources", &action.resource),
        sub => {
            let whole = format!("{}/{sub}", action.resource);
            has("resources", &whole) || has("resources", &format!("*/{sub}"))
        }
    };
    let names = rule["resourceNames"].as_array().filter(|n| !n.is_empty());
    let named = names.is_none_or(|names| names.iter().any(|n| n.as_str() == Some(action.name.as_str())));
    resource && named && has("apiGroups", &action.group)
}

/// The refusal, in the words of a real API server.
pub fn refusal(user: &User, action: &Action) -> Refusal {
    let Action { verb, group, resource, subresource, namespace, name, path, .. } = action;
    if resource.is_empty() {
        let mut refusal =
            Refusal::new(403, "Forbidden", format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name));
        refusal.details = serde_json::json!({});
        return refusal;
    }
    let scope = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        ns => format!("in the namespace \"{ns}\""),
    };
    let whole = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let what = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
    let message =
        format!("{what} is forbidden: User \"{}\" cannot {verb} resource \"{whole}\" in API group \"{group}\" {scope}", user.name);
    let mut refusal = Refusal::new(403, "Forbidden", message);
    let mut details = serde_json::json!({"kind": resource});
    if !name.is_empty() {
        details["name"] = name.as_str().into();
    }
    if !group.is_empty() {
        details["group"] = group.as_str().into();
    }
    refusal.details = details;
    refusal
}

#[cfg(test)]
mod tests;
