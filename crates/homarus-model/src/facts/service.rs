//! Services and their endpoints.

use super::{Id, Labels, PortRef, Selector};
use crate::{Identity, ports::PortSet};
use std::{net::IpAddr, sync::Arc};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub id: Id,
    /// Its labels.
    pub labels: Labels,
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its cluster addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// The opaque ports that its annotation lists; none if it has none. Names are resolved already.
    pub opaque: Option<PortSet>,
    /// Whether clients may only be sent to endpoints on their own node.
    pub internal_traffic_local: bool,
    /// Which workloads it selects; none if its endpoints are somebody else's business.
    pub selector: Option<Selector>,
    /// Whether it wants IPv4 and IPv6 endpoints.
    pub families: (bool, bool),
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// By cluster addresses.
    ClusterIp,
    /// By the addresses of its endpoints.
    Headless,
    /// It is another name.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The number.
    pub port: u16,
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// What it leads to.
    pub target: PortRef,
    /// What is spoken there, if it says so.
    pub app_protocol: Option<Arc<str>>,
}

impl Service {
    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number)
    }
}

/// A part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub id: Id,
    /// The Service's name.
    pub service: Option<Arc<str>>,
    /// The numbers that the Service's ports have here, by the ports' names.
    pub ports: Vec<(Arc<str>, u16)>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The gateway that stands in for the endpoints of another cluster.
    pub gateway: Option<Identity>,
    /// The full name of the Service in the other cluster.
    pub remote_name: Option<Arc<str>>,
    /// The other cluster, if the slice mirrors one of its Services.
    pub target_cluster: Option<Arc<str>>,
}

/// An endpoint in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Its name within the Service.
    pub hostname: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// The zones whose clients it is meant for; none if it has no such hint.
    pub for_zones: Option<Vec<Arc<str>>>,
    /// What it is.
    pub target: SliceTarget,
}

/// What an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceTarget {
    /// A pod.
    Pod(Id),
    /// An external workload.
    External(Id),
    /// It doesn't say.
    Unnamed,
    /// Something that the mesh doesn't know: it is no endpoint of ours.
    Other,
}
