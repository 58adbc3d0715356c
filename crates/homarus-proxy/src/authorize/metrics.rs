//! Metrics of verdicts and of inbound routes (proxy-traffic §7.3 and §7.5).

use crate::{
    detect::metrics::{self as detect, DetectMetrics, Detected},
    fault::Fault,
    observe::{
        Counter, Family, Histogram, Labels, Registry, labels,
        registry::{Bound, Half, Kind, SECONDS},
    },
};
use homarus_model::{Identity, Meta, inbound::ClientTls};
use homarus_wire::transport::{Header, Session};
use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    time::Duration,
};

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
    srv: Labels,
    detect: OnceCell<DetectMetrics>,
    /// Of the connection that was allowed last: mostly the next is like it.
    allowed: RefCell<Option<(Meta, ClientTls, Counter)>>,
}

impl PortMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: &Registry, port: SocketAddr, server: &Meta) -> Self {
        let target = labels::target(Labels::new(), port);
        let srv = labels::server(Labels::new(), server, port.port());
        let server = target.clone().and(&srv);
        Self { registry: registry.clone(), target, server, srv, detect: OnceCell::new(), allowed: RefCell::default() }
    }

    /// A connection whose protocol was looked for.
    pub fn detected(&self, detected: Detected, elapsed: Duration) {
        let make = || DetectMetrics::new(&detect::INBOUND, &self.registry, &self.srv);
        self.detect.get_or_init(make).observe(detected, elapsed);
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
        let mut allowed = self.allowed.borrow_mut();
        if let Some((by, who, counter)) = &*allowed
            && by == authorization
            && who == tls
        {
            return counter.inc();
        }
        let labels = labels::client_tls(labels::named(self.server.clone(), "authz", authorization), tls);
        let counter = self.registry.counter(&TCP_ALLOW, labels);
        counter.inc();
        *allowed = Some((authorization.clone(), tls.clone(), counter));
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
    request_frames: Family,
    response_frames: Family,
    statuses: Family,
}

macro_rules! families {
    ($prefix:literal) => {{
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
            request_frames: family(
                concat!($prefix, "_request_frame_size_bytes"),
                "Request data frame sizes",
                Kind::Histogram { bounds: FRAME_BOUNDS, scale: 1 },
            ),
            response_frames: family(
                concat!($prefix, "_response_frame_size_bytes"),
                "Response data frame sizes",
                Kind::Histogram { bounds: FRAME_BOUNDS, scale: 1 },
            ),
            statuses: family(concat!($prefix, "_statuses"), "Completed responses by status", Kind::Counter),
        }
    }};
}

static HTTP: Families = families!("inbound_http");
static GRPC: Families = families!("inbound_grpc");

/// What is counted about requests of one rule.
pub struct RouteMetrics {
    families: &'static Families,
    registry: Registry,
    labels: Labels,
    grpc: bool,
    requests: Counter,
    request_duration: Histogram,
    response_duration: Histogram,
    request_frames: Histogram,
    response_frames: Histogram,
    statuses: RefCell<Vec<(Option<u16>, Counter)>>,
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
            request_frames: registry.histogram(&families.request_frames, labels.clone()),
            response_frames: registry.histogram(&families.response_frames, labels.clone()),
            statuses: RefCell::default(),
            labels,
        }
    }

    /// A request was let through.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// A data frame of it was passed on.
    pub fn request_frame(&self, bytes: usize) {
        self.request_frames.value(bytes as u64);
    }

    /// A data frame of its response was passed on.
    pub fn response_frame(&self, bytes: usize) {
        self.response_frames.value(bytes as u64);
    }

    /// Its response ended. `status` is the HTTP status, `grpc` the gRPC status if it told one.
    pub fn ended(&self, status: Option<u16>, grpc: Option<u16>, since_received: Duration, since_sent: Duration) {
        self.request_duration.time(since_received);
        self.response_duration.time(since_sent);
        let status = if self.grpc { grpc } else { status };
        let mut known = self.statuses.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(s, _)| *s == status) {
            return counter.inc();
        }
        let text = status.map(|s| s.to_string()).unwrap_or_default();
        let counter = self.registry.counter(&self.families.statuses, self.labels.clone().with("status", text));
        counter.inc();
        known.push((status, counter));
    }
}

static TRANSPORT_HEADERS: Family = Family {
    name: "inbound_tcp_transport_header_connections",
    help: "TCP connections with transport headers",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Different headers that are remembered, at most; then all are forgotten.
const MAX_HEADERS: usize = 1_000;

/// A target port, what is spoken there if that is said, and who connects.
type Tunneled = (u16, Option<Session>, Identity);

/// Connections by what their transport header says.
pub struct HeaderMetrics {
    registry: Registry,
    known: RefCell<HashMap<Tunneled, Counter, ahash::RandomState>>,
}

impl HeaderMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: Registry) -> Self {
        Self { registry, known: RefCell::default() }
    }

    /// A connection of a client, with its header.
    pub fn connection(&self, header: &Header, client: &Identity) {
        if header.name.is_some() {
            // For gateways, which this workload isn't: not worth remembering.
            return self.counter(header, client).inc();
        }
        let mut known = self.known.borrow_mut();
        let key = (header.port, header.session, client.clone());
        if known.len() >= MAX_HEADERS && !known.contains_key(&key) {
            known.clear();
        }
        known.entry(key).or_insert_with(|| self.counter(header, client)).inc();
    }

    fn counter(&self, header: &Header, client: &Identity) -> Counter {
        let session = match header.session {
            Some(Session::Http1) => "http/1",
            Some(Session::Http2) => "http/2",
            None => "",
        };
        let name = header.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
        let labels = Labels::new().with("session_protocol", session).with("target_port", header.port);
        self.registry.counter(&TRANSPORT_HEADERS, labels.with("target_name", name).with("client_id", client.as_str()))
    }
}
