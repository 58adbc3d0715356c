//! HTTPRoute of both groups, and GRPCRoute (crds.md §8, §11).

use super::{Condition, Defect, Object, Readable, SEE_SCHEMA, body, or_default};
use homarus_model::{
    facts::{Acceptance, BackendRef, Fact, Id, Parent, ParentKind, Route, RouteFilter, RouteKind, RouteRule, Rules},
    route::{
        GrpcMatch, HeaderMatch, HeaderModifier, HostMatch, HttpMatch, PathMatch, PathModifier, Pattern, QueryMatch, Redirect,
        WholeRegex,
    },
};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Who writes into a route's status that it has been accepted.
pub const CONTROLLER_NAME: &str = "linkerd.io/policy-controller";

#[derive(Deserialize)]
#[serde(bound = "R: Deserialize<'de>")]
struct RouteBody<R> {
    #[serde(default = "no_spec")]
    spec: RouteSpec<R>,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

fn no_spec<R>() -> RouteSpec<R> {
    RouteSpec { parent_refs: Vec::new(), hostnames: Vec::new(), rules: Vec::new() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "R: Deserialize<'de>")]
struct RouteSpec<R> {
    #[serde(default, deserialize_with = "or_default")]
    parent_refs: Vec<ParentRef>,
    #[serde(default, deserialize_with = "or_default")]
    hostnames: Vec<String>,
    #[serde(default = "Vec::new")]
    rules: Vec<RuleSpec<R>>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    section_name: Option<Arc<str>>,
    port: Option<u16>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "or_default")]
    parents: Vec<ParentStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentStatus {
    parent_ref: ParentRef,
    #[serde(default)]
    controller_name: String,
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleSpec<M> {
    #[serde(default = "Vec::new")]
    matches: Vec<M>,
    #[serde(default, deserialize_with = "or_default")]
    filters: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    backend_refs: Vec<BackendSpec>,
}

#[derive(Deserialize)]
struct BackendSpec {
    group: Option<String>,
    kind: Option<String>,
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    port: Option<u16>,
    weight: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    filters: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpMatchSpec {
    path: Option<PathSpec>,
    method: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    headers: Vec<ValueSpec>,
    #[serde(default, deserialize_with = "or_default")]
    query_params: Vec<ValueSpec>,
}

#[derive(Deserialize)]
struct PathSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct ValueSpec {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
}

#[derive(Deserialize)]
struct GrpcMatchSpec {
    method: Option<MethodSpec>,
    #[serde(default, deserialize_with = "or_default")]
    headers: Vec<ValueSpec>,
}

#[derive(Deserialize)]
struct MethodSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    service: Option<String>,
    method: Option<String>,
}

pub(super) fn route(kind: RouteKind, object: Object<'_>) -> Result<Readable, Defect> {
    let (parents, accepted, hosts, rules) = match kind {
        RouteKind::Http(_) => {
            let RouteBody { spec, status } = body::<RouteBody<HttpMatchSpec>>(object)?;
            let (parents, accepted) = attachments(kind, &spec.parent_refs, status, object);
            (parents, accepted, spec.hostnames, Rules::Http(rules(spec.rules, http_match)?))
        }
        RouteKind::Grpc => {
            let RouteBody { spec, status } = body::<RouteBody<GrpcMatchSpec>>(object)?;
            let (parents, accepted) = attachments(kind, &spec.parent_refs, status, object);
            (parents, accepted, spec.hostnames, Rules::Grpc(rules(spec.rules, grpc_match)?))
        }
    };
    let meta = object.meta;
    let hosts = hosts.iter().map(|host| HostMatch::parse(host)).collect();
    Ok(Fact::Route(Route { kind, id: meta.id(), age: meta.age(), parents, accepted, hosts, rules }).into())
}

fn parent_kind(kind: RouteKind, parent: &ParentRef) -> Option<ParentKind> {
    let group = parent.group.as_deref().unwrap_or_else(|| kind.group().as_str());
    let is = |name: &str| parent.kind.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(name));
    match group {
        "policy.linkerd.io" if is("Server") => Some(ParentKind::Server),
        // Without a group, a Service can't mean anything else.
        "" | "core" if is("Service") => Some(ParentKind::Service),
        _ if parent.group.is_none() && is("Service") => Some(ParentKind::Service),
        _ => None,
    }
}

