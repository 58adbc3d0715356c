//! Clusters in a few lines, for tests: facts by name, and what a proxy would be told.
#![allow(clippy::unwrap_used)]

use super::{
    Absence, Dirty, Index, Settings,
    views::{
        Key,
        endpoints::{EndpointSet, EndpointsKey},
        inbound::InboundKey,
        outbound::{OutboundKey, OutboundTarget},
        profile::{ProfileKey, ProfileTarget},
    },
};
use homarus_model::{
    facts::*,
    identity::Identity,
    inbound::{ClientTls, DefaultPolicy, NoTls, ServerPolicy},
    outbound::ClientPolicy,
    profile::Profile,
    route::{HttpMatch, PathMatch},
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// `namespace/name`.
pub(crate) fn id(text: &str) -> Id {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    Id::new(namespace, name)
}

/// `a=b,c=d`.
pub(crate) fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A running, meshed pod of the namespace's default account with the label `app`.
pub(crate) fn pod(name: &str, app: &str, addr: &str) -> Pod {
    Pod {
        id: id(name),
        labels: labels(&format!("app={app}")),
        service_account: "default".into(),
        node: "node".into(),
        ips: vec![ip(addr)],
        host_ips: Vec::new(),
        phase: Phase::Running,
        terminating: false,
        owner: None,
        ports: vec![Port { name: "http".into(), port: 8080, host_port: None }],
        probes: BTreeMap::new(),
        control_plane_ns: Some("linkerd".into()),
        proxy: Some(ProxyPorts { inbound: 4143, admin: 4191, control: 4190 }),
        skipped: Default::default(),
        settings: InboundSettings::default(),
    }
}

/// The same without a proxy.
pub(crate) fn plain(pod: Pod) -> Pod {
    Pod { control_plane_ns: None, proxy: None, ..pod }
}

pub(crate) fn external(name: &str, app: &str, addr: &str) -> ExternalWorkload {
    let identity: Identity = "spiffe://root/external".parse().unwrap();
    let tls = homarus_model::endpoint::ServerTls { id: identity, server_name: "external.example".parse().unwrap() };
    ExternalWorkload {
        id: id(name),
        labels: labels(&format!("app={app}")),
        ips: vec![ip(addr)],
        ports: vec![Port { name: "http".into(), port: 8080, host_port: None }],
        tls,
        ready: true,
        owner: None,
        zone: None,
        settings: InboundSettings::default(),
    }
}

/// A Service with port 80, named `http`, that leads to 8080.
pub(crate) fn service(name: &str, addr: &str) -> Service {
    let target = PortRef::Name("http".into());
    Service {
        id: id(name),
        labels: Labels::new(),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![ip(addr)],
        ports: vec![ServicePort { port: 80, name: "http".into(), target, app_protocol: None }],
        opaque: None,
        internal_traffic_local: false,
        selector: None,
        families: (true, true),
    }
}

/// The slice `<service>-1` of these pods.
pub(crate) fn slice(service: &str, pods: &[&Pod]) -> EndpointSlice {
    let Id { namespace, name } = id(service);
    let endpoint = |pod: &&Pod| SliceEndpoint {
        addresses: pod.ips.clone(),
        ready: true,
        hostname: None,
        zone: None,
        for_zones: None,
        target: SliceTarget::Pod(pod.id.clone()),
    };
    EndpointSlice {
        id: Id::new(namespace, format!("{name}-1")),
        service: Some(name),
        ports: vec![("http".into(), 8080)],
        endpoints: pods.iter().map(endpoint).collect(),
        gateway: None,
        remote_name: None,
        target_cluster: None,
    }
}

/// A Server on port 8080 of the pods with this label `app`, that lets nobody in by itself.
pub(crate) fn server(name: &str, app: &str) -> Server {
    Server {
        id: id(name),
        age: Age::Since(0),
        labels: Labels::new(),
        workloads: Workloads::Pods(Selector::of_labels([("app", app)])),
        port: PortRef::Number(8080),
        protocol: ServerProtocol::Unknown,
        access: DefaultPolicy::Deny,
    }
}

/// A policy that lets everybody in.
pub(crate) fn policy(name: &str, target: Target) -> AuthorizationPolicy {
    AuthorizationPolicy { id: id(name), target, clients: None, networks: None }
}

/// An accepted HTTPRoute with one rule on this path, to a Server or a Service.
pub(crate) fn http_route(name: &str, kind: ParentKind, parent: &str, path: &str, backends: Vec<BackendRef>) -> Route {
    let rule = RouteRule {
        matches: vec![HttpMatch { path: Some(PathMatch::Prefix(path.into())), ..HttpMatch::default() }],
        filters: Vec::new(),
        backends,
    };
    Route {
        kind: RouteKind::Http(RouteGroup::Gateway),
        id: id(name),
        age: Age::Since(0),
        parents: vec![Parent { kind, id: id(parent), port: None, section: None }],
        accepted: vec![Acceptance { kind, name: id(parent).name, port: None, ours: true }],
        hosts: Vec::new(),
        rules: Rules::Http(vec![rule]),
    }
}

pub(crate) fn backend(name: &str, port: u16, weight: u32) -> BackendRef {
    let filters = Ok(Vec::new());
    BackendRef::Service { namespace: None, name: name.into(), port: Some(port), weight, filters }
}

impl From<Pod> for Told {
    fn from(fact: Pod) -> Self {
        Self(Fact::Pod(fact))
    }
}

/// A fact, from any of the kinds.
pub(crate) struct Told(pub(crate) Fact);

macro_rules! told {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Told {
            fn from(fact: $kind) -> Self {
                Self(Fact::$kind(fact))
            }
        })*
    };
}
told!(
    Node,
    ExternalWorkload,
    Service,
    EndpointSlice,
    Server,
    ServerAuthorization,
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    Route
);
impl From<OwnerObject> for Told {
    fn from(fact: OwnerObject) -> Self {
        Self(Fact::Owner(fact))
    }
}
impl From<Fact> for Told {
    fn from(fact: Fact) -> Self {
        Self(fact)
    }
}

