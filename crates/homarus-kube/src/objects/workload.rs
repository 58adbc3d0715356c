//! Pods and external workloads.

use super::{Condition, Defect, IntOrString, Meta, Object, Readable, SEE_SCHEMA, body, or_default};
use crate::annotations::{DEFAULT_INBOUND_POLICY, OPAQUE_PORTS, PortOrName, REQUIRE_IDENTITY_PORTS, SKIP_INBOUND_PORTS};
use crate::annotations::{items, parse_port_or_name};
use homarus_model::{
    endpoint::ServerTls,
    facts::{ExternalWorkload, Fact, InboundSettings, Phase, Pod, Port, PortRef, ProxyPorts},
    ports::{self, PortSet},
};
use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// The label that says which control plane a pod's proxy belongs to.
pub const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";
/// The container that is the proxy.
pub const PROXY_CONTAINER: &str = "linkerd-proxy";

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodBody {
    #[serde(deserialize_with = "or_default")]
    spec: PodSpec,
    #[serde(deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Arc<str>,
    restart_policy: String,
    node_name: Arc<str>,
    host_network: bool,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ContainerPort>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<Env>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
    restart_policy: Option<String>,
    #[serde(deserialize_with = "or_default")]
    restart_policy_rules: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[serde(default)]
    name: Arc<str>,
    container_port: u16,
    host_port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Deserialize)]
struct Env {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: Option<HttpGet>,
}

#[derive(Deserialize)]
struct HttpGet {
    path: Option<String>,
    port: IntOrString,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pod_ips: Vec<Ip>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs", deserialize_with = "or_default")]
    host_ips: Vec<Ip>,
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    state: ContainerState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i64,
}

/// Whether all has ended for good but the proxy, which the kubelet doesn't end because it is no native sidecar: then the pod's work
/// is done, whatever its phase says.
fn only_the_proxy_is_left(spec: &PodSpec, status: &PodStatus) -> bool {
    let ended = |container: &&Container| {
        let mut statuses = status.container_statuses.iter().filter(|status| status.name == container.name);
        let terminated = statuses.next().and_then(|status| status.state.terminated.as_ref());
        // What has failed is started again, unless it never is.
        terminated.is_some_and(|ended| ended.exit_code == 0 || spec.restart_policy == "Never")
    };
    // Whether a container that says more than its pod is started again isn't ours to guess.
    let as_the_pod = |container: &Container| container.restart_policy.is_none() && container.restart_policy_rules.is_empty();
    let (proxies, others): (Vec<_>, Vec<_>) = spec.containers.iter().partition(|container| container.name == PROXY_CONTAINER);
    let may_end = matches!(&*spec.restart_policy, "Never" | "OnFailure") && spec.containers.iter().all(as_the_pod);
    may_end && !proxies.is_empty() && !others.is_empty() && others.iter().all(ended)
}

#[derive(Deserialize)]
struct Ip {
    ip: String,
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p.is_empty() || p == "TCP")
}