fn attachments(kind: RouteKind, refs: &[ParentRef], status: Status, object: Object<'_>) -> (Vec<Parent>, Vec<Acceptance>) {
    let parent = |p: &ParentRef| {
        Some(Parent {
            kind: parent_kind(kind, p)?,
            id: Id { namespace: p.namespace.clone().unwrap_or_else(|| object.meta.namespace.clone()), name: p.name.clone() },
            port: p.port,
            section: p.section_name.clone(),
        })
    };
    let accepted = status.parents.into_iter().filter_map(|status| {
        let accepted = status.conditions.iter().any(|condition| condition.holds("Accepted"));
        let kind = accepted.then(|| parent_kind(kind, &status.parent_ref)).flatten()?;
        let ours = status.controller_name == CONTROLLER_NAME;
        Some(Acceptance { kind, name: status.parent_ref.name, port: status.parent_ref.port, ours })
    });
    (refs.iter().filter_map(parent).collect(), accepted.collect())
}

fn rules<S, M>(specs: Vec<RuleSpec<S>>, read: impl Fn(S, &str) -> Result<M, Defect>) -> Result<Vec<RouteRule<M>>, Defect> {
    let rule = |(i, spec): (usize, RuleSpec<S>)| {
        let field = format!("spec.rules[{i}]");
        Ok(RouteRule {
            matches: spec.matches.into_iter().map(|m| read(m, &format!("{field}.matches"))).collect::<Result<_, _>>()?,
            filters: filters(&spec.filters, &format!("{field}.filters"))?,
            backends: spec.backend_refs.into_iter().map(|b| backend(b, &format!("{field}.backendRefs"))).collect(),
        })
    };
    specs.into_iter().enumerate().map(rule).collect()
}

fn backend(spec: BackendSpec, field: &str) -> BackendRef {
    let weight = spec.weight.unwrap_or(1);
    let (group, kind) = (spec.group.unwrap_or_default(), spec.kind.unwrap_or_else(|| "Service".into()));
    if !matches!(&*group, "" | "core") || kind != "Service" {
        return BackendRef::Unsupported { group: group.into(), kind: kind.into(), weight };
    }
    let filters = filters(&spec.filters, field).map_err(|defect| defect.problem.into());
    BackendRef::Service { namespace: spec.namespace, name: spec.name, port: spec.port, weight, filters }
}

fn regex(text: &str, field: &str) -> Result<WholeRegex, Defect> {
    WholeRegex::new(text).map_err(|error| Defect::new(field, error, "write a regular expression (RE2 syntax)"))
}

/// The type of a comparison; exact unless it says otherwise.
fn is_regex(kind: Option<&str>, field: &str) -> Result<bool, Defect> {
    match kind {
        None | Some("Exact") => Ok(false),
        Some("RegularExpression") => Ok(true),
        Some(other) => Err(Defect::new(field, format!("unknown type {other:?}"), "use Exact or RegularExpression")),
    }
}

fn header(spec: ValueSpec, field: &str) -> Result<HeaderMatch, Defect> {
    let name = header_name(&spec.name, field)?;
    let value = match is_regex(spec.kind.as_deref(), field)? {
        true => Pattern::Regex(regex(&spec.value, field)?),
        false => Pattern::Exact(header_value(&spec.value, field)?),
    };
    Ok(HeaderMatch { name, value })
}

fn header_name(name: &str, field: &str) -> Result<HeaderName, Defect> {
    name.parse().map_err(|error| Defect::new(field, format!("{name:?}: {error}"), SEE_SCHEMA))
}

fn header_value(value: &str, field: &str) -> Result<HeaderValue, Defect> {
    value.parse().map_err(|error| Defect::new(field, format!("{value:?}: {error}"), SEE_SCHEMA))
}

fn http_match(spec: HttpMatchSpec, field: &str) -> Result<HttpMatch, Defect> {
    let query = |q: ValueSpec| {
        let value = match is_regex(q.kind.as_deref(), field)? {
            true => Pattern::Regex(regex(&q.value, field)?),
            false => Pattern::Exact(q.value),
        };
        Ok(QueryMatch { name: q.name, value })
    };
    let method = |m: String| m.parse().map_err(|error| Defect::new(field, error, "use an HTTP method"));
    Ok(HttpMatch {
        path: spec.path.map(|p| path(p, field)).transpose()?,
        headers: spec.headers.into_iter().map(|h| header(h, field)).collect::<Result<_, _>>()?,
        query: spec.query_params.into_iter().map(query).collect::<Result<_, _>>()?,
        method: spec.method.map(method).transpose()?,
    })
}

