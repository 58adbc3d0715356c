//! Matches of hosts, paths, headers, queries and gRPC methods.

use super::{Match, RequestHead};
use http::{HeaderName, HeaderValue, Method};
use regex::Regex;
use std::borrow::Cow;

/// A host of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This host: lower case, no trailing dot.
    Exact(String),
    /// Any host with at least one more label before this suffix (given without `*.`).
    Suffix(String),
}

/// None, suffix, exact; then the length.
pub(super) type HostRank = (u8, usize);

impl HostMatch {
    /// Parses `name` or `*.suffix`.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact(text),
        }
    }

    fn rank(&self, host: &str) -> Option<HostRank> {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host).then_some((2, name.len())),
            Self::Suffix(suffix) => {
                let (head, tail) = host.split_at_checked(host.len().checked_sub(suffix.len())?)?;
                (head.len() > 1 && head.ends_with('.') && tail.eq_ignore_ascii_case(suffix)).then_some((1, suffix.len()))
            }
        }
    }
}

pub(super) fn host_rank(hosts: &[HostMatch], host: Option<&str>) -> Option<HostRank> {
    if hosts.is_empty() {
        return Some((0, 0));
    }
    hosts.iter().filter_map(|h| h.rank(host?)).max()
}

/// A text to compare with, or a pattern that must span the whole value.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern<T> {
    /// Equal, byte by byte.
    Exact(T),
    /// Matched from end to end.
    Regex(WholeRegex),
}

/// A regular expression that has to span the whole value.
#[derive(Clone, Debug)]
pub struct WholeRegex(Regex);

const WHOLE: (&str, &str) = ("^(?:", ")$");

impl WholeRegex {
    /// Compiles an expression; it is anchored at both ends.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // Compiled alone first: `a)|(b` must not become valid by what is put around it.
        Regex::new(source)?;
        Regex::new(&format!("{}{source}{}", WHOLE.0, WHOLE.1)).map(Self)
    }

    /// The expression as it was given.
    pub fn source(&self) -> &str {
        let all = self.0.as_str();
        all.get(WHOLE.0.len()..all.len() - WHOLE.1.len()).unwrap_or(all)
    }

    fn spans(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for WholeRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

/// A path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Equal, byte by byte.
    Exact(String),
    /// Whole segments from the start; a `/` at the end of either makes no difference.
    Prefix(String),
    /// The whole path.
    Regex(WholeRegex),
}

impl PathMatch {
    /// The length that counts for the rank, if the path matches.
    fn rank(&self, path: &str) -> Option<usize> {
        match self {
            Self::Exact(exact) => (exact == path).then_some(exact.len()),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
            }
            Self::Regex(regex) => regex.spans(path).then_some(path.len()),
        }
    }
}

/// A header: one of its values must match.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: Pattern<HeaderValue>,
}

impl HeaderMatch {
    fn matches(&self, request: &RequestHead<'_>) -> bool {
        request.headers.get_all(&self.name).iter().any(|value| match &self.value {
            Pattern::Exact(exact) => exact == value,
            Pattern::Regex(regex) => value.to_str().is_ok_and(|v| regex.spans(v)),
        })
    }
}

/// A parameter of the query: one of its values must match.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// The decoded name.
    pub name: String,
    /// The decoded value.
    pub value: Pattern<String>,
}

impl QueryMatch {
    fn matches(&self, query: &str) -> bool {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.any(|(name, value)| {
            decode(name) == self.name
                && match &self.value {
                    Pattern::Exact(exact) => decode(value) == **exact,
                    Pattern::Regex(regex) => regex.spans(&decode(value)),
                }
        })
    }
}

/// Decodes `application/x-www-form-urlencoded` text; broken escapes stay as they are.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// A match of HTTP requests: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// The path; none is the prefix `/`.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// The method.
    pub method: Option<Method>,
}

impl Match for HttpMatch {
    /// Path length, headers, query parameters, method.
    type Rank = (usize, usize, usize, bool);

    fn rank(&self, request: &RequestHead<'_>) -> Option<Self::Rank> {
        if self.method.as_ref().is_some_and(|m| m != request.method) {
            return None;
        }
        let path = self.path.as_ref().map_or(Some(0), |p| p.rank(request.path))?;
        let query = request.query.unwrap_or_default();
        let all = self.headers.iter().all(|h| h.matches(request)) && self.query.iter().all(|q| q.matches(query));
        all.then_some((path, self.headers.len(), self.query.len(), self.method.is_some()))
    }
}

/// A match of gRPC requests: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrpcMatch {
    /// The full name of the service.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
}

impl Match for GrpcMatch {
    /// Service length, method length, headers.
    type Rank = (usize, usize, usize);

    fn rank(&self, request: &RequestHead<'_>) -> Option<Self::Rank> {
        if request.method != Method::POST {
            return None;
        }
        let (service, method) = request.path.strip_prefix('/')?.split_once('/')?;
        let part = |want: &Option<String>, have: &str| match want {
            None => Some(0),
            Some(want) => (want == have).then_some(want.len()),
        };
        let rank = (part(&self.service, service)?, part(&self.method, method)?, self.headers.len());
        self.headers.iter().all(|h| h.matches(request)).then_some(rank)
    }
}
