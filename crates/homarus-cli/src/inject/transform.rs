//! One object into the mesh, or out of it. Pure.

use std::collections::BTreeMap;

use homarus_kube::annotations as names;
use homarus_kube::injection::decision::{Origin, Skip, decide};
use homarus_kube::injection::values::Values;
use homarus_kube::injection::workload::Workload;
use homarus_kube::injection::{self as kube_injection, Mesh, Owner, Request};
use serde_json::{Map, Value, json};

use crate::command_line::{Inject, ProxyFlags};
use crate::failure::Failure;

use super::report::{Report, What};

/// What is done to a workload.
#[derive(Debug)]
pub(super) enum Action {
    /// It is annotated, and the webhook does the rest.
    Annotate { mode: &'static str },
    /// It gets its proxy here and now.
    Whole(Box<Values>),
}

/// How workloads are put into the mesh.
#[derive(Debug)]
pub(super) struct How {
    pub(super) action: Action,
    /// What flags say about the proxy.
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) control_plane_ns: String,
    pub(super) version: String,
}

/// Which annotation each flag is.
fn flags(flags: &ProxyFlags) -> [(&'static str, Option<String>); 26] {
    let image = flags.registry.as_ref().map(|registry| format!("{registry}/proxy")).or_else(|| flags.proxy_image.clone());
    let yes = |flag: bool| flag.then(|| "true".to_owned());
    [
        (names::PROXY_IMAGE, image),
        (names::PROXY_VERSION, flags.proxy_version.clone()),
        (names::IMAGE_PULL_POLICY, flags.image_pull_policy.clone()),
        (names::INBOUND_PORT, flags.inbound_port.clone()),
        (names::OUTBOUND_PORT, flags.outbound_port.clone()),
        (names::CONTROL_PORT, flags.control_port.clone()),
        (names::ADMIN_PORT, flags.admin_port.clone()),
        (names::SKIP_INBOUND_PORTS, flags.skip_inbound_ports.clone()),
        (names::SKIP_OUTBOUND_PORTS, flags.skip_outbound_ports.clone()),
        (names::OPAQUE_PORTS, flags.opaque_ports.clone()),
        (names::REQUIRE_IDENTITY_PORTS, flags.require_identity_on_inbound_ports.clone()),
        (names::PROXY_UID, flags.proxy_uid.clone()),
        (names::PROXY_GID, flags.proxy_gid.clone()),
        (names::LOG_LEVEL, flags.proxy_log_level.clone()),
        (names::CPU_REQUEST, flags.proxy_cpu_request.clone()),
        (names::CPU_LIMIT, flags.proxy_cpu_limit.clone()),
        (names::MEMORY_REQUEST, flags.proxy_memory_request.clone()),
        (names::MEMORY_LIMIT, flags.proxy_memory_limit.clone()),
        (names::DEFAULT_INBOUND_POLICY, flags.default_inbound_policy.clone()),
        (names::ACCESS_LOG, flags.access_log.clone()),
        (names::SHUTDOWN_GRACE_PERIOD, flags.shutdown_grace_period.clone()),
        (names::WAIT_BEFORE_EXIT, flags.wait_before_exit_seconds.clone()),
        (names::CLOSE_WAIT_TIMEOUT, flags.close_wait_timeout.clone()),
        (names::EXTERNAL_PROFILES, yes(flags.enable_external_profiles)),
        (names::NATIVE_SIDECAR, flags.native_sidecar.map(|native| native.to_string())),
        (names::DEBUG_SIDECAR, yes(flags.enable_debug_sidecar)),
    ]
}

/// Flags as annotations. A value that can't be read is refused here, rather than by each pod later.
pub(super) fn annotations(args: &Inject) -> Result<BTreeMap<String, String>, Failure> {
    let mut annotations = BTreeMap::new();
    for (name, value) in flags(&args.proxy) {
        let Some(value) = value else { continue };
        if let Some(annotation) = names::find(name) {
            annotation.check(&value).map_err(Failure::usage)?;
        }
        annotations.insert(name.to_owned(), value);
    }
    Ok(annotations)
}

fn report(object: &Value) -> Report {
    Report {
        kind: object["kind"].as_str().map(str::to_ascii_lowercase),
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ..Report::default()
    }
}

/// The annotations of an object's own metadata, made if there are none.
fn annotate(metadata_of: &mut Value, annotations: impl IntoIterator<Item = (String, String)>) {
    let Some(object) = metadata_of.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    let map = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if map.is_null() {
        *map = json!({});
    }
    if let Some(map) = map.as_object_mut() {
        map.extend(annotations.into_iter().map(|(name, value)| (name, value.into())));
    }
}

/// Puts an object into the mesh.
pub(super) fn inject(object: &mut Value, how: &How) -> Result<Report, Failure> {
    let mut report = report(object);
    match report.kind.as_deref() {
        Some("namespace") => {
            report.supported = true;
            if let Action::Annotate { mode } = how.action {
                annotate(object, how.annotations.clone());
                annotate(object, [(names::INJECT.to_owned(), mode.to_owned())]);
                report.result = What::Annotated;
            }
        }
        Some("service") => {
            report.supported = true;
            if let Some(ports) = how.annotations.get(names::OPAQUE_PORTS) {
                annotate(object, [(names::OPAQUE_PORTS.to_owned(), ports.clone())]);
                report.result = What::Annotated;
            }
        }
        Some(_) => workload(object, how, &mut report)?,
        None => {}
    }
    Ok(report)
}

/// Where the metadata and spec of an object's pods are.
fn pod_of(object: &mut Value) -> Option<&mut Value> {
    let path = match object["kind"].as_str()? {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => "/spec/template",
        _ => return None,
    };
    object.pointer_mut(path)
}

fn workload(object: &mut Value, how: &How, report: &mut Report) -> Result<(), Failure> {
    if Workload::new("", object).pod_spec().is_none() {
        return Ok(());
    }
    report.supported = true;
    if is_control_plane(object) && matches!(how.action, Action::Annotate { .. }) {
        return Err(Failure::new("--manual must be set when injecting control plane components"));
    }
    strip(object);
    let projected = match &how.action {
        Action::Whole(values) => values.identity.service_account_token_projection,
        Action::Annotate { .. } => true,
    };
    let decision = decide(&Workload::new("", object), &BTreeMap::new(), Origin::Cli, projected);
    report.host_network = decision.skips.contains(&Skip::HostNetwork);
    report.sidecar = decision.skips.contains(&Skip::SidecarExists);
    report.disabled = decision.skips.contains(&Skip::Disabled);
    report.no_token = decision.skips.contains(&Skip::NoServiceAccountToken);
    report.udp = decision.has_udp_ports;
    if !decision.skips.is_empty() {
        return Ok(());
    }
    let Some(pod) = pod_of(object) else { return Ok(()) };
    annotate(pod, how.annotations.clone());
    match &how.action {
        Action::Annotate { mode } => annotate(pod, [(names::INJECT.to_owned(), (*mode).to_owned())]),
        Action::Whole(values) => whole(object, values, how)?,
    }
    report.result = What::Done;
    Ok(())
}

fn is_control_plane(object: &mut Value) -> bool {
    let label = "/metadata/labels/linkerd.io~1control-plane-component";
    object.pointer(label).is_some() || pod_of(object).is_some_and(|pod| pod.pointer(label).is_some())
}

/// Takes out what an earlier injection put in, but leaves what people wrote.
fn strip(object: &mut Value) {
    let written = Workload::new("", object).annotations();
    kube_injection::removal::uninject(object);
    let settings = written.into_iter().filter(|(name, _)| name.starts_with("config.") && names::find(name).is_some());
    let settings: Vec<_> = settings.collect();
    if let Some(pod) = pod_of(object).filter(|_| !settings.is_empty()) {
        annotate(pod, settings);
    }
}

/// Does what the webhook would.
fn whole(object: &mut Value, values: &Values, how: &How) -> Result<(), Failure> {
    let kind = object["kind"].as_str().unwrap_or_default().to_ascii_lowercase();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let owner = Owner { kind, name };
    let created_by = format!("linkerd/cli {}", how.version);
    let mesh = Mesh { control_plane_ns: &how.control_plane_ns, values, created_by: &created_by };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
    let outcome = {
        let request = Request {
            workload: Workload::new("", object),
            namespace: &namespace,
            namespace_annotations: &BTreeMap::new(),
            owner: &owner,
            origin: Origin::Cli,
        };
        kube_injection::inject(&mesh, &request).map_err(Failure::new)?
    };
    outcome.patch.apply(object).map_err(Failure::new)
}

/// Takes an object out of the mesh.
pub(super) fn uninject(object: &mut Value) -> Report {
    let mut report = report(object);
    let mut removed = kube_injection::removal::uninject(object);
    if let Some(pod) = object.get_mut("metadata").filter(|_| matches!(report.kind.as_deref(), Some("namespace" | "service"))) {
        removed |= strip_own(pod);
    }
    report.supported = true;
    report.result = if removed { What::Done } else { What::Skipped };
    report
}

/// The annotations of Namespaces and Services.
fn strip_own(metadata: &mut Value) -> bool {
    let Some(map) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return false };
    let before = map.len();
    map.retain(|name, value| names::find(name).is_none() || (name == names::INJECT && value == "disabled"));
    let (went, empty) = (map.len() < before, map.is_empty());
    if empty && let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("annotations");
    }
    went
}
