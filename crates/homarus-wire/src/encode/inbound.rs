//! Server policies (control-plane §5).

use super::{duration, metadata, network, route};
use crate::api::inbound as api;
use homarus_model::{
    Meta,
    inbound::{Authentication, Authorization, Protocol, RoutePolicy, ServerPolicy, Suffix},
    route::{Filter, GrpcRoute, HttpRoute},
};
use std::collections::HashMap;

/// The policy of a port.
pub fn server(from: &ServerPolicy) -> api::Server {
    api::Server {
        protocol: Some(api::ProxyProtocol { kind: Some(protocol(&from.protocol)) }),
        server_ips: Vec::new(),
        authorizations: authorizations(&from.authorizations),
        labels: labels(&from.server),
    }
}

fn protocol(from: &Protocol) -> api::proxy_protocol::Kind {
    use api::proxy_protocol as p;
    let http = |routes: &[HttpRoute<RoutePolicy>]| routes.iter().map(http_route).collect();
    match from {
        Protocol::Detect { timeout, routes } => {
            let timeout = Some(duration(*timeout));
            p::Kind::Detect(p::Detect { timeout, http_routes: http(routes), http_local_rate_limit: None })
        }
        Protocol::Http1(routes) => p::Kind::Http1(p::Http1 { routes: http(routes), local_rate_limit: None }),
        Protocol::Http2(routes) => p::Kind::Http2(p::Http2 { routes: http(routes), local_rate_limit: None }),
        Protocol::Grpc(routes) => p::Kind::Grpc(p::Grpc { routes: routes.iter().map(grpc_route).collect() }),
        Protocol::Opaque => p::Kind::Opaque(p::Opaque {}),
        Protocol::Tls => p::Kind::Tls(p::Tls {}),
    }
}

/// The labels that older proxies read in place of metadata.
fn labels(from: &Meta) -> HashMap<String, String> {
    [("group", from.group()), ("kind", from.kind()), ("name", from.name())].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn authorizations(from: &[Authorization]) -> Vec<api::Authz> {
    from.iter().map(authorization).collect()
}

fn authorization(from: &Authorization) -> api::Authz {
    let networks = from
        .networks
        .iter()
        .map(|n| api::Network { net: Some(network(n.net)), except: n.except.iter().copied().map(network).collect() });
    api::Authz {
        networks: networks.collect(),
        authentication: Some(api::Authn { permit: Some(permit(&from.authentication)) }),
        labels: labels(&from.meta),
        metadata: Some(metadata(&from.meta)),
    }
}

fn permit(from: &Authentication) -> api::authn::Permit {
    use api::authn::{Permit, PermitMeshTls, PermitUnauthenticated, permit_mesh_tls as tls};
    let clients = match from {
        Authentication::Unauthenticated => return Permit::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsUnauthenticated => tls::Clients::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsAuthenticated { identities, suffixes } => tls::Clients::Identities(tls::PermitClientIdentities {
            identities: identities.iter().map(|id| api::Identity { name: id.to_string() }).collect(),
            suffixes: suffixes.iter().map(suffix).collect(),
        }),
    };
    Permit::MeshTls(PermitMeshTls { clients: Some(clients) })
}

fn suffix(from: &Suffix) -> api::IdentitySuffix {
    api::IdentitySuffix { parts: from.parts().map(Into::into).collect() }
}

/// What a route has and its rules share.
fn shared<M>(rules: &[homarus_model::route::Rule<M, RoutePolicy>]) -> (Option<crate::api::meta::Metadata>, Vec<api::Authz>) {
    let policy = rules.first().map(|rule| &rule.policy);
    (policy.map(|p| metadata(&p.meta)), policy.map(|p| authorizations(&p.authorizations)).unwrap_or_default())
}

fn http_route(from: &HttpRoute<RoutePolicy>) -> api::HttpRoute {
    use api::http_route::{Filter as Out, Rule, filter::Kind};
    let filter = |filter: &Filter| {
        let kind = match filter {
            Filter::Fail(failure) => Some(Kind::FailureInjector(route::http_failure(failure))),
            Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(route::request_headers(modifier))),
            Filter::Redirect(redirect) => Some(Kind::Redirect(route::redirect(redirect))),
            // Inbound routes have no place for it.
            Filter::ResponseHeaders(_) => return None,
            Filter::Unknown => None,
        };
        Some(Out { kind })
    };
    let rules = from.rules.iter().map(|rule| Rule {
        matches: route::http_matches(&rule.matches),
        filters: rule.policy.filters.iter().filter_map(filter).collect(),
    });
    let (metadata, authorizations) = shared(&from.rules);
    api::HttpRoute { metadata, hosts: route::hosts(&from.hosts), authorizations, rules: rules.collect() }
}

fn grpc_route(from: &GrpcRoute<RoutePolicy>) -> api::GrpcRoute {
    use api::grpc_route::{Filter as Out, Rule, filter::Kind};
    let filter = |filter: &Filter| {
        let kind = match filter {
            Filter::Fail(failure) => Some(Kind::FailureInjector(route::grpc_failure(failure))),
            Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(route::request_headers(modifier))),
            Filter::ResponseHeaders(_) => return None,
            Filter::Redirect(_) | Filter::Unknown => None,
        };
        Some(Out { kind })
    };
    let rules = from.rules.iter().map(|rule| Rule {
        matches: route::grpc_matches(&rule.matches),
        filters: rule.policy.filters.iter().filter_map(filter).collect(),
    });
    let (metadata, authorizations) = shared(&from.rules);
    api::GrpcRoute { metadata, hosts: route::hosts(&from.hosts), authorizations, rules: rules.collect() }
}
