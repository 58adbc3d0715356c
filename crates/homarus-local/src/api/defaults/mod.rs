//! What the API adds to objects of each kind, as a real API server does: values that programs and kubectl rely on.
//!
//! [`apply`] may run any number of times; [`on_create`] resets what only others may write.

pub mod cluster;
pub mod metadata;
pub mod pod;
pub mod represent;
pub mod service;
mod workloads;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::now_text;
use super::schema::kinds::Kind;
use super::validate::structural;

/// Sets a field that isn't there.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        fields.entry(field).or_insert_with(|| value.into());
    }
}

/// The items of a list field, none if it isn't there.
pub fn each<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A record field, made if it isn't there.
pub fn within<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    if !object[field].is_object() {
        object[field] = json!({});
    }
    &mut object[field]
}

/// Defaults of the object's kind.
pub fn apply(kind: &Kind, object: &mut Value) {
    if let Some(custom) = &kind.custom {
        return structural::default(&custom.schema, object);
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod::defaults(object),
        ("", "services") => service::defaults(object),
        ("", "namespaces") => namespace(object),
        ("", "secrets") => secret(object),
        ("", "endpoints") => {
            for subset in each(object, "subsets") {
                each(subset, "ports").for_each(|port| set(port, "protocol", "TCP"));
            }
        }
        ("discovery.k8s.io", "endpointslices") => {
            each(object, "ports").for_each(|port| {
                set(port, "name", "");
                set(port, "protocol", "TCP");
            });
            each(object, "endpoints").for_each(|endpoint| set(endpoint, "conditions", json!({})));
        }
        ("", "events") => {
            ["eventTime", "firstTimestamp", "lastTimestamp"].iter().for_each(|time| set(object, time, Value::Null));
            ["reportingComponent", "reportingInstance"].iter().for_each(|who| set(object, who, ""));
        }
        ("events.k8s.io", "events") => {
            let times = ["eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"];
            times.iter().for_each(|time| set(object, time, Value::Null));
        }
        ("", "persistentvolumeclaims") => workloads::claim(object),
        ("apps", "deployments") => deployment(object),
        ("apps", "statefulsets") => workloads::stateful_set(object),
        ("apps", "daemonsets") => workloads::daemon_set(object),
        ("apps", "replicasets") => {
            set(within(object, "spec"), "replicas", 1);
            template(object);
        }
        ("batch", "jobs") => job(object),
        ("batch", "cronjobs") => workloads::cron_job(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("admissionregistration.k8s.io", plural) => each(object, "webhooks").for_each(|hook| webhook(plural, hook)),
        ("apiextensions.k8s.io", _) => definition(object),
        _ => {}
    }
}

/// What a new object starts with; status is nobody's to send.
pub fn on_create(kind: &Kind, object: &mut Value) {
    let status = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "nodes") => return,
        _ if kind.custom.is_some() => {
            if kind.status {
                object.as_object_mut().map(|o| o.remove("status"));
            }
            return;
        }
        ("", "pods") => json!({"phase": "Pending", "qosClass": pod::quality(&object["spec"])}),
        ("", "services") => json!({"loadBalancer": {}}),
        ("", "namespaces") => {
            within(object, "spec")["finalizers"] = json!(["kubernetes"]);
            json!({"phase": "Active"})
        }
        ("", "persistentvolumeclaims") => json!({"phase": "Pending"}),
        ("apps", "replicasets") => json!({"replicas": 0}),
        ("apps", "statefulsets") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "daemonsets") => workloads::no_daemons(),
        ("batch", "jobs") => {
            job_selector(object);
            json!({})
        }
        ("apiextensions.k8s.io", _) => accepted(&object["spec"]),
        _ if kind.status => json!({}),
        _ => return,
    };
    object["status"] = status;
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if name.is_string() {
        within(&mut object["metadata"], "labels")["kubernetes.io/metadata.name"] = name;
    }
    within(object, "spec");
}

fn secret(object: &mut Value) {
    set(object, "type", "Opaque");
    let plain = object.as_object_mut().and_then(|o| o.remove("stringData"));
    for (key, value) in plain.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let encoded = BASE64.encode(value.as_str().unwrap_or_default());
        within(object, "data")[key.as_str()] = encoded.into();
    }
}

fn template(object: &mut Value) {
    let template = within(within(object, "spec"), "template");
    within(template, "metadata");
    pod::spec_defaults(within(template, "spec"));
}

fn deployment(object: &mut Value) {
    let spec = within(object, "spec");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let strategy = within(spec, "strategy");
    set(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = within(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    template(object);
}

fn job(object: &mut Value) {
    let spec = within(object, "spec");
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    set(spec, "backoffLimit", 6);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    set(spec, "podReplacementPolicy", "TerminatingOrFailed");
    template(object);
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !object["metadata"]["labels"].is_object() && labels.is_object() {
        object["metadata"]["labels"] = labels;
    }
}

/// A job finds its pods by its own uid.
fn job_selector(object: &mut Value) {
    if object["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
    let spec = within(object, "spec");
    let labels = within(within(within(spec, "template"), "metadata"), "labels");
    for (key, value) in [("controller-uid", &uid), ("job-name", &name)] {
        set(labels, key, value.clone());
        set(labels, &format!("batch.kubernetes.io/{key}"), value.clone());
    }
    spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if object["roleRef"].is_object() {
        set(&mut object["roleRef"], "apiGroup", GROUP);
    }
    for subject in each(object, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            set(subject, "apiGroup", GROUP);
        }
    }
}

fn webhook(plural: &str, hook: &mut Value) {
    set(hook, "failurePolicy", "Fail");
    set(hook, "matchPolicy", "Equivalent");
    set(hook, "namespaceSelector", json!({}));
    set(hook, "objectSelector", json!({}));
    set(hook, "timeoutSeconds", 10);
    if plural == "mutatingwebhookconfigurations" {
        set(hook, "reinvocationPolicy", "Never");
    }
    each(hook, "rules").for_each(|rule| set(rule, "scope", "*"));
    if hook["clientConfig"]["service"].is_object() {
        set(&mut hook["clientConfig"]["service"], "port", 443);
    }
}

fn definition(object: &mut Value) {
    let spec = within(object, "spec");
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = within(spec, "names");
    set(names, "singular", kind.to_lowercase());
    set(names, "listKind", format!("{kind}List"));
    set(spec, "conversion", json!({"strategy": "None"}));
    // A definition may change; what it is known under follows.
    if object["status"]["acceptedNames"].is_object() {
        object["status"]["acceptedNames"] = object["spec"]["names"].clone();
    }
}

/// Names never clash here for long: a definition is served as soon as it is stored.
fn accepted(spec: &Value) -> Value {
    let now = now_text();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
    let versions = spec["versions"].as_array().into_iter().flatten();
    let stored: Vec<&Value> = versions.filter(|v| v["storage"] == true).map(|v| &v["name"]).collect();
    json!({
        "acceptedNames": spec["names"],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    })
}

#[cfg(test)]
mod tests;
