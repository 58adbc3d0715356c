//! Client policies (control-plane §6).

use super::{duration, endpoint, metadata, route};
use crate::api::{meta, opaque_route, outbound as api};
use homarus_model::{
    outbound::{Backend, ClientPolicy, Dispatcher, Distribution, OpaqueRoute, Protocol, Refusal, RouteBackend, RoutePolicy},
    route::{Filter, GrpcRoute, HttpRoute, InjectedFailure, Rule},
};
use std::time::Duration;

/// How many requests wait for a backend, and for how long it may be unready before they fail.
const QUEUE_CAPACITY: u32 = 100;
const FAILFAST: Duration = Duration::from_secs(3);

/// The policy of one destination.
pub fn client_policy(from: &ClientPolicy) -> api::OutboundPolicy {
    api::OutboundPolicy {
        protocol: Some(api::ProxyProtocol { kind: Some(protocol(&from.protocol)) }),
        metadata: Some(metadata(&from.parent)),
    }
}

fn protocol(from: &Protocol) -> api::proxy_protocol::Kind {
    use api::proxy_protocol as p;
    let http = |routes: &[HttpRoute<RoutePolicy>]| routes.iter().map(http_route).collect();
    let http1 = |routes| p::Http1 { routes: http(routes), failure_accrual: None };
    let http2 = |routes| p::Http2 { routes: http(routes), failure_accrual: None };
    let bytes = |route| p::Opaque { routes: vec![opaque(route)] };
    match from {
        Protocol::Detect { timeout, http1: one, http2: two, opaque } => p::Kind::Detect(p::Detect {
            timeout: Some(duration(*timeout)),
            opaque: Some(bytes(opaque)),
            http1: Some(http1(one)),
            http2: Some(http2(two)),
        }),
        Protocol::Http1(routes) => p::Kind::Http1(http1(routes)),
        Protocol::Http2(routes) => p::Kind::Http2(http2(routes)),
        Protocol::Grpc(routes) => p::Kind::Grpc(p::Grpc { routes: routes.iter().map(grpc_route).collect(), failure_accrual: None }),
        Protocol::Opaque(route) => p::Kind::Opaque(bytes(route)),
    }
}

fn backend(from: &Backend) -> api::Backend {
    use api::backend::{BalanceP2c, EndpointDiscovery, Kind, balance_p2c, endpoint_discovery};
    let kind = match &from.dispatcher {
        Dispatcher::Balance { path, ewma } => Some(Kind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery {
                kind: Some(endpoint_discovery::Kind::Dst(endpoint_discovery::DestinationGet { path: path.to_string() })),
            }),
            load: Some(balance_p2c::Load::PeakEwma(balance_p2c::PeakEwma {
                default_rtt: Some(duration(ewma.default_rtt)),
                decay: Some(duration(ewma.decay)),
            })),
        })),
        Dispatcher::Forward(to) => Some(Kind::Forward(endpoint::endpoint(to))),
        Dispatcher::Fail => None,
    };
    let queue = api::Queue { capacity: QUEUE_CAPACITY, failfast_timeout: Some(duration(FAILFAST)) };
    api::Backend { metadata: Some(metadata(&from.meta)), kind, queue: Some(queue) }
}

/// The API has the same messages for each kind of route, under different names.
macro_rules! distribution {
    ($name:ident, $kind:ident, $filter:ident) => {
        // Some kinds of backends have no more than these two fields, some have outdated ones.
        #[allow(clippy::needless_update)]
        fn $name(from: &Distribution) -> api::$kind::Distribution {
            use api::$kind::{RouteBackend as Out, WeightedRouteBackend, distribution as d};
            let one = |from: &RouteBackend| Out {
                backend: Some(backend(&from.backend)),
                filters: from.filters.iter().filter_map($filter).collect(),
                ..Out::default()
            };
            let weighted = |(b, weight): &(RouteBackend, u32)| WeightedRouteBackend { backend: Some(one(b)), weight: *weight };
            let kind = match from {
                Distribution::Empty => d::Kind::Empty(d::Empty {}),
                Distribution::FirstAvailable(backends) => {
                    d::Kind::FirstAvailable(d::FirstAvailable { backends: backends.iter().map(one).collect() })
                }
                Distribution::RandomAvailable(backends) => {
                    d::Kind::RandomAvailable(d::RandomAvailable { backends: backends.iter().map(weighted).collect() })
                }
            };
            api::$kind::Distribution { kind: Some(kind) }
        }
    };
}
distribution!(http_backends, http_route, http_filter);
distribution!(grpc_backends, grpc_route, grpc_filter);
distribution!(opaque_backends, opaque_route, opaque_filter);

