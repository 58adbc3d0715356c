//! Services, their endpoints, and what pods run on and belong to.

use super::{Defect, IntOrString, Object, Readable, body, or_default, workload::port_list};
use crate::annotations::OPAQUE_PORTS;
use homarus_model::facts::{
    EndpointSlice, Fact, Id, Labels, Node, OwnerKind, OwnerObject, Port, PortRef, Selector, Service, ServiceKind, ServicePort,
    SliceEndpoint, SliceTarget,
};
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc};

const ZONE: &str = "topology.kubernetes.io/zone";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const GATEWAY_IDENTITY: &str = "mirror.linkerd.io/remote-gateway-identity";
const REMOTE_NAME: &str = "mirror.linkerd.io/remote-svc-fq-name";
const TARGET_CLUSTER: &str = "mirror.linkerd.io/cluster-name";

pub(super) fn node(object: Object<'_>) -> Fact {
    Fact::Node(Node { id: object.meta.id(), zone: object.meta.labels.get(ZONE).cloned() })
}

pub(super) fn owner(kind: OwnerKind, object: Object<'_>) -> Fact {
    Fact::Owner(OwnerObject { kind, id: object.meta.id(), owner: object.meta.owner() })
}

#[derive(Deserialize)]
struct ServiceBody {
    #[serde(default, deserialize_with = "or_default")]
    spec: ServiceSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<SpecPort>,
    internal_traffic_policy: Option<String>,
    selector: Option<Labels>,
    #[serde(deserialize_with = "or_default")]
    ip_families: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecPort {
    port: u16,
    #[serde(default)]
    name: Arc<str>,
    protocol: Option<String>,
    target_port: Option<IntOrString>,
    app_protocol: Option<Arc<str>>,
}

pub(super) fn service(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let ServiceBody { spec } = body(object)?;
    let tcp = spec.ports.into_iter().filter(|p| p.protocol.as_deref().is_none_or(|p| p.is_empty() || p == "TCP"));
    let ports: Vec<_> = tcp
        .map(|p| ServicePort {
            target: p.target_port.and_then(|t| t.port()).unwrap_or(PortRef::Number(p.port)),
            port: p.port,
            name: p.name,
            app_protocol: p.app_protocol,
        })
        .collect();
    let mut defects = Vec::new();
    let named: Vec<_> = ports.iter().map(|p| Port { name: p.name.clone(), port: p.port, host_port: None }).collect();
    let opaque = meta.annotation(OPAQUE_PORTS).map(|list| port_list(OPAQUE_PORTS, list, &named, &mut defects));
    let kind = match &*spec.kind {
        "ExternalName" => ServiceKind::ExternalName,
        _ if spec.cluster_ip == "None" => ServiceKind::Headless,
        _ => ServiceKind::ClusterIp,
    };
    let mut cluster_ips: Vec<IpAddr> = spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    cluster_ips.extend(spec.cluster_ip.parse::<IpAddr>().ok().filter(|ip| !cluster_ips.contains(ip)));
    let wants = |family: &str| spec.ip_families.is_empty() || spec.ip_families.iter().any(|f| f == family);
    let fact = Service {
        id: meta.id(),
        labels: meta.labels.clone(),
        kind,
        cluster_ips,
        ports,
        opaque,
        internal_traffic_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.filter(|s| !s.is_empty()).map(|labels| Selector { labels, expressions: Vec::new() }),
        families: (wants("IPv4"), wants("IPv6")),
    };
    Ok(Readable { fact: Fact::Service(fact), defects })
}

#[derive(Deserialize)]
struct SliceBody {
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<SlicePort>,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct SlicePort {
    #[serde(default, deserialize_with = "or_default")]
    name: Option<Arc<str>>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: Conditions,
    hostname: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    hints: Hints,
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<ForZone>>,
}

#[derive(Deserialize)]
struct ForZone {
    name: Arc<str>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespace: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
}

pub(super) fn endpoint_slice(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let SliceBody { ports, endpoints } = body(object)?;
    let owner = || meta.owner_references.iter().find(|o| o.kind == "Service").map(|o| o.name.clone());
    let tcp = ports.into_iter().filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
    let mut defects = Vec::new();
    let gateway = meta.annotation(GATEWAY_IDENTITY).filter(|id| !id.is_empty()).and_then(|id| match id.parse() {
        Ok(identity) => Some(identity),
        Err(error) => {
            let field = format!("metadata.annotations[{GATEWAY_IDENTITY}]");
            defects.push(Defect::new(field, error, "write the gateway's identity; until then it is not asked for one"));
            None
        }
    });
    let fact = EndpointSlice {
        id: meta.id(),
        service: meta.labels.get(SERVICE_NAME).cloned().or_else(owner),
        ports: tcp.filter_map(|p| Some((p.name.unwrap_or_default(), p.port?))).collect(),
        endpoints: endpoints.into_iter().map(|e| endpoint(e, &meta.namespace)).collect(),
        gateway,
        remote_name: meta.annotation(REMOTE_NAME).map(Into::into),
        target_cluster: meta.labels.get(TARGET_CLUSTER).cloned(),
    };
    Ok(Readable { fact: Fact::EndpointSlice(fact), defects })
}

fn endpoint(from: Endpoint, namespace: &Arc<str>) -> SliceEndpoint {
    let target = match from.target_ref {
        None => SliceTarget::Unnamed,
        Some(target) => {
            let namespace = if target.namespace.is_empty() { namespace.clone() } else { target.namespace };
            let id = Id { namespace, name: target.name };
            match &*target.kind {
                "Pod" => SliceTarget::Pod(id),
                "ExternalWorkload" => SliceTarget::External(id),
                _ => SliceTarget::Other,
            }
        }
    };
    SliceEndpoint {
        addresses: from.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
        ready: from.conditions.ready.unwrap_or(true),
        hostname: from.hostname,
        zone: from.zone,
        for_zones: from.hints.for_zones.map(|zones| zones.into_iter().map(|z| z.name).collect()),
        target,
    }
}
