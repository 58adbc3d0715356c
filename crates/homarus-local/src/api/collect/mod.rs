//! Deletion and what follows from it: grace, finalizers, owners, namespaces. A keeper task follows the store; every
//! step is decided under the store's lock from what is there, so it may be repeated at any time.

mod graph;
mod keeper;

use std::sync::Arc;

use jiff::ToSpan;
use serde_json::{Value, json};

pub use keeper::Keeper;

use super::defaults::cluster::{ROOT_CERTIFICATE, put_new};
use super::defaults::metadata::finished;
use super::refusal::{Answer, Refusal};
use super::schema::kinds::Kind;
use super::serve::target::Query;
use super::store::shared::Write;
use super::store::{Change, Name};
use super::{Core, now, now_text};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// How something is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Seconds a pod has; `None`: what its spec says.
    pub grace: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// Only this object.
    pub uid: Option<String>,
    /// Only this version.
    pub resource_version: Option<String>,
    /// Only in play.
    pub dry_run: bool,
}

impl Options {
    /// From a DELETE's body and query.
    pub fn parse(body: &[u8], query: &Query) -> Answer<Options> {
        let sent: Value = match body {
            [] => json!({}),
            body => serde_json::from_slice(body).map_err(|e| Refusal::bad_request(format!("DeleteOptions can't be read: {e}")))?,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let orphan = match sent["orphanDependents"].as_bool() {
            Some(true) => Some("Orphan".to_owned()),
            Some(false) => Some("Background".to_owned()),
            None => None,
        };
        let propagation =
            text(&sent["propagationPolicy"]).or(orphan).or_else(|| query.text("propagationPolicy").map(str::to_owned));
        if let Some(other) = propagation.as_deref().filter(|p| !matches!(*p, "Background" | "Foreground" | "Orphan")) {
            let supported = "supported values: \"Foreground\", \"Background\", \"Orphan\"";
            let message = format!("propagationPolicy: Unsupported value: \"{other}\": {supported}");
            return Err(Refusal::new(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {message}")));
        }
        Ok(Options {
            grace: match sent["gracePeriodSeconds"].as_i64() {
                Some(seconds) => Some(seconds),
                None => query.number("gracePeriodSeconds")?,
            },
            propagation,
            uid: text(&sent["preconditions"]["uid"]),
            resource_version: text(&sent["preconditions"]["resourceVersion"]),
            dry_run: sent["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
        })
    }
}

/// Deletes an object, or marks it when something must happen first. `None`: it was marked already.
pub fn delete(core: &Core, kind: &Kind, name: &Name, options: &Options) -> Answer<Option<Change>> {
    core.store.write(&kind.bucket, name, |_, current| {
        let current = current.ok_or_else(|| Refusal::not_found(kind, &name.name))?;
        check_preconditions(kind, name, &current.value, options)?;
        let mut object = current.value.clone();
        let first = object["metadata"]["deletionTimestamp"].is_null();
        let grace = grace(kind, &object, options);
        hold(&mut object, options.propagation.as_deref());
        if &*kind.bucket == "/namespaces" {
            object["status"]["phase"] = "Terminating".into();
        }
        let had = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        if first || had.is_some_and(|had| grace < had) {
            let when = now().checked_add(grace.seconds()).unwrap_or_else(|_| now());
            let when = when.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            object["metadata"]["deletionTimestamp"] = when.into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            if kind.generation && first && &*kind.bucket != "/pods" {
                object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
            }
        }
        if finished(kind, &object) {
            // An object that nothing held goes as it was.
            let last = if first && grace == 0 { current.value.clone() } else { object };
            return Ok(Write::Remove(Some(last)));
        }
        Ok(if object == current.value { Write::Keep } else { Write::Put(object) })
    })
}

fn check_preconditions(kind: &Kind, name: &Name, object: &Value, options: &Options) -> Answer<()> {
    let metadata = &object["metadata"];
    let check = |wanted: &Option<String>, field: &str, what: &str| match wanted {
        Some(wanted) if metadata[field] != wanted.as_str() => {
            let has = metadata[field].as_str().unwrap_or_default();
            let how = if field == "uid" { "deleted and then recreated" } else { "modified" };
            let message = format!(
                "Operation cannot be fulfilled on {}{} \"{}\": the {what} in the precondition ({wanted}) does not match the \
                 {what} in record ({has}). The object might have been {how}",
                kind.kind,
                if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) },
                name.name
            );
            let mut refusal = Refusal::conflict(kind, &name.name, "");
            refusal.message = message;
            refusal.details["kind"] = kind.kind.clone().into();
            Err(refusal)
        }
        _ => Ok(()),
    };
    check(&options.uid, "uid", "UID")?;
    check(&options.resource_version, "resourceVersion", "ResourceVersion")
}

/// Only pods that run somewhere have grace.
fn grace(kind: &Kind, object: &Value, options: &Options) -> i64 {
    let over = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if &*kind.bucket != "/pods" || object["spec"]["nodeName"].as_str().is_none_or(str::is_empty) || over {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

/// Sets the finalizer that a way of deleting needs.
fn hold(object: &mut Value, propagation: Option<&str>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = finalizers.clone();
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match propagation {
        "Foreground" => finalizers.push(FOREGROUND.into()),
        "Orphan" => finalizers.push(ORPHAN.into()),
        _ => {}
    }
    if finalizers == before {
        return;
    }
    match finalizers.is_empty() {
        true => {
            object["metadata"].as_object_mut().map(|m| m.remove("finalizers"));
        }
        false => object["metadata"]["finalizers"] = finalizers.into(),
    }
}

/// What a new object brings with it.
pub fn after_create(core: &Core, kind: &Kind, object: &Value) {
    if &*kind.bucket == "/namespaces" {
        furnish(core, object["metadata"]["name"].as_str().unwrap_or_default());
    }
}

/// Every namespace has a service account and the cluster's certificate, and gets them again when they are deleted.
pub fn furnish(core: &Core, namespace: &str) {
    put_new(
        core,
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace},
        }),
    );
    let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
               the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
               Kubernetes clusters.";
    put_new(
        core,
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": core.authority.certificate()},
            "metadata": {"name": ROOT_CERTIFICATE, "namespace": namespace,
                "annotations": {"kubernetes.io/description": why}},
        }),
    );
}

/// Changes an object in place under the lock; removes it when nothing holds it any more.
fn amend(core: &Core, bucket: &Arc<str>, name: &Name, uid: &str, amend: impl FnOnce(&mut Value)) {
    let kinds = core.store.kinds();
    let Some(kind) = kinds.stored().find(|k| k.bucket == *bucket).cloned() else { return };
    let _ = core.store.write::<()>(bucket, name, |_, current| {
        let Some(current) = current.filter(|c| c.value["metadata"]["uid"] == uid) else { return Ok(Write::Keep) };
        let mut object = current.value.clone();
        amend(&mut object);
        Ok(match finished(&kind, &object) {
            true => Write::Remove(Some(object)),
            false if object == current.value => Write::Keep,
            false => Write::Put(object),
        })
    });
}

/// A condition as namespaces carry it.
fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": kind, "status": status, "lastTransitionTime": now_text(), "reason": reason, "message": message})
}
