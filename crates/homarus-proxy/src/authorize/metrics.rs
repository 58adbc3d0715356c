//! Metrics of verdicts and of inbound routes (proxy-traffic §7.3 and §7.5).

use crate::{
    fault::Fault,
    observe::{
        Counter, Family, Histogram, Labels, Registry, labels,
        registry::{Bound, Half, Kind, SECONDS},
    },
};
use homarus_model::{Meta, inbound::ClientTls};
use std::{cell::RefCell, net::SocketAddr, time::Duration};

const fn inbound(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Counter, half: Half::Inbound }
}

static HTTP_ALLOW: Family =
    inbound("inbound_http_authz_allow_total", "The total number of inbound HTTP requests that were authorized");
static HTTP_DENY: Family = inbound(
    "inbound_http_authz_deny_total",
    "The total number of inbound HTTP requests that could not be processed due to being denied by the authorization policy.",
);
static NOT_FOUND: Family = inbound(
    "inbound_http_route_not_found_total",
    "The total number of inbound HTTP requests that could not be associated with a route",
);
static TCP_ALLOW: Family =
    inbound("inbound_tcp_authz_allow_total", "The total number of inbound TCP connections that were authorized");
static TCP_DENY: Family = inbound("inbound_tcp_authz_deny_total", "The total number of inbound TCP connections that were denied");
static TCP_TERMINATE: Family = inbound(
    "inbound_tcp_authz_terminate_total",
    "The total number of inbound TCP connections that were terminated due to an authorization change",
);
static HTTP_ERRORS: Family = inbound(
    "inbound_http_errors_total",
    "The total number of inbound HTTP requests that could not be processed due to a proxy error.",
);
static TCP_ERRORS: Family = inbound(
    "inbound_tcp_errors_total",
    "The total number of inbound TCP connections that could not be processed due to a proxy error.",
);

/// What is counted about one port under one policy.
pub struct PortMetrics {
    registry: Registry,
    target: Labels,
    server: Labels,
}

impl PortMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: &Registry, port: SocketAddr, server: &Meta) -> Self {
        let target = labels::target(Labels::new(), port);
        let server = labels::server(target.clone(), server, port.port());
        Self { registry: registry.clone(), target, server }
    }

    pub(super) fn http_allowed(&self, route: &Meta, authorization: &Meta, tls: &ClientTls) -> Counter {
        let labels = labels::named(labels::named(self.server.clone(), "route", route), "authz", authorization);
        self.registry.counter(&HTTP_ALLOW, labels::client_tls(labels, tls))
    }

    pub(super) fn http_denied(&self, route: &Meta, tls: &ClientTls) -> Counter {
        self.registry.counter(&HTTP_DENY, labels::client_tls(labels::named(self.server.clone(), "route", route), tls))
    }

    pub(super) fn route_not_found(&self, tls: &ClientTls) {
        self.count(&NOT_FOUND, tls);
    }

    pub(super) fn tcp_allowed(&self, authorization: &Meta, tls: &ClientTls) {
        let labels = labels::client_tls(labels::named(self.server.clone(), "authz", authorization), tls);
        self.registry.counter(&TCP_ALLOW, labels).inc();
    }

    pub(super) fn tcp_denied(&self, tls: &ClientTls) {
        self.count(&TCP_DENY, tls);
    }

    pub(super) fn tcp_terminated(&self, tls: &ClientTls) {
        self.count(&TCP_TERMINATE, tls);
    }

    fn count(&self, family: &'static Family, tls: &ClientTls) {
        self.registry.counter(family, labels::client_tls(self.server.clone(), tls)).inc();
    }

    /// A request failed in the proxy.
    pub fn http_error(&self, fault: &Fault) {
        if let Some(error) = fault.cause.label("inbound") {
            self.registry.counter(&HTTP_ERRORS, self.target.clone().with("error", error)).inc();
        }
    }

    /// A connection failed in the proxy.
    pub fn tcp_error(&self, error: &str) {
        self.registry.counter(&TCP_ERRORS, self.target.clone().with("error", error)).inc();
    }

    /// The labels of connections to this port.
    pub fn accept_labels(&self, server: &Meta, port: SocketAddr, tls: &ClientTls) -> Labels {
        let labels = labels::target(Labels::new().with("direction", "inbound").with("peer", "src"), port);
        labels::server(labels::client_tls(labels, tls), server, port.port())
    }
}

