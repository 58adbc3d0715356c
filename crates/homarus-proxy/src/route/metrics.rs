//! Metrics of routes and of backends as routes refer to them (proxy-traffic §7.6).

use crate::{
    fault::Fault,
    http::Frames,
    observe::{
        Counter, Family, Histogram, Labels, Registry, labels,
        registry::{Bound, Half, Kind, SECONDS},
    },
};
use homarus_model::{Authority, Meta};
use http::StatusCode;
use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

/// The families of one route protocol.
pub struct Families {
    request_duration: Family,
    request_statuses: Family,
    request_frames: Family,
    backend_requests: Family,
    backend_duration: Family,
    backend_statuses: Family,
    backend_frames: Family,
    status_label: &'static str,
    grpc: bool,
}

const REQUEST_BOUNDS: &[Bound] = &[("0.05", 50_000), ("0.5", 500_000), ("1.0", 1_000_000), ("10.0", 10_000_000)];
const RESPONSE_BOUNDS: &[Bound] = &[
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1.0", 1_000_000),
    ("10.0", 10_000_000),
];
const FRAME_BOUNDS: &[Bound] = &[("128.0", 128), ("1024.0", 1024), ("10240.0", 10_240)];

macro_rules! families {
    ($prefix:literal, $status:literal, $grpc:literal) => {{
        const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
            Family { name, help, kind, half: Half::Open }
        }
        const fn seconds(bounds: &'static [Bound]) -> Kind {
            Kind::Histogram { bounds, scale: SECONDS }
        }
        Families {
            request_duration: family(
                concat!($prefix, "_route_request_duration_seconds"),
                "The time between a request being routed and the end of its response",
                seconds(REQUEST_BOUNDS),
            ),
            request_statuses: family(concat!($prefix, "_route_request_statuses"), "Completed requests by status", Kind::Counter),
            request_frames: family(
                concat!($prefix, "_route_request_frame_size_bytes"),
                "Request data frame sizes",
                Kind::Histogram { bounds: FRAME_BOUNDS, scale: 1 },
            ),
            backend_requests: family(concat!($prefix, "_route_backend_requests"), "Requests sent to a backend", Kind::Counter),
            backend_duration: family(
                concat!($prefix, "_route_backend_response_duration_seconds"),
                "The time between a request being sent and the end of its response",
                seconds(RESPONSE_BOUNDS),
            ),
            backend_statuses: family(
                concat!($prefix, "_route_backend_response_statuses"),
                "Completed responses by status",
                Kind::Counter,
            ),
            backend_frames: family(
                concat!($prefix, "_route_backend_response_frame_size_bytes"),
                "Response data frame sizes",
                Kind::Histogram { bounds: FRAME_BOUNDS, scale: 1 },
            ),
            status_label: $status,
            grpc: $grpc,
        }
    }};
}

/// HTTP routes.
pub static HTTP: Families = families!("outbound_http", "http_status", false);
/// gRPC routes.
pub static GRPC: Families = families!("outbound_grpc", "grpc_status", true);

/// How a request ended, as routes count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The HTTP status; none: there was no response.
    pub status: Option<StatusCode>,
    /// The gRPC status.
    pub grpc: Option<u16>,
    /// What broke it off; empty if nothing did.
    pub error: &'static str,
}

impl Ended {
    /// As a fault is answered.
    pub fn of(fault: &Fault) -> Self {
        let error = fault.cause.status_label();
        let status = error.is_empty().then(|| fault.status());
        Self { status, grpc: error.is_empty().then(|| fault.grpc_code()), error }
    }
}

/// The labels of a backend, behind others.
pub fn backend(labels: Labels, meta: &Meta) -> Labels {
    labels::ported(labels, "backend", meta)
}

/// Counts by how requests ended; the few combinations that occur are remembered.
struct Statuses {
    family: &'static Family,
    label: &'static str,
    grpc: bool,
    registry: Registry,
    labels: Labels,
    known: RefCell<Vec<(Ended, Counter)>>,
}

impl Statuses {
    fn count(&self, ended: Ended) {
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(e, _)| *e == ended) {
            return counter.inc();
        }
        let status = match (self.grpc, ended) {
            (true, Ended { grpc: Some(code), .. }) => grpc_name(code).to_owned(),
            (false, Ended { status: Some(status), .. }) => status.as_u16().to_string(),
            _ => String::new(),
        };
        let labels = self.labels.clone().with(self.label, status).with("error", ended.error);
        let counter = self.registry.counter(self.family, labels);
        counter.inc();
        known.push((ended, counter));
    }
}

/// The name of a gRPC status code.
pub fn grpc_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}

/// The metrics of one route rule.
pub struct RouteMetrics {
    duration: Histogram,
    request_frames: Histogram,
    statuses: Statuses,
}

