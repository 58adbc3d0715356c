//! Facts of the process itself, read when they are asked for (proxy-traffic §7.4). What can't be read is left out.

use super::registry::unit;
use crate::secure::certify::Times;
use std::{
    fmt::Write,
    fs,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::RuntimeMetrics;

/// The kernel counts processor time in `/proc` in ticks: 100 a second on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the build was made from; empty where the build didn't say.
const BUILD: [(&str, &str); 5] = [
    ("date", env_or(option_env!("HOMARUS_BUILD_DATE"), "")),
    ("git_sha", env_or(option_env!("HOMARUS_GIT_SHA"), "")),
    ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
    ("vendor", env_or(option_env!("HOMARUS_VENDOR"), "homarus")),
    ("version", env!("CARGO_PKG_VERSION")),
];

const fn env_or(value: Option<&'static str>, default: &'static str) -> &'static str {
    match value {
        Some(value) => value,
        None => default,
    }
}

/// The line that the log begins with.
pub fn build_info() -> String {
    let [(_, date), (_, git_sha), (_, profile), (_, vendor), (_, version)] = BUILD;
    format!("{profile} {version} ({git_sha}) by {vendor} on {date}")
}

/// What is known of the process.
#[derive(Debug)]
pub struct Process {
    started: Instant,
    started_at: SystemTime,
    runtimes: Vec<RuntimeMetrics>,
    certificates: Option<Arc<Times>>,
}

impl Process {
    /// A process that started now, with the runtimes of its workers.
    pub fn started_now(runtimes: Vec<RuntimeMetrics>, certificates: Option<Arc<Times>>) -> Self {
        Self { started: Instant::now(), started_at: SystemTime::now(), runtimes, certificates }
    }

    /// Writes everything as text.
    pub fn render(&self, out: &mut String) {
        let labels = BUILD.map(|(name, value)| format!("{name}=\"{value}\"")).join(",");
        put(out, "proxy_build_info", "Proxy build info", "gauge", "", &format!("{{{labels}}}"), 1.0);
        put(out, "rustls_info", "Proxy TLS info", "gauge", "", &rustls_labels(), 1.0);
        self.process(out);
        self.runtimes(out);
        if let Some(times) = &self.certificates {
            let (expiration, refresh) = times.seconds();
            let what = "control_identity_cert";
            let help = "Time when the this proxy's current mTLS identity certificate will expire (in seconds since the UNIX epoch)";
            gauge(out, &format!("{what}_expiration_timestamp_seconds"), help, expiration);
            let help = "Time when the this proxy's current mTLS identity certificate were last updated";
            gauge(out, &format!("{what}_refresh_timestamp_seconds"), help, refresh);
        }
    }

    fn process(&self, out: &mut String) {
        let epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge(
            out,
            "process_start_time_seconds",
            "Time that the process started (in seconds since the UNIX epoch)",
            epoch(self.started_at),
        );
        gauge(out, "process_clock_time_seconds", "Current system time for this proxy", epoch(SystemTime::now()));
        counter(
            out,
            "process_uptime_seconds",
            "Total time since the process started (in seconds)",
            self.started.elapsed().as_secs_f64(),
        );
        if let Some(usage) = read("/proc/self/stat").and_then(|s| usage(&s)) {
            counter(out, "process_cpu_seconds", "Total user and system CPU time spent in seconds", usage.cpu_seconds);
            gauge(out, "process_virtual_memory_bytes", "Virtual memory size in bytes", usage.virtual_bytes);
            gauge(out, "process_threads", "Number of OS threads in the process.", usage.threads);
        }
        if let Some(resident) = read("/proc/self/status").and_then(|s| resident_bytes(&s)) {
            gauge(out, "process_resident_memory_bytes", "Resident memory size in bytes", resident);
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            gauge(out, "process_open_fds", "Number of open file descriptors", fds.count() as f64);
        }
        if let Some(max) = read("/proc/self/limits").and_then(|l| max_fds(&l)) {
            gauge(out, "process_max_fds", "Maximum number of open file descriptors", max);
        }
        if let Some((received, sent)) = read("/proc/self/net/dev").map(|d| network_bytes(&d)) {
            counter(out, "process_network_receive_bytes", "Number of bytes received by the process over the network", received);
            counter(out, "process_network_transmit_bytes", "Number of bytes sent by the process over the network", sent);
        }
    }

