//! Metrics of one original destination, or of a name (proxy-traffic §7.3 and §7.6).

use crate::{
    detect::metrics::{self as detect, DetectMetrics, Detected},
    fault::{Cause, Fault},
    forward::metrics,
    io::TransportMetrics,
    observe::{
        Counter, Family, Labels, Registry, labels,
        registry::{Half, Kind},
    },
};
use homarus_model::{Authority, Meta, outbound::Refusal};
use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

static PROTOCOLS: Family = Family {
    name: "outbound_tcp_protocol_connections",
    help: "Outbound TCP connections by protocol configuration",
    kind: Kind::Counter,
    half: Half::Open,
};
static HTTP_ERRORS: Family = Family {
    name: "outbound_http_errors_total",
    help: "The total number of outbound HTTP requests that could not be processed due to a proxy error.",
    kind: Kind::Counter,
    half: Half::Outbound,
};
static TCP_ERRORS: Family = Family {
    name: "outbound_tcp_errors_total",
    help: "The total number of outbound TCP connections that could not be processed due to a proxy error.",
    kind: Kind::Counter,
    half: Half::Outbound,
};

/// What is counted about one original destination.
pub struct DestinationMetrics {
    registry: Registry,
    target: Labels,
    /// Connections from the application; to a name there are none.
    accepted: OnceCell<Rc<TransportMetrics>>,
    parent: RefCell<Option<Parent>>,
}

/// What is counted under the name of the policy's parent.
struct Parent {
    meta: Arc<Meta>,
    protocols: [Counter; 4],
    detect: DetectMetrics,
}

/// What policies configure, as connections are counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// To be detected.
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2, gRPC too.
    Http2,
    /// Bytes.
    Opaque,
}

impl DestinationMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: &Registry, dialed: &Authority) -> Self {
        let target = match dialed.socket_addr() {
            Some(addr) => labels::target(Labels::new(), addr),
            None => Labels::new().with("target_addr", dialed),
        };
        Self { registry: registry.clone(), target, accepted: OnceCell::new(), parent: RefCell::default() }
    }

    /// Connections from the application.
    pub fn accepted(&self) -> &Rc<TransportMetrics> {
        self.accepted.get_or_init(|| {
            let accept = Labels::new().with("direction", "outbound").with("peer", "src").and(&self.target);
            metrics::transport(&self.registry, &accept.with("tls", "no_identity").with("no_tls_reason", "loopback"))
        })
    }

    /// The policy is of this object from now on.
    pub fn set_parent(&self, registry: &Registry, meta: &Arc<Meta>) {
        if self.parent.borrow().as_ref().is_some_and(|p| p.meta == *meta) {
            return;
        }
        let parent = labels::ported(Labels::new(), "parent", meta);
        let protocol = |name| registry.counter(&PROTOCOLS, Labels::new().with("protocol", name).and(&parent));
        *self.parent.borrow_mut() = Some(Parent {
            meta: meta.clone(),
            protocols: ["detect", "http/1", "http/2", "opaq"].map(protocol),
            detect: DetectMetrics::new(&detect::OUTBOUND, registry, &parent),
        });
    }

    /// A connection, by what is configured for it.
    pub fn connection(&self, kind: &super::destination::Kind) {
        if let (Some(parent), Some(protocol)) = (&*self.parent.borrow(), kind.protocol()) {
            parent.protocols[protocol as usize].inc();
        }
    }

    /// A connection whose protocol was looked for.
    pub fn detected(&self, detected: Detected, elapsed: Duration) {
        if let Some(parent) = &*self.parent.borrow() {
            parent.detect.observe(detected, elapsed);
        }
    }

    /// A request failed in the proxy.
    pub fn http_error(&self, fault: &Fault) {
        if let Some(error) = fault.cause.label("outbound") {
            self.registry.counter(&HTTP_ERRORS, Labels::new().with("error", error)).inc();
        }
    }

    /// A connection failed in the proxy.
    pub fn tcp_error(&self, fault: &Fault) {
        if let Some(error) = fault.cause.label("outbound") {
            self.registry.counter(&TCP_ERRORS, self.target.clone().with("error", error)).inc();
        }
    }
}

/// The value of the label `error` of refused connections.
pub fn refusal_label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Forbidden => "forbidden",
        Refusal::Invalid(_) => "invalid_backend",
    }
}

/// Why a connection is refused.
pub fn refusal_fault(refusal: &Refusal, route: &Meta) -> Fault {
    let text = match refusal {
        Refusal::Forbidden => "connections are forbidden; does the Service define this port?".to_owned(),
        Refusal::Invalid(why) => why.to_string(),
    };
    Fault::new(Cause::InvalidPolicy(text), format!("route {route}"))
}
