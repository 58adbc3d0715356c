//! Headers that proxies care for.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Set by a server's proxy: the mesh identity of the client.
pub static CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");
/// The version and form of a request that was upgraded on the way.
pub static ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
/// The text of a synthesized error.
pub static PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// `close`: the client's connection should end.
pub static PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");
/// The identity a request insists on.
pub static REQUIRE_ID: HeaderName = HeaderName::from_static("l5d-require-id");
/// The canonical name of a request's target.
pub static DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");
/// In ingress mode: the name of a request's target.
pub static DST_OVERRIDE: HeaderName = HeaderName::from_static("l5d-dst-override");
/// Between our own proxies: the request never reached the application, so it may be sent again.
pub static UNPROCESSED: HeaderName = HeaderName::from_static("homarus-unprocessed");

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static HTTP_PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what belongs to one connection and not to the message (RFC 9110 §7.6.1, proxy-wire §6.4).
pub fn strip_connection(headers: &mut HeaderMap) {
    if let Some(value) = headers.remove(header::CONNECTION)
        && let Ok(names) = value.to_str()
    {
        for name in names.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            headers.remove(name);
        }
    }
    headers.remove(header::UPGRADE);
    headers.remove(&HTTP_PROXY_CONNECTION);
    headers.remove(&KEEP_ALIVE);
}

/// Whether a list header has a token, ignoring case.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| value.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token))))
}

/// Whether a message is of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// A text as a header value; what can't stand in one is left out.
pub fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| {
        let clean: String = value.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect();
        HeaderValue::from_str(&clean).unwrap_or(HeaderValue::from_static("unprintable"))
    })
}
