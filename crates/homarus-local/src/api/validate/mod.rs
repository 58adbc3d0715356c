//! Whether an object may be stored: its names, what its kind demands, its custom schema.

pub mod decode;
pub mod names;
pub mod structural;
mod workloads;

use serde_json::Value;

use super::refusal::{Answer, Cause, Refusal};
use super::schema::kinds::Kind;

/// Objects nested deeper aren't stored: patches could deepen them until nothing, we included, could read them any more.
const MAX_DEPTH: usize = 100;
/// Larger ones neither, whatever small patches they grow by: about as much as one request may hold.
const MAX_SIZE: usize = 3 << 20;

/// A new object.
pub fn on_create(kind: &Kind, object: &Value) -> Answer<()> {
    check_bounds(object)?;
    let mut causes = names::check(kind, object);
    causes.extend(content(kind, object, ""));
    refuse(kind, object, causes)
}

/// A changed object.
pub fn on_update(kind: &Kind, subresource: &str, old: &Value, new: &Value) -> Answer<()> {
    check_bounds(new)?;
    let mut causes = names::check_metadata(new);
    causes.extend(late_finalizers(old, new));
    causes.extend(content(kind, new, subresource));
    causes.extend(immutable(kind, subresource, old, new));
    refuse(kind, new, causes)
}

fn check_bounds(object: &Value) -> Answer<()> {
    if fits(object, MAX_DEPTH, &mut { MAX_SIZE }) {
        return Ok(());
    }
    let message = format!("the object is nested deeper than {MAX_DEPTH} or larger than {MAX_SIZE} bytes");
    Err(Refusal::new(413, "RequestEntityTooLarge", message))
}

/// Whether a value is no deeper than that, and fits into the room, which it takes.
fn fits(value: &Value, depth: usize, room: &mut usize) -> bool {
    let mut take = |bytes: usize| match room.checked_sub(bytes + 1) {
        Some(left) => {
            *room = left;
            true
        }
        None => false,
    };
    match value {
        Value::String(text) => take(text.len()),
        Value::Array(items) => take(0) && depth > 0 && items.iter().all(|item| fits(item, depth - 1, room)),
        Value::Object(fields) => {
            let names = fields.keys().map(|name| name.len() + 1).sum();
            take(names) && depth > 0 && fields.values().all(|inner| fits(inner, depth - 1, room))
        }
        _ => take(0),
    }
}

/// What is being deleted can't be held anew.
fn late_finalizers(old: &Value, new: &Value) -> Option<Cause> {
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let had = list(old);
    let late: Vec<String> = list(new).iter().filter(|f| !had.contains(f)).map(Value::to_string).collect();
    let why = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        late.join(", ")
    );
    let going = !old["metadata"]["deletionTimestamp"].is_null();
    (going && !late.is_empty()).then(|| Cause { reason: "FieldValueForbidden", message: why, field: "metadata.finalizers".into() })
}

fn refuse(kind: &Kind, object: &Value, causes: Vec<Cause>) -> Answer<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if causes.is_empty() { Ok(()) } else { Err(Refusal::invalid(kind, name, causes)) }
}

/// A cause that a value is missing.
pub fn required(field: &str) -> Cause {
    Cause { reason: "FieldValueRequired", message: "Required value".into(), field: field.into() }
}

fn required_because(field: &str, why: &str) -> Cause {
    let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
    Cause { reason: "FieldValueRequired", message, field: field.into() }
}

/// A cause that a value is wrong.
pub fn invalid(field: &str, value: &Value, why: &str) -> Cause {
    Cause { reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {why}"), field: field.into() }
}

fn content(kind: &Kind, object: &Value, subresource: &str) -> Vec<Cause> {
    if let Some(custom) = &kind.custom {
        return structural::validate(&custom.schema, object, "");
    }
    if !subresource.is_empty() {
        return Vec::new();
    }
    match kind.plural.as_str() {
        "pods" => pod_spec(&object["spec"], "spec"),
        "deployments" | "replicasets" => workload(object),
        "statefulsets" => workloads::stateful_set(object),
        "daemonsets" => workloads::daemon_set(object),
        "cronjobs" => workloads::cron_job(object),
        "persistentvolumeclaims" => workloads::claim(&object["spec"], "spec"),
        "jobs" => pod_spec(&object["spec"]["template"]["spec"], "spec.template.spec"),
        "services" => service(object),
        "customresourcedefinitions" => definition(object),
        "rolebindings" | "clusterrolebindings" if object["roleRef"]["name"].as_str().is_none_or(str::is_empty) => {
            vec![required("roleRef.name")]
        }
        _ => Vec::new(),
    }
}

fn pod_spec(spec: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let lists = [("initContainers", false), ("containers", true)];
    for (list, demanded) in lists {
        let containers = spec[list].as_array().map(Vec::as_slice).unwrap_or_default();
        if demanded && containers.is_empty() {
            causes.push(required(&format!("{path}.{list}")));
        }
        for (i, container) in containers.iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            let name = &container["name"];
            if name.as_str().is_none_or(str::is_empty) {
                causes.push(required(&format!("{at}.name")));
            } else if !name.as_str().is_some_and(names::is_dns_label) {
                causes.push(invalid(&format!("{at}.name"), name, names::DNS_LABEL));
            } else if containers[..i].iter().any(|c| c["name"] == *name) {
                let message = format!("Duplicate value: {name}");
                causes.push(Cause { reason: "FieldValueDuplicate", message, field: format!("{at}.name") });
            }
            if container["image"].as_str().is_none_or(str::is_empty) {
                causes.push(required(&format!("{at}.image")));
            }
            causes.extend(mounts(spec, container, &at));
        }
    }
    causes
}

