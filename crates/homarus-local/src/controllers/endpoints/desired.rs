//! From pods to endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::super::pods;

const ZONE: &str = "topology.kubernetes.io/zone";

/// The family of a slice's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
}

/// Endpoints that may share slices: of one family, with the same ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// What the slices of `service` are to hold: for each of its families the groups there are, maybe none.
pub(super) fn groups<'p>(
    service: &Service,
    members: impl Iterator<Item = &'p Arc<Pod>>,
    nodes: &[Arc<Node>],
) -> BTreeMap<Family, Vec<Group>> {
    let mut groups: BTreeMap<Family, Vec<Group>> = families(service).into_iter().map(|family| (family, Vec::new())).collect();
    for pod in members.filter(|pod| is_endpoint(pod)) {
        let node = pods::node_name(pod).and_then(|name| nodes.iter().find(|node| node.name_any() == name));
        if node.is_none() && !publishes_unready(service) {
            // A pod on no node that we know is on its way to be cleaned up.
            continue;
        }
        let ports = endpoint_ports(service, pod);
        for (family, groups) in &mut groups {
            let Some(endpoint) = endpoint(service, pod, node.map(|node| &**node), *family) else { continue };
            match groups.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
    }
    groups
}

/// The families that the Service has; one that doesn't say has that of its address, and one without an address both.
fn families(service: &Service) -> Vec<Family> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let named: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    match spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(IpAddr::V4(_)) => vec![Family::V4],
        Some(IpAddr::V6(_)) => vec![Family::V6],
        None => vec![Family::V4, Family::V6],
    }
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Whether a pod that a Service selects is among its endpoints, ready or not.
fn is_endpoint(pod: &Pod) -> bool {
    !pods::has_ended(pod) && addresses(pod).next().is_some()
}

/// The pod's addresses, as they are written canonically.
fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).filter(|ips| !ips.is_empty());
    let only = status.and_then(|status| status.pod_ip.as_deref()).filter(|_| all.is_none());
    all.into_iter().flatten().map(|ip| ip.ip.as_str()).chain(only).filter_map(|ip| ip.parse().ok())
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: Family) -> Option<Endpoint> {
    let addresses: Vec<String> = addresses(pod).filter(|ip| family.has(ip)).map(|ip| ip.to_string()).collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..Default::default()
        }),
        zone: node.and_then(|node| node.labels().get(ZONE)).filter(|zone| !zone.is_empty()).cloned(),
        ..Default::default()
    })
}

/// The name that the pod has within the Service, if it asks for one.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then_some(hostname)
}

/// The Service's ports as they are on this pod; a port that the pod doesn't have is left out.
fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let on_pod = |port: &ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(pod, port, &protocol)?),
            protocol: Some(protocol),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.into_iter().filter_map(on_pod).collect()
}

/// The number of the port on the pod: as given, or that of the container port of that name.
fn target(pod: &Pod, port: &ServicePort, protocol: &str) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| pods::is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let has_name =
        |port: &&ContainerPort| port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol;
    ports.into_iter().find(has_name).map(|port| port.container_port)
}

/// Whether two versions of a pod make the same endpoints.
pub(super) fn looks_the_same(old: &Pod, new: &Pod) -> bool {
    let place = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        spec.map(|spec| (spec.hostname.clone(), spec.subdomain.clone(), spec.node_name.clone()))
    };
    let life = |pod: &Pod| (pods::is_ready(pod), pods::has_ended(pod), pod.metadata.deletion_timestamp.is_some());
    old.labels() == new.labels() && place(old) == place(new) && life(old) == life(new) && addresses(old).eq(addresses(new))
}
