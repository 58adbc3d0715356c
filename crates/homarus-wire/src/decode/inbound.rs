//! Server policies: `io.linkerd.proxy.inbound.Server`.

use super::{
    error::{At, DecodeError, Required, each, invalid},
    meta, route,
};
use crate::api::{inbound as api, net::IpNetwork};
use homarus_model::{
    inbound::{Authentication, Authorization, DETECT_TIMEOUT, Protocol, RoutePolicy, ServerPolicy, Suffix},
    network::Network,
    route::{Filter, Route, Rule},
};
use ipnet::IpNet;
use std::sync::Arc;

/// Reads the policy of one port.
pub fn server_policy(message: api::Server) -> Result<ServerPolicy, DecodeError> {
    Ok(ServerPolicy {
        server: meta::meta_of_labels(message.labels, "server")?,
        protocol: protocol(message.protocol).at("protocol")?,
        authorizations: authorizations(message.authorizations)?,
    })
}

fn protocol(message: Option<api::ProxyProtocol>) -> Result<Protocol, DecodeError> {
    use api::proxy_protocol::Kind;
    match message.and_then(|p| p.kind).required()? {
        Kind::Detect(detect) => {
            let timeout = detect.timeout.map(meta::duration).transpose().at("detect.timeout")?.unwrap_or(DETECT_TIMEOUT);
            let routes = or_default(each("http_routes", detect.http_routes, http_route).at("detect")?);
            Ok(Protocol::Detect { timeout, routes })
        }
        Kind::Http1(http) => Ok(Protocol::Http1(or_default(each("routes", http.routes, http_route).at("http1")?))),
        Kind::Http2(http) => Ok(Protocol::Http2(or_default(each("routes", http.routes, http_route).at("http2")?))),
        Kind::Grpc(grpc) => Ok(Protocol::Grpc(or_default(each("routes", grpc.routes, grpc_route).at("grpc")?))),
        Kind::Opaque(_) => Ok(Protocol::Opaque),
        Kind::Tls(_) => Ok(Protocol::Tls),
    }
}

/// A server without routes has one that takes every request.
fn or_default<M>(mut routes: Vec<Route<M, RoutePolicy>>) -> Arc<[Route<M, RoutePolicy>]> {
    if routes.is_empty() {
        routes.push(Route::catch_all(RoutePolicy::default_route()));
    }
    routes.into()
}

fn http_route(message: api::HttpRoute) -> Result<Route<homarus_model::route::HttpMatch, RoutePolicy>, DecodeError> {
    let policy = route_policy(message.metadata, message.authorizations)?;
    let rules = each("rules", message.rules, |rule| {
        let filters = each("filters", rule.filters, http_filter)?;
        let matches = each("matches", rule.matches, route::http_match)?;
        Ok(Rule { matches, policy: RoutePolicy { filters, ..policy.clone() } })
    })?;
    Ok(Route { hosts: route::hosts(message.hosts)?, rules })
}

fn grpc_route(message: api::GrpcRoute) -> Result<Route<homarus_model::route::GrpcMatch, RoutePolicy>, DecodeError> {
    let policy = route_policy(message.metadata, message.authorizations)?;
    let rules = each("rules", message.rules, |rule| {
        let filters = each("filters", rule.filters, grpc_filter)?;
        let matches = each("matches", rule.matches, route::grpc_match)?;
        Ok(Rule { matches, policy: RoutePolicy { filters, ..policy.clone() } })
    })?;
    Ok(Route { hosts: route::hosts(message.hosts)?, rules })
}

fn route_policy(name: Option<crate::api::meta::Metadata>, grants: Vec<api::Authz>) -> Result<RoutePolicy, DecodeError> {
    let meta = meta::meta(name).at("metadata")?;
    Ok(RoutePolicy { meta, authorizations: authorizations(grants)?, filters: Arc::new([]) })
}

fn http_filter(message: api::http_route::Filter) -> Result<Filter, DecodeError> {
    use api::http_route::filter::Kind;
    Ok(match message.kind {
        Some(Kind::FailureInjector(fail)) => route::http_failure(fail)?,
        Some(Kind::RequestHeaderModifier(modifier)) => route::request_headers(modifier)?,
        Some(Kind::Redirect(redirect)) => route::redirect(redirect)?,
        None => Filter::Unknown,
    })
}

fn grpc_filter(message: api::grpc_route::Filter) -> Result<Filter, DecodeError> {
    use api::grpc_route::filter::Kind;
    Ok(match message.kind {
        Some(Kind::FailureInjector(fail)) => route::grpc_failure(fail)?,
        Some(Kind::RequestHeaderModifier(modifier)) => route::request_headers(modifier)?,
        None => Filter::Unknown,
    })
}

fn authorizations(messages: Vec<api::Authz>) -> Result<Arc<[Authorization]>, DecodeError> {
    each("authorizations", messages, |authz| {
        let meta = match authz.metadata {
            Some(meta) => meta::meta(Some(meta)).at("metadata")?,
            None => meta::meta_of_labels(authz.labels, "serverauthorization")?,
        };
        Ok(Authorization {
            meta,
            networks: each("networks", authz.networks, network)?,
            authentication: authentication(authz.authentication).at("authentication")?,
        })
    })
}

fn network(message: api::Network) -> Result<Network, DecodeError> {
    let block = |net: IpNetwork| IpNet::try_from(net).map_err(invalid);
    let net = message.net.required().and_then(block).at("net")?;
    Ok(Network { net, except: each("except", message.except, block)? })
}

fn authentication(message: Option<api::Authn>) -> Result<Authentication, DecodeError> {
    use api::authn::{Permit, permit_mesh_tls::Clients};
    let tls = match message.and_then(|a| a.permit).required()? {
        Permit::Unauthenticated(_) => return Ok(Authentication::Unauthenticated),
        Permit::MeshTls(tls) => tls,
    };
    match tls.clients.required().at("meshTLS.clients")? {
        Clients::Unauthenticated(_) => Ok(Authentication::TlsUnauthenticated),
        Clients::Identities(clients) => Ok(Authentication::TlsAuthenticated {
            // A name that no certificate can prove grants nobody anything: the others keep their meaning.
            identities: clients.identities.iter().filter_map(|id| id.name.parse().ok()).collect(),
            suffixes: clients.suffixes.iter().map(|s| Suffix::of_parts(&s.parts)).collect(),
        }),
    }
}
