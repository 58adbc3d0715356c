//! Metrics of calls, with the names that go-grpc-prometheus made known (control-plane §3.2, §7).

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use std::{fmt::Write, sync::Arc, time::Instant};
use tonic::Code;

/// A method that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    /// The service's full name.
    pub service: &'static str,
    /// The method's name.
    pub name: &'static str,
    /// Whether it answers with a stream.
    pub streams: bool,
}

impl Method {
    /// Whether an HTTP path names this method.
    pub fn is_at(&self, path: &str) -> bool {
        path.strip_prefix('/').and_then(|p| p.split_once('/')) == Some((self.service, self.name))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
    grpc_code: String,
}

/// The metrics of all calls.
#[derive(Clone, Debug)]
pub struct Calls {
    started: Family<Labels, Counter>,
    handled: Family<HandledLabels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

/// Calls last a moment or as long as a proxy listens.
const SECONDS: [f64; 4] = [0.1, 1.0, 300.0, 3600.0];

impl Calls {
    /// Makes the metrics known.
    pub fn register(registry: &mut Registry) -> Self {
        let calls = Self {
            started: Family::default(),
            handled: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        };
        let registry = registry.sub_registry_with_prefix("grpc_server");
        registry.register("started", "Total number of RPCs started on the server", calls.started.clone());
        registry.register("handled", "Total number of RPCs completed on the server", calls.handled.clone());
        registry.register("msg_received", "Total number of RPC messages received on the server", calls.received.clone());
        registry.register("msg_sent", "Total number of gRPC messages sent by the server", calls.sent.clone());
        registry.register("handling_seconds", "Response latency of gRPC calls", calls.seconds.clone());
        calls
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>, method: Method) -> Call {
        let grpc_type = if method.streams { "server_stream" } else { "unary" };
        let labels = Labels { grpc_service: method.service, grpc_method: method.name, grpc_type };
        self.started.get_or_create(&labels).inc();
        let sent = self.sent.get_or_create(&labels).clone();
        Call { calls: self.clone(), labels, sent, began: Instant::now(), ended: false }
    }
}

/// A call under way. One that is dropped was cancelled.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    labels: Labels,
    sent: Counter,
    began: Instant,
    ended: bool,
}

impl Call {
    pub(super) fn received(&self) {
        self.calls.received.get_or_create(&self.labels).inc();
    }

    pub(super) fn sent(&self) {
        self.sent.inc();
    }

    pub(super) fn end(&mut self, code: Code) {
        self.ended = true;
        // Codes are told by the names that Go gives them.
        let mut grpc_code = String::new();
        let _ = match code {
            Code::Ok => grpc_code.write_str("OK"),
            Code::Cancelled => grpc_code.write_str("Canceled"),
            code => write!(grpc_code, "{code:?}"),
        };
        let Labels { grpc_service, grpc_method, grpc_type } = self.labels;
        self.calls.handled.get_or_create(&HandledLabels { grpc_service, grpc_method, grpc_type, grpc_code }).inc();
        self.calls.seconds.get_or_create(&self.labels).observe(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}
