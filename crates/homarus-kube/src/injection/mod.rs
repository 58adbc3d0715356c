//! Injection: what a pod must become to be in the mesh.
//!
//! Pure: an object, the annotations of its namespace and the values of the mesh go in, a JSON patch comes out. The webhook
//! and `inject --manual` use the same code. Reading order: [`workload`] (what can be injected), [`decision`] (whether it
//! is), `overrides` (annotations over [`values`]), `containers` and `env` (what is added), and [`inject`] below, which puts
//! it together.
//!
//! Invariants: operations only add, in an order in which each finds its place; a pod that is injected has one proxy and
//! one of init container or network validator; values reach the patch as JSON values, never as text.

mod containers;
pub mod decision;
mod env;
mod opaque;
mod overrides;
pub mod patch;
pub mod removal;
pub mod values;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::annotations::{self, InvalidAnnotation, Scope};
use decision::{AnnotatedAt, Decision, Origin, Skip, decide};
use overrides::Settings;
use patch::{Patch, step};
use values::Values;
use workload::{PodSpec, Workload};

const END_ENTITY_VOLUME: &str = "linkerd-identity-end-entity";
const END_ENTITY_DIR: &str = "/var/run/linkerd/identity/end-entity";
const TOKEN_VOLUME: &str = "linkerd-identity-token";
const TOKEN_NAME: &str = "linkerd-identity-token";
const TOKEN_DIR: &str = "/var/run/secrets/tokens";
const TOKEN_AUDIENCE: &str = "identity.l5d.io";
const TOKEN_SECONDS: u32 = 86_400;
const PODINFO_VOLUME: &str = "linkerd-podinfo";
const PODINFO_DIR: &str = "/var/run/linkerd/podinfo";
/// The longest value of a label.
const MAX_LABEL_BYTES: usize = 63;

/// Settings of the mesh that make a proxy impossible; the fault of whoever wrote them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// `proxy.logHTTPHeaders`.
    #[error(
        "proxy.logHTTPHeaders (annotation config.linkerd.io/proxy-log-http-headers) must be \"off\" or \"insecure\", not {0:?}"
    )]
    LogHttpHeaders(String),
    /// `clusterNetworks`.
    #[error("clusterNetworks {value:?} can't be read: {reason}; write a comma list of networks like 10.0.0.0/8")]
    ClusterNetworks {
        /// As written.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// `proxyInit.iptablesMode`.
    #[error("proxyInit.iptablesMode must be \"nft\" or \"legacy\", not {0:?}")]
    IptablesMode(String),
    /// `proxyInit.closeWaitTimeoutSecs`.
    #[error("proxyInit.closeWaitTimeoutSecs (annotation config.linkerd.io/close-wait-timeout) needs proxyInit.runAsRoot")]
    CloseWaitNeedsRoot,
    /// `proxy.tracing`.
    #[error("proxy.tracing.collector.{0} is required when tracing is enabled")]
    Tracing(&'static str),
}

/// The mesh that a pod joins.
#[derive(Clone, Copy, Debug)]
pub struct Mesh<'a> {
    /// The namespace of its control plane.
    pub control_plane_ns: &'a str,
    /// Its values, with the trust anchors that hold now.
    pub values: &'a Values,
    /// What `linkerd.io/created-by` says.
    pub created_by: &'a str,
}

impl Mesh<'_> {
    fn service(&self, name: &str, port: u16, values: &Values) -> String {
        format!("{name}.{}.svc.{}.:{port}", self.control_plane_ns, values.cluster_domain)
    }

    fn identity(&self, account: &str, namespace: &str, values: &Values) -> String {
        format!("{account}.{namespace}.serviceaccount.identity.{}.{}", self.control_plane_ns, values.trust_domain())
    }
}

/// What a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind, lower-case.
    pub kind: String,
    /// Its name; empty for a pod that has none yet.
    pub name: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The object.
    pub workload: Workload<'a>,
    /// The namespace it is in.
    pub namespace: &'a str,
    /// The annotations of that namespace.
    pub namespace_annotations: &'a BTreeMap<String, String>,
    /// What the object belongs to.
    pub owner: &'a Owner,
    /// Who asks.
    pub origin: Origin,
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The verdict: a proxy, unless there are reasons not to.
    pub decision: Decision,
    /// What changes. An object without a proxy may still learn of its opaque ports.
    pub patch: Patch,
    /// Annotations that could not be read.
    pub invalid: Vec<InvalidAnnotation>,
}

