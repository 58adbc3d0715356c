//! `/env.json`: the environment that the proxy runs with.

use super::{empty, not_allowed, with_type};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::{collections::BTreeMap, fmt::Write};

/// Variables that one request may ask for by name.
const MAX_NAMES: usize = 256;

/// All variables, or those that the query names (`?NAME&NAME2`); one that isn't set is null.
pub(super) fn respond(env: &BTreeMap<String, String>, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    if !accepts_json(request) {
        return empty(StatusCode::NOT_ACCEPTABLE);
    }
    let names: Vec<&str> = request.uri().query().unwrap_or_default().split('&').filter(|n| !n.is_empty()).collect();
    if names.len() > MAX_NAMES || names.iter().any(|n| n.contains('=')) {
        let why = "env.json query parameters must be the names of environment variables, without values";
        return json(StatusCode::BAD_REQUEST, object([("error", Some(why))]));
    }
    let body = if names.is_empty() {
        object(env.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))))
    } else {
        object(names.into_iter().map(|name| (name, env.get(name).map(String::as_str))))
    };
    json(StatusCode::OK, body)
}

fn accepts_json(request: &Request<Bytes>) -> bool {
    let mut accepted = request.headers().get_all(header::ACCEPT).iter().peekable();
    accepted.peek().is_none()
        || accepted.any(|v| v.to_str().is_ok_and(|v| ["application/json", "application/*", "*/*"].iter().any(|t| v.contains(t))))
}

fn json(status: StatusCode, body: String) -> Response<Bytes> {
    with_type(status, body.into(), HeaderValue::from_static("application/json"))
}

fn object<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in pairs.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(&mut out, name);
        out.push(':');
        match value {
            Some(value) => string(&mut out, value),
            None => out.push_str("null"),
        }
    }
    out.push('}');
    out
}

/// Writes a JSON string (RFC 8259 §7). One writer of flat objects isn't worth a JSON library in the proxy.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
