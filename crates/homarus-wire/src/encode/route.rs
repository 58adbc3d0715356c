//! What inbound and outbound routes have in common: hosts, matches and filters.

use crate::api::{grpc_route, http_route as api, http_types};
use homarus_model::route::{
    GrpcMatch, HeaderMatch, HeaderModifier, HostMatch, HttpMatch, InjectedFailure, PathMatch, PathModifier, Pattern, QueryMatch,
    Ratio, Redirect,
};
use http::{HeaderName, HeaderValue, Method};

pub(super) fn hosts(from: &[HostMatch]) -> Vec<api::HostMatch> {
    use api::host_match::{Match, Suffix};
    let host = |host: &HostMatch| match host {
        HostMatch::Exact(name) => Match::Exact(name.clone()),
        HostMatch::Suffix(name) => Match::Suffix(Suffix { reverse_labels: name.split('.').rev().map(Into::into).collect() }),
    };
    from.iter().map(|h| api::HostMatch { r#match: Some(host(h)) }).collect()
}

pub(super) fn http_matches(from: &[HttpMatch]) -> Vec<api::HttpRouteMatch> {
    from.iter().map(http_match).collect()
}

fn http_match(from: &HttpMatch) -> api::HttpRouteMatch {
    use api::path_match::Kind;
    let path = |path: &PathMatch| match path {
        PathMatch::Exact(path) => Kind::Exact(path.clone()),
        PathMatch::Prefix(path) => Kind::Prefix(path.clone()),
        PathMatch::Regex(regex) => Kind::Regex(regex.source().to_owned()),
    };
    api::HttpRouteMatch {
        path: from.path.as_ref().map(|p| api::PathMatch { kind: Some(path(p)) }),
        headers: header_matches(&from.headers),
        query_params: from.query.iter().map(query_match).collect(),
        method: from.method.as_ref().map(method),
    }
}

pub(super) fn grpc_matches(from: &[GrpcMatch]) -> Vec<grpc_route::GrpcRouteMatch> {
    let rpc = |m: &GrpcMatch| grpc_route::GrpcRpcMatch {
        service: m.service.clone().unwrap_or_default(),
        method: m.method.clone().unwrap_or_default(),
    };
    let one = |m: &GrpcMatch| grpc_route::GrpcRouteMatch {
        rpc: (m.service.is_some() || m.method.is_some()).then(|| rpc(m)),
        headers: header_matches(&m.headers),
    };
    from.iter().map(one).collect()
}

fn header_matches(from: &[HeaderMatch]) -> Vec<api::HeaderMatch> {
    use api::header_match::Value;
    let value = |pattern: &Pattern<HeaderValue>| match pattern {
        Pattern::Exact(value) => Value::Exact(value.as_bytes().to_vec()),
        Pattern::Regex(regex) => Value::Regex(regex.source().to_owned()),
    };
    from.iter().map(|h| api::HeaderMatch { name: h.name.to_string(), value: Some(value(&h.value)) }).collect()
}

fn query_match(from: &QueryMatch) -> api::QueryParamMatch {
    use api::query_param_match::Value;
    let value = match &from.value {
        Pattern::Exact(value) => Value::Exact(value.clone()),
        Pattern::Regex(regex) => Value::Regex(regex.source().to_owned()),
    };
    api::QueryParamMatch { name: from.name.clone(), value: Some(value) }
}

fn method(from: &Method) -> http_types::HttpMethod {
    http_types::HttpMethod { r#type: Some(from.clone().into()) }
}

pub(super) fn request_headers(from: &HeaderModifier) -> api::RequestHeaderModifier {
    api::RequestHeaderModifier { add: Some(headers(&from.add)), set: Some(headers(&from.set)), remove: names(&from.remove) }
}

pub(super) fn response_headers(from: &HeaderModifier) -> api::ResponseHeaderModifier {
    api::ResponseHeaderModifier { add: Some(headers(&from.add)), set: Some(headers(&from.set)), remove: names(&from.remove) }
}

fn names(from: &[HeaderName]) -> Vec<String> {
    from.iter().map(HeaderName::to_string).collect()
}

fn headers(from: &[(HeaderName, HeaderValue)]) -> http_types::Headers {
    let header = |(name, value): &(HeaderName, HeaderValue)| http_types::headers::Header {
        name: name.to_string(),
        value: value.as_bytes().to_vec(),
    };
    http_types::Headers { headers: from.iter().map(header).collect() }
}

pub(super) fn redirect(from: &Redirect) -> api::RequestRedirect {
    use api::path_modifier::Replace;
    let path = |path: &PathModifier| match path {
        PathModifier::Full(path) => Replace::Full(path.clone()),
        PathModifier::Prefix(path) => Replace::Prefix(path.clone()),
    };
    api::RequestRedirect {
        scheme: from.scheme.as_deref().map(scheme),
        host: from.host.clone().unwrap_or_default(),
        path: from.path.as_ref().map(|p| api::PathModifier { replace: Some(path(p)) }),
        port: from.port.map_or(0, u32::from),
        status: from.status.as_u16().into(),
    }
}

fn scheme(from: &str) -> http_types::Scheme {
    use http_types::scheme::{Registered, Type};
    let scheme = match from {
        "http" => Type::Registered(Registered::Http.into()),
        "https" => Type::Registered(Registered::Https.into()),
        other => Type::Unregistered(other.to_owned()),
    };
    http_types::Scheme { r#type: Some(scheme) }
}

fn ratio(from: Ratio) -> Option<api::Ratio> {
    Some(api::Ratio { numerator: from.numerator, denominator: from.denominator })
}

/// A failure as HTTP routes carry it; a gRPC code has no place there and becomes a 500.
pub(super) fn http_failure(from: &InjectedFailure) -> api::HttpFailureInjector {
    let (status, message) = match from {
        InjectedFailure::Http { status, message, .. } => (status.as_u16(), message),
        InjectedFailure::Grpc { message, .. } => (500, message),
    };
    api::HttpFailureInjector { status: status.into(), message: message.to_string(), ratio: ratio(from.ratio()) }
}

/// A failure as gRPC routes carry it; an HTTP status has no place there and becomes `INTERNAL`.
pub(super) fn grpc_failure(from: &InjectedFailure) -> grpc_route::GrpcFailureInjector {
    const INTERNAL: u16 = 13;
    let (code, message) = match from {
        InjectedFailure::Grpc { code, message, .. } => (*code, message),
        InjectedFailure::Http { message, .. } => (INTERNAL, message),
    };
    grpc_route::GrpcFailureInjector { code: code.into(), message: message.to_string(), ratio: ratio(from.ratio()) }
}
