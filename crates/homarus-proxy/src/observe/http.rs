//! Metrics of HTTP requests of one endpoint or server port: `request_total`, `response_total`, `response_latency_ms`
//! (proxy-traffic §7.2). Series of statuses are made when a status is first seen, and remembered.

use super::{
    Counter, Family, Histogram, Labels, Registry,
    registry::{Bound, Half, Kind, MILLISECONDS},
};
use crate::http::BodyError;
use http::{HeaderMap, StatusCode};
use std::{cell::RefCell, rc::Rc, time::Duration};

static REQUESTS: Family = legacy("request_total", "Total count of HTTP requests.", Kind::Counter);
static RESPONSES: Family = legacy("response_total", "Total count of HTTP responses.", Kind::Counter);
static LATENCY: Family = legacy(
    "response_latency_ms",
    "Elapsed times between a request's headers being received and its response stream completing",
    Kind::Histogram { bounds: LATENCY_BOUNDS, scale: MILLISECONDS },
);

/// The bounds of the older latency histograms, in milliseconds.
pub(crate) const LATENCY_BOUNDS: &[Bound] = &[
    ("1", 1_000),
    ("2", 2_000),
    ("3", 3_000),
    ("4", 4_000),
    ("5", 5_000),
    ("10", 10_000),
    ("20", 20_000),
    ("30", 30_000),
    ("40", 40_000),
    ("50", 50_000),
    ("100", 100_000),
    ("200", 200_000),
    ("300", 300_000),
    ("400", 400_000),
    ("500", 500_000),
    ("1000", 1_000_000),
    ("2000", 2_000_000),
    ("3000", 3_000_000),
    ("4000", 4_000_000),
    ("5000", 5_000_000),
    ("10000", 10_000_000),
    ("20000", 20_000_000),
    ("30000", 30_000_000),
    ("40000", 40_000_000),
    ("50000", 50_000_000),
];

/// A family of the older half that belongs to no direction.
pub(crate) const fn legacy(name: &'static str, help: &'static str, kind: Kind) -> Family {
    Family { name, help, kind, half: Half::Legacy }
}

/// How a response ended, as the labels say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The status; none: no response came.
    pub status: Option<StatusCode>,
    /// The gRPC status, if it was gRPC and told one.
    pub grpc: Option<u16>,
    /// What broke it off, if something did.
    pub error: Option<Broken>,
}

/// What broke a response off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The HTTP/2 stream was reset or its connection ended.
    Http2(h2_reason::Reason),
    /// Something else.
    Unclassified,
}

/// The names of HTTP/2 reasons, without naming the engine.
pub mod h2_reason {
    /// An HTTP/2 error code (RFC 9113 §7).
    pub type Reason = u32;

    /// Its name.
    pub fn name(reason: Reason) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(reason as usize).copied().unwrap_or("UNKNOWN")
    }
}

impl Broken {
    /// As a body's error tells it.
    pub fn of(error: &BodyError) -> Self {
        error.h2_reason().map_or(Self::Unclassified, Self::Http2)
    }
}

impl Class {
    /// Whether it counts as a failure (proxy-traffic §2.1).
    pub fn is_failure(self) -> bool {
        self.error.is_some()
            || match self.grpc {
                Some(code) => matches!(code, 2 | 4 | 7 | 13 | 14 | 15),
                None => self.status.is_none_or(|s| s.is_server_error()),
            }
    }

    fn labels(self, base: &Labels) -> Labels {
        let mut labels = base.clone();
        if let Some(status) = self.status {
            labels = labels.with("status_code", status.as_u16());
        }
        labels = labels.with("classification", if self.is_failure() { "failure" } else { "success" });
        labels = match self.grpc {
            Some(code) => labels.with("grpc_status", code),
            None => labels.with("grpc_status", ""),
        };
        match self.error {
            None => labels.with("error", ""),
            Some(Broken::Http2(reason)) => labels.with("error", format!("h2({})", h2_reason::name(reason))),
            Some(Broken::Unclassified) => labels.with("error", "unclassified"),
        }
    }
}

/// The gRPC status that headers or trailers tell.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The metrics of requests to one endpoint, or to one route of one server port from one client.
pub struct RequestMetrics {
    registry: Registry,
    labels: Labels,
    requests: Counter,
    latencies: RefCell<Vec<(StatusCode, Histogram)>>,
    responses: RefCell<Vec<(Class, Counter)>>,
}

impl RequestMetrics {
    /// Metrics with these labels.
    pub fn new(registry: &Registry, labels: Labels) -> Rc<Self> {
        let requests = registry.counter(&REQUESTS, labels.clone());
        Rc::new(Self { registry: registry.clone(), labels, requests, latencies: RefCell::default(), responses: RefCell::default() })
    }

    /// A request begins.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// The first part of the response's body is there, or its end.
    pub fn latency(&self, status: StatusCode, elapsed: Duration) {
        let mut known = self.latencies.borrow_mut();
        if let Some((_, histogram)) = known.iter().find(|(s, _)| *s == status) {
            return histogram.time(elapsed);
        }
        let histogram = self.registry.histogram(&LATENCY, self.labels.clone().with("status_code", status.as_u16()));
        histogram.time(elapsed);
        known.push((status, histogram));
    }

    /// A response ended.
    pub fn response(&self, class: Class) {
        let mut known = self.responses.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(c, _)| *c == class) {
            return counter.inc();
        }
        let counter = self.registry.counter(&RESPONSES, class.labels(&self.labels));
        counter.inc();
        known.push((class, counter));
    }
}