/// A cluster and its index.
pub(crate) struct World(pub(crate) Index);

impl World {
    pub(crate) fn new() -> Self {
        Self::with_settings(Settings::default())
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Self(Index::new(settings))
    }

    /// Adds or replaces an object.
    pub(crate) fn with(mut self, fact: impl Into<Told>) -> Self {
        self.tell(fact);
        self
    }

    pub(crate) fn tell(&mut self, fact: impl Into<Told>) {
        self.0.apply(Change::Apply(Arc::new(fact.into().0)), &mut Dirty::new());
    }

    pub(crate) fn delete(&mut self, kind: Kind, name: &str) {
        self.0.apply(Change::Delete(kind, id(name)), &mut Dirty::new());
    }

    /// The endpoints of a Service's port for a client on a node.
    pub(crate) fn endpoints_from(&self, service: &str, port: u16, node: &str) -> Result<EndpointSet, Absence> {
        let service = id(service);
        let place = self.0.place(&service, node);
        EndpointsKey { service, port, hostname: None, place }.view(&self.0)
    }

    /// The endpoints of port 80.
    pub(crate) fn endpoints(&self, service: &str) -> EndpointSet {
        self.endpoints_from(service, 80, "node").unwrap()
    }

    /// Their addresses.
    pub(crate) fn addresses(&self, service: &str) -> Vec<String> {
        self.endpoints(service).endpoints.keys().map(ToString::to_string).collect()
    }

    pub(crate) fn profile(&self, addr: &str) -> Result<Profile, Absence> {
        ProfileKey { target: ProfileTarget::Addr(addr.parse().unwrap()), client: "client".into() }.view(&self.0)
    }

    pub(crate) fn inbound(&self, pod: &str, port: u16) -> Result<ServerPolicy, Absence> {
        let workload = pod.replacen('/', ":", 1).parse().unwrap();
        InboundKey { workload, port }.view(&self.0)
    }

    /// The names of the grants that let a client into a pod's port 8080.
    pub(crate) fn grants(&self, pod: &str, addr: &str, identity: Option<&str>) -> Vec<String> {
        let tls = match identity {
            Some(id) => ClientTls::Terminated(Some(id.parse().unwrap())),
            None => ClientTls::None(NoTls::NoTlsFromRemote),
        };
        let policy = self.inbound(pod, 8080).unwrap();
        let grants = policy.authorizations.iter().filter(|grant| grant.permits(ip(addr), &tls));
        grants.map(|grant| grant.meta.name().to_owned()).collect()
    }

    pub(crate) fn outbound(&self, addr: &str, client: &str) -> Result<ClientPolicy, Absence> {
        OutboundKey { target: OutboundTarget::Addr(addr.parse().unwrap()), client: client.into() }.view(&self.0)
    }
}
