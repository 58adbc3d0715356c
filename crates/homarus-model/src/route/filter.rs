//! What is done to a request on its way.

use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

/// What is done to a request, in the order of the route.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Change headers of the request.
    RequestHeaders(Arc<HeaderModifier>),
    /// Change headers of the response.
    ResponseHeaders(Arc<HeaderModifier>),
    /// Answer with a redirect.
    Redirect(Arc<Redirect>),
    /// Answer with a failure.
    Fail(InjectedFailure),
    /// A filter that this version doesn't know: requests get 500, so that nothing passes unfiltered.
    Unknown,
}

/// Changes of headers: first add, then set, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Added beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Put in place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// A redirect; what isn't given stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The scheme.
    pub scheme: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The status, 301 by default.
    pub status: StatusCode,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// In place of the whole path.
    Full(String),
    /// In place of the prefix that the rule matched.
    Prefix(String),
}

/// A failure that a route or the control plane asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectedFailure {
    /// An HTTP status.
    Http {
        /// The status.
        status: StatusCode,
        /// What to say to meshed clients and in the log.
        message: Arc<str>,
        /// In how many of `denominator` requests.
        ratio: Ratio,
    },
    /// A gRPC status.
    Grpc {
        /// The code.
        code: u16,
        /// What to say.
        message: Arc<str>,
        /// In how many of `denominator` requests.
        ratio: Ratio,
    },
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// So many
    pub numerator: u32,
    /// of so many; positive.
    pub denominator: u32,
}

impl Ratio {
    /// Every request.
    pub const ALWAYS: Self = Self { numerator: 1, denominator: 1 };

    /// Whether a draw from `0..denominator` falls into the share.
    pub fn takes(self, draw: u32) -> bool {
        draw < self.numerator
    }
}

impl InjectedFailure {
    /// The share of requests that fail.
    pub fn ratio(&self) -> Ratio {
        match self {
            Self::Http { ratio, .. } | Self::Grpc { ratio, .. } => *ratio,
        }
    }
}
