//! Outbound policy: where a client's connections and requests go.

use crate::{
    Meta,
    endpoint::Endpoint,
    route::{Filter, GrpcRoute, HttpRoute},
};
use std::{sync::Arc, time::Duration};

/// The policy of one destination, as the control plane tells it to a client's proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientPolicy {
    /// The Service port, or the default that stands in for one.
    pub parent: Arc<Meta>,
    /// What the destination speaks, and its routes.
    pub protocol: Protocol,
}

/// What a destination speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// Find out.
    Detect {
        /// How long to wait for the client's first bytes (the proxy's own setting wins, proxy-wire §7.2).
        timeout: Duration,
        /// Routes of HTTP/1 requests.
        http1: Arc<[HttpRoute<RoutePolicy>]>,
        /// Routes of HTTP/2 requests.
        http2: Arc<[HttpRoute<RoutePolicy>]>,
        /// What applies to everything else.
        opaque: OpaqueRoute,
    },
    /// HTTP/1.
    Http1(Arc<[HttpRoute<RoutePolicy>]>),
    /// HTTP/2.
    Http2(Arc<[HttpRoute<RoutePolicy>]>),
    /// gRPC over HTTP/2.
    Grpc(Arc<[GrpcRoute<RoutePolicy>]>),
    /// Bytes.
    Opaque(OpaqueRoute),
}

/// What applies to requests of one route rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    /// The route object or default.
    pub meta: Arc<Meta>,
    /// What is done to each request, in order.
    pub filters: Arc<[Filter]>,
    /// Where they go.
    pub distribution: Distribution,
}

/// Where opaque connections go.
#[derive(Clone, Debug, PartialEq)]
pub struct OpaqueRoute {
    /// The route object or default.
    pub meta: Arc<Meta>,
    /// Set where connections are refused.
    pub refuse: Option<Refusal>,
    /// Where they go.
    pub distribution: Distribution,
}

/// Why an opaque connection is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Policy forbids it.
    Forbidden,
    /// The route is broken; the text says how.
    Invalid(Arc<str>),
}

/// How a backend is chosen among those of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// There is none: never ready.
    Empty,
    /// The first that is ready.
    FirstAvailable(Arc<[RouteBackend]>),
    /// A draw by weight among those that are ready. The weights' sum is positive.
    RandomAvailable(Arc<[(RouteBackend, u32)]>),
}

impl Distribution {
    /// The backends, in order.
    pub fn backends(&self) -> Vec<&RouteBackend> {
        match self {
            Self::Empty => Vec::new(),
            Self::FirstAvailable(backends) => backends.iter().collect(),
            Self::RandomAvailable(backends) => backends.iter().map(|(b, _)| b).collect(),
        }
    }
}

/// A backend as a rule refers to it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend {
    /// What is done to requests that go there.
    pub filters: Arc<[Filter]>,
    /// The backend.
    pub backend: Backend,
}

/// What a route refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The Service port, or a default.
    pub meta: Arc<Meta>,
    /// How its endpoints are found.
    pub dispatcher: Dispatcher,
}

/// How a backend's endpoints are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Dispatcher {
    /// Discover endpoints by this `name:port`, and balance over them.
    Balance {
        /// The authority to discover.
        path: Arc<str>,
        /// How load is estimated.
        ewma: Ewma,
    },
    /// Forward to this one.
    Forward(Arc<Endpoint>),
    /// None was told: requests fail (HTTP 502).
    Fail,
}

/// Parameters of the peak-EWMA load estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ewma {
    /// What an endpoint without samples is taken to need; at least 1 ms.
    pub default_rtt: Duration,
    /// Time constant of the decay.
    pub decay: Duration,
}

impl Default for Ewma {
    /// 30 ms and 10 s: what the control plane sends, and what applies without it.
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

impl ClientPolicy {
    /// A policy that forwards everything to one endpoint: what a proxy makes for itself when discovery knows no policy
    /// (proxy-wire §7.1).
    pub fn forward(name: &'static str, endpoint: Endpoint) -> Self {
        let parent = Arc::new(Meta::default_named(name));
        let backend = Backend { meta: parent.clone(), dispatcher: Dispatcher::Forward(Arc::new(endpoint)) };
        Self::to_backend(parent, Arc::new(Meta::default_named(name)), backend)
    }

    /// A policy that detects the protocol and sends everything to one backend.
    pub fn to_backend(parent: Arc<Meta>, route: Arc<Meta>, backend: Backend) -> Self {
        let distribution = Distribution::FirstAvailable([RouteBackend { filters: Arc::new([]), backend }].into());
        let policy = RoutePolicy { meta: route.clone(), filters: Arc::new([]), distribution: distribution.clone() };
        let routes: Arc<[_]> = [HttpRoute::catch_all(policy)].into();
        let protocol = Protocol::Detect {
            timeout: crate::inbound::DETECT_TIMEOUT,
            http1: routes.clone(),
            http2: routes,
            opaque: OpaqueRoute { meta: route, refuse: None, distribution },
        };
        Self { parent, protocol }
    }

    /// Whether connections are never parsed.
    pub fn is_opaque(&self) -> bool {
        matches!(self.protocol, Protocol::Opaque(_))
    }

    /// What applies to connections that aren't HTTP, if they may exist at all.
    pub fn opaque(&self) -> Option<&OpaqueRoute> {
        match &self.protocol {
            Protocol::Detect { opaque, .. } | Protocol::Opaque(opaque) => Some(opaque),
            _ => None,
        }
    }
}