fn mounts(spec: &Value, container: &Value, at: &str) -> Vec<Cause> {
    let known = |name: &Value| spec["volumes"].as_array().is_some_and(|v| v.iter().any(|v| v["name"] == *name));
    let mounts = container["volumeMounts"].as_array().into_iter().flatten().enumerate();
    mounts
        .filter(|(_, mount)| !known(&mount["name"]))
        .map(|(i, mount)| Cause {
            reason: "FieldValueNotFound",
            message: format!("Not found: {}", mount["name"]),
            field: format!("{at}.volumeMounts[{i}].name"),
        })
        .collect()
}

fn workload(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let mut causes = Vec::new();
    if spec["replicas"].as_i64().is_some_and(|n| n < 0) {
        causes.push(invalid("spec.replicas", &spec["replicas"], "must be greater than or equal to 0"));
    }
    match super::store::selector::Labels::from_object(&spec["selector"]) {
        None => causes.push(required("spec.selector")),
        Some(selector) if !selector.matches(&spec["template"]) => {
            let labels = &spec["template"]["metadata"]["labels"];
            causes.push(invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"));
        }
        Some(_) => {}
    }
    causes.extend(pod_spec(&spec["template"]["spec"], "spec.template.spec"));
    causes
}

fn service(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let headless = spec["clusterIP"] == "None" || spec["type"] == "ExternalName";
    if ports.is_empty() && !headless {
        return vec![required("spec.ports")];
    }
    let mut causes = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            causes.push(required(&format!("{at}.name")));
        } else if ports[..i].iter().any(|p| ports.len() > 1 && p["name"] == port["name"]) {
            let message = format!("Duplicate value: {}", port["name"]);
            causes.push(Cause { reason: "FieldValueDuplicate", message, field: format!("{at}.name") });
        }
        if !port["port"].as_i64().is_some_and(|p| (1..=65535).contains(&p)) {
            let shown = if port["port"].is_null() { &Value::from(0) } else { &port["port"] };
            causes.push(invalid(&format!("{at}.port"), shown, "must be between 1 and 65535, inclusive"));
        }
    }
    causes
}

fn definition(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let mut causes = Vec::new();
    for (field, value) in
        [("spec.group", &group), ("spec.names.plural", &plural), ("spec.names.kind", &text(&spec["names"]["kind"]))]
    {
        if value.is_empty() {
            causes.push(required(field));
        }
    }
    let name = &object["metadata"]["name"];
    if *name != format!("{plural}.{group}") {
        causes.push(invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let shown = Value::Array(versions.iter().map(|v| v["name"].clone()).collect());
        causes.push(invalid("spec.versions", &shown, "must have exactly one version marked as storage version"));
    }
    for (i, version) in versions.iter().enumerate() {
        if version["schema"]["openAPIV3Schema"].is_null() {
            let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
            causes.push(required_because(&field, "schemas are required"));
        }
    }
    causes
}

fn immutable(kind: &Kind, subresource: &str, old: &Value, new: &Value) -> Vec<Cause> {
    if !subresource.is_empty() {
        return Vec::new();
    }
    let mut causes = Vec::new();
    let mut fixed = |path: &[&str]| {
        let at = |object: &Value| path.iter().fold(object.clone(), |at, step| at[*step].clone());
        if at(old) != at(new) {
            causes.push(invalid(&path.join("."), &at(new), "field is immutable"));
        }
    };
    match kind.plural.as_str() {
        "deployments" | "replicasets" | "daemonsets" => fixed(&["spec", "selector"]),
        "statefulsets" => causes.extend(workloads::stateful_set_change(&old["spec"], &new["spec"])),
        "controllerrevisions" => fixed(&["data"]),
        "persistentvolumeclaims" => causes.extend(workloads::claim_change(&old["spec"], &new["spec"])),
        "jobs" => {
            fixed(&["spec", "selector"]);
            fixed(&["spec", "completionMode"]);
        }
        "rolebindings" | "clusterrolebindings" if old["roleRef"] != new["roleRef"] => {
            causes.push(invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
        }
        "configmaps" | "secrets" if old["immutable"] == true => {
            for field in ["data", "binaryData", "immutable"] {
                if old[field] != new[field] {
                    let message = "Forbidden: field is immutable when `immutable` is set".into();
                    causes.push(Cause { reason: "FieldValueForbidden", message, field: field.into() });
                }
            }
        }
        "secrets" => fixed(&["type"]),
        "pods" => causes.extend(pod_change(&old["spec"], &new["spec"])),
        _ => {}
    }
    causes
}

/// Of a pod's spec only a few fields may change.
fn pod_change(old: &Value, new: &Value) -> Option<Cause> {
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container.as_object_mut().map(|c| c.remove("image"));
            }
        }
        if let Some(fields) = spec.as_object_mut() {
            for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers"] {
                fields.remove(field);
            }
            if fields.get("initContainers").is_some_and(|c| c.is_null()) {
                fields.remove("initContainers");
            }
        }
        spec
    };
    let message = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    (rest(old) != rest(new)).then(|| Cause { reason: "FieldValueForbidden", message: message.into(), field: "spec".into() })
}

#[cfg(test)]
mod tests;
