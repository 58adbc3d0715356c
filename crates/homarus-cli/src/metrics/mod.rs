//! What proxies count, read from their `/metrics` pages.
//!
//! Pure: text in, figures out. Counters only ever mean something as a difference between two pages ([`Delta`]): a counter
//! that went down was begun anew, so all of it counts; a series that wasn't there before began at zero.

mod histogram;
mod text;

use std::collections::HashMap;

pub use histogram::{Histogram, Quantile};
pub use text::{Labels, samples};

/// The most series that are kept of one page.
const MAX_SERIES: usize = 500_000;

/// The families that traffic is told from.
const FAMILIES: [&str; 6] = [
    "response_total",
    "response_latency_ms_bucket",
    "tcp_open_connections",
    "tcp_read_bytes_total",
    "tcp_write_bytes_total",
    "request_total",
];

/// Which end of the connection a proxy counted at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Toward its workload.
    Inbound,
    /// From its workload.
    Outbound,
}

impl Direction {
    fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One page: the families of interest, by their name and labels as written.
#[derive(Clone, Debug, Default)]
pub struct Page {
    series: HashMap<(&'static str, String), f64>,
}

impl Page {
    /// Keeps what traffic is told from. What came in at the proxy's own admin port is left out: probes, scrapes, and those
    /// who look at it as we do.
    pub fn read(text: &str, admin_port: u16) -> Self {
        let own_port = format!("target_port=\"{admin_port}\"");
        let mut series = HashMap::new();
        for sample in samples(text) {
            let Some(family) = FAMILIES.iter().find(|family| **family == sample.name) else { continue };
            let own = sample.labels.contains(&own_port) && sample.labels.contains("direction=\"inbound\"");
            if !own && series.len() < MAX_SERIES {
                series.insert((*family, sample.labels.to_owned()), sample.value);
            }
        }
        Self { series }
    }

    /// What happened since an earlier page of the same proxy.
    pub fn since<'a>(&'a self, before: &'a Page) -> Delta<'a> {
        Delta { before, after: self }
    }
}

/// What happened between two pages of one proxy.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    before: &'a Page,
    after: &'a Page,
}

impl Delta<'_> {
    /// Adds up everything with such labels, apart by what `key` makes of them; series without a key don't count.
    pub fn tally<K: Eq + std::hash::Hash>(
        &self,
        direction: Direction,
        mut key: impl FnMut(&Labels<'_>) -> Option<K>,
    ) -> HashMap<K, Traffic> {
        let mut tallies: HashMap<K, Traffic> = HashMap::new();
        for ((family, text), after) in &self.after.series {
            let labels = Labels::read(text);
            if labels.of("direction") != Some(direction.label()) || !Traffic::counts(family, &labels, direction) {
                continue;
            }
            let Some(key) = key(&labels) else { continue };
            let change = match self.before.series.get(&(*family, text.clone())) {
                Some(before) if before <= after => after - before,
                _ => *after,
            };
            tallies.entry(key).or_default().add(family, &labels, *after, change);
        }
        tallies
    }
}

/// What went through proxies in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Responses that were good.
    pub success: f64,
    /// Responses that were not, or never came.
    pub failure: f64,
    /// How long responses took.
    pub latency: Histogram,
    /// Connections that are open now.
    pub open_connections: f64,
    /// Bytes that came from clients.
    pub read_bytes: f64,
    /// Bytes that went to clients.
    pub write_bytes: f64,
}

impl Traffic {
    /// Connections are counted at both of their ends; ours is the client's inbound, the server's outbound.
    fn counts(family: &str, labels: &Labels<'_>, direction: Direction) -> bool {
        let peer = match direction {
            Direction::Inbound => "src",
            Direction::Outbound => "dst",
        };
        !family.starts_with("tcp_") || labels.of("peer") == Some(peer)
    }

    fn add(&mut self, family: &str, labels: &Labels<'_>, now: f64, change: f64) {
        match family {
            "response_total" if labels.of("classification") == Some("success") => self.success += change,
            "response_total" => self.failure += change,
            "response_latency_ms_bucket" => self.latency.add(labels.of("le").unwrap_or_default(), change),
            "tcp_open_connections" => self.open_connections += now,
            "tcp_read_bytes_total" => self.read_bytes += change,
            "tcp_write_bytes_total" => self.write_bytes += change,
            _ => {}
        }
    }

    /// Adds up.
    pub fn merge(&mut self, other: &Traffic) {
        self.success += other.success;
        self.failure += other.failure;
        self.latency.merge(&other.latency);
        self.open_connections += other.open_connections;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
    }

    /// How many responses.
    pub fn responses(&self) -> f64 {
        self.success + self.failure
    }

    /// The part of the responses that was good; none without responses.
    pub fn success_rate(&self) -> Option<f64> {
        (self.responses() > 0.0).then(|| self.success / self.responses())
    }
}

#[cfg(test)]
mod tests;
