//! The endpoints of a Service's port, as seen from a client's place (control-plane §2).

use super::Key;
use crate::index::{Absence, Index, Topic, workloads::Subject};
use homarus_model::{
    Authority, Identity,
    endpoint::{DEFAULT_WEIGHT, Endpoint, ProtocolHint, ServerTls},
    facts::{EndpointSlice, ExternalWorkload, Id, Pod, Service, ServiceKind, SliceEndpoint, SliceTarget},
};
use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

/// Which endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointsKey {
    /// The Service.
    pub service: Id,
    /// The port that the client asked for.
    pub port: u16,
    /// The one endpoint of this name.
    pub hostname: Option<Arc<str>>,
    /// Where the client is.
    pub place: Place,
}

/// Where a client is, as far as that matters: clients of one place share their views.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// Its node, if only endpoints on that node will do.
    pub node: Option<Arc<str>>,
}

/// Endpoints by address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSet {
    /// Labels of all of them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The endpoints.
    pub endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
}

impl Index {
    /// Where a client on a node is, for what a Service asks.
    pub fn place(&self, service: &Id, node: &str) -> Place {
        let zone = self.facts.node(&Id::new("", node)).and_then(|node| node.zone.clone());
        let local = self.facts.service(service).is_some_and(|s| s.internal_traffic_local);
        Place { zone, node: local.then(|| node.into()) }
    }
}

impl Key for EndpointsKey {
    type View = EndpointSet;

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Endpoints(self.service.clone())]
    }

    fn view(&self, index: &Index) -> Result<EndpointSet, Absence> {
        let Some(service) = index.facts.service(&self.service) else {
            return Err(Absence::NotFound(format!("no such service: {}", self.service)));
        };
        if service.kind == ServiceKind::ExternalName {
            return Err(Absence::Invalid(format!("{} is of type ExternalName: it has no endpoints", self.service)));
        }
        if service.internal_traffic_local && self.place.node.is_none() {
            return Err(Absence::Rekey);
        }
        let view = View { index, key: self, service };
        let candidates = view.chosen(view.candidates());
        let endpoints = candidates.iter().filter_map(|c| Some((c.addr, Arc::new(view.endpoint(c)?)))).collect();
        Ok(EndpointSet { labels: Arc::new(view.labels(&candidates)), endpoints })
    }
}

struct View<'a> {
    index: &'a Index,
    key: &'a EndpointsKey,
    service: &'a Service,
}

/// An address that may become an endpoint.
struct Candidate<'a> {
    addr: SocketAddr,
    slice: &'a EndpointSlice,
    endpoint: &'a SliceEndpoint,
    target: Option<Subject<'a>>,
}