fn path(spec: PathSpec, field: &str) -> Result<PathMatch, Defect> {
    let value = spec.value.unwrap_or_else(|| "/".into());
    let kind = spec.kind.as_deref().unwrap_or("PathPrefix");
    if kind != "RegularExpression" && !value.starts_with('/') {
        return Err(Defect::new(field, format!("path {value:?} doesn't begin with /"), "begin it with /"));
    }
    Ok(match kind {
        "Exact" => PathMatch::Exact(value),
        "PathPrefix" => PathMatch::Prefix(value),
        "RegularExpression" => PathMatch::Regex(regex(&value, field)?),
        other => {
            let problem = format!("unknown type {other:?} of a path");
            return Err(Defect::new(field, problem, "use Exact, PathPrefix or RegularExpression"));
        }
    })
}

fn grpc_match(spec: GrpcMatchSpec, field: &str) -> Result<GrpcMatch, Defect> {
    if let Some(kind) = spec.method.as_ref().and_then(|m| m.kind.as_deref()).filter(|kind| *kind != "Exact") {
        return Err(Defect::new(field, format!("type {kind:?} of a method is not supported"), "use Exact"));
    }
    let (service, method) = spec.method.map(|m| (m.service, m.method)).unwrap_or_default();
    Ok(GrpcMatch {
        service: service.filter(|s| !s.is_empty()),
        method: method.filter(|m| !m.is_empty()),
        headers: spec.headers.into_iter().map(|h| header(h, field)).collect::<Result<_, _>>()?,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterSpec {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<ModifierSpec>,
    response_header_modifier: Option<ModifierSpec>,
    request_redirect: Option<RedirectSpec>,
}

#[derive(Deserialize)]
struct ModifierSpec {
    #[serde(default, deserialize_with = "or_default")]
    set: Vec<ValueSpec>,
    #[serde(default, deserialize_with = "or_default")]
    add: Vec<ValueSpec>,
    #[serde(default, deserialize_with = "or_default")]
    remove: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedirectSpec {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifierSpec>,
    port: Option<u16>,
    status_code: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathModifierSpec {
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

fn filters(specs: &[Value], field: &str) -> Result<Vec<RouteFilter>, Defect> {
    specs.iter().map(|spec| filter(spec, field)).collect()
}

fn filter(spec: &Value, field: &str) -> Result<RouteFilter, Defect> {
    let spec = FilterSpec::deserialize(spec).map_err(|error| Defect::new(field, error, SEE_SCHEMA))?;
    let kind = spec.kind.as_str();
    let missing = || Defect::new(field, format!("the parameters of {kind} are missing"), SEE_SCHEMA);
    match kind {
        "RequestHeaderModifier" => {
            Ok(RouteFilter::RequestHeaders(modifier(spec.request_header_modifier.ok_or_else(missing)?, field)?))
        }
        "ResponseHeaderModifier" => {
            Ok(RouteFilter::ResponseHeaders(modifier(spec.response_header_modifier.ok_or_else(missing)?, field)?))
        }
        "RequestRedirect" => Ok(RouteFilter::Redirect(redirect(spec.request_redirect.ok_or_else(missing)?, field)?)),
        other => Err(Defect::new(field, format!("filter {other} is not supported"), "use another filter, or none")),
    }
}

fn modifier(spec: ModifierSpec, field: &str) -> Result<Arc<HeaderModifier>, Defect> {
    let values = |values: Vec<ValueSpec>| -> Result<Vec<_>, Defect> {
        values.into_iter().map(|v| Ok((header_name(&v.name, field)?, header_value(&v.value, field)?))).collect()
    };
    Ok(Arc::new(HeaderModifier {
        add: values(spec.add)?,
        set: values(spec.set)?,
        remove: spec.remove.iter().map(|name| header_name(name, field)).collect::<Result<_, _>>()?,
    }))
}

fn redirect(spec: RedirectSpec, field: &str) -> Result<Arc<Redirect>, Defect> {
    let path = match spec.path.map(|p| (p.replace_full_path, p.replace_prefix_match)) {
        None => None,
        Some((Some(full), None)) => Some(PathModifier::Full(full)),
        Some((None, Some(prefix))) => Some(PathModifier::Prefix(prefix)),
        Some(_) => return Err(Defect::new(field, "a path needs one replacement", SEE_SCHEMA)),
    };
    let status = StatusCode::from_u16(spec.status_code.unwrap_or(302));
    let status = status.map_err(|error| Defect::new(field, error, "use a status of a redirect, like 301 or 302"))?;
    Ok(Arc::new(Redirect { scheme: spec.scheme, host: spec.hostname, path, port: spec.port, status }))
}
