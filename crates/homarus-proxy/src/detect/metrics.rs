//! What detection has come to (proxy-traffic §7.5 and §7.6).

use super::{Timing, http::Verdict};
use crate::observe::{
    Counter, Family, Histogram, Labels, Registry,
    registry::{Half, Kind, SECONDS},
};
use std::{io, time::Duration};

/// The families of one direction.
pub struct Families {
    duration: Family,
    results: Family,
}

macro_rules! families {
    ($prefix:literal) => {
        Families {
            duration: Family {
                name: concat!($prefix, "_duration_seconds"),
                help: "Time taken for protocol detection",
                kind: Kind::Histogram { bounds: &[("0.001", 1_000), ("0.1", 100_000)], scale: SECONDS },
                half: Half::Open,
            },
            results: Family {
                name: concat!($prefix, "_results"),
                help: "Protocol detection results",
                kind: Kind::Counter,
                half: Half::Open,
            },
        }
    };
}

/// Connections toward the workload.
pub static INBOUND: Families = families!("inbound_tcp_detect_http");
/// Connections from the workload.
pub static OUTBOUND: Families = families!("outbound_tcp_detect_http");

/// What one detection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Another protocol, or a server that speaks first.
    NotHttp,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nobody said enough in time.
    ReadTimeout,
    /// The client went away, or its connection broke.
    Error,
}

impl Detected {
    /// As a wait for a verdict has ended.
    pub fn of(settled: &io::Result<(Verdict, Timing)>) -> Self {
        match settled {
            Err(_) => Self::Error,
            Ok((_, Timing::TooLate)) => Self::ReadTimeout,
            Ok((Verdict::Http1, _)) => Self::Http1,
            Ok((Verdict::Http2, _)) => Self::Http2,
            Ok((Verdict::NotHttp | Verdict::Unclear, _)) => Self::NotHttp,
        }
    }
}

/// What is counted under one set of labels.
#[derive(Clone)]
pub struct DetectMetrics {
    duration: Histogram,
    results: [Counter; 5],
}

impl DetectMetrics {
    /// Metrics with these labels.
    pub fn new(families: &'static Families, registry: &Registry, labels: &Labels) -> Self {
        let result = |name| registry.counter(&families.results, Labels::new().with("result", name).and(labels));
        Self {
            duration: registry.histogram(&families.duration, labels.clone()),
            results: ["not_http", "http/1", "http/2", "read_timeout", "error"].map(result),
        }
    }

    /// A detection has ended.
    pub fn observe(&self, detected: Detected, elapsed: Duration) {
        self.duration.time(elapsed);
        self.results[detected as usize].inc();
    }
}
