//! What is counted of requests to the control plane: `control_request_total` and its kin (proxy-traffic §7.2).

use crate::{
    net::{self, Instant},
    observe::{
        Counter, Family, Labels, Registry,
        http::{LATENCY_BOUNDS, legacy},
        registry::{Kind, MILLISECONDS},
    },
};
use homarus_model::endpoint::ServerTls;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;

static REQUESTS: Family = legacy("control_request_total", "Total count of HTTP requests.", Kind::Counter);
static RESPONSES: Family = legacy("control_response_total", "Total count of HTTP responses.", Kind::Counter);
static LATENCY: Family = legacy(
    "control_response_latency_ms",
    "Elapsed times between a request's headers being received and its response stream completing",
    Kind::Histogram { bounds: LATENCY_BOUNDS, scale: MILLISECONDS },
);

/// Counts the requests to one part of the control plane.
#[derive(Debug)]
pub struct Meter {
    registry: Registry,
    labels: Labels,
    requests: Counter,
}

impl Meter {
    /// For requests to `addr`, with the identity that is expected there.
    pub fn new(registry: &Registry, addr: &str, tls: Option<&ServerTls>) -> Arc<Self> {
        let labels = Labels::new().with("addr", addr);
        let labels = match tls {
            Some(server) => labels.with("tls", "true").with("server_id", &server.id),
            None => labels.with("tls", "no_identity").with("no_tls_reason", "loopback"),
        };
        let requests = registry.counter(&REQUESTS, labels.clone());
        Arc::new(Self { registry: registry.clone(), labels, requests })
    }

    /// A request is sent.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        self.requests.inc();
        Exchange { meter: self.clone(), began: net::now(), status: None, grpc: None, told: false, broken: false }
    }
}

/// One request and its response; counted when it ends, however it ends.
#[derive(Debug)]
pub(super) struct Exchange {
    meter: Arc<Meter>,
    began: Instant,
    status: Option<StatusCode>,
    grpc: Option<u16>,
    told: bool,
    broken: bool,
}

impl Exchange {
    /// The response's head has come; it may hold the gRPC status already.
    pub(super) fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        self.trailers(headers);
    }

    /// Something of the response's body has come.
    pub(super) fn data(&mut self) {
        if let (false, Some(status)) = (std::mem::replace(&mut self.told, true), self.status) {
            let labels = self.meter.labels.clone().with("status_code", status.as_u16());
            self.meter.registry.histogram(&LATENCY, labels).time(net::now().duration_since(self.began));
        }
    }

    /// The gRPC status has come.
    pub(super) fn trailers(&mut self, headers: &HeaderMap) {
        self.grpc = headers.get("grpc-status").and_then(|v| v.to_str().ok()?.parse().ok()).or(self.grpc);
    }

    /// The connection or the stream broke.
    pub(super) fn broke(&mut self) {
        self.broken = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut labels = self.meter.labels.clone();
        if let Some(status) = self.status {
            labels = labels.with("status_code", status.as_u16());
        }
        let failed = matches!(self.grpc, Some(2 | 4 | 7 | 13 | 14 | 15));
        let failed = failed || self.broken || self.status.is_some_and(|s| s.is_server_error());
        labels = labels.with("classification", if failed { "failure" } else { "success" });
        labels = match self.grpc {
            Some(code) => labels.with("grpc_status", code),
            None => labels.with("grpc_status", ""),
        };
        let labels = labels.with("error", if self.broken { "unclassified" } else { "" });
        self.meter.registry.counter(&RESPONSES, labels).inc();
    }
}
