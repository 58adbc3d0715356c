//! Every pod runs as a service account, with a short-lived token, the cluster's certificate and its namespace mounted.

use serde_json::{Value, json};

use crate::api::Core;
use crate::api::defaults::metadata::generated;
use crate::api::defaults::{cluster::ROOT_CERTIFICATE, each, within};
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::Kind;
use crate::api::store::Name;

/// Where programs look for their token.
pub const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and some seconds that mark tokens asked for by pods.
const TOKEN_SECONDS: u32 = 3607;

/// Names the account, checks that it is there, and mounts its token.
pub fn admit(core: &Core, kind: &Kind, pod: &mut Value) -> Answer<()> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let spec = within(pod, "spec");
    let account = spec["serviceAccountName"].as_str().filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
    spec["serviceAccountName"] = account.clone().into();
    spec["serviceAccount"] = account.clone().into();
    let Some(found) = core.store.find("/serviceaccounts", &Name::new(&namespace, &account)) else {
        let why = format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
        return Err(Refusal::forbidden(kind, &pod_name, &why));
    };
    let automount = match spec["automountServiceAccountToken"].as_bool() {
        Some(said) => said,
        None => found.value["automountServiceAccountToken"].as_bool().unwrap_or(true),
    };
    if automount {
        mount(spec);
    }
    if !spec["imagePullSecrets"].is_array() && found.value["imagePullSecrets"].is_array() {
        spec["imagePullSecrets"] = found.value["imagePullSecrets"].clone();
    }
    Ok(())
}

fn mount(spec: &mut Value) {
    let has_volume = |name: &Value| name.as_str().is_some_and(|n| n.starts_with("kube-api-access-"));
    let existing = spec["volumes"].as_array().into_iter().flatten().map(|v| &v["name"]).find(|n| has_volume(n)).cloned();
    let name = existing.clone().unwrap_or_else(|| generated("kube-api-access-").into());
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            let mounted = container["volumeMounts"].as_array();
            if mounted.into_iter().flatten().any(|m| m["mountPath"] == MOUNT) {
                continue;
            }
            needed = true;
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            container["volumeMounts"] = mounts.into();
        }
    }
    if needed && existing.is_none() {
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        volumes.push(volume(&name));
        spec["volumes"] = volumes.into();
    }
}

fn volume(name: &Value) -> Value {
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CERTIFICATE, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}