impl RouteMetrics {
    /// Metrics with these labels.
    pub fn new(families: &'static Families, registry: &Registry, labels: Labels) -> Self {
        Self {
            duration: registry.histogram(&families.request_duration, labels.clone()),
            request_frames: registry.histogram(&families.request_frames, labels.clone()),
            statuses: Statuses {
                family: &families.request_statuses,
                label: families.status_label,
                grpc: families.grpc,
                registry: registry.clone(),
                labels,
                known: RefCell::default(),
            },
        }
    }

    /// A request ended.
    pub fn ended(&self, ended: Ended, elapsed: Duration) {
        self.duration.time(elapsed);
        self.statuses.count(ended);
    }
}

/// Hosts that one rule's metrics tell apart; requests for others are counted without theirs.
const MAX_HOSTS: usize = 100;

/// The metrics of one route rule, by the host that is asked for if the operator wants that.
pub struct HostMetrics {
    families: &'static Families,
    registry: Registry,
    labels: Labels,
    any: Rc<RouteMetrics>,
    hosts: Option<RefCell<HashMap<String, Rc<RouteMetrics>, ahash::RandomState>>>,
}

impl HostMetrics {
    /// Metrics with these labels.
    pub fn new(families: &'static Families, registry: &Registry, labels: Labels, tell_hosts: bool) -> Self {
        let any = Rc::new(RouteMetrics::new(families, registry, labels.clone().with("hostname", "")));
        Self { families, registry: registry.clone(), labels, any, hosts: tell_hosts.then(RefCell::default) }
    }

    /// The metrics of a request for a host.
    pub fn of(&self, host: Option<&str>) -> Rc<RouteMetrics> {
        let (Some(hosts), Some(host)) = (&self.hosts, host) else { return self.any.clone() };
        let mut hosts = hosts.borrow_mut();
        if let Some(known) = hosts.get(host) {
            return known.clone();
        }
        if hosts.len() >= MAX_HOSTS || host.parse::<homarus_model::DnsName>().is_err() {
            return self.any.clone();
        }
        let labels = self.labels.clone().with("hostname", host);
        let made = Rc::new(RouteMetrics::new(self.families, &self.registry, labels));
        hosts.insert(host.to_owned(), made.clone());
        made
    }
}

impl Frames for RouteMetrics {
    fn frame(&self, bytes: usize) {
        self.request_frames.value(bytes as u64);
    }
}

/// The metrics of one backend of one route rule.
pub struct BackendMetrics {
    requests: Counter,
    duration: Histogram,
    frames: Histogram,
    statuses: Statuses,
}

impl BackendMetrics {
    /// Metrics with these labels.
    pub fn new(families: &'static Families, registry: &Registry, labels: Labels) -> Self {
        Self {
            requests: registry.counter(&families.backend_requests, labels.clone()),
            duration: registry.histogram(&families.backend_duration, labels.clone()),
            frames: registry.histogram(&families.backend_frames, labels.clone()),
            statuses: Statuses {
                family: &families.backend_statuses,
                label: families.status_label,
                grpc: families.grpc,
                registry: registry.clone(),
                labels,
                known: RefCell::default(),
            },
        }
    }

    /// A request is sent.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// A data frame of the response was passed on.
    pub fn frame(&self, bytes: usize) {
        self.frames.value(bytes as u64);
    }

    /// A response ended.
    pub fn ended(&self, ended: Ended, elapsed: Duration) {
        self.duration.time(elapsed);
        self.statuses.count(ended);
    }
}

static TCP_OPEN: Family =
    Family { name: "outbound_tcp_route_open", help: "Opaque connections that were opened", kind: Kind::Counter, half: Half::Open };
static TCP_CLOSE: Family =
    Family { name: "outbound_tcp_route_close", help: "Opaque connections that ended", kind: Kind::Counter, half: Half::Open };

/// The metrics of opaque connections of one route.
pub struct TcpRouteMetrics {
    open: Counter,
    closed: Counter,
    registry: Registry,
    labels: Labels,
}

impl TcpRouteMetrics {
    /// Metrics with these labels.
    pub fn new(registry: &Registry, labels: Labels, dialed: &Authority) -> Self {
        // Names take requests only.
        let labels = match dialed.socket_addr() {
            Some(addr) => labels.with("target_ip", addr.ip()).with("target_port", addr.port()),
            None => labels,
        };
        Self {
            open: registry.counter(&TCP_OPEN, labels.clone()),
            closed: registry.counter(&TCP_CLOSE, labels.clone().with("error", "")),
            registry: registry.clone(),
            labels,
        }
    }

    /// A connection opened.
    pub fn opened(&self) {
        self.open.inc();
    }

    /// A connection ended; `error` says why, if it did not end by itself.
    pub fn ended(&self, error: Option<&'static str>) {
        match error {
            None => self.closed.inc(),
            Some(error) => self.registry.counter(&TCP_CLOSE, self.labels.clone().with("error", error)).inc(),
        }
    }
}
