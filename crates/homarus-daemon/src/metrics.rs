//! The registry behind `/metrics`.
//!
//! Names stay what dashboards know; the text is OpenMetrics, in which a counter's samples end in `_total`
//! while its type line doesn't. Metrics are made and registered beside what they measure; this module knows
//! only the facts of the process itself, read from `/proc` at each scrape.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry that is shared by the parts of one program.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<RwLock<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with the metrics of the process.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::started_now()));
        Self(Arc::new(RwLock::new(registry)))
    }

    /// Adds metrics: call once for each part of the program, at its start.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The exposition, as Prometheus reads it.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.0.read().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Facts of this process. What can't be read is left out.
#[derive(Debug)]
struct Process {
    start: f64,
}

/// The kernel's clock ticks a second in `/proc/self/stat`: 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    fn started_now() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: start.as_secs_f64() }
    }
}

struct Usage {
    cpu_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
}

/// Reads the fields of `/proc/self/stat` after the name (which may contain anything).
fn usage(stat: &str) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    let count = |i: usize| fields.get(i)?.parse::<i64>().ok();
    Some(Usage { cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, threads: count(17)?, virtual_bytes: count(20)? })
}

/// The line `VmRSS` of `/proc/self/status`, in kibibytes there.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit in the line `Max open files` of `/proc/self/limits`.
fn max_fds(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn put(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> Result<(), std::fmt::Error> {
    let family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(family)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let e = &mut encoder;
        put(
            e,
            "process_start_time_seconds",
            "Time that the process started (in seconds since the UNIX epoch)",
            &ConstGauge::new(self.start),
        )?;
        if let Some(usage) = read("/proc/self/stat").and_then(|s| usage(&s)) {
            let cpu = ConstCounter::new(usage.cpu_seconds);
            put(e, "process_cpu_seconds", "Total user and system CPU time spent in seconds", &cpu)?;
            let gauges = [
                ("process_virtual_memory_bytes", "Virtual memory size in bytes", usage.virtual_bytes),
                ("process_threads", "Number of OS threads in the process", usage.threads),
            ];
            for (name, help, value) in gauges {
                put(e, name, help, &ConstGauge::new(value))?;
            }
        }
        if let Some(resident) = read("/proc/self/status").and_then(|s| resident_bytes(&s)) {
            let (name, help) = ("process_resident_memory_bytes", "Resident memory size in bytes");
            put(e, name, help, &ConstGauge::new(resident))?;
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(fds.count()).unwrap_or(i64::MAX);
            put(e, "process_open_fds", "Number of open file descriptors", &ConstGauge::new(open))?;
        }
        if let Some(max) = read("/proc/self/limits").and_then(|l| max_fds(&l)) {
            put(e, "process_max_fds", "Maximum number of open file descriptors", &ConstGauge::new(max))?;
        }
        Ok(())
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_process_shows_itself() {
        let text = Metrics::new().text().unwrap();
        for name in [
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(text.lines().any(|l| l.starts_with(&format!("{name} "))), "{name}: {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_hostile_process_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 33 8192 3 0";
        let usage = usage(stat).unwrap();
        assert_eq!(usage.cpu_seconds, 2.0);
        assert_eq!(usage.threads, 9);
        assert_eq!(usage.virtual_bytes, 8192);
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t      3 kB\n"), Some(3072));
    }
}
