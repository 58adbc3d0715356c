//! Where a client's requests go (control-plane §6).

use super::Key;
use crate::index::{Absence, Index, Topic};
use homarus_model::{
    Meta,
    endpoint::Endpoint,
    facts::{BackendRef, Id, Route, RouteFilter, RouteRule, Rules},
    inbound::DETECT_TIMEOUT,
    meta::Resource,
    outbound::{Backend, ClientPolicy, Dispatcher, Distribution, Ewma, OpaqueRoute, Protocol, Refusal, RouteBackend, RoutePolicy},
    route::{self, Filter, HttpMatch, HttpRoute, InjectedFailure, PathMatch, Ratio, Rule},
};
use http::StatusCode;
use std::{net::SocketAddr, sync::Arc};

/// Whose requests, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundKey {
    /// What the client dialed.
    pub target: OutboundTarget,
    /// The client's namespace.
    pub client: Arc<str>,
}

/// What a client dialed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboundTarget {
    /// An address.
    Addr(SocketAddr),
    /// A Service's port; neither needs to exist.
    Service(Id, u16),
}

impl Key for OutboundKey {
    type View = ClientPolicy;

    fn topics(&self) -> Vec<Topic> {
        match &self.target {
            OutboundTarget::Addr(addr) => vec![Topic::Ip(addr.ip())],
            OutboundTarget::Service(id, _) => vec![Topic::Service(id.clone())],
        }
    }

    fn view(&self, index: &Index) -> Result<ClientPolicy, Absence> {
        let addr = match &self.target {
            OutboundTarget::Service(id, port) => return Ok(index.client_policy(id, *port, &self.client)),
            OutboundTarget::Addr(addr) => *addr,
        };
        match index.services_at(addr.ip()).next() {
            Some(service) if service.port(addr.port()).is_some() => Ok(index.client_policy(&service.id, addr.port(), &self.client)),
            Some(service) => Ok(undefined_port(&service.id, addr.port())),
            None if index.settings().cluster_networks.iter().any(|n| n.contains(&addr.ip())) => {
                Err(Absence::NotFound(format!("No such service: {addr}")))
            }
            None => Ok(ClientPolicy::forward("egress-fallback", Endpoint::plain(addr))),
        }
    }
}

/// A Service refuses what it doesn't offer.
fn undefined_port(service: &Id, port: u16) -> ClientPolicy {
    let meta = Arc::new(Meta::default_named("undefined-port"));
    let refuse = Some(Refusal::Forbidden);
    ClientPolicy {
        parent: Arc::new(Meta::service(service.namespace.clone(), service.name.clone(), port)),
        protocol: Protocol::Opaque(OpaqueRoute { meta, refuse, distribution: Distribution::Empty }),
    }
}

/// What a port says that it speaks.
enum AppProtocol {
    Http1,
    Http2,
    Opaque,
    /// Something that the mesh doesn't know: it is carried as it is.
    Unknown,
}

impl Index {
    fn client_policy(&self, service: &Id, port: u16, client: &str) -> ClientPolicy {
        let policy = Policy { index: self, service, port };
        let routes = self.routes_on_service(service, port, client);
        let http = || -> Arc<[HttpRoute<RoutePolicy>]> {
            let own: Vec<_> = routes.iter().filter_map(|route| policy.http_route(route)).collect();
            if own.is_empty() { [policy.default_http()].into() } else { own.into() }
        };
        let grpc: Vec<_> = routes.iter().filter_map(|route| policy.grpc_route(route)).collect();
        let protocol = match (self.app_protocol(service, port), grpc.is_empty()) {
            (Some(AppProtocol::Http1), _) => Protocol::Http1(http()),
            (Some(AppProtocol::Http2), true) => Protocol::Http2(http()),
            (Some(AppProtocol::Opaque | AppProtocol::Unknown), _) => Protocol::Opaque(policy.default_opaque()),
            (Some(AppProtocol::Http2) | None, false) => Protocol::Grpc(grpc.into()),
            (None, true) => {
                let routes = http();
                let opaque = policy.default_opaque();
                Protocol::Detect { timeout: DETECT_TIMEOUT, http1: routes.clone(), http2: routes, opaque }
            }
        };
        ClientPolicy { parent: Arc::new(policy.meta()), protocol }
    }

    fn app_protocol(&self, service: &Id, port: u16) -> Option<AppProtocol> {
        let service = self.facts.service(service);
        let declared = service.and_then(|s| s.port(port)).and_then(|p| p.app_protocol.as_ref());
        if let Some(declared) = declared {
            return Some(match declared.to_ascii_lowercase().as_str() {
                "http" => AppProtocol::Http1,
                "kubernetes.io/h2c" => AppProtocol::Http2,
                "linkerd.io/tcp" | "linkerd.io/opaque" => AppProtocol::Opaque,
                _ => AppProtocol::Unknown,
            });
        }
        let opaque = service.and_then(|s| s.opaque.as_ref()).unwrap_or(&self.settings().default_opaque_ports);
        opaque.contains(port).then_some(AppProtocol::Opaque)
    }
}

/// The policy of one Service port in the making.
struct Policy<'a> {
    index: &'a Index,
    service: &'a Id,
    port: u16,
}

