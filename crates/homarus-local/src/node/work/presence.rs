//! The Node object and its heartbeat.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::Context;

const LEASES: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const BEAT: Duration = Duration::from_secs(10);
const STATUS_EVERY: u32 = 6;
const RETRY: Duration = Duration::from_millis(500);
/// Pods this node takes.
const PODS_MAX: u32 = 500;

/// Keeps the node registered and alive until it is dropped.
pub(crate) async fn keep(context: std::sync::Arc<Context>) {
    while let Err(error) = register(&context).await {
        tracing::debug!(%error, "registering the node failed, trying again");
        tokio::time::sleep(RETRY).await;
    }
    let mut beats = 0u32;
    loop {
        if let Err(error) = beat(&context).await {
            tracing::warn!(%error, "the node's heartbeat failed");
        }
        tokio::time::sleep(BEAT).await;
        beats = beats.wrapping_add(1);
        if beats.is_multiple_of(STATUS_EVERY)
            && let Err(error) = register(&context).await
        {
            tracing::warn!(%error, "updating the node failed");
        }
    }
}

async fn register(context: &Context) -> kube::Result<()> {
    let name = &context.config.name;
    let api: Api<Node> = Api::all(context.client.clone());
    let node = Node {
        metadata: ObjectMeta { name: Some(name.clone()), labels: Some(labels(name)), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidr: Some(context.network.config().pods.to_string()),
            pod_cidrs: Some(vec![context.network.config().pods.to_string()]),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    if api.get_opt(name).await?.is_none() {
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other?),
        }
    }
    let status = json!({"status": status(context)});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

fn labels(name: &str) -> std::collections::BTreeMap<String, String> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
        ("node-role.kubernetes.io/control-plane", ""),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn status(context: &Context) -> NodeStatus {
    let (cpus, memory) = machine();
    let capacity: std::collections::BTreeMap<_, _> = [
        ("cpu", cpus.to_string()),
        ("memory", format!("{}Ki", memory / 1024)),
        ("pods", PODS_MAX.to_string()),
        ("ephemeral-storage", format!("{}Ki", memory / 2048)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), Quantity(value)))
    .collect();
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", context.network.gateway().to_string()),
            address("Hostname", context.config.name.clone()),
        ]),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(context.started)),
        node_info: Some(NodeSystemInfo {
            architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.into(),
            kernel_version: text(uname.release()),
            operating_system: "linux".into(),
            os_image: "this machine".into(),
            container_runtime_version: format!("homarus://{}", env!("CARGO_PKG_VERSION")),
            kubelet_version: "v1.34.0+homarus".into(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn conditions(since: Timestamp) -> Vec<NodeCondition> {
    let one = |kind: &str, status: &str, reason: &str, message: &str| NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(Timestamp::now())),
        last_transition_time: Some(Time(since)),
    };
    vec![
        one("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not watched"),
        one("DiskPressure", "False", "KubeletHasNoDiskPressure", "disk is not watched"),
        one("PIDPressure", "False", "KubeletHasSufficientPID", "process ids are not watched"),
        one("Ready", "True", "KubeletReady", "the node takes pods"),
    ]
}

/// Processors and bytes of memory of the machine.
pub(crate) fn machine() -> (usize, u64) {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = rustix::system::sysinfo();
    let memory = info.totalram * u64::from(info.mem_unit);
    (cpus, memory)
}

async fn beat(context: &Context) -> kube::Result<()> {
    let name = &context.config.name;
    let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
    let lease = Lease {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(LEASES.into()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let patch = Patch::Merge(&lease);
    match api.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    ensure_namespace(&context.client).await?;
    api.create(&PostParams::default(), &lease).await?;
    Ok(())
}

async fn ensure_namespace(client: &Client) -> kube::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace =
        Namespace { metadata: ObjectMeta { name: Some(LEASES.into()), ..ObjectMeta::default() }, ..Namespace::default() };
    match api.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
