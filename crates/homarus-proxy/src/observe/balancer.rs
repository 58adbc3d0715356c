//! The balancer set of proxy-traffic §7.4: what is counted about a choice among endpoints, and about who waits for it.

use super::{
    Counter, Family, Gauge, Histogram, Labels, Registry,
    registry::{Bound, Half, Kind, SECONDS},
};
use crate::net::{self, Instant};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The families of one kind of balancer.
pub struct Families {
    endpoints: Family,
    p2c_endpoints: Family,
    p2c_updates: Family,
    queue_length: Family,
    queue_requests: Family,
    queue_latency: Family,
    gate_open: Family,
    gate_shut: Family,
    gate_open_time: Family,
    gate_shut_time: Family,
    gate_timeout: Family,
}

const LATENCY_BOUNDS: &[Bound] =
    &[("0.0005", 500), ("0.005", 5_000), ("0.05", 50_000), ("0.5", 500_000), ("1.0", 1_000_000), ("3.0", 3_000_000)];

macro_rules! families {
    ($prefix:literal) => {{
        const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
            Family { name, help, kind, half: Half::Open }
        }
        use Kind::{Common, Counter, Gauge};
        let latency = Kind::Histogram { bounds: LATENCY_BOUNDS, scale: SECONDS };
        Families {
            endpoints: family(concat!($prefix, "_endpoints"), "The number of endpoints in each state", Common),
            p2c_endpoints: family(concat!($prefix, "_p2c_endpoints"), "The number of endpoints to choose from", Common),
            p2c_updates: family(concat!($prefix, "_p2c_updates"), "The number of changes of the set of endpoints", Counter),
            queue_length: family(concat!($prefix, "_queue_length"), "The number of requests that wait", Gauge),
            queue_requests: family(concat!($prefix, "_queue_requests"), "The number of requests that came to the queue", Counter),
            queue_latency: family(concat!($prefix, "_queue_latency_seconds"), "How long requests were in the queue", latency),
            gate_open: family(concat!($prefix, "_queue_gate_open"), "How often the gate was opened", Counter),
            gate_shut: family(concat!($prefix, "_queue_gate_shut"), "How often the gate was shut by failfast", Counter),
            gate_open_time: family(concat!($prefix, "_queue_gate_open_time_seconds"), "When the gate was last opened", Common),
            gate_shut_time: family(concat!($prefix, "_queue_gate_shut_time_seconds"), "When the gate was last shut", Common),
            gate_timeout: family(concat!($prefix, "_queue_gate_timeout_seconds"), "The failfast timeout", Common),
        }
    }};
}

/// Requests to endpoints.
pub static HTTP: Families = families!("outbound_http_balancer");
/// Opaque connections to endpoints.
pub static TCP: Families = families!("outbound_tcp_balancer");
static IDENTITY: Families = families!("control_identity_balancer");
static DESTINATION: Families = families!("control_destination_balancer");
static POLICY: Families = families!("control_policy_balancer");

/// The families of a client of the control plane.
pub fn control(client: &str) -> &'static Families {
    match client {
        "identity" => &IDENTITY,
        "destination" => &DESTINATION,
        _ => &POLICY,
    }
}

/// The metrics of one balancer.
#[derive(Clone, Debug)]
pub struct BalancerMetrics {
    endpoints: EndpointGauges,
    p2c_endpoints: Gauge,
    reset: Counter,
    added: Counter,
    removed: Counter,
    queue_length: Gauge,
    queue_requests: Counter,
    queue_latency: Histogram,
    gate_open: Counter,
    gate_shut: Counter,
    gate_open_time: Gauge,
    gate_shut_time: Gauge,
    /// Told once; held, so that the series stays.
    _gate_timeout: Gauge,
}

/// How many endpoints are in each state.
#[derive(Clone, Debug)]
pub struct EndpointGauges {
    ready: Gauge,
    pending: Gauge,
}

/// One endpoint, counted in its state as long as it lives.
#[derive(Debug)]
pub struct EndpointState {
    gauges: EndpointGauges,
    ready: bool,
}

impl EndpointGauges {
    fn of(&self, ready: bool) -> &Gauge {
        if ready { &self.ready } else { &self.pending }
    }

    /// One more endpoint.
    pub fn count(&self, ready: bool) -> EndpointState {
        self.of(ready).inc();
        EndpointState { gauges: self.clone(), ready }
    }
}

impl EndpointState {
    /// It has become ready, or is no longer.
    pub fn set(&mut self, ready: bool) {
        if self.ready != ready {
            self.gauges.of(self.ready).dec();
            self.gauges.of(ready).inc();
            self.ready = ready;
        }
    }
}

