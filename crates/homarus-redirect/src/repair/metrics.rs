//! What the repair controller counts, under the names of Linkerd's.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::api::ApiError;

const PREFIX: &str = "linkerd_cni_repair_controller_";
/// Upper ends of the latencies' buckets, in milliseconds.
const BUCKETS_MS: [u64; 9] = [5, 10, 25, 50, 100, 250, 500, 750, 1000];

/// Latencies of one kind of call.
#[derive(Debug, Default)]
struct Latencies {
    /// How many were no longer than the bucket's end, and one for all.
    counts: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    ready: AtomicBool,
    deleted: AtomicU64,
    delete_errors: AtomicU64,
    delete_timeouts: AtomicU64,
    delete_latencies: Latencies,
    publish_errors: AtomicU64,
    publish_timeouts: AtomicU64,
    publish_latencies: Latencies,
}

impl Latencies {
    fn add(&self, took: Duration) {
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let ends = BUCKETS_MS.map(Duration::from_millis);
        for (place, count) in self.counts.iter().enumerate() {
            if ends.get(place).is_none_or(|end| took <= *end) {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        let _ = write!(text, "# HELP {PREFIX}{name} {help}.\n# TYPE {PREFIX}{name} histogram\n");
        let ends = BUCKETS_MS.iter().map(|ms| (Duration::from_millis(*ms).as_secs_f64()).to_string());
        for (end, count) in ends.chain(["+Inf".to_owned()]).zip(&self.counts) {
            let _ = writeln!(text, "{PREFIX}{name}_bucket{{le=\"{end}\"}} {}", count.load(Relaxed));
        }
        let sum = Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64();
        let all = self.counts.last().map_or(0, |all| all.load(Relaxed));
        let _ = write!(text, "{PREFIX}{name}_sum {sum}\n{PREFIX}{name}_count {all}\n");
    }
}

impl Metrics {
    /// The pods of the node are known.
    pub fn set_ready(&self) {
        self.ready.store(true, Relaxed);
    }

    /// Whether they are.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// A pod was to be deleted.
    pub fn deleted(&self, outcome: &Result<(), ApiError>, took: Duration) {
        match outcome {
            Ok(()) => {
                self.deleted.fetch_add(1, Relaxed);
                self.delete_latencies.add(took);
            }
            Err(error) => failed(error, &self.delete_errors, &self.delete_timeouts),
        }
    }

    /// An event was to be published.
    pub fn published(&self, outcome: &Result<(), ApiError>, took: Duration) {
        match outcome {
            Ok(()) => self.publish_latencies.add(took),
            Err(error) => failed(error, &self.publish_errors, &self.publish_timeouts),
        }
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, help, count) in [
            // Pods are looked at one after the other: there is no queue that could overflow.
            ("queue_overflow_total", "Pods that found the queue full", 0),
            ("pods_deleted_total", "Pods deleted", self.deleted.load(Relaxed)),
            ("pods_delete_errors_total", "Pods that couldn't be deleted", self.delete_errors.load(Relaxed)),
            ("pods_delete_timeout_total", "Deletions without an answer in time", self.delete_timeouts.load(Relaxed)),
            ("events_publish_errors_total", "Events that couldn't be published", self.publish_errors.load(Relaxed)),
            ("events_publish_timeouts_total", "Events without an answer in time", self.publish_timeouts.load(Relaxed)),
        ] {
            let _ = write!(text, "# HELP {PREFIX}{name} {help}.\n# TYPE {PREFIX}{name} counter\n{PREFIX}{name} {count}\n");
        }
        self.delete_latencies.write(&mut text, "pods_delete_latency_seconds", "How long deletions took");
        self.publish_latencies.write(&mut text, "events_publish_latency_seconds", "How long publishing events took");
        text
    }
}

fn failed(error: &ApiError, errors: &AtomicU64, timeouts: &AtomicU64) {
    let count = if matches!(error, ApiError::Unreachable { .. }) { timeouts } else { errors };
    count.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_cumulative() {
        let metrics = Metrics::default();
        metrics.deleted(&Ok(()), Duration::from_millis(30));
        metrics.deleted(&Ok(()), Duration::from_secs(3));
        metrics.deleted(&Err(ApiError::Unreachable { server: String::new(), reason: String::new() }), Duration::ZERO);
        let text = metrics.text();
        for line in [
            "linkerd_cni_repair_controller_pods_deleted_total 2",
            "linkerd_cni_repair_controller_pods_delete_timeout_total 1",
            "linkerd_cni_repair_controller_pods_delete_errors_total 0",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_bucket{le=\"0.025\"} 0",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_bucket{le=\"0.05\"} 1",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_bucket{le=\"1\"} 1",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_bucket{le=\"+Inf\"} 2",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_sum 3.03",
            "linkerd_cni_repair_controller_pods_delete_latency_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