impl Outcome {
    /// Whether a proxy is added.
    pub fn is_injected(&self) -> bool {
        self.decision.skips.is_empty()
    }

    /// Which annotation decided.
    pub fn annotated_at(&self) -> AnnotatedAt {
        self.decision.annotated_at
    }
}

/// Decides about an object and says what changes.
pub fn inject(mesh: &Mesh<'_>, request: &Request<'_>) -> Result<Outcome, InjectError> {
    let (workload, namespace) = (request.workload, request.namespace_annotations);
    let projected = mesh.values.identity.service_account_token_projection;
    let mut decision = decide(&workload, namespace, request.origin, projected);
    let Some(spec) = workload.pod_spec().filter(|_| decision.skips.is_empty()) else {
        if decision.skips.is_empty() {
            decision.skips.push(Skip::Unsupported);
        }
        let patch = match request.origin {
            Origin::Webhook => opaque_ports_patch(&workload, namespace, mesh.values),
            Origin::Cli => Patch::default(),
        };
        return Ok(Outcome { decision, patch, invalid: Vec::new() });
    };
    let mut added = inherited(&workload, namespace);
    let mut effective = workload.annotations();
    effective.extend(added.clone());
    let mut settings = overrides::apply(mesh.values, &effective, namespace);
    if settings.opaque_ports.is_none() {
        let declared = opaque::declared_by_pod(spec, &settings.values.proxy.opaque_ports);
        if !declared.is_empty() {
            let declared = opaque::join(&declared);
            added.insert(annotations::OPAQUE_PORTS.into(), declared.clone());
            settings.opaque_ports = Some(declared);
        }
    }
    added.extend(birth_certificate(mesh, &settings.values));
    let mut patch = Patch::default();
    metadata(&mut patch, request, &added, mesh);
    pod(&mut patch, workload.path(), mesh, &settings, spec)?;
    Ok(Outcome { decision, patch, invalid: settings.invalid })
}

/// The annotations of the namespace that the pod lacks.
fn inherited(workload: &Workload<'_>, namespace: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = workload.annotations();
    let lists = annotations::ALL.iter().filter(|annotation| annotation.scope == Scope::Namespace);
    lists
        .filter(|annotation| !own.contains_key(annotation.name))
        .filter_map(|annotation| Some((annotation.name.to_owned(), namespace.get(annotation.name)?.clone())))
        .collect()
}

