//! What can be injected: pods, and everything that has a template of one.
//!
//! Objects are read as JSON and never converted, so that fields we know nothing of survive.

use std::collections::BTreeMap;

use serde_json::Value;

const SERVICE_ACCOUNT_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the pod's metadata and spec are inside of an object of some kind; None if it has no pods.
fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => Some("/spec/template"),
        _ => None,
    }
}

/// An object that may be injected.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    kind: &'a str,
    object: &'a Value,
    template: Option<&'static str>,
}

/// The spec of its pods.
#[derive(Clone, Copy, Debug)]
pub struct PodSpec<'a>(&'a Value);

impl<'a> Workload<'a> {
    /// An object, of the kind it says it is, or of `kind` if it doesn't (as in admission requests).
    pub fn new(kind: &'a str, object: &'a Value) -> Self {
        let kind = object["kind"].as_str().filter(|kind| !kind.is_empty()).unwrap_or(kind);
        Self { kind, object, template: template_path(kind) }
    }

    /// Its kind.
    pub fn kind(&self) -> &'a str {
        self.kind
    }

    /// The whole object.
    pub fn object(&self) -> &'a Value {
        self.object
    }

    /// Its own name, which a pod may not have yet.
    pub fn name(&self) -> &'a str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Whether it is a Service.
    pub fn is_service(&self) -> bool {
        self.kind == "Service"
    }

    /// Where the metadata and the spec of its pods are; of anything without pods, its own.
    pub(super) fn path(&self) -> &'static str {
        self.template.unwrap_or_default()
    }

    fn pod(&self) -> &'a Value {
        self.object.pointer(self.path()).unwrap_or(&Value::Null)
    }

    /// The metadata of its pods.
    pub(super) fn metadata(&self) -> &'a Value {
        &self.pod()["metadata"]
    }

    /// The spec of its pods; none if there are none.
    pub fn pod_spec(&self) -> Option<PodSpec<'a>> {
        self.template?;
        Some(&self.pod()["spec"]).filter(|spec| spec.is_object()).map(PodSpec)
    }

    /// The annotations of its pods.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        texts(&self.metadata()["annotations"])
    }

    /// The labels of its pods.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        texts(&self.metadata()["labels"])
    }
}

impl<'a> PodSpec<'a> {
    pub(super) fn value(self) -> &'a Value {
        self.0
    }

    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        list(&self.0["containers"])
    }

    pub(super) fn init_containers(self) -> impl Iterator<Item = &'a Value> {
        list(&self.0["initContainers"])
    }

    pub(super) fn all_containers(self) -> impl Iterator<Item = &'a Value> {
        self.containers().chain(self.init_containers())
    }

    /// How the first container mounts the token of its service account.
    pub(super) fn service_account_mount(self) -> Option<&'a Value> {
        let first = self.containers().next()?;
        list(&first["volumeMounts"]).find(|mount| mount["mountPath"] == SERVICE_ACCOUNT_MOUNT)
    }
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The ports of a container.
pub(super) fn ports(container: &Value) -> impl Iterator<Item = &Value> {
    list(&container["ports"])
}

/// The number of a container port.
pub(super) fn port_number(port: &Value) -> Option<u16> {
    u16::try_from(port["containerPort"].as_u64()?).ok().filter(|port| *port != 0)
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