impl<'a> View<'a> {
    /// Every ready address of the port.
    fn candidates(&self) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        let port_name = self.service.port(self.key.port).map(|p| &p.name);
        for slice in self.index.slices_of(&self.key.service) {
            let port = match port_name {
                Some(name) => slice.ports.iter().find(|(n, _)| n == name).map(|(_, port)| *port),
                // A port that the Service doesn't have is taken as the endpoints' own.
                None => (!slice.ports.is_empty()).then_some(self.key.port),
            };
            let Some(port) = port else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                let target = match &endpoint.target {
                    SliceTarget::Unnamed => None,
                    SliceTarget::Other => continue,
                    SliceTarget::Pod(id) => match self.index.facts.pod(id) {
                        Some(pod) => Some(Subject::Pod(pod)),
                        None => continue,
                    },
                    SliceTarget::External(id) => match self.index.facts.external(id) {
                        Some(external) => Some(Subject::External(external)),
                        None => continue,
                    },
                };
                let addrs = endpoint.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
                candidates.extend(addrs.map(|addr| Candidate { addr, slice, endpoint, target }));
            }
        }
        candidates
    }

    /// Those that a client in this place is meant to use.
    fn chosen(&self, mut all: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        if let Some(hostname) = &self.key.hostname {
            all.retain(|c| c.endpoint.hostname.as_ref() == Some(hostname));
        }
        if self.service.internal_traffic_local {
            let node = self.key.place.node.as_deref();
            all.retain(|c| matches!(c.target, Some(Subject::Pod(pod)) if Some(&*pod.node) == node));
        } else if all.iter().all(|c| c.endpoint.for_zones.is_some()) {
            let zone = self.key.place.zone.as_ref();
            let is_meant = |c: &Candidate<'_>| c.endpoint.for_zones.iter().flatten().any(|z| Some(z) == zone);
            // Hints that leave nobody are no hints.
            if all.iter().any(is_meant) {
                all.retain(is_meant);
            }
        }
        self.one_family(&mut all);
        all
    }

    /// A workload is one endpoint, though it may have an address of each family: IPv6 is preferred where it may be used.
    fn one_family(&self, all: &mut Vec<Candidate<'a>>) {
        if !self.index.settings().ipv6 {
            all.retain(|c| c.addr.is_ipv4() || c.target.is_none());
            return;
        }
        let six: HashSet<&Id> = all.iter().filter(|c| c.addr.is_ipv6()).filter_map(|c| Some(c.target?.id())).collect();
        if !six.is_empty() {
            all.retain(|c| c.addr.is_ipv6() || c.target.is_none_or(|t| !six.contains(t.id())));
        }
    }

    fn labels(&self, candidates: &[Candidate<'_>]) -> BTreeMap<String, String> {
        let Id { namespace, name } = &self.key.service;
        let mut labels = BTreeMap::from([label("service", name), label("namespace", namespace)]);
        let mirror = candidates.iter().map(|c| c.slice).find(|slice| slice.target_cluster.is_some());
        if let Some(cluster) = mirror.and_then(|slice| slice.target_cluster.as_ref()) {
            labels.extend([label("target_cluster", cluster)]);
            let remote = mirror.and_then(|slice| slice.remote_name.as_deref()).unwrap_or_default();
            let mut parts = remote.split('.');
            if let (Some(service), Some(namespace)) = (parts.next(), parts.next()) {
                labels.extend([label("target_service", service), label("target_service_namespace", namespace)]);
            }
        }
        labels
    }

    fn endpoint(&self, candidate: &Candidate<'a>) -> Option<Endpoint> {
        let zone = candidate.endpoint.zone.as_deref();
        let mut endpoint = match candidate.target {
            Some(Subject::Pod(pod)) => self.index.pod_endpoint(candidate.addr, pod, zone.unwrap_or_default())?,
            Some(Subject::External(external)) => self.index.external_endpoint(candidate.addr, external, zone.unwrap_or_default()),
            None => self.mirrored_endpoint(candidate),
        };
        // The zone of what stands for another cluster says nothing.
        let locality = match (&self.key.place.zone, zone.filter(|_| candidate.target.is_some())) {
            (Some(client), Some(endpoint)) if **client == *endpoint => "local",
            (Some(_), Some(_)) => "remote",
            _ => "unknown",
        };
        if locality == "local" && self.index.settings().zone_weights {
            endpoint.weight *= LOCAL_WEIGHT;
        }
        Arc::make_mut(&mut endpoint.labels).extend([label("zone_locality", locality)]);
        Some(endpoint)
    }

    /// An endpoint that is no workload of this cluster: a gateway, or an address that somebody wrote down.
    fn mirrored_endpoint(&self, candidate: &Candidate<'_>) -> Endpoint {
        let slice = candidate.slice;
        let mut endpoint = Endpoint::plain(candidate.addr);
        endpoint.tls = slice.gateway.clone().and_then(server_tls);
        if endpoint.tls.is_some() {
            endpoint.http2 = self.index.settings().meshed_http2.clone();
            if self.index.settings().h2_upgrade {
                endpoint.hint = ProtocolHint::Http2;
            }
        }
        let authority = slice.remote_name.as_ref().and_then(|name| name.parse().ok());
        endpoint.authority_override = authority.map(|name| Authority::name(name, self.key.port));
        endpoint
    }
}

/// How much more an endpoint in the client's zone weighs, where zones weigh.
const LOCAL_WEIGHT: u32 = 10;

