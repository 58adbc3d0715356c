//! Client policies: `io.linkerd.proxy.outbound.OutboundPolicy`.

use super::{
    endpoint::endpoint,
    error::{At, DecodeError, Problem, Required, each, invalid},
    meta, route,
};
use crate::api::{opaque_route as or, outbound as api};
use homarus_model::{
    Meta,
    inbound::DETECT_TIMEOUT,
    outbound::{Backend, ClientPolicy, Dispatcher, Distribution, Ewma, OpaqueRoute, Protocol, Refusal, RouteBackend, RoutePolicy},
    route::{Filter, GrpcMatch, HttpMatch, Route, Rule},
};
use std::{sync::Arc, time::Duration};

/// The longest path that endpoints are discovered by: a DNS name and a port.
const MAX_PATH_BYTES: usize = 253 + ".:65535".len();
/// An estimate below this would make one fast answer outweigh everything.
const MIN_RTT: Duration = Duration::from_millis(1);

/// Reads the policy of one destination.
pub fn client_policy(message: api::OutboundPolicy) -> Result<ClientPolicy, DecodeError> {
    Ok(ClientPolicy {
        parent: Arc::new(meta::meta(message.metadata).at("metadata")?),
        protocol: protocol(message.protocol).at("protocol")?,
    })
}

fn protocol(message: Option<api::ProxyProtocol>) -> Result<Protocol, DecodeError> {
    use api::proxy_protocol::Kind;
    match message.and_then(|p| p.kind).required()? {
        Kind::Detect(detect) => detected(detect).at("detect"),
        Kind::Http1(http) => Ok(Protocol::Http1(each("routes", http.routes, http_route).at("http1")?)),
        Kind::Http2(http) => Ok(Protocol::Http2(each("routes", http.routes, http_route).at("http2")?)),
        Kind::Grpc(grpc) => Ok(Protocol::Grpc(each("routes", grpc.routes, grpc_route).at("grpc")?)),
        Kind::Opaque(opaque) => Ok(Protocol::Opaque(opaque_routes(opaque).at("opaque")?)),
        Kind::Tls(_) => Err(Problem::Unsupported("TLSRoute").into()).at("tls"),
    }
}

fn detected(detect: api::proxy_protocol::Detect) -> Result<Protocol, DecodeError> {
    Ok(Protocol::Detect {
        timeout: detect.timeout.map(meta::duration).transpose().at("timeout")?.unwrap_or(DETECT_TIMEOUT),
        http1: each("routes", detect.http1.required().at("http1")?.routes, http_route).at("http1")?,
        http2: each("routes", detect.http2.required().at("http2")?.routes, http_route).at("http2")?,
        opaque: detect.opaque.required().and_then(opaque_routes).at("opaque")?,
    })
}

fn http_route(message: api::HttpRoute) -> Result<Route<HttpMatch, RoutePolicy>, DecodeError> {
    let meta = Arc::new(meta::meta(message.metadata).at("metadata")?);
    let rules = each("rules", message.rules, |rule| {
        let filters = each("filters", rule.filters, http_filter)?;
        let distribution = http_distribution(rule.backends).at("backends")?;
        let policy = RoutePolicy { meta: meta.clone(), filters, distribution };
        Ok(Rule { matches: each("matches", rule.matches, route::http_match)?, policy })
    })?;
    Ok(Route { hosts: route::hosts(message.hosts)?, rules })
}

fn grpc_route(message: api::GrpcRoute) -> Result<Route<GrpcMatch, RoutePolicy>, DecodeError> {
    let meta = Arc::new(meta::meta(message.metadata).at("metadata")?);
    let rules = each("rules", message.rules, |rule| {
        let filters = each("filters", rule.filters, grpc_filter)?;
        let distribution = grpc_distribution(rule.backends).at("backends")?;
        let policy = RoutePolicy { meta: meta.clone(), filters, distribution };
        Ok(Rule { matches: each("matches", rule.matches, route::grpc_match)?, policy })
    })?;
    Ok(Route { hosts: route::hosts(message.hosts)?, rules })
}

/// The one route of bytes. Without any, there is nowhere to send them.
fn opaque_routes(message: api::proxy_protocol::Opaque) -> Result<OpaqueRoute, DecodeError> {
    let mut routes = message.routes.into_iter();
    match (routes.next(), routes.next()) {
        (Some(one), None) => opaque_route(one).at("routes[0]"),
        (None, _) => Ok(OpaqueRoute {
            meta: Arc::new(Meta::default_named("none")),
            refuse: Some(Refusal::Invalid("the policy has no route for connections that are not HTTP".into())),
            distribution: Distribution::Empty,
        }),
        (Some(_), Some(_)) => Err(invalid("more than one route of opaque connections")).at("routes"),
    }
}

fn opaque_route(message: api::OpaqueRoute) -> Result<OpaqueRoute, DecodeError> {
    let meta = Arc::new(meta::meta(message.metadata).at("metadata")?);
    let [rule] = <[_; 1]>::try_from(message.rules)
        .map_err(|rules| invalid(format_args!("{} rules where exactly one is allowed", rules.len())))
        .at("rules")?;
    let distribution = opaque_distribution(rule.backends).at("rules[0].backends")?;
    // Only the first filter counts (proxy-traffic §5.1).
    Ok(OpaqueRoute { meta, refuse: rule.filters.into_iter().next().map(refusal), distribution })
}