impl Policy<'_> {
    fn meta(&self) -> Meta {
        Meta::service(self.service.namespace.clone(), self.service.name.clone(), self.port)
    }

    /// A Service's port as a backend.
    fn backend(&self, service: &Id, port: u16) -> Backend {
        let path = format!("{}:{port}", self.index.settings().service_name(&service.namespace, &service.name));
        Backend {
            meta: Arc::new(Meta::service(service.namespace.clone(), service.name.clone(), port)),
            dispatcher: Dispatcher::Balance { path: path.into(), ewma: Ewma::default() },
        }
    }

    /// Everything to the Service itself.
    fn own_backend(&self) -> Distribution {
        let backend = self.backend(self.service, self.port);
        Distribution::FirstAvailable([RouteBackend { filters: Arc::new([]), backend }].into())
    }

    fn default_http(&self) -> HttpRoute<RoutePolicy> {
        let policy =
            RoutePolicy { meta: Arc::new(Meta::default_named("http")), filters: Arc::new([]), distribution: self.own_backend() };
        let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
        HttpRoute { hosts: Vec::new(), rules: vec![Rule { matches: vec![everything], policy }] }
    }

    fn default_opaque(&self) -> OpaqueRoute {
        OpaqueRoute { meta: Arc::new(Meta::default_named("opaq")), refuse: None, distribution: self.own_backend() }
    }

    fn http_route(&self, route: &Route) -> Option<HttpRoute<RoutePolicy>> {
        match &route.rules {
            Rules::Http(rules) => Some(self.route(route, rules)),
            Rules::Grpc(_) => None,
        }
    }

    fn grpc_route(&self, route: &Route) -> Option<route::GrpcRoute<RoutePolicy>> {
        match &route.rules {
            Rules::Grpc(rules) => Some(self.route(route, rules)),
            Rules::Http(_) => None,
        }
    }

    fn route<M: Clone>(&self, route: &Route, rules: &[RouteRule<M>]) -> route::Route<M, RoutePolicy> {
        let meta = Arc::new(Meta::Resource(Resource {
            group: route.kind.group().as_str().into(),
            kind: route.kind.as_str().into(),
            namespace: route.id.namespace.clone(),
            name: route.id.name.clone(),
            section: "".into(),
            port: None,
        }));
        let rule = |rule: &RouteRule<M>| Rule {
            matches: rule.matches.clone(),
            policy: RoutePolicy {
                meta: meta.clone(),
                filters: rule.filters.iter().map(filter).collect(),
                distribution: self.distribution(&rule.backends),
            },
        };
        route::Route { hosts: route.hosts.clone(), rules: rules.iter().map(rule).collect() }
    }

    fn distribution(&self, backends: &[BackendRef]) -> Distribution {
        if backends.is_empty() {
            return self.own_backend();
        }
        if backends.iter().all(|b| b.weight() == 0) {
            let failing = failing(Meta::default_named("invalid"), "every backend of the rule has weight 0".into());
            return Distribution::FirstAvailable([failing].into());
        }
        Distribution::RandomAvailable(backends.iter().map(|b| (self.route_backend(b), b.weight())).collect())
    }

    /// A backend as a rule refers to it; one that can't be used answers for itself.
    fn route_backend(&self, backend: &BackendRef) -> RouteBackend {
        let BackendRef::Service { namespace, name, port, filters, .. } = backend else {
            return unsupported(backend);
        };
        // Without a namespace it is the parent's.
        let id = Id { namespace: namespace.as_ref().unwrap_or(&self.service.namespace).clone(), name: name.clone() };
        let Some(port) = *port else {
            let message = format!("missing port for backend Service {name}");
            return failing(Meta::default_named("invalid"), message);
        };
        let backend = self.backend(&id, port);
        let problem = match filters {
            _ if self.index.facts.service(&id).is_none() => Some(format!("Service not found {name}")),
            Err(why) => Some(format!("unsupported backend filter: {why}")),
            Ok(_) => None,
        };
        match (problem, filters) {
            (None, Ok(filters)) => RouteBackend { filters: filters.iter().map(filter).collect(), backend },
            (problem, _) => failing(Meta::clone(&backend.meta), problem.unwrap_or_default()),
        }
    }
}

fn unsupported(backend: &BackendRef) -> RouteBackend {
    let (group, kind) = match backend {
        BackendRef::Unsupported { group, kind, .. } => (&**group, &**kind),
        BackendRef::Service { .. } => ("core", "Service"),
    };
    failing(Meta::default_named("invalid"), format!("unsupported backend type {group} {kind}"))
}

fn failing(meta: Meta, message: String) -> RouteBackend {
    let message = message.into();
    let fail = InjectedFailure::Http { status: StatusCode::INTERNAL_SERVER_ERROR, message, ratio: Ratio::ALWAYS };
    RouteBackend { filters: [Filter::Fail(fail)].into(), backend: Backend { meta: Arc::new(meta), dispatcher: Dispatcher::Fail } }
}

fn filter(from: &RouteFilter) -> Filter {
    match from {
        RouteFilter::RequestHeaders(modifier) => Filter::RequestHeaders(modifier.clone()),
        RouteFilter::ResponseHeaders(modifier) => Filter::ResponseHeaders(modifier.clone()),
        RouteFilter::Redirect(redirect) => Filter::Redirect(redirect.clone()),
    }
}