const REQUEST_BOUNDS: &[Bound] = &[
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1.0", 1_000_000),
    ("10.0", 10_000_000),
];
const RESPONSE_BOUNDS: &[Bound] = &[("0.05", 50_000), ("0.5", 500_000), ("1.0", 1_000_000), ("10.0", 10_000_000)];
const FRAME_BOUNDS: &[Bound] = &[("128.0", 128), ("1024.0", 1024), ("10240.0", 10_240)];

/// The families of one protocol.
struct Families {
    requests: Family,
    request_duration: Family,
    response_duration: Family,
    response_frames: Family,
    statuses: Family,
    status_label: &'static str,
}

macro_rules! families {
    ($prefix:literal, $status:literal) => {{
        const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
            Family { name, help, kind, half: Half::Open }
        }
        Families {
            requests: family(concat!($prefix, "_requests"), "Requests that were routed", Kind::Counter),
            request_duration: family(
                concat!($prefix, "_request_duration_seconds"),
                "The time between a request being received and the end of its response",
                Kind::Histogram { bounds: REQUEST_BOUNDS, scale: SECONDS },
            ),
            response_duration: family(
                concat!($prefix, "_response_duration_seconds"),
                "The time between a request being passed on and the end of its response",
                Kind::Histogram { bounds: RESPONSE_BOUNDS, scale: SECONDS },
            ),
            response_frames: family(
                concat!($prefix, "_response_frame_size_bytes"),
                "Sizes of the data frames of responses",
                Kind::Histogram { bounds: FRAME_BOUNDS, scale: 1 },
            ),
            statuses: family(concat!($prefix, "_statuses"), "Completed responses by status", Kind::Counter),
            status_label: $status,
        }
    }};
}

static HTTP: Families = families!("inbound_http", "http_status");
static GRPC: Families = families!("inbound_grpc", "grpc_status");

/// How a response ended: its status as text, and what broke it off.
pub type Ended = (u16, &'static str);

/// What is counted about requests of one rule.
pub struct RouteMetrics {
    families: &'static Families,
    registry: Registry,
    labels: Labels,
    grpc: bool,
    requests: Counter,
    request_duration: Histogram,
    response_duration: Histogram,
    frames: Histogram,
    statuses: RefCell<Vec<(Ended, Counter)>>,
}

impl RouteMetrics {
    pub(super) fn new(registry: &Registry, server: &Meta, port: u16, route: &Meta, grpc: bool) -> Self {
        let families = if grpc { &GRPC } else { &HTTP };
        let labels = labels::named(Labels::new(), "parent", server).with("parent_port", port);
        let labels = labels::named(labels, "route", route);
        Self {
            families,
            registry: registry.clone(),
            grpc,
            requests: registry.counter(&families.requests, labels.clone()),
            request_duration: registry.histogram(&families.request_duration, labels.clone()),
            response_duration: registry.histogram(&families.response_duration, labels.clone()),
            frames: registry.histogram(&families.response_frames, labels.clone()),
            statuses: RefCell::default(),
            labels,
        }
    }

    /// A request was let through.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// A data frame of its response was passed on.
    pub fn frame(&self, bytes: usize) {
        self.frames.value(bytes as u64);
    }

    /// Its response ended. `status` is the HTTP status, `grpc` the gRPC status if it told one.
    pub fn ended(&self, status: u16, grpc: Option<u16>, error: &'static str, since_received: Duration, since_sent: Duration) {
        self.request_duration.time(since_received);
        self.response_duration.time(since_sent);
        let ended = (if self.grpc { grpc.unwrap_or(0) } else { status }, error);
        let mut known = self.statuses.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(e, _)| *e == ended) {
            return counter.inc();
        }
        let labels = self.labels.clone();
        let labels = match self.grpc {
            true => labels.with(self.families.status_label, crate::route::metrics::grpc_name(ended.0)),
            false => labels.with(self.families.status_label, ended.0),
        };
        let counter = self.registry.counter(&self.families.statuses, labels.with("error", error));
        counter.inc();
        known.push((ended, counter));
    }
}
