//! Where requests go: routes of both groups.

use std::time::Duration;

use homarus_model::duration::parse_go;
use homarus_model::route::WholeRegex;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;

use super::{GATEWAY, POLICY, annotations, spec};
use crate::admit::Judgement;
use crate::webhook::review::Question;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    parent_refs: Option<Vec<Parent>>,
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
struct Parent {
    group: Option<String>,
    kind: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    matches: Option<Vec<Match>>,
    filters: Option<Vec<Filter>>,
    backend_refs: Option<Vec<Backend>>,
    timeouts: Option<Timeouts>,
}

/// A match of either kind of route; of the method only one form is ever there.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Match {
    path: Option<Typed>,
    method: Option<MethodMatch>,
    headers: Option<Vec<Typed>>,
    query_params: Option<Vec<Typed>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MethodMatch {
    Http(String),
    Grpc {
        #[serde(rename = "type")]
        kind: Option<String>,
    },
}

#[derive(Deserialize)]
struct Typed {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(rename = "type")]
    _kind: String,
    request_header_modifier: Option<Modifier>,
    response_header_modifier: Option<Modifier>,
    request_redirect: Option<Redirect>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Modifier {
    set: Option<Vec<Typed>>,
    add: Option<Vec<Typed>>,
    remove: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Redirect {
    path: Option<Replacement>,
    status_code: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Replacement {
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
struct Backend {
    group: Option<String>,
    kind: Option<String>,
    port: Option<u32>,
    filters: Option<Vec<Filter>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timeouts {
    request: Option<String>,
    backend_request: Option<String>,
}

impl Parent {
    fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(kind))
    }

    fn is_egress_network(&self, default_group: &str) -> bool {
        self.group.as_deref().unwrap_or(default_group).eq_ignore_ascii_case(POLICY) && self.is_kind("EgressNetwork")
    }

    fn is_server(&self, default_group: &str) -> bool {
        self.group.as_deref().unwrap_or(default_group).eq_ignore_ascii_case(POLICY) && self.is_kind("Server")
    }

    fn is_service(&self) -> bool {
        matches!(self.group.as_deref(), None | Some("" | "core")) && self.is_kind("Service")
    }
}

impl Spec {
    fn parents(&self) -> impl Iterator<Item = &Parent> {
        self.parent_refs.iter().flatten()
    }

    /// Whether any parent is one that this mesh serves.
    fn is_ours(&self, group: &str) -> bool {
        self.parents().any(|parent| parent.is_service() || parent.is_egress_network(group) || parent.is_server(group))
    }

    fn parents_fit(&self, group: &str) -> Result<(), String> {
        match self.parents().position(|parent| parent.is_egress_network(group) && parent.port.is_none()) {
            Some(i) => Err(format!("spec.parentRefs[{i}].port: an EgressNetwork needs one; name the port that traffic leaves by")),
            None => Ok(()),
        }
    }

    fn annotations_fit(&self, question: &Question, group: &str) -> Result<(), String> {
        let outbound = self.parents().any(|parent| parent.is_service() || parent.is_egress_network(group));
        if outbound { annotations::fit(&question.object["metadata"]) } else { Ok(()) }
    }
}

/// HTTPRoute of our own group.
pub(super) fn policy_http(question: &Question) -> Judgement {
    let spec: Spec = spec(question)?;
    spec.parents_fit(POLICY)?;
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        rule_fits(rule, false).and_then(|()| timeouts_fit(rule)).map_err(|error| format!("spec.rules[{i}].{error}"))?;
    }
    spec.annotations_fit(question, POLICY).map(|()| Vec::new())
}

/// HTTPRoute of the Gateway API.
pub(super) fn gateway_http(question: &Question) -> Judgement {
    of_gateway_api(question, |rule| rule_fits(rule, true))
}

/// GRPCRoute.
pub(super) fn grpc(question: &Question) -> Judgement {
    of_gateway_api(question, |rule| {
        for found in rule.matches.iter().flatten() {
            if let Some(MethodMatch::Grpc { kind: Some(kind) }) = &found.method
                && kind != "Exact"
            {
                return Err(format!("matches.method.type: {kind} is not supported; use Exact"));
            }
        }
        rule_fits(rule, true)
    })
}

/// TLSRoute and TCPRoute.
pub(super) fn single_rule(question: &Question) -> Judgement {
    let Ok(spec) = spec::<Spec>(question) else { return Ok(Vec::new()) };
    if !spec.is_ours(GATEWAY) {
        return Ok(Vec::new());
    }
    spec.parents_fit(GATEWAY)?;
    match spec.rules.map_or(0, |rules| rules.len()) {
        1 => Ok(Vec::new()),
        count => Err(format!("spec.rules: there are {count}; connections follow exactly one, make a route of each")),
    }
}

/// A route that others may be meant by: what can't be read isn't ours to refuse.
fn of_gateway_api(question: &Question, fits: impl Fn(&Rule) -> Result<(), String>) -> Judgement {
    let spec: Spec = match spec(question) {
        Ok(spec) => spec,
        Err(unreadable) => return Ok(vec![format!("the mesh can't read this route and will ignore it: {unreadable}")]),
    };
    if !spec.is_ours(GATEWAY) {
        return Ok(Vec::new());
    }
    spec.parents_fit(GATEWAY)?;
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        fits(rule).map_err(|error| format!("spec.rules[{i}].{error}"))?;
    }
    spec.annotations_fit(question, GATEWAY).map(|()| Vec::new())
}