fn refusal(filter: api::opaque_route::Filter) -> Refusal {
    use api::opaque_route::filter::Kind;
    match filter.kind {
        Some(Kind::Forbidden(_)) => Refusal::Forbidden,
        Some(Kind::Invalid(or::Invalid { message })) => Refusal::Invalid(message.into()),
        None => Refusal::Invalid("a filter of a kind unknown to this version".into()),
    }
}

fn http_filter(message: api::http_route::Filter) -> Result<Filter, DecodeError> {
    use api::http_route::filter::Kind;
    Ok(match message.kind {
        Some(Kind::FailureInjector(fail)) => route::http_failure(fail)?,
        Some(Kind::RequestHeaderModifier(modifier)) => route::request_headers(modifier)?,
        Some(Kind::ResponseHeaderModifier(modifier)) => route::response_headers(modifier)?,
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

/// The API has one set of distribution messages for each kind of route: the same shape thrice, with different types.
macro_rules! distribution {
    ($name:ident, $module:ident, $backend:expr) => {
        fn $name(message: Option<api::$module::Distribution>) -> Result<Distribution, DecodeError> {
            use api::$module::{WeightedRouteBackend, distribution::Kind};
            match message.and_then(|d| d.kind).required()? {
                Kind::Empty(_) => Ok(Distribution::Empty),
                Kind::FirstAvailable(first) if first.backends.is_empty() => Ok(Distribution::Empty),
                Kind::FirstAvailable(first) => {
                    Ok(Distribution::FirstAvailable(each("first_available.backends", first.backends, $backend)?))
                }
                Kind::RandomAvailable(random) => {
                    weighted(each("random_available.backends", random.backends, |WeightedRouteBackend { backend, weight }| {
                        Ok((backend.required().and_then($backend).at("backend")?, weight))
                    })?)
                }
            }
        }
    };
}

distribution!(http_distribution, http_route, |b: api::http_route::RouteBackend| {
    let filters = each("filters", b.filters, http_filter)?;
    Ok(RouteBackend { filters, backend: backend(b.backend).at("backend")? })
});
distribution!(grpc_distribution, grpc_route, |b: api::grpc_route::RouteBackend| {
    let filters = each("filters", b.filters, grpc_filter)?;
    Ok(RouteBackend { filters, backend: backend(b.backend).at("backend")? })
});
distribution!(opaque_distribution, opaque_route, |b: api::opaque_route::RouteBackend| {
    let mut backend = backend(b.backend).at("backend")?;
    // Every filter of bytes refuses: a backend that refuses is one that can't be dispatched to, and keeps its weight.
    if !b.filters.is_empty() {
        backend.dispatcher = Dispatcher::Fail;
    }
    Ok(RouteBackend { filters: Arc::new([]), backend })
});

fn weighted(backends: Vec<(RouteBackend, u32)>) -> Result<Distribution, DecodeError> {
    if backends.iter().all(|(_, weight)| *weight == 0) {
        return Err(invalid("the backends' weights add up to 0")).at("random_available");
    }
    Ok(Distribution::RandomAvailable(backends.into()))
}

fn backend(message: Option<api::Backend>) -> Result<Backend, DecodeError> {
    use api::backend::Kind;
    let message = message.required()?;
    let dispatcher = match message.kind {
        None => Dispatcher::Fail,
        Some(Kind::Forward(addr)) => Dispatcher::Forward(Arc::new(endpoint(addr).at("forward")?)),
        Some(Kind::Balancer(balancer)) => balance(balancer).at("balancer")?,
    };
    Ok(Backend { meta: Arc::new(meta::meta(message.metadata).at("metadata")?), dispatcher })
}

fn balance(message: api::backend::BalanceP2c) -> Result<Dispatcher, DecodeError> {
    use api::backend::{balance_p2c::Load, endpoint_discovery as ed};
    let ed::Kind::Dst(get) = message.discovery.and_then(|d| d.kind).required().at("discovery")?;
    if get.path.is_empty() || get.path.len() > MAX_PATH_BYTES {
        return Err(invalid("not a name and a port")).at("discovery.dst.path");
    }
    let (default_rtt, decay) = match message.load.required().at("load")? {
        Load::PeakEwma(ewma) => (ewma.default_rtt, ewma.decay),
        // The penalty belongs to load biasing, which this version doesn't have: the estimate itself is the same.
        Load::PenaltyPeakEwma(ewma) => (ewma.default_rtt, ewma.decay),
    };
    let fallback = Ewma::default();
    let ewma = Ewma {
        default_rtt: default_rtt
            .map(meta::duration)
            .transpose()
            .at("load.default_rtt")?
            .unwrap_or(fallback.default_rtt)
            .max(MIN_RTT),
        decay: decay.map(meta::duration).transpose().at("load.decay")?.unwrap_or(fallback.decay).max(MIN_RTT),
    };
    Ok(Dispatcher::Balance { path: get.path.into(), ewma })
}
