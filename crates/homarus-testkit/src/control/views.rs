//! What proxies are told, made from the state with the real controllers' defaults.

use super::{Allow, Endpoint, Inbound, Mood, Protocol, Service, State};
use linkerd2_proxy_api::{destination as dst, http_route as hr, inbound as ib, meta, net, outbound as ob};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tonic::Status;

fn millis(ms: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(ms).try_into().ok()
}

fn default_meta(name: &str) -> Option<meta::Metadata> {
    Some(meta::Metadata { kind: Some(meta::metadata::Kind::Default(name.into())) })
}

fn any_path() -> Vec<hr::HttpRouteMatch> {
    let path = hr::PathMatch { kind: Some(hr::path_match::Kind::Prefix("/".into())) };
    vec![hr::HttpRouteMatch { path: Some(path), ..Default::default() }]
}

/// Updates that lead from the endpoints that were told to those there are.
pub(super) fn endpoints(state: &State, path: &str, told: &mut Vec<SocketAddr>) -> Vec<dst::Update> {
    use dst::update::Update;
    let update = |update| dst::Update { update: Some(update) };
    if state.mood == Mood::Nonsense {
        return vec![dst::Update { update: None }];
    }
    let Some(service) = state.service(path) else {
        told.clear();
        return vec![update(Update::NoEndpoints(dst::NoEndpoints { exists: false }))];
    };
    if service.endpoints.is_empty() {
        told.clear();
        return vec![update(Update::NoEndpoints(dst::NoEndpoints { exists: true }))];
    }
    let now: Vec<SocketAddr> = service.endpoints.iter().map(|e| e.addr).collect();
    let gone: Vec<_> = told.iter().filter(|addr| !now.contains(addr)).map(|addr| (*addr).into()).collect();
    *told = now;
    let labels = [("service", service.name.as_str()), ("namespace", "test")];
    let added = dst::WeightedAddrSet {
        addrs: service.endpoints.iter().map(|e| weighted(service, e)).collect(),
        metric_labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
    };
    let removed = (!gone.is_empty()).then(|| update(Update::Remove(dst::AddrSet { addrs: gone })));
    [Some(update(Update::Add(added))), removed].into_iter().flatten().collect()
}

pub(super) fn profile(state: &State, path: &str) -> dst::DestinationProfile {
    let mut profile = dst::DestinationProfile::default();
    if let Some(service) = state.service(path) {
        profile.fully_qualified_name = service.fqdn();
        profile.opaque_protocol = service.opaque;
        profile.parent_ref = service_meta(service);
    } else if let Some((service, endpoint)) = state.endpoint(path) {
        profile.opaque_protocol = service.opaque;
        profile.endpoint = Some(weighted(service, endpoint));
    }
    profile
}

fn weighted(service: &Service, endpoint: &Endpoint) -> dst::WeightedAddr {
    use dst::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
    let dns = |name: &String| dst::tls_identity::DnsLikeIdentity { name: name.clone() };
    dst::WeightedAddr {
        addr: Some(endpoint.addr.into()),
        weight: 10_000,
        metric_labels: HashMap::from([("pod".into(), format!("{}-{}", service.name, endpoint.addr.port()))]),
        tls_identity: endpoint.identity.as_ref().map(|name| dst::TlsIdentity {
            strategy: Some(dst::tls_identity::Strategy::DnsLikeIdentity(dns(name))),
            server_name: Some(dns(name)),
        }),
        protocol_hint: endpoint.identity.as_ref().map(|_| dst::ProtocolHint {
            protocol: match (service.opaque, endpoint.h2) {
                (true, _) => Some(Protocol::Opaque(Opaque {})),
                (false, true) => Some(Protocol::H2(H2 {})),
                (false, false) => None,
            },
            opaque_transport: endpoint.tagged.map(|port| OpaqueTransport { inbound_port: port.into() }),
        }),
        ..Default::default()
    }
}

fn service_meta(service: &Service) -> Option<meta::Metadata> {
    let resource = meta::Resource {
        group: "core".into(),
        kind: "Service".into(),
        name: service.name.clone(),
        namespace: "test".into(),
        section: String::new(),
        port: service.port.into(),
    };
    Some(meta::Metadata { kind: Some(meta::metadata::Kind::Resource(resource)) })
}

pub(super) fn outbound(state: &State, spec: &ob::TrafficSpec) -> Result<ob::OutboundPolicy, Status> {
    use ob::proxy_protocol::{Detect, Http1, Http2, Kind, Opaque};
    use ob::traffic_spec::Target;

    let authority = match &spec.target {
        Some(Target::Addr(addr)) => SocketAddr::try_from(*addr).map_err(|e| Status::invalid_argument(e.to_string()))?.to_string(),
        Some(Target::Authority(authority)) => authority.clone(),
        None => return Err(Status::invalid_argument("no target")),
    };
    let service = state.service(&authority).filter(|s| s.policy);
    let service = service.ok_or_else(|| Status::not_found(format!("{authority} is unknown")))?;
    if service.unreadable {
        return Ok(ob::OutboundPolicy { protocol: None, metadata: service_meta(service) });
    }
    let opaque = Opaque { routes: vec![opaque_route(service)] };
    let kind = if service.opaque {
        Kind::Opaque(opaque)
    } else {
        Kind::Detect(Detect {
            timeout: millis(10_000),
            opaque: Some(opaque),
            http1: Some(Http1 { routes: vec![http_route(service)], failure_accrual: None }),
            http2: Some(Http2 { routes: vec![http_route(service)], failure_accrual: None }),
        })
    };
    Ok(ob::OutboundPolicy { protocol: Some(ob::ProxyProtocol { kind: Some(kind) }), metadata: service_meta(service) })
}