fn rule_fits(rule: &Rule, backends_need_ports: bool) -> Result<(), String> {
    for found in rule.matches.iter().flatten() {
        match_fits(found)?;
    }
    filters_fit(rule.filters.as_deref())?;
    for (i, backend) in rule.backend_refs.iter().flatten().enumerate() {
        let service = matches!(backend.group.as_deref(), None | Some("" | "core"))
            && backend.kind.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("Service"));
        if backends_need_ports && service && backend.port.unwrap_or(0) == 0 {
            return Err(format!("backendRefs[{i}].port: a Service needs one; name the port to connect to"));
        }
        filters_fit(backend.filters.as_deref())?;
    }
    Ok(())
}

fn match_fits(found: &Match) -> Result<(), String> {
    if let Some(path) = &found.path {
        let value = path.value.as_deref().unwrap_or("/");
        match path.kind.as_deref().unwrap_or("PathPrefix") {
            "RegularExpression" => regex(value, "matches.path")?,
            _ if !value.starts_with('/') => return Err(format!("matches.path: {value:?} doesn't begin with /; begin it with /")),
            _ => {}
        }
    }
    if let Some(MethodMatch::Http(method)) = &found.method {
        method.parse::<Method>().map_err(|error| format!("matches.method: {method:?}: {error}; use an HTTP method"))?;
    }
    for header in found.headers.iter().flatten() {
        header_name(header.name.as_deref().unwrap_or_default(), "matches.headers")?;
        value_fits(header, "matches.headers", |value| header_value(value, "matches.headers"))?;
    }
    for query in found.query_params.iter().flatten() {
        value_fits(query, "matches.queryParams", |_| Ok(()))?;
    }
    Ok(())
}

fn value_fits(typed: &Typed, field: &str, exact: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    let value = typed.value.as_deref().unwrap_or_default();
    match typed.kind.as_deref() {
        Some("RegularExpression") => regex(value, field),
        _ => exact(value),
    }
}

fn filters_fit(filters: Option<&[Filter]>) -> Result<(), String> {
    for filter in filters.into_iter().flatten() {
        let modifiers = [
            ("filters.requestHeaderModifier", &filter.request_header_modifier),
            ("filters.responseHeaderModifier", &filter.response_header_modifier),
        ];
        for (field, modifier) in modifiers {
            modifier.as_ref().map_or(Ok(()), |modifier| modifier_fits(modifier, field))?;
        }
        filter.request_redirect.as_ref().map_or(Ok(()), redirect_fits)?;
    }
    Ok(())
}

fn modifier_fits(modifier: &Modifier, field: &str) -> Result<(), String> {
    for header in modifier.set.iter().chain(&modifier.add).flatten() {
        header_name(header.name.as_deref().unwrap_or_default(), field)?;
        header_value(header.value.as_deref().unwrap_or_default(), field)?;
    }
    modifier.remove.iter().flatten().try_for_each(|name| header_name(name, field))
}

fn redirect_fits(redirect: &Redirect) -> Result<(), String> {
    let field = "filters.requestRedirect";
    if let Some(code) = redirect.status_code
        && !StatusCode::from_u16(code).is_ok_and(|status| status.is_redirection())
    {
        return Err(format!("{field}.statusCode: {code} is no redirection; use 301 or 302"));
    }
    let Some(Replacement { replace_full_path, replace_prefix_match }) = &redirect.path else { return Ok(()) };
    match (replace_full_path, replace_prefix_match) {
        (None, None) => Err(format!("{field}.path: it replaces nothing; give replaceFullPath or replacePrefixMatch")),
        (full, prefix) => match full.iter().chain(prefix).find(|path| !path.starts_with('/')) {
            Some(path) => Err(format!("{field}.path: {path:?} doesn't begin with /; begin it with /")),
            None => Ok(()),
        },
    }
}

fn timeouts_fit(rule: &Rule) -> Result<(), String> {
    let Some(Timeouts { request, backend_request }) = &rule.timeouts else { return Ok(()) };
    let read = |field: &str, text: &Option<String>| -> Result<Option<Duration>, String> {
        let read = |text: &String| parse_go(text).map_err(|error| format!("timeouts.{field}: {text:?}: {error}; write it like 5s"));
        text.as_ref().map(read).transpose()
    };
    let (whole, one) = (read("request", request)?, read("backendRequest", backend_request)?);
    match (whole.filter(|whole| !whole.is_zero()), one) {
        (Some(whole), Some(one)) if one > whole => {
            Err(format!("timeouts.backendRequest: {one:?} is longer than the whole request may take ({whole:?}); make it shorter"))
        }
        _ => Ok(()),
    }
}

fn regex(text: &str, field: &str) -> Result<(), String> {
    WholeRegex::new(text).map(drop).map_err(|error| format!("{field}: {error}; write a regular expression (RE2 syntax)"))
}

fn header_name(name: &str, field: &str) -> Result<(), String> {
    name.parse::<HeaderName>().map(drop).map_err(|error| format!("{field}: name {name:?}: {error}; use letters, digits and -"))
}

fn header_value(value: &str, field: &str) -> Result<(), String> {
    value.parse::<HeaderValue>().map(drop).map_err(|error| format!("{field}: value {value:?}: {error}; use printable characters"))
}
