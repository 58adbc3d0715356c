//! Metrics of balancers: the balancer set of proxy-traffic §7.4, for HTTP and for TCP.

use super::Endpoint;
use crate::observe::{
    Counter, Family, Gauge, Labels, Registry,
    registry::{Half, Kind},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The families of one kind of balancer.
pub(super) struct Families {
    endpoints: Family,
    p2c_endpoints: Family,
    p2c_updates: Family,
    queue_length: Family,
    queue_requests: Family,
    gate_open: Family,
    gate_shut: Family,
    gate_open_time: Family,
    gate_shut_time: Family,
    gate_timeout: Family,
}

macro_rules! families {
    ($prefix:literal) => {{
        const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
            Family { name, help, kind, half: Half::Open }
        }
        use Kind::{Counter, Gauge};
        Families {
            endpoints: family(concat!($prefix, "_endpoints"), "The number of endpoints in each state", Gauge),
            p2c_endpoints: family(concat!($prefix, "_p2c_endpoints"), "The number of endpoints to choose from", Gauge),
            p2c_updates: family(concat!($prefix, "_p2c_updates"), "The number of changes of the set of endpoints", Counter),
            queue_length: family(concat!($prefix, "_queue_length"), "The number of requests that wait", Gauge),
            queue_requests: family(concat!($prefix, "_queue_requests"), "The number of requests that waited", Counter),
            gate_open: family(concat!($prefix, "_queue_gate_open"), "How often the gate was opened", Counter),
            gate_shut: family(concat!($prefix, "_queue_gate_shut"), "How often the gate was shut by failfast", Counter),
            gate_open_time: family(concat!($prefix, "_queue_gate_open_time_seconds"), "When the gate was last opened", Gauge),
            gate_shut_time: family(concat!($prefix, "_queue_gate_shut_time_seconds"), "When the gate was last shut", Gauge),
            gate_timeout: family(concat!($prefix, "_queue_gate_timeout_seconds"), "The failfast timeout", Gauge),
        }
    }};
}

static HTTP: Families = families!("outbound_http_balancer");
static TCP: Families = families!("outbound_tcp_balancer");

/// The metrics of one balancer.
pub struct BalancerMetrics {
    ready: Gauge,
    pending: Gauge,
    p2c_endpoints: Gauge,
    added: Counter,
    removed: Counter,
    queue_length: Gauge,
    queue_requests: Counter,
    gate_open: Counter,
    gate_shut: Counter,
    gate_open_time: Gauge,
    gate_shut_time: Gauge,
    gate_timeout: Gauge,
}

impl BalancerMetrics {
    /// Of a balancer of HTTP requests.
    pub fn http(registry: &Registry, labels: &Labels) -> Self {
        Self::new(&HTTP, registry, labels)
    }

    /// Of a balancer of opaque connections.
    pub fn tcp(registry: &Registry, labels: &Labels) -> Self {
        Self::new(&TCP, registry, labels)
    }

    fn new(families: &'static Families, registry: &Registry, labels: &Labels) -> Self {
        let gauge = |family| registry.gauge(family, labels.clone());
        let counter = |family| registry.counter(family, labels.clone());
        let state = |state| registry.gauge(&families.endpoints, Labels::new().with("endpoint_state", state).and(labels));
        let update = |op| registry.counter(&families.p2c_updates, labels.clone().with("op", op));
        Self {
            ready: state("ready"),
            pending: state("pending"),
            p2c_endpoints: gauge(&families.p2c_endpoints),
            added: update("Add"),
            removed: update("Remove"),
            queue_length: gauge(&families.queue_length),
            queue_requests: counter(&families.queue_requests),
            gate_open: counter(&families.gate_open),
            gate_shut: counter(&families.gate_shut),
            gate_open_time: gauge(&families.gate_open_time),
            gate_shut_time: gauge(&families.gate_shut_time),
            gate_timeout: gauge(&families.gate_timeout),
        }
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.gate_timeout.set(i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX));
    }

    /// The set of endpoints changed.
    pub(super) fn updated(&self, before: &BTreeMap<SocketAddr, Rc<Endpoint>>, now: &[Rc<Endpoint>]) {
        let added = now.iter().filter(|e| !before.contains_key(&e.addr())).count();
        let removed = before.keys().filter(|addr| !now.iter().any(|e| e.addr() == **addr)).count();
        self.added.add(added as u64);
        self.removed.add(removed as u64);
        self.p2c_endpoints.set(now.len() as i64);
        let ready = now.iter().filter(|e| e.is_ready()).count();
        self.ready.set(ready as i64);
        self.pending.set((now.len() - ready) as i64);
    }

    pub(super) fn queued(&self, waiting: usize) {
        self.queue_requests.inc();
        self.queue_length.set(waiting as i64);
    }

    pub(super) fn unqueued(&self, waiting: usize) {
        self.queue_length.set(waiting as i64);
    }

    pub(super) fn gate_open(&self) {
        self.gate_open.inc();
        self.gate_open_time.set(unix_seconds());
    }

    pub(super) fn gate_shut(&self) {
        self.gate_shut.inc();
        self.gate_shut_time.set(unix_seconds());
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
