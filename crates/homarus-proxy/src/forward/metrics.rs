//! Metrics of connections: `tcp_*` (proxy-traffic §7.3).

use crate::{
    io::TransportMetrics,
    observe::{
        Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use std::rc::Rc;

static OPENED: Family = family("tcp_open_total", "Total count of opened connections", Kind::Counter);
static OPEN: Family = family("tcp_open_connections", "Number of currently-open connections", Kind::Gauge);
static READ: Family = family("tcp_read_bytes_total", "Total count of bytes read from peers", Kind::Counter);
static WRITTEN: Family = family("tcp_write_bytes_total", "Total count of bytes written to peers", Kind::Counter);
static CLOSED: Family = family("tcp_close_total", "Total count of closed connections", Kind::Counter);

const fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
    Family { name, help, kind, half: Half::Legacy }
}

/// The counters of one kind of connection.
pub fn transport(registry: &Registry, labels: &Labels) -> Rc<TransportMetrics> {
    let (again, failed) = (registry.clone(), labels.clone());
    Rc::new(TransportMetrics {
        opened: registry.counter(&OPENED, labels.clone()),
        open: registry.gauge(&OPEN, labels.clone()),
        read: registry.counter(&READ, labels.clone()),
        written: registry.counter(&WRITTEN, labels.clone()),
        closed: registry.counter(&CLOSED, labels.clone().with("errno", "")),
        failed: Box::new(move |errno| again.counter(&CLOSED, failed.clone().with("errno", errno))),
    })
}