/// All addresses, the first one first; what isn't one is left out.
fn addresses(first: Option<String>, all: Vec<Ip>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in first.into_iter().chain(all.into_iter().map(|ip| ip.ip)).filter_map(|ip| ip.parse().ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

pub(super) fn pod(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let PodBody { spec, status } = body(object)?;
    let containers = || spec.init_containers.iter().chain(&spec.containers);
    let tcp = containers().flat_map(|c| &c.ports).filter(|p| is_tcp(p.protocol.as_deref()));
    let ports: Vec<_> =
        tcp.map(|p| Port { name: p.name.clone(), port: p.container_port, host_port: p.host_port.filter(|p| *p != 0) }).collect();
    let over = only_the_proxy_is_left(&spec, &status);
    let mut defects = Vec::new();
    let settings = settings(meta, &ports, &mut defects);
    let skipped = meta.annotation(SKIP_INBOUND_PORTS).map(|list| port_list(SKIP_INBOUND_PORTS, list, &[], &mut defects));
    let fact = Pod {
        id: meta.id(),
        labels: meta.labels.clone(),
        service_account: spec.service_account_name.clone(),
        node: spec.node_name.clone(),
        ips: if spec.host_network { Vec::new() } else { addresses(status.pod_ip, status.pod_ips) },
        host_ips: addresses(status.host_ip, status.host_ips),
        phase: match &*status.phase {
            "Succeeded" | "Failed" => Phase::Done,
            "Running" if over => Phase::ProxyOnly,
            "Running" => Phase::Running,
            _ => Phase::Pending,
        },
        terminating: meta.deletion_timestamp.is_some(),
        owner: meta.owner(),
        probes: probes(containers(), &ports),
        control_plane_ns: meta.labels.get(CONTROL_PLANE_NS).filter(|ns| !ns.is_empty()).cloned(),
        proxy: containers().find(|c| c.name == PROXY_CONTAINER).and_then(proxy_ports),
        skipped: skipped.unwrap_or_default(),
        settings,
        ports,
    };
    Ok(Readable { fact: Fact::Pod(fact), defects })
}

/// What the kubelet asks for, by port. A path keeps no query: routes don't look at it.
fn probes<'a>(containers: impl Iterator<Item = &'a Container>, ports: &[Port]) -> BTreeMap<u16, BTreeSet<String>> {
    let mut probes: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let all = containers.flat_map(|c| [&c.liveness_probe, &c.readiness_probe, &c.startup_probe]);
    for probe in all.flatten().filter_map(|probe| probe.http_get.as_ref()) {
        let port = match probe.port.port() {
            Some(PortRef::Number(port)) => Some(port),
            Some(PortRef::Name(name)) => ports.iter().find(|p| p.name == name).map(|p| p.port),
            None => None,
        };
        let path = probe.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let path = path.split('?').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if let Some(port) = port {
            probes.entry(port).or_default().insert(path);
        }
    }
    probes
}

fn proxy_ports(container: &Container) -> Option<ProxyPorts> {
    let port = |name: &str| -> Option<u16> {
        let variable = container.env.iter().find(|env| env.name == name)?;
        variable.value.as_deref()?.rsplit_once(':')?.1.parse().ok()
    };
    Some(ProxyPorts {
        inbound: port("LINKERD2_PROXY_INBOUND_LISTEN_ADDR")?,
        admin: port("LINKERD2_PROXY_ADMIN_LISTEN_ADDR")?,
        control: port("LINKERD2_PROXY_CONTROL_LISTEN_ADDR")?,
    })
}

fn settings(meta: &Meta, ports: &[Port], defects: &mut Vec<Defect>) -> InboundSettings {
    let default_policy = meta.annotation(DEFAULT_INBOUND_POLICY).and_then(|value| match value.parse() {
        Ok(policy) => Some(policy),
        Err(error) => {
            let field = annotation(DEFAULT_INBOUND_POLICY);
            defects.push(Defect::new(field, error, "correct the annotation; until then the cluster's default applies"));
            None
        }
    });
    let mut list = |name| meta.annotation(name).map(|list| port_list(name, list, ports, defects));
    let require_identity = list(REQUIRE_IDENTITY_PORTS).unwrap_or_default();
    InboundSettings { default_policy, opaque: list(OPAQUE_PORTS), require_identity }
}

fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// Ports, ranges and names of ports. Names that no port has mean none (yet); what can't be read is left out.
pub(super) fn port_list(name: &str, list: &str, named: &[Port], defects: &mut Vec<Defect>) -> PortSet {
    let mut set = PortSet::default();
    for item in items(list) {
        match parse_port_or_name(item) {
            Some(PortOrName::Port(item)) => set.extend(ports::parse_range(item).into_iter().flatten()),
            Some(PortOrName::Name(name)) => set.extend(named.iter().filter(|p| *p.name == *name).map(|p| p.port)),
            None => {
                let problem = format!("{item:?} is neither a port, a range, nor the name of a port");
                defects.push(Defect::new(annotation(name), problem, "write 80, 8000-8010 or a port's name; it is left out"));
            }
        }
    }
    set
}

#[derive(Deserialize)]
struct ExternalBody {
    spec: ExternalSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: ExternalStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalSpec {
    #[serde(rename = "meshTLS")]
    mesh_tls: MeshTls,
    #[serde(rename = "workloadIPs", default, deserialize_with = "or_default")]
    workload_ips: Vec<Ip>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<ExternalPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTls {
    identity: String,
    server_name: String,
}

#[derive(Deserialize)]
struct ExternalPort {
    port: u16,
    #[serde(default)]
    name: Arc<str>,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExternalStatus {
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
}

pub(super) fn external(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let ExternalBody { spec, status } = body(object)?;
    let id = spec.mesh_tls.identity.parse().map_err(|e| Defect::new("spec.meshTLS.identity", e, SEE_SCHEMA))?;
    let server_name = spec.mesh_tls.server_name.parse().map_err(|e| Defect::new("spec.meshTLS.serverName", e, SEE_SCHEMA))?;
    let tcp = spec.ports.into_iter().filter(|p| is_tcp(p.protocol.as_deref()));
    let ports: Vec<_> = tcp.map(|p| Port { name: p.name, port: p.port, host_port: None }).collect();
    let mut defects = Vec::new();
    let settings = settings(meta, &ports, &mut defects);
    let fact = ExternalWorkload {
        id: meta.id(),
        labels: meta.labels.clone(),
        ips: addresses(None, spec.workload_ips),
        ports,
        tls: ServerTls { id, server_name },
        ready: status.conditions.iter().any(|condition| condition.holds("Ready")),
        owner: meta.owner(),
        zone: meta.labels.get("topology.kubernetes.io/zone").cloned(),
        settings,
    };
    Ok(Readable { fact: Fact::ExternalWorkload(fact), defects })
}
