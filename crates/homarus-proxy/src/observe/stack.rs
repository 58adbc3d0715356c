//! `stack_*` (proxy-traffic §7.3): what was made to carry requests and connections, and whether it was ready for them.
//!
//! The names are those of Linkerd's stacks. Ours are not built of services that are polled, so what is counted is what an
//! operator reads from them: how many there were, how often one was ready when it was needed, and how long was waited.

use super::{Counter, Family, Labels, Registry, http::legacy, registry::Kind};
use std::{cell::OnceCell, rc::Rc, time::Duration};

static CREATED: Family = legacy("stack_create_total", "Total number of services created", Kind::Counter);
static DROPPED: Family = legacy("stack_drop_total", "Total number of services dropped", Kind::Counter);
static POLLED: Family = legacy("stack_poll_total", "Total number of stack polls", Kind::Counter);
static POLLED_MS: Family =
    legacy("stack_poll_total_ms", "Total number of milliseconds this service has spent awaiting readiness", Kind::Counter);

/// Which part of the way it is: direction, protocol, name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Place {
    InboundLogical,
    HttpBalance,
    HttpEndpoint,
    HttpForward,
    OpaqueBalance,
    OpaqueEndpoint,
    OpaqueForward,
}

const PLACES: [(&str, &str, &str); 7] = [
    ("inbound", "http", "logical"),
    ("outbound", "http", "balance"),
    ("outbound", "http", "endpoint"),
    ("outbound", "http", "forward"),
    ("outbound", "opaq", "balance"),
    ("outbound", "opaq", "endpoint"),
    ("outbound", "opaq", "forward"),
];

/// All places of one worker; series are made when the first stands there.
pub struct Stacks {
    registry: Registry,
    made: [OnceCell<Rc<Counters>>; PLACES.len()],
}

struct Counters {
    created: Counter,
    dropped: Counter,
    ready: Counter,
    not_ready: Counter,
    failed: Counter,
    waited_ms: Counter,
}

/// One part of the way, counted as long as it stands.
pub struct Stack(Rc<Counters>);

impl Stacks {
    /// Nothing stands yet.
    pub fn new(registry: Registry) -> Self {
        Self { registry, made: Default::default() }
    }

    /// Something is made for a place.
    pub fn stand(&self, place: Place) -> Stack {
        let counters = self.made[place as usize].get_or_init(|| {
            let (direction, protocol, name) = PLACES[place as usize];
            let labels = Labels::new().with("direction", direction).with("protocol", protocol).with("name", name);
            let polls = |ready| self.registry.counter(&POLLED, labels.clone().with("ready", ready));
            Rc::new(Counters {
                created: self.registry.counter(&CREATED, labels.clone()),
                dropped: self.registry.counter(&DROPPED, labels.clone()),
                ready: polls("true"),
                not_ready: polls("false"),
                failed: polls("error"),
                waited_ms: self.registry.counter(&POLLED_MS, labels.clone()),
            })
        });
        counters.created.inc();
        Stack(counters.clone())
    }
}

impl Stack {
    /// It was ready when it was needed.
    pub fn ready(&self) {
        self.0.ready.inc();
    }

    /// It wasn't: somebody waits.
    pub fn not_ready(&self) {
        self.0.not_ready.inc();
    }

    /// It was waited for, so long, and was ready in the end or not.
    pub fn waited(&self, time: Duration, ready: bool) {
        self.0.waited_ms.add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if ready { self.0.ready.inc() } else { self.0.failed.inc() }
    }

    /// It failed whoever needed it.
    pub fn failed(&self) {
        self.0.failed.inc();
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.0.dropped.inc();
    }
}
