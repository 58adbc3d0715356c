//! Hosts, matches and filters, the same for both directions.

use super::{
    error::{At, DecodeError, Problem, Required, each, invalid},
    meta::port_or_none,
};
use crate::api::{grpc_route as gr, http_route as hr, http_types as ht};
use homarus_model::route::{
    Filter, GrpcMatch, HeaderMatch, HeaderModifier, HostMatch, HttpMatch, InjectedFailure, PathMatch, PathModifier, Pattern,
    QueryMatch, Ratio, Redirect, WholeRegex,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::{borrow::Cow, sync::Arc};

/// The longest regular expression that is taken.
pub const MAX_REGEX_BYTES: usize = 4 * 1024;
/// The largest program a regular expression may compile to.
pub const MAX_REGEX_PROGRAM_BYTES: usize = 512 * 1024;

pub(super) fn hosts(messages: Vec<hr::HostMatch>) -> Result<Vec<HostMatch>, DecodeError> {
    each("hosts", messages, |host| match host.r#match.required()? {
        hr::host_match::Match::Exact(name) => Ok(HostMatch::Exact(name.trim_end_matches('.').to_ascii_lowercase())),
        hr::host_match::Match::Suffix(suffix) => {
            let labels: Vec<_> = suffix.reverse_labels.iter().rev().map(String::as_str).collect();
            if labels.is_empty() {
                return Err(Problem::Missing.into()).at("suffix.reverse_labels");
            }
            Ok(HostMatch::Suffix(labels.join(".").to_ascii_lowercase()))
        }
    })
}

pub(super) fn http_match(message: hr::HttpRouteMatch) -> Result<HttpMatch, DecodeError> {
    Ok(HttpMatch {
        path: message.path.map(|p| path_match(p).at("path")).transpose()?,
        headers: each("headers", message.headers, header_match)?,
        query: each("query_params", message.query_params, query_match)?,
        method: message.method.map(|m| method(m).at("method")).transpose()?,
    })
}

pub(super) fn grpc_match(message: gr::GrpcRouteMatch) -> Result<GrpcMatch, DecodeError> {
    let gr::GrpcRpcMatch { service, method } = message.rpc.unwrap_or_default();
    let part = |text: String| (!text.is_empty()).then_some(text);
    Ok(GrpcMatch { service: part(service), method: part(method), headers: each("headers", message.headers, header_match)? })
}

fn path_match(message: hr::PathMatch) -> Result<PathMatch, DecodeError> {
    match message.kind.required()? {
        hr::path_match::Kind::Exact(path) => Ok(PathMatch::Exact(path)),
        hr::path_match::Kind::Prefix(path) => Ok(PathMatch::Prefix(path)),
        hr::path_match::Kind::Regex(source) => regex(&source).map(PathMatch::Regex).at("regex"),
    }
}

fn header_match(message: hr::HeaderMatch) -> Result<HeaderMatch, DecodeError> {
    let value = match message.value.required().at("value")? {
        hr::header_match::Value::Exact(bytes) => Pattern::Exact(HeaderValue::from_bytes(&bytes).map_err(invalid).at("exact")?),
        hr::header_match::Value::Regex(source) => Pattern::Regex(regex(&source).at("regex")?),
    };
    Ok(HeaderMatch { name: header_name(&message.name).at("name")?, value })
}

fn query_match(message: hr::QueryParamMatch) -> Result<QueryMatch, DecodeError> {
    let value = match message.value.required().at("value")? {
        hr::query_param_match::Value::Exact(text) => Pattern::Exact(text),
        hr::query_param_match::Value::Regex(source) => Pattern::Regex(regex(&source).at("regex")?),
    };
    Ok(QueryMatch { name: message.name, value })
}

fn method(message: ht::HttpMethod) -> Result<Method, DecodeError> {
    message.try_into().map_err(invalid)
}

fn header_name(name: &str) -> Result<HeaderName, DecodeError> {
    name.parse().map_err(invalid)
}

/// Compiles a regular expression within bounds: it comes from whoever may write routes.
fn regex(source: &str) -> Result<WholeRegex, DecodeError> {
    if source.len() > MAX_REGEX_BYTES {
        return Err(invalid(format_args!("a regular expression of {} bytes is longer than {MAX_REGEX_BYTES}", source.len())));
    }
    regex::RegexBuilder::new(source).size_limit(MAX_REGEX_PROGRAM_BYTES).build().map_err(invalid)?;
    WholeRegex::new(source).map_err(invalid)
}