fn label(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A DNS-like identity is its own server name.
fn server_tls(id: Identity) -> Option<ServerTls> {
    let server_name = id.dns_name()?.clone();
    Some(ServerTls { id, server_name })
}

impl Index {
    /// A pod's port. None: its proxy is there but can't be understood, so that neither plain nor TLS would be right.
    pub(super) fn pod_endpoint(&self, addr: SocketAddr, pod: &Pod, zone: &str) -> Option<Endpoint> {
        let settings = self.settings();
        let port = addr.port();
        let mut endpoint = Endpoint { labels: Arc::new(self.pod_labels(pod, zone)), ..Endpoint::plain(addr) };
        endpoint.weight = DEFAULT_WEIGHT;
        if pod.control_plane_ns.is_none() {
            return Some(endpoint);
        }
        let proxy = pod.proxy?;
        if pod.skipped.contains(port) {
            return Some(endpoint);
        }
        let is_ours = pod.is_meshed_by(&settings.naming.control_plane_ns);
        let identity = || settings.naming.service_account(&pod.id.namespace, &pod.service_account).ok();
        endpoint.tls = is_ours.then(identity).flatten().and_then(server_tls);
        let opaque = self.is_opaque(Subject::Pod(pod), port);
        endpoint.hint = match opaque {
            true => ProtocolHint::Opaque,
            false if settings.h2_upgrade => ProtocolHint::Http2,
            false => ProtocolHint::Unknown,
        };
        let is_proxys = port == proxy.admin || port == proxy.control;
        let tagged = (opaque || settings.transport_header) && !is_proxys;
        endpoint.tagged_transport_port = tagged.then_some(proxy.inbound);
        endpoint.http2 = settings.meshed_http2.clone();
        Some(endpoint)
    }

    /// A port of a workload outside of the cluster.
    pub(super) fn external_endpoint(&self, addr: SocketAddr, external: &ExternalWorkload, zone: &str) -> Endpoint {
        let settings = self.settings();
        let opaque = self.is_opaque(Subject::External(external), addr.port());
        let proxy = external.named_ports(EXTERNAL_PROXY_PORT).next().unwrap_or(DEFAULT_PROXY_PORT);
        let mut labels = BTreeMap::from([label("external_workload", &external.id.name), label("zone", zone)]);
        labels.extend(external.owner.iter().map(|owner| label(&owner.kind, &owner.name)));
        Endpoint {
            tls: Some(external.tls.clone()),
            hint: if opaque { ProtocolHint::Opaque } else { ProtocolHint::Http2 },
            tagged_transport_port: (opaque || settings.transport_header).then_some(proxy),
            http2: settings.meshed_http2.clone(),
            labels: Arc::new(labels),
            ..Endpoint::plain(addr)
        }
    }

    fn pod_labels(&self, pod: &Pod, zone: &str) -> BTreeMap<String, String> {
        let owner = self.pod_owner(pod);
        // `job` is what Prometheus calls a scrape job.
        let owner_kind = if &*owner.kind == "job" { "k8s_job" } else { &*owner.kind };
        let account = if pod.service_account.is_empty() { "default" } else { &*pod.service_account };
        let mut labels = BTreeMap::from([
            label("pod", &pod.id.name),
            label(owner_kind, &owner.name),
            label("serviceaccount", account),
            label("zone", zone),
        ]);
        labels.extend(pod.control_plane_ns.iter().map(|ns| label("control_plane_ns", ns)));
        labels.extend(pod.labels.get("pod-template-hash").map(|hash| label("pod_template_hash", hash)));
        labels
    }

    /// Whether clients shall not parse what they send to a workload's port (control-plane §2.6).
    pub(super) fn is_opaque(&self, subject: Subject<'_>, port: u16) -> bool {
        let listed = subject.settings().opaque.as_ref().unwrap_or(&self.settings().default_opaque_ports);
        listed.contains(port) || self.is_opaque_by_server(subject, port)
    }

    /// Whether clients shall not parse what they send to an address that nobody is known to have.
    pub(super) fn is_opaque_by_default(&self, port: u16) -> bool {
        self.settings().default_opaque_ports.contains(port)
    }
}

/// The name of the port of an external workload's proxy, and its number unless it has that name.
const EXTERNAL_PROXY_PORT: &str = "linkerd-proxy";
const DEFAULT_PROXY_PORT: u16 = 4143;

impl EndpointSet {
    /// What has to be added or changed, and what removed, to get here from `before`.
    pub fn changes_since(&self, before: &Self) -> (Vec<Arc<Endpoint>>, Vec<SocketAddr>) {
        let relabelled = self.labels != before.labels;
        let changed = self.endpoints.iter().filter(|(addr, endpoint)| relabelled || before.endpoints.get(addr) != Some(endpoint));
        let gone = before.endpoints.keys().filter(|addr| !self.endpoints.contains_key(addr));
        (changed.map(|(_, endpoint)| endpoint.clone()).collect(), gone.copied().collect())
    }
}