    /// What tokio tells without its unstable interfaces.
    fn runtimes(&self, out: &mut String) {
        let per_worker = |of: fn(&RuntimeMetrics, usize) -> f64| -> f64 {
            self.runtimes.iter().map(|rt| (0..rt.num_workers()).map(|i| of(rt, i)).sum::<f64>()).sum()
        };
        gauge(out, "tokio_rt_workers", "The number of worker threads used by the runtime", per_worker(|_, _| 1.0));
        let queued = self.runtimes.iter().map(|rt| rt.global_queue_depth() as f64).sum();
        gauge(
            out,
            "tokio_rt_injection_queue_depth",
            "The number of tasks currently scheduled in the runtime's injection queue",
            queued,
        );
        let parked = per_worker(|rt, i| rt.worker_park_count(i) as f64);
        counter(out, "tokio_rt_park", "Total number of times worker threads parked", parked);
        let busy = per_worker(|rt, i| rt.worker_total_busy_duration(i).as_secs_f64());
        counter(out, "tokio_rt_busy_seconds", "Total duration of time when worker threads were busy processing tasks", busy);
    }
}

fn rustls_labels() -> String {
    let provider = crate::secure::provider();
    let suites: String = provider.cipher_suites.iter().map(|s| format!("{:?},", s.suite())).collect();
    let groups: String = provider.kx_groups.iter().map(|g| format!("{:?},", g.name())).collect();
    let fips = provider.fips();
    format!(
        "{{tls_suites=\"{suites}\",tls_kx_groups=\"{groups}\",tls_rand=\"AwsLcRs\",tls_key_provider=\"AwsLcRs\",tls_fips=\"{fips}\"}}"
    )
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    put(out, name, help, "gauge", "", "", value);
}

fn counter(out: &mut String, name: &str, help: &str, value: f64) {
    put(out, name, help, "counter", "_total", "", value);
}

fn put(out: &mut String, name: &str, help: &str, kind: &str, suffix: &str, labels: &str, value: f64) {
    let help = help.trim_end_matches('.');
    // Writing to a String can't fail.
    let unit = unit(name).map(|unit| format!("# UNIT {name} {unit}\n")).unwrap_or_default();
    let _ = write!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{unit}{name}{suffix}{labels} {value}\n");
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    threads: f64,
    virtual_bytes: f64,
}

/// The fields of `/proc/self/stat` after the name, which may contain anything.
fn usage(stat: &str) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some(Usage { cpu_seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND, threads: number(17)?, virtual_bytes: number(20)? })
}

/// The line `VmRSS` of `/proc/self/status`, in kibibytes there.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// The soft limit in the line `Max open files` of `/proc/self/limits`.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Received and sent bytes of all interfaces but the loopback, from `/proc/self/net/dev`.
fn network_bytes(dev: &str) -> (f64, f64) {
    let interfaces = dev.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    interfaces.fold((0.0, 0.0), |(received, sent), (_, line)| {
        let fields: Vec<f64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let at = |i: usize| fields.get(i).copied().unwrap_or_default();
        (received + at(0), sent + at(8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 33 8192 3 0";
        assert_eq!(usage(stat), Some(Usage { cpu_seconds: 2.0, threads: 9.0, virtual_bytes: 8192.0 }));
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t      3 kB\n"), Some(3072.0));
    }

    #[test]
    fn the_loopback_does_not_count() {
        let dev = "Inter-| Receive | Transmit\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 7 1 0 0 0 0 0 0 9 1\n  eth1:1 1 0 0 0 0 0 0 2 1\n";
        assert_eq!(network_bytes(dev), (8.0, 11.0));
    }

    #[test]
    fn everything_has_a_type() {
        let mut out = String::new();
        Process::started_now(Vec::new(), Some(Arc::default())).render(&mut out);
        for line in out.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let declared = name.strip_suffix("_total").unwrap_or(name);
            assert!(out.contains(&format!("# TYPE {declared} ")), "{line}");
        }
        for name in ["proxy_build_info{", "rustls_info{", "process_cpu_seconds_total ", "process_threads ", "tokio_rt_workers "] {
            assert!(out.contains(&format!("\n{name}")), "{name}: {out}");
        }
        assert!(out.contains("control_identity_cert_expiration_timestamp_seconds 0\n"), "{out}");
    }
}