pub(super) fn request_headers(message: hr::RequestHeaderModifier) -> Result<Filter, DecodeError> {
    let modifier = header_modifier(message.add, message.set, message.remove).at("request_header_modifier")?;
    Ok(Filter::RequestHeaders(Arc::new(modifier)))
}

pub(super) fn response_headers(message: hr::ResponseHeaderModifier) -> Result<Filter, DecodeError> {
    let modifier = header_modifier(message.add, message.set, message.remove).at("response_header_modifier")?;
    Ok(Filter::ResponseHeaders(Arc::new(modifier)))
}

fn header_modifier(add: Option<ht::Headers>, set: Option<ht::Headers>, remove: Vec<String>) -> Result<HeaderModifier, DecodeError> {
    Ok(HeaderModifier {
        add: headers(add).at("add")?,
        set: headers(set).at("set")?,
        remove: each("remove", remove, |name| header_name(&name))?,
    })
}

fn headers(message: Option<ht::Headers>) -> Result<Vec<(HeaderName, HeaderValue)>, DecodeError> {
    each("headers", message.unwrap_or_default().headers, |header| {
        let value = HeaderValue::from_bytes(&header.value).map_err(invalid).at("value")?;
        Ok((header_name(&header.name).at("name")?, value))
    })
}

pub(super) fn redirect(message: hr::RequestRedirect) -> Result<Filter, DecodeError> {
    Ok(Filter::Redirect(Arc::new(redirection(message).at("redirect")?)))
}

fn redirection(message: hr::RequestRedirect) -> Result<Redirect, DecodeError> {
    let scheme = match message.scheme.and_then(|s| s.r#type) {
        None => None,
        Some(scheme) => {
            let text: Cow<'_, str> = (&scheme).try_into().map_err(invalid).at("scheme")?;
            http::uri::Scheme::try_from(&*text).map_err(invalid).at("scheme")?;
            Some(text.into_owned())
        }
    };
    if !message.host.is_empty() {
        homarus_model::Authority::parse(&message.host, 80).map_err(invalid).at("host")?;
    }
    let path = match message.path.map(|p| p.replace.required().at("path")).transpose()? {
        None => None,
        Some(hr::path_modifier::Replace::Full(path)) => Some(PathModifier::Full(path)),
        Some(hr::path_modifier::Replace::Prefix(path)) => Some(PathModifier::Prefix(path)),
    };
    let status = match message.status {
        0 => StatusCode::MOVED_PERMANENTLY,
        status => status_code(status).at("status")?,
    };
    Ok(Redirect {
        scheme,
        host: (!message.host.is_empty()).then_some(message.host),
        port: port_or_none(message.port).at("port")?,
        path,
        status,
    })
}

fn status_code(status: u32) -> Result<StatusCode, DecodeError> {
    u16::try_from(status)
        .ok()
        .and_then(|s| StatusCode::from_u16(s).ok())
        .ok_or_else(|| invalid(format_args!("{status} is not an HTTP status")))
}

pub(super) fn http_failure(message: hr::HttpFailureInjector) -> Result<Filter, DecodeError> {
    let status = status_code(message.status).at("failure_injector.status")?;
    let ratio = ratio(message.ratio).at("failure_injector.ratio")?;
    Ok(Filter::Fail(InjectedFailure::Http { status, message: message.message.into(), ratio }))
}

pub(super) fn grpc_failure(message: gr::GrpcFailureInjector) -> Result<Filter, DecodeError> {
    let code = message.code.try_into().map_err(|_| invalid("not a gRPC status code")).at("failure_injector.code")?;
    let ratio = ratio(message.ratio).at("failure_injector.ratio")?;
    Ok(Filter::Fail(InjectedFailure::Grpc { code, message: message.message.into(), ratio }))
}

fn ratio(message: Option<hr::Ratio>) -> Result<Ratio, DecodeError> {
    match message {
        None => Ok(Ratio::ALWAYS),
        Some(hr::Ratio { denominator: 0, .. }) => Err(invalid("the denominator is 0")),
        Some(hr::Ratio { numerator, denominator }) => Ok(Ratio { numerator, denominator }),
    }
}