impl Drop for EndpointState {
    fn drop(&mut self) {
        self.gauges.of(self.ready).dec();
    }
}

impl BalancerMetrics {
    /// Metrics with these labels.
    pub fn new(families: &'static Families, registry: &Registry, labels: &Labels, failfast: Duration) -> Self {
        let gauge = |family| registry.gauge(family, labels.clone());
        let counter = |family| registry.counter(family, labels.clone());
        let state = |state| registry.gauge(&families.endpoints, Labels::new().with("endpoint_state", state).and(labels));
        let update = |op| registry.counter(&families.p2c_updates, labels.clone().with("op", op));
        let gate_timeout = gauge(&families.gate_timeout);
        gate_timeout.set(i64::try_from(failfast.as_secs()).unwrap_or(i64::MAX));
        Self {
            endpoints: EndpointGauges { ready: state("ready"), pending: state("pending") },
            p2c_endpoints: gauge(&families.p2c_endpoints),
            reset: update("Reset"),
            added: update("Add"),
            removed: update("Remove"),
            queue_length: gauge(&families.queue_length),
            queue_requests: counter(&families.queue_requests),
            queue_latency: registry.histogram(&families.queue_latency, labels.clone()),
            gate_open: counter(&families.gate_open),
            gate_shut: counter(&families.gate_shut),
            gate_open_time: gauge(&families.gate_open_time),
            gate_shut_time: gauge(&families.gate_shut_time),
            _gate_timeout: gate_timeout,
        }
    }

    /// Where endpoints are counted.
    pub fn endpoints(&self) -> &EndpointGauges {
        &self.endpoints
    }

    /// The set of endpoints changed: so many there are, so many came and went. A set that is told for the first time is a
    /// reset.
    pub fn updated(&self, total: usize, added: usize, removed: usize, first: bool) {
        self.p2c_endpoints.set(i64::try_from(total).unwrap_or(i64::MAX));
        if first || (total == 0 && removed > 0) {
            self.reset.inc();
        } else {
            self.added.add(added as u64);
            self.removed.add(removed as u64);
        }
    }

    /// A request came and did not have to wait.
    pub fn passed(&self) {
        self.queue_requests.inc();
        self.queue_latency.value(0);
    }

    /// A request came and waits.
    pub fn queue(&self) -> Queued<'_> {
        self.queue_requests.inc();
        self.queue_length.inc();
        Queued { metrics: self, since: net::now() }
    }

    /// An endpoint is ready again.
    pub fn gate_open(&self) {
        self.gate_open.inc();
        self.gate_open_time.set(unix_seconds());
    }

    /// None became ready in time.
    pub fn gate_shut(&self) {
        self.gate_shut.inc();
        self.gate_shut_time.set(unix_seconds());
    }
}

/// A request that waits.
pub struct Queued<'a> {
    metrics: &'a BalancerMetrics,
    since: Instant,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.metrics.queue_length.dec();
        self.metrics.queue_latency.time(net::now().duration_since(self.since));
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_workers_know_is_not_added_up() {
        let (registry, labels) = (Registry::default(), Labels::new().with("parent_name", "web"));
        let workers = [1, 2].map(|i| BalancerMetrics::new(&HTTP, &registry.shard(i), &labels, Duration::from_secs(3)));
        let endpoints: Vec<_> = workers.iter().flat_map(|w| [w.endpoints().count(true), w.endpoints().count(false)]).collect();
        let waiting: Vec<_> = workers.iter().map(BalancerMetrics::queue).collect();
        for worker in &workers {
            worker.updated(2, 2, 0, true);
            worker.gate_shut();
            worker.gate_open();
        }
        let now = unix_seconds();
        let mut out = String::new();
        registry.render(&mut out);
        let value = |family: &str| -> i64 {
            let prefix = format!("outbound_http_balancer_{family}");
            let found = out.lines().find_map(|line| line.strip_prefix(&prefix)?.split_whitespace().next_back()?.parse().ok());
            found.unwrap_or_else(|| unreachable!("{prefix} is not in {out}"))
        };
        assert_eq!(value("endpoints{endpoint_state=\"ready\""), 1);
        assert_eq!(value("endpoints{endpoint_state=\"pending\""), 1);
        assert_eq!(value("p2c_endpoints{"), 2);
        assert_eq!(value("queue_gate_timeout_seconds{"), 3);
        assert!((now - 5..=now).contains(&value("queue_gate_open_time_seconds{")));
        assert!((now - 5..=now).contains(&value("queue_gate_shut_time_seconds{")));
        // Parts of workers are.
        assert_eq!((value("queue_length{"), value("queue_gate_shut_total{")), (2, 2));
        drop((endpoints, waiting));
    }
}