/// A balancer over the service's endpoints.
fn backend(service: &Service) -> ob::Backend {
    use ob::backend::{self, balance_p2c, endpoint_discovery as ed};
    let path = format!("{}:{}", service.fqdn(), service.port);
    let discovery = ed::Kind::Dst(backend::endpoint_discovery::DestinationGet { path });
    let ewma = balance_p2c::PeakEwma { default_rtt: millis(30), decay: millis(10_000) };
    ob::Backend {
        metadata: service_meta(service),
        queue: Some(ob::Queue { capacity: 100, failfast_timeout: millis(3_000) }),
        kind: Some(backend::Kind::Balancer(backend::BalanceP2c {
            discovery: Some(backend::EndpointDiscovery { kind: Some(discovery) }),
            load: Some(balance_p2c::Load::PeakEwma(ewma)),
        })),
    }
}

fn http_route(service: &Service) -> ob::HttpRoute {
    use ob::http_route::{Distribution, RouteBackend, Rule, distribution};
    let first =
        distribution::FirstAvailable { backends: vec![RouteBackend { backend: Some(backend(service)), ..Default::default() }] };
    let distribution = Distribution { kind: Some(distribution::Kind::FirstAvailable(first)) };
    ob::HttpRoute {
        metadata: default_meta("http"),
        hosts: Vec::new(),
        rules: vec![Rule { matches: any_path(), backends: Some(distribution), ..Default::default() }],
    }
}

fn opaque_route(service: &Service) -> ob::OpaqueRoute {
    use ob::opaque_route::{Distribution, RouteBackend, Rule, distribution};
    let first =
        distribution::FirstAvailable { backends: vec![RouteBackend { backend: Some(backend(service)), filters: Vec::new() }] };
    let distribution = Distribution { kind: Some(distribution::Kind::FirstAvailable(first)) };
    ob::OpaqueRoute { metadata: default_meta("opaque"), rules: vec![Rule { backends: Some(distribution), filters: Vec::new() }] }
}

pub(super) fn inbound(Inbound { protocol, allow }: Inbound) -> ib::Server {
    use ib::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque};
    let authorizations = authorizations(allow);
    let routes = vec![ib::HttpRoute {
        metadata: default_meta("default"),
        hosts: Vec::new(),
        authorizations: authorizations.clone(),
        rules: vec![ib::http_route::Rule { matches: any_path(), filters: Vec::new() }],
    }];
    let kind = match protocol {
        Protocol::Detect => Kind::Detect(Detect { timeout: millis(10_000), http_routes: routes, http_local_rate_limit: None }),
        Protocol::Http1 => Kind::Http1(Http1 { routes, local_rate_limit: None }),
        Protocol::Http2 => Kind::Http2(Http2 { routes, local_rate_limit: None }),
        Protocol::Grpc => Kind::Grpc(Grpc { routes: Vec::new() }),
        Protocol::Opaque => Kind::Opaque(Opaque {}),
    };
    let labels = [("group", ""), ("kind", "default"), ("name", allow.name())];
    ib::Server {
        protocol: Some(ib::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations,
        labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
    }
}

impl Allow {
    fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "all-unauthenticated",
            Self::Authenticated => "all-authenticated",
            Self::Audit => "audit",
            Self::Cluster => "cluster-unauthenticated",
            Self::Elsewhere => "elsewhere",
            Self::Deny => "deny",
        }
    }
}

fn authorizations(allow: Allow) -> Vec<ib::Authz> {
    use ib::authn::{Permit, PermitMeshTls, PermitUnauthenticated, permit_mesh_tls as mesh};
    let permit = match allow {
        Allow::Deny => return Vec::new(),
        Allow::Authenticated => Permit::MeshTls(PermitMeshTls {
            clients: Some(mesh::Clients::Identities(mesh::PermitClientIdentities {
                identities: Vec::new(),
                suffixes: vec![ib::IdentitySuffix { parts: Vec::new() }],
            })),
        }),
        _ => Permit::Unauthenticated(PermitUnauthenticated {}),
    };
    let net =
        |ip: IpAddr, prefix_len| ib::Network { net: Some(net::IpNetwork { ip: Some(ip.into()), prefix_len }), except: Vec::new() };
    let networks = match allow {
        Allow::Cluster => vec![net(Ipv4Addr::new(10, 0, 0, 0).into(), 8)],
        Allow::Elsewhere => vec![net(Ipv4Addr::new(192, 0, 2, 0).into(), 24)],
        _ => vec![net(Ipv4Addr::UNSPECIFIED.into(), 0), net(Ipv6Addr::UNSPECIFIED.into(), 0)],
    };
    vec![ib::Authz {
        networks,
        authentication: Some(ib::Authn { permit: Some(permit) }),
        labels: HashMap::new(),
        metadata: default_meta(allow.name()),
    }]
}
