//! Metrics of connections: `tcp_*` (proxy-traffic §7.3).

use crate::{
    io::TransportMetrics,
    observe::{
        Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use std::{collections::BTreeMap, rc::Rc};

static OPENED: Family = family("tcp_open_total", "Total count of opened connections", Kind::Counter);
static OPEN: Family = family("tcp_open_connections", "Number of currently-open connections", Kind::Gauge);
static READ: Family = family("tcp_read_bytes_total", "Total count of bytes read from peers", Kind::Counter);
static WRITTEN: Family = family("tcp_write_bytes_total", "Total count of bytes written to peers", Kind::Counter);
static CLOSED: Family = family("tcp_close_total", "Total count of closed connections", Kind::Counter);

static TRANSFER_COST: Family = Family {
    name: "outbound_tcp_transfer_cost_bytes",
    help: "The total amount of data transferred in and out of this proxy, by cost zone",
    kind: Kind::Counter,
    half: Half::Open,
};

const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
    Family { name, help, kind, half: Half::Legacy }
}

/// The counters of one kind of connection.
pub fn transport(registry: &Registry, labels: &Labels) -> Rc<TransportMetrics> {
    Rc::new(counters(registry, labels))
}

fn counters(registry: &Registry, labels: &Labels) -> TransportMetrics {
    let (again, failed) = (registry.clone(), labels.clone());
    TransportMetrics {
        opened: registry.counter(&OPENED, labels.clone()),
        open: registry.gauge(&OPEN, labels.clone()),
        read: registry.counter(&READ, labels.clone()),
        written: registry.counter(&WRITTEN, labels.clone()),
        closed: registry.counter(&CLOSED, labels.clone().with("errno", "")),
        failed: Box::new(move |errno| again.counter(&CLOSED, failed.clone().with("errno", errno))),
        cost: None,
    }
}

/// The counters of connections to an endpoint, which also say how far its bytes went (proxy-traffic §7.6).
pub fn to_endpoint(registry: &Registry, labels: &Labels, endpoint: &BTreeMap<String, String>) -> Rc<TransportMetrics> {
    let zone_locality = match endpoint.get("zone_locality").map(String::as_str) {
        Some("local") => "Local",
        Some("remote") => "Remote",
        _ => "Unknown",
    };
    let cost = |op| registry.counter(&TRANSFER_COST, Labels::new().with("op", op).with("zone_locality", zone_locality));
    Rc::new(TransportMetrics { cost: Some((cost("Recv"), cost("Send"))), ..counters(registry, labels) })
}
