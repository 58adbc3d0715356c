//! Pods, external workloads, and what they run on and belong to.

use super::{Id, Labels};
use crate::{Identity, endpoint::ServerTls, inbound::DefaultPolicy, ports::PortSet};
use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr, sync::Arc};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: Id,
    /// The zone it is in, if it says so.
    pub zone: Option<Arc<str>>,
}

/// What kind of object stands between a pod and the workload that a user wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// A ReplicaSet.
    ReplicaSet,
    /// A Job.
    Job,
}

/// A ReplicaSet or a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerObject {
    /// Which of both.
    pub kind: OwnerKind,
    /// Its name.
    pub id: Id,
    /// What it belongs to itself.
    pub owner: Option<Owner>,
}

/// What an object belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind in lower case, like `deployment`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A port, by number or by the name that a workload gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// The number.
    Number(u16),
    /// The name.
    Name(Arc<str>),
}

/// A port that a workload declares. Only TCP is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// The number.
    pub port: u16,
    /// The port of the node that leads to it.
    pub host_port: Option<u16>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet running.
    Pending,
    /// At least one container runs.
    Running,
    /// All has ended for good but the proxy, which the kubelet doesn't end.
    ProxyOnly,
    /// Succeeded or failed.
    Done,
}

/// What a workload's annotations say of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundSettings {
    /// The default policy of ports without a Server.
    pub default_policy: Option<DefaultPolicy>,
    /// The ports that are opaque. Names are resolved already. None: the cluster's default list applies to clients.
    pub opaque: Option<PortSet>,
    /// The ports where an allowing default asks for an identity.
    pub require_identity: PortSet,
}

/// The ports that a pod's proxy listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyPorts {
    /// Inbound traffic.
    pub inbound: u16,
    /// The admin server.
    pub admin: u16,
    /// The tap server.
    pub control: u16,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub id: Id,
    /// Its labels.
    pub labels: Labels,
    /// The account it runs as.
    pub service_account: Arc<str>,
    /// The node it runs on; empty before it is scheduled.
    pub node: Arc<str>,
    /// Its addresses; none for pods in the node's network.
    pub ips: Vec<IpAddr>,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it was told to end.
    pub terminating: bool,
    /// What it belongs to, if it is exactly one object.
    pub owner: Option<Owner>,
    /// The TCP ports of its containers.
    pub ports: Vec<Port>,
    /// Paths of the kubelet's HTTP probes, by port.
    pub probes: BTreeMap<u16, BTreeSet<String>>,
    /// The control plane's namespace, if it is meshed.
    pub control_plane_ns: Option<Arc<str>>,
    /// The ports of its proxy; none if it has none or they can't be read.
    pub proxy: Option<ProxyPorts>,
    /// Inbound ports that don't go through the proxy.
    pub skipped: PortSet,
    /// What its annotations say.
    pub settings: InboundSettings,
}

/// A workload outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalWorkload {
    /// Its name.
    pub id: Id,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<Port>,
    /// Whom to expect there.
    pub tls: ServerTls,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// What it belongs to, if it is exactly one object.
    pub owner: Option<Owner>,
    /// The zone it is in, if it says so.
    pub zone: Option<Arc<str>>,
    /// What its annotations say.
    pub settings: InboundSettings,
}

impl Pod {
    /// The number of a port, if exactly this pod declares it.
    pub fn named_ports<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        named(&self.ports, name)
    }

    /// Whether the pod's own control plane is `ns`.
    pub fn is_meshed_by(&self, ns: &str) -> bool {
        self.control_plane_ns.as_deref() == Some(ns)
    }
}

impl ExternalWorkload {
    /// The numbers of the ports with this name.
    pub fn named_ports<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        named(&self.ports, name)
    }

    /// The identity that its certificate proves.
    pub fn identity(&self) -> &Identity {
        &self.tls.id
    }
}

fn named<'a>(ports: &'a [Port], name: &'a str) -> impl Iterator<Item = u16> + 'a {
    ports.iter().filter(move |p| !name.is_empty() && *p.name == *name).map(|p| p.port)
}
