//! What stands between a request and the store: the cluster's own rules, then the webhooks that users registered.

pub mod dial;
pub mod service_account;
pub mod webhook;

use std::sync::Arc;

use serde_json::{Value, json};

use super::Core;
use super::authn::User;
use super::defaults::{set, within};
use super::refusal::{Answer, Refusal};
use super::schema::kinds::Kind;
use super::store::Name;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT and PATCH.
    Update,
    /// DELETE.
    Delete,
}

impl Operation {
    /// As webhook rules say it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// What is asked of admission.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of which kind.
    pub kind: Arc<Kind>,
    /// What is done.
    pub operation: Operation,
    /// Through which subresource.
    pub subresource: String,
    /// Namespace of the path.
    pub namespace: String,
    /// Name of the path.
    pub name: String,
    /// Who asks.
    pub user: User,
    /// What was there.
    pub old: Option<Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
}

/// Nothing is created in a namespace that isn't there or is going.
pub fn namespace_accepts(core: &Core, kind: &Kind, object: &Value) -> Answer<()> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let Some(found) = core.store.find("/namespaces", &Name::new("", namespace)) else {
        let mut refusal = Refusal::new(404, "NotFound", format!("namespaces \"{namespace}\" not found"));
        refusal.details = json!({"name": namespace, "kind": "namespaces"});
        return Err(refusal);
    };
    if found.value["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut refusal = Refusal::forbidden(kind, name, &why);
    refusal.details["causes"] = json!([{
        "reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    }]);
    Err(refusal)
}

/// The cluster's own changes to an object.
pub fn builtin(core: &Core, kind: &Kind, operation: Operation, object: &mut Value) -> Answer<()> {
    if &*kind.bucket == "/pods" && operation == Operation::Create {
        tolerate(within(object, "spec"));
        set(&mut object["spec"], "priority", 0);
        set(&mut object["spec"], "preemptionPolicy", "PreemptLowerPriority");
        service_account::admit(core, kind, object)?;
    }
    Ok(())
}

/// A pod outlives its node's silence for five minutes.
fn tolerate(spec: &mut Value) {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| (t["key"] == key || t["key"].is_null()) && (t["effect"] == "NoExecute" || t["effect"].is_null());
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec["tolerations"] = tolerations.into();
}

/// What no one may delete.
pub fn may_delete(kind: &Kind, name: &Name) -> Answer<()> {
    let lasting = ["default", "kube-system", "kube-public"];
    if &*kind.bucket == "/namespaces" && lasting.contains(&name.name.as_str()) {
        return Err(Refusal::forbidden(kind, &name.name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Mutating webhooks, one after the other in order of name.
pub async fn mutate(core: &Arc<Core>, request: &Request, object: Value, warnings: &mut Vec<String>) -> Answer<Value> {
    let mut object = object;
    for hook in webhook::registered(core, "mutatingwebhookconfigurations", request, &object) {
        object = webhook::call(core, &hook, request, object, warnings).await?;
    }
    Ok(object)
}

/// Validating webhooks: any refusal refuses.
pub async fn validate(core: &Arc<Core>, request: &Request, object: Option<&Value>, warnings: &mut Vec<String>) -> Answer<()> {
    let object = object.cloned().unwrap_or_default();
    for hook in webhook::registered(core, "validatingwebhookconfigurations", request, &object) {
        webhook::call(core, &hook, request, object.clone(), warnings).await?;
    }
    Ok(())
}