fn http_filter(from: &Filter) -> Option<api::http_route::Filter> {
    use api::http_route::{Filter as Out, filter::Kind};
    let kind = match from {
        Filter::Fail(failure) => Some(Kind::FailureInjector(route::http_failure(failure))),
        Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(route::request_headers(modifier))),
        Filter::ResponseHeaders(modifier) => Some(Kind::ResponseHeaderModifier(route::response_headers(modifier))),
        Filter::Redirect(redirect) => Some(Kind::Redirect(route::redirect(redirect))),
        Filter::Unknown => None,
    };
    Some(Out { kind })
}

/// gRPC routes have no place for changes of response headers: they are left out.
fn grpc_filter(from: &Filter) -> Option<api::grpc_route::Filter> {
    use api::grpc_route::{Filter as Out, filter::Kind};
    let kind = match from {
        Filter::Fail(failure) => Some(Kind::FailureInjector(route::grpc_failure(failure))),
        Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(route::request_headers(modifier))),
        Filter::ResponseHeaders(_) => return None,
        Filter::Redirect(_) | Filter::Unknown => None,
    };
    Some(Out { kind })
}

/// Bytes have no requests to filter: a backend that fails is an invalid one.
fn opaque_filter(from: &Filter) -> Option<api::opaque_route::Filter> {
    use api::opaque_route::{Filter as Out, filter::Kind};
    let Filter::Fail(failure) = from else { return None };
    let message = match failure {
        InjectedFailure::Http { message, .. } | InjectedFailure::Grpc { message, .. } => message.to_string(),
    };
    Some(Out { kind: Some(Kind::Invalid(opaque_route::Invalid { message })) })
}

/// What a route has and its rules share.
fn shared<M>(rules: &[Rule<M, RoutePolicy>]) -> Option<meta::Metadata> {
    rules.first().map(|rule| metadata(&rule.policy.meta))
}

fn http_route(from: &HttpRoute<RoutePolicy>) -> api::HttpRoute {
    use api::http_route::Rule as Out;
    let rules = from.rules.iter().map(|rule| Out {
        matches: route::http_matches(&rule.matches),
        filters: rule.policy.filters.iter().filter_map(http_filter).collect(),
        backends: Some(http_backends(&rule.policy.distribution)),
        ..Out::default()
    });
    api::HttpRoute { metadata: shared(&from.rules), hosts: route::hosts(&from.hosts), rules: rules.collect() }
}

fn grpc_route(from: &GrpcRoute<RoutePolicy>) -> api::GrpcRoute {
    use api::grpc_route::Rule as Out;
    let rules = from.rules.iter().map(|rule| Out {
        matches: route::grpc_matches(&rule.matches),
        filters: rule.policy.filters.iter().filter_map(grpc_filter).collect(),
        backends: Some(grpc_backends(&rule.policy.distribution)),
        ..Out::default()
    });
    api::GrpcRoute { metadata: shared(&from.rules), hosts: route::hosts(&from.hosts), rules: rules.collect() }
}

fn opaque(from: &OpaqueRoute) -> api::OpaqueRoute {
    use api::opaque_route::{Filter, Rule as Out, filter::Kind};
    let refusal = |refusal: &Refusal| match refusal {
        Refusal::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
        Refusal::Invalid(message) => Kind::Invalid(opaque_route::Invalid { message: message.to_string() }),
    };
    let filters = from.refuse.iter().map(|r| Filter { kind: Some(refusal(r)) }).collect();
    let rule = Out { backends: Some(opaque_backends(&from.distribution)), filters };
    api::OpaqueRoute { metadata: Some(metadata(&from.meta)), rules: vec![rule] }
}
