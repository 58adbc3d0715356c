//! The load of an endpoint: round-trip estimate times requests under way.

use crate::net::Instant;
use homarus_model::outbound::Ewma;
use std::{cell::Cell, time::Duration};

/// Peak-EWMA: a sample above the estimate replaces it at once, below it the estimate decays toward the sample.
#[derive(Debug)]
pub struct Load {
    decay_secs: f64,
    rtt_secs: Cell<f64>,
    at: Cell<Instant>,
    pending: Cell<u32>,
}

/// An estimate is never below this.
const FLOOR: Duration = Duration::from_millis(1);

impl Load {
    /// Begins with the default estimate.
    pub fn new(ewma: Ewma, now: Instant) -> Self {
        Self {
            decay_secs: ewma.decay.as_secs_f64().max(f64::MIN_POSITIVE),
            rtt_secs: Cell::new(ewma.default_rtt.max(FLOOR).as_secs_f64()),
            at: Cell::new(now),
            pending: Cell::new(0),
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.pending.set(self.pending.get() + 1);
    }

    /// A request ends without a sample.
    pub fn end(&self) {
        self.pending.set(self.pending.get().saturating_sub(1));
    }

    /// A request took so long.
    pub fn sample(&self, rtt: Duration, now: Instant) {
        let (estimate, rtt) = (self.rtt_secs.get(), rtt.as_secs_f64());
        let next = if rtt > estimate {
            rtt
        } else {
            let keep = (-now.duration_since(self.at.get()).as_secs_f64() / self.decay_secs).exp();
            estimate * keep + rtt * (1.0 - keep)
        };
        self.rtt_secs.set(next);
        self.at.set(now);
    }

    /// What choices compare. The estimate decays toward nothing while there are no samples, so that an endpoint that was
    /// slow once is tried again.
    pub fn value(&self, now: Instant) -> f64 {
        let idle = now.duration_since(self.at.get()).as_secs_f64();
        let rtt = self.rtt_secs.get() * (-idle / self.decay_secs).exp();
        rtt * f64::from(self.pending.get() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_decay() {
        let start = crate::net::now();
        let load = Load::new(Ewma::default(), start);
        let at = |secs| start + Duration::from_secs(secs);
        assert!((load.value(start) - 0.030).abs() < 1e-9);
        load.sample(Duration::from_millis(500), at(0));
        assert!((load.value(at(0)) - 0.5).abs() < 1e-9);
        load.sample(Duration::from_millis(10), at(10));
        let e = std::f64::consts::E;
        let want = 0.5 / e + 0.01 * (1.0 - 1.0 / e);
        assert!((load.value(at(10)) - want).abs() < 1e-9);
        load.begin();
        assert!((load.value(at(10)) - 2.0 * want).abs() < 1e-9);
        load.end();
        load.end();
        assert!((load.value(at(20)) - want / e).abs() < 1e-9);
    }
}
