//! Metrics of one original destination (proxy-traffic §7.3 and §7.6).

use crate::{
    detect::http::Verdict,
    fault::{Cause, Fault},
    forward::metrics,
    io::TransportMetrics,
    observe::{
        Counter, Family, Histogram, Labels, Registry, labels,
        registry::{Half, Kind, SECONDS},
    },
};
use homarus_model::{Meta, outbound::Refusal};
use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

static PROTOCOLS: Family = Family {
    name: "outbound_tcp_protocol_connections",
    help: "Outbound TCP connections by protocol",
    kind: Kind::Counter,
    half: Half::Open,
};
static DETECT_DURATION: Family = Family {
    name: "outbound_tcp_detect_http_duration_seconds",
    help: "How long it took to tell the protocol of a connection",
    kind: Kind::Histogram { bounds: &[("0.001", 1_000), ("0.1", 100_000)], scale: SECONDS },
    half: Half::Open,
};
static DETECT_RESULTS: Family =
    Family { name: "outbound_tcp_detect_http_results", help: "What detection has come to", kind: Kind::Counter, half: Half::Open };
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
    /// Connections from the application.
    pub accepted: Rc<TransportMetrics>,
    parent: RefCell<Option<Parent>>,
}

/// What is counted under the name of the policy's parent.
struct Parent {
    meta: Arc<Meta>,
    http1: Counter,
    http2: Counter,
    opaque: Counter,
    detect_duration: Histogram,
    not_http: Counter,
    is_http1: Counter,
    is_http2: Counter,
}

impl DestinationMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: &Registry, original_dst: SocketAddr) -> Self {
        let accept = labels::target(Labels::new().with("direction", "outbound").with("peer", "src"), original_dst);
        let accept = accept.with("tls", "no_identity").with("no_tls_reason", "loopback");
        Self {
            registry: registry.clone(),
            target: labels::target(Labels::new(), original_dst),
            accepted: metrics::transport(registry, &accept),
            parent: RefCell::default(),
        }
    }

    /// The policy is of this object from now on.
    pub fn set_parent(&self, registry: &Registry, meta: &Arc<Meta>) {
        if self.parent.borrow().as_ref().is_some_and(|p| p.meta == *meta) {
            return;
        }
        let parent = labels::ported(Labels::new(), "parent", meta);
        let protocol = |name| registry.counter(&PROTOCOLS, Labels::new().with("protocol", name).and(&parent));
        let result = |name| registry.counter(&DETECT_RESULTS, Labels::new().with("result", name).and(&parent));
        *self.parent.borrow_mut() = Some(Parent {
            meta: meta.clone(),
            http1: protocol("http/1"),
            http2: protocol("http/2"),
            opaque: protocol("opaq"),
            detect_duration: registry.histogram(&DETECT_DURATION, parent.clone()),
            not_http: result("not_http"),
            is_http1: result("http/1"),
            is_http2: result("http/2"),
        });
    }

    /// A connection whose protocol is known.
    pub fn protocol(&self, name: &str) {
        if let Some(parent) = &*self.parent.borrow() {
            match name {
                "http/1" => parent.http1.inc(),
                "http/2" => parent.http2.inc(),
                _ => parent.opaque.inc(),
            }
        }
    }

    /// A connection whose protocol was detected.
    pub fn detected(&self, verdict: Verdict, elapsed: Duration) {
        let name = {
            let parent = self.parent.borrow();
            let Some(parent) = &*parent else { return };
            parent.detect_duration.time(elapsed);
            let (counter, name) = match verdict {
                Verdict::Http1 => (&parent.is_http1, "http/1"),
                Verdict::Http2 => (&parent.is_http2, "http/2"),
                Verdict::NotHttp | Verdict::Unclear => (&parent.not_http, "opaq"),
            };
            counter.inc();
            name
        };
        self.protocol(name);
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
