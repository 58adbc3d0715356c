//! The proxy's real program, in a site.

use crate::{
    ground::{ADMIN, PROXY_UID, Running, Site},
    metrics::Metrics,
    wait_for,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

/// What differs from one proxy to another.
pub struct Setup<'a> {
    /// The program.
    pub program: &'a Path,
    /// A folder of its own.
    pub dir: &'a Path,
    /// Its identity.
    pub identity: &'a str,
    /// PEM of the roots.
    pub anchors: &'a str,
    /// Variables beside, or instead of, those of the injector; without their prefix. An empty value removes one.
    pub env: &'a [(&'a str, &'a str)],
    /// Open files that it may have.
    pub max_files: Option<u32>,
}

/// A proxy that runs; killed when dropped.
pub struct Proxy {
    child: Running,
    admin: SocketAddr,
    log: PathBuf,
    netns: homarus_redirect::netns::Netns,
}

impl Proxy {
    /// Starts one; waits for nothing.
    pub fn start(site: &Site, setup: &Setup<'_>) -> Self {
        let log = setup.dir.join("log");
        let files = setup.max_files.map_or(String::new(), |n| format!("ulimit -n {n}; "));
        // Handed over open: the proxy's user may not get into the folder where this project was built.
        let program = File::open(setup.program).unwrap_or_else(|e| panic!("{}: {e}", setup.program.display()));
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{files}exec /proc/self/fd/0")).env_clear();
        command.envs(environment(site, setup)).env("_pod_uid", setup.identity).uid(PROXY_UID).gid(PROXY_UID).stdin(program);
        let out = File::options().append(true).create(true).open(&log).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let child = site.spawn(&mut command);
        let netns = site.netns.enter(|| homarus_redirect::netns::Netns::open(Path::new("/proc/thread-self/ns/net"))).unwrap();
        Self { child, admin: SocketAddr::new([127, 0, 0, 1].into(), ADMIN), log, netns: netns.unwrap() }
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) {
        wait_for("the proxy is ready", || {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                panic!("the proxy exited with {status}:\n{}", self.log());
            }
            self.try_admin("GET", "/ready", "").filter(|(status, _)| *status == 200)
        });
    }

    /// Asks the admin server; panics if it doesn't answer.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_admin(method, path, body).unwrap_or_else(|| panic!("{method} {path}: no answer; log:\n{}", self.log()))
    }

    fn try_admin(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let ask = || {
            let mut tcp = std::net::TcpStream::connect_timeout(&self.admin, Duration::from_secs(1)).ok()?;
            tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let length = body.len();
            let head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
            tcp.write_all(head.as_bytes()).ok()?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
        };
        self.netns.enter(ask).unwrap()
    }

    /// What it counts.
    pub fn metrics(&self) -> Metrics {
        Metrics(self.admin("GET", "/metrics", "").1)
    }

    /// Waits until a counter has reached a value.
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) -> Metrics {
        let mut last = None;
        let deadline = std::time::Instant::now() + crate::PATIENCE;
        while std::time::Instant::now() < deadline {
            let metrics = self.metrics();
            if metrics.sum(name, labels) >= at_least {
                return metrics;
            }
            last = Some(metrics);
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name}{labels:?} stays below {at_least}:\n{}", last.map_or(String::new(), |m| m.family(name)));
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The time that it has spent on a processor.
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let spent = |thread: std::fs::DirEntry| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.flatten().filter_map(spent).sum())
    }

    /// The time that each thread of a name like this has spent on a processor.
    pub fn cpu_of_threads(&self, name: &str) -> Vec<Duration> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let read = |thread: &std::fs::DirEntry, file: &str| std::fs::read_to_string(thread.path().join(file)).ok();
        let named = threads.flatten().filter(|thread| read(thread, "comm").is_some_and(|comm| comm.starts_with(name)));
        let spent = |thread: std::fs::DirEntry| read(&thread, "schedstat")?.split(' ').next()?.parse().ok();
        named.filter_map(spent).map(Duration::from_nanos).collect()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_for("the proxy exits", || self.child.0.try_wait().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!("--- end of {}:\n{}", self.log.display(), log.get(from..).unwrap_or(&log));
        }
    }
}

/// The variables that the injector sets, with its values.
fn environment(site: &Site, setup: &Setup<'_>) -> BTreeMap<String, String> {
    let (ips, dir) = (format!("{},{}", site.ip, site.ip6), setup.dir.display().to_string());
    let token = format!("{dir}/token");
    let pod = r#"{"ns":"test","pod":"workload"}"#;
    let control = format!("127.0.0.1:{}", crate::control::PORT);
    let injected = [
        ("LOG", "warn,linkerd=info,homarus=info,hickory=error"),
        ("LOG_FORMAT", "plain"),
        ("CORES", "1"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
        ("INBOUND_LISTEN_ADDR", "[::]:4143"),
        ("ADMIN_LISTEN_ADDR", "[::]:4191"),
        ("CONTROL_LISTEN_ADDR", "0.0.0.0:4190"),
        ("DESTINATION_SVC_ADDR", &control),
        ("POLICY_SVC_ADDR", &control),
        ("IDENTITY_SVC_ADDR", &control),
        ("DESTINATION_CONTEXT", pod),
        ("POLICY_WORKLOAD", pod),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8,fd00::/8"),
        ("POLICY_CLUSTER_NETWORKS", "10.0.0.0/8,fd00::/8"),
        ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
        ("INBOUND_IPS", &ips),
        ("INBOUND_CONNECT_TIMEOUT", "100ms"),
        ("OUTBOUND_CONNECT_TIMEOUT", "1000ms"),
        ("INBOUND_ACCEPT_KEEPALIVE", "10000ms"),
        ("OUTBOUND_CONNECT_KEEPALIVE", "10000ms"),
        ("INBOUND_ACCEPT_USER_TIMEOUT", "30s"),
        ("OUTBOUND_CONNECT_USER_TIMEOUT", "30s"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s"),
        ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
        ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s"),
        ("INBOUND_DISCOVERY_IDLE_TIMEOUT", "90s"),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "5s"),
        ("SHUTDOWN_ENDPOINT_ENABLED", "false"),
        ("IDENTITY_DIR", &dir),
        ("IDENTITY_TOKEN_FILE", &token),
        ("IDENTITY_TRUST_ANCHORS", setup.anchors),
        ("IDENTITY_LOCAL_NAME", setup.identity),
    ];
    let mut env: BTreeMap<_, _> =
        injected.iter().chain(setup.env).map(|(k, v)| (format!("LINKERD2_PROXY_{k}"), (*v).to_owned())).collect();
    env.retain(|_, value| !value.is_empty());
    env
}
