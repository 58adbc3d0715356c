//! What the API itself writes into `metadata`, and what it doesn't let clients change.

use rand::Rng;
use serde_json::{Value, json};

use crate::api::now_text;
use crate::api::refusal::{Answer, Cause, Refusal};
use crate::api::schema::kinds::Kind;
use crate::api::serve::target::Target;

/// Letters of generated names: no vowels, so no words.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name leaves room for its suffix.
const MAX_GENERATED: usize = 58;

/// Name and namespace of the body against those of the path; fills in the namespace.
pub fn check_names(kind: &Kind, target: &Target, object: &mut Value) -> Answer<()> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if !target.name.is_empty() && name != target.name {
        if name.is_empty() {
            object["metadata"]["name"] = target.name.clone().into();
        } else {
            let (has, wants) = (name, &target.name);
            let message = format!("the name of the object ({has}) does not match the name on the URL ({wants})");
            return Err(Refusal::bad_request(message));
        }
    }
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if !kind.namespaced {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
    } else if given.is_empty() {
        object["metadata"]["namespace"] = target.namespace.clone().into();
    } else if given != target.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// How often a DaemonSet's template changed, as an annotation.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// A new object's metadata.
pub fn on_create(kind: &Kind, target: &Target, object: &mut Value) -> Answer<()> {
    check_names(kind, target, object)?;
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.clone().into();
    let revision = object["metadata"]["resourceVersion"].as_str();
    if revision.is_some_and(|r| !r.is_empty()) {
        // Kubernetes calls it its own fault.
        return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        match object["metadata"]["generateName"].as_str().filter(|b| !b.is_empty()) {
            Some(base) => object["metadata"]["name"] = generated(base).into(),
            None => {
                let cause = Cause {
                    reason: "FieldValueRequired",
                    message: "Required value: name or generateName is required".into(),
                    field: "metadata.name".into(),
                };
                return Err(Refusal::invalid(kind, "", vec![cause]));
            }
        }
    }
    object["metadata"]["uid"] = uid().into();
    object["metadata"]["creationTimestamp"] = now_text().into();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"] {
            metadata.remove(field);
        }
    }
    if kind.generation {
        object["metadata"]["generation"] = 1.into();
    }
    if &*kind.bucket == "apps/daemonsets" {
        super::within(&mut object["metadata"], "annotations")[TEMPLATE_GENERATION] = "1".into();
    }
    Ok(())
}

/// A random (version 4) UUID.
pub fn uid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A name from `generateName`.
pub fn generated(base: &str) -> String {
    let mut rng = rand::rng();
    let base: String = base.chars().take(MAX_GENERATED).collect();
    let suffix: String = (0..5).map(|_| char::from(SUFFIX[rng.random_range(0..SUFFIX.len())])).collect();
    format!("{base}{suffix}")
}

/// What an update through this path must leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resets {
    /// Everything but `status`.
    AllButStatus,
    /// `status`.
    Status,
    /// Nothing.
    Nothing,
}

impl Resets {
    /// Puts back what wasn't to be changed.
    pub fn restore(self, old: &Value, new: &mut Value) {
        match self {
            Resets::Nothing => {}
            Resets::Status => put_back(old, new, "status"),
            Resets::AllButStatus => {
                let status = new.get("status").cloned();
                let metadata = new["metadata"].clone();
                let custom = !new["apiVersion"].as_str().is_some_and(is_builtin);
                *new = old.clone();
                match status {
                    Some(status) => new["status"] = status,
                    None => {
                        new.as_object_mut().map(|o| o.remove("status"));
                    }
                }
                if !custom {
                    put_back(&metadata, &mut new["metadata"], "labels");
                    put_back(&metadata, &mut new["metadata"], "annotations");
                }
            }
        }
        if self == Resets::AllButStatus {
            return;
        }
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "selfLink",
            "resourceVersion",
        ] {
            put_back(&old["metadata"], &mut new["metadata"], field);
        }
    }
}

fn is_builtin(api_version: &str) -> bool {
    matches!(
        api_version,
        "v1" | "apps/v1" | "batch/v1" | "apiextensions.k8s.io/v1" | "coordination.k8s.io/v1" | "discovery.k8s.io/v1"
    )
}

fn put_back(old: &Value, new: &mut Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// An updated object before anyone judges it: what this path can't change is as it was.
pub fn on_update(kind: &Kind, subresource: &str, old: &Value, new: &mut Value) -> Resets {
    // A PUT may leave the old owners out of its body: that changes nothing.
    if new["metadata"].get("managedFields").is_none() && !old["metadata"]["managedFields"].is_null() {
        new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
    }
    let resets = match subresource {
        "status" => Resets::AllButStatus,
        "finalize" => Resets::Nothing,
        _ if kind.status => Resets::Status,
        _ => Resets::Nothing,
    };
    if resets == Resets::AllButStatus {
        let managed = new["metadata"]["managedFields"].clone();
        resets.restore(old, new);
        new["metadata"]["managedFields"] = managed;
    } else {
        resets.restore(old, new);
    }
    resets
}

/// Counts a change of what is asked for: of anything but metadata and status.
pub fn count_generation(kind: &Kind, subresource: &str, old: &Value, new: &mut Value) {
    if !kind.generation || subresource == "status" {
        return;
    }
    let asked = |object: &Value| {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("metadata");
            if kind.status {
                fields.remove("status");
            }
        }
        object
    };
    if &*kind.bucket == "apps/daemonsets" {
        let same = asked(old)["spec"]["template"] == asked(new)["spec"]["template"];
        let before = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|text| text.parse::<u64>().ok());
        let now = before.unwrap_or(0) + u64::from(!same);
        super::within(&mut new["metadata"], "annotations")[TEMPLATE_GENERATION] = now.to_string().into();
    }
    if asked(old) != asked(new) {
        new["metadata"]["generation"] = (old["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
    }
}

/// Whether an object that is being deleted has nothing left that holds it.
pub fn finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let held = held || &*kind.bucket == "/namespaces" && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let grace = &*kind.bucket == "/pods" && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    !metadata["deletionTimestamp"].is_null() && !held && !grace
}