/// Who injected, with which version, believing in whom.
fn birth_certificate(mesh: &Mesh<'_>, values: &Values) -> [(String, String); 3] {
    let sum: String = Sha256::digest(values.identity_trust_anchors_pem.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    [
        (annotations::CREATED_BY.into(), mesh.created_by.into()),
        (annotations::PROXY_VERSION_INJECTED.into(), values.version(&values.proxy.image).into()),
        (annotations::TRUST_ROOT_SHA256.into(), sum),
    ]
}

fn metadata(patch: &mut Patch, request: &Request<'_>, annotations: &BTreeMap<String, String>, mesh: &Mesh<'_>) {
    let workload = request.workload;
    let root = format!("{}/metadata", workload.path());
    if workload.metadata().is_null() {
        patch.add(&root, json!({}));
    }
    add_all(patch, &format!("{root}/annotations"), workload.annotations().is_empty(), annotations);
    let mut labels = BTreeMap::from([
        ("linkerd.io/control-plane-ns".to_owned(), mesh.control_plane_ns.to_owned()),
        ("linkerd.io/workload-ns".to_owned(), request.namespace.to_owned()),
    ]);
    labels.extend(owner_label(request));
    add_all(patch, &format!("{root}/labels"), workload.labels().is_empty(), &labels);
}

fn owner_label(request: &Request<'_>) -> Option<(String, String)> {
    let Owner { kind, name } = request.owner;
    let known = match kind.as_str() {
        "deployment" | "replicationcontroller" | "replicaset" | "job" | "daemonset" | "statefulset" => true,
        "cronjob" => request.origin == Origin::Cli,
        _ => false,
    };
    // A name may be longer than a label; the pod is worth more than its label.
    (known && (1..=MAX_LABEL_BYTES).contains(&name.len())).then(|| (format!("linkerd.io/proxy-{kind}"), name.clone()))
}

fn add_all(patch: &mut Patch, root: &str, make: bool, entries: &BTreeMap<String, String>) {
    if make {
        patch.add(root, json!({}));
    }
    for (key, value) in entries {
        patch.add(format!("{root}/{}", step(key)), value.as_str());
    }
}

fn pod(patch: &mut Patch, root: &str, mesh: &Mesh<'_>, settings: &Settings, spec: PodSpec<'_>) -> Result<(), InjectError> {
    let values = &settings.values;
    let (volumes, inits, containers) =
        (format!("{root}/spec/volumes"), format!("{root}/spec/initContainers"), format!("{root}/spec/containers"));
    for (path, field) in [(&volumes, "volumes"), (&inits, "initContainers")] {
        if spec.value()[field].as_array().is_none_or(Vec::is_empty) {
            patch.add(path, json!([]));
        }
    }
    // A native sidecar starts after redirection and before the app's own init containers, which are then in the mesh.
    let native = values.proxy.native_sidecar;
    let first = format!("{inits}/{}", if native { "0" } else { "-" });
    if values.cni_enabled {
        patch.add(first, containers::validator(settings));
    } else {
        let lock = &values.proxy_init.xt_mount_path.name;
        patch.add(format!("{volumes}/-"), json!({ "name": lock, "emptyDir": {} }));
        patch.add(first, containers::init(settings, spec)?);
    }
    if settings.debug_sidecar {
        patch.add(format!("{containers}/-"), containers::debug(settings));
    }
    for volume in identity_volumes(values) {
        patch.add(format!("{volumes}/-"), volume);
    }
    let place = match (native, values.proxy.r#await) {
        (true, _) => format!("{inits}/1"),
        (false, true) => format!("{containers}/0"),
        (false, false) => format!("{containers}/-"),
    };
    patch.add(place, containers::proxy(mesh, settings, spec)?);
    Ok(())
}

fn identity_volumes(values: &Values) -> Vec<Value> {
    let mut volumes = vec![json!({ "name": END_ENTITY_VOLUME, "emptyDir": { "medium": "Memory" } })];
    if values.proxy.tracing.enabled {
        let items = json!([
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
            { "path": "annotations", "fieldRef": { "fieldPath": "metadata.annotations" } },
        ]);
        volumes.push(json!({ "name": PODINFO_VOLUME, "downwardAPI": { "items": items } }));
    }
    if values.identity.service_account_token_projection {
        let token = json!({ "path": TOKEN_NAME, "expirationSeconds": TOKEN_SECONDS, "audience": TOKEN_AUDIENCE });
        volumes.push(json!({ "name": TOKEN_VOLUME, "projected": { "sources": [{ "serviceAccountToken": token }] } }));
    }
    volumes
}

/// What pods without a proxy, and Services, learn: their opaque ports, so that clients in the mesh know them.
fn opaque_ports_patch(workload: &Workload<'_>, namespace: &BTreeMap<String, String>, values: &Values) -> Patch {
    let mut patch = Patch::default();
    let own = workload.annotations();
    if own.contains_key(annotations::OPAQUE_PORTS) {
        return patch;
    }
    let defaults = &values.proxy.opaque_ports;
    let declared = match (namespace.get(annotations::OPAQUE_PORTS), workload.pod_spec()) {
        (Some(written), _) => written.clone(),
        (None, Some(spec)) if workload.kind() == "Pod" => opaque::join(&opaque::declared_by_pod(spec, defaults)),
        (None, _) if workload.is_service() => opaque::join(&opaque::declared_by_service(workload.object(), defaults)),
        _ => String::new(),
    };
    if !declared.is_empty() {
        if own.is_empty() {
            patch.add("/metadata/annotations", json!({}));
        }
        patch.add(format!("/metadata/annotations/{}", step(annotations::OPAQUE_PORTS)), declared);
    }
    patch
}
