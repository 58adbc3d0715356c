//! The proxy's configuration: environment variables, read once (proxy-wire §2).
//!
//! Two steps: [`vars::Vars`] are raw strings, [`Config`] is what they mean. Each variable is read in one line that holds its
//! name, its grammar and its default; what it does stands at the field that it becomes. All errors are found before any is
//! told.
//!
//! Our own, beside those of linkerd2-proxy:
//! - `LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE`: a PEM bundle that is watched, so that roots rotate without a restart.
//!   It wins over `…_IDENTITY_TRUST_ANCHORS`, which then need not be set.
//!
//! Whatever isn't read here is listed by [`Config::unused`].

mod control;
#[cfg(test)]
mod tests;
mod transport;
pub mod vars;

pub use control::{ControlAddr, Discovery, Identity, InboundPolicy, StreamLimits, TrustAnchorsSource};
pub use transport::{Backoff, Direction, Http2Client, Http2Server};

use homarus_daemon::logs::Format;
use std::{fmt, net::SocketAddr, time::Duration};
use vars::{Invalid, Vars, boolean, ips, listen_addrs, parsed, time, time_or_none};

/// Everything that the operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// The process as a whole.
    pub process: Process,
    /// Connections toward the workload.
    pub inbound: Inbound,
    /// Connections from the workload.
    pub outbound: Outbound,
    /// Where to ask about destinations and policies.
    pub discovery: Discovery,
    /// Who we are, and who says so.
    pub identity: Identity,
    /// What to tell the operator, although it doesn't stop us.
    pub warnings: Vec<Invalid>,
    /// Variables with our prefix that this version doesn't read: misspelled, of older versions, or of features to come.
    pub unused: Vec<String>,
}

/// The process as a whole.
#[derive(Debug, Clone)]
pub struct Process {
    /// Where metrics and probes are served.
    pub admin_addr: SocketAddr,
    /// How long a metric stays after its last use.
    pub metrics_retain_idle: Duration,
    /// How long to wait for open requests when ending.
    pub shutdown_grace: Duration,
    /// Whether `POST /shutdown` ends the proxy.
    pub shutdown_endpoint: bool,
    /// Whether HTTP requests may choose their destination by a header (proxy-wire §7.4).
    pub ingress_mode: bool,
    /// How requests are written to the access log, if at all.
    pub access_log: Option<AccessLog>,
    /// How many workers carry connections.
    pub cores: Cores,
    /// The shortest and the longest time that names of the control plane are remembered.
    pub dns_ttl: (Option<Duration>, Option<Duration>),
}

/// A form of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// As Apache's "combined".
    Apache,
    /// One object a line.
    Json,
}

/// How many workers there may be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cores {
    min: Option<usize>,
    max: Option<usize>,
    ratio: Option<f64>,
}

impl Cores {
    /// The number of workers on a machine with so many processors.
    pub fn workers(self, available: usize) -> usize {
        let of_ratio = self.ratio.map(|ratio| (available as f64 * ratio).round() as usize);
        let max = self.max.or(of_ratio).unwrap_or(1);
        available.min(max.max(self.min.unwrap_or(1))).max(1)
    }
}

/// Connections toward the workload.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Where redirected connections arrive.
    pub listen: SocketAddr,
    /// What both directions have.
    pub direction: Direction,
    /// The workload's own addresses; empty: any.
    pub ips: std::collections::BTreeSet<std::net::IpAddr>,
    /// What applies to ports that discovery hasn't told of.
    pub policy: InboundPolicy,
}

/// Connections from the workload.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Where redirected connections arrive: one or two.
    pub listen: Vec<SocketAddr>,
    /// What both directions have.
    pub direction: Direction,
    /// Connections to one endpoint that may wait for it to be ready; more are refused.
    pub tcp_queue_capacity: usize,
    /// How long they wait.
    pub tcp_failfast: Duration,
    /// Whether the application hears why the mesh refused its request.
    pub informational_headers: bool,
    /// Whether metrics of routes carry the host that was asked for.
    pub hostname_labels: bool,
}

/// Why the proxy doesn't start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidConfig(pub Vec<Invalid>);

/// The process's exit code for an invalid configuration (`EX_USAGE`).
pub const EXIT_INVALID: i32 = 64;

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invalid configuration:")?;
        let mut sep = " ";
        for error in &self.0 {
            write!(f, "{sep}{error}")?;
            sep = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for InvalidConfig {}

/// What has to be known before anything can be logged: the filter, and the format of lines. Bad values fall back.
pub fn log_settings() -> (String, Format) {
    let var = |name: &str| std::env::var(format!("{}{name}", vars::PREFIX)).ok();
    let format = var("LOG_FORMAT").and_then(|f| f.parse().ok()).unwrap_or_default();
    (with_our_name(&var("LOG").unwrap_or_else(|| DEFAULT_LOG.into())), format)
}

/// Filters speak of `linkerd`; what they say of it applies to our own modules too.
pub fn with_our_name(filter: &str) -> String {
    let ours = filter.split(',').filter(|d| d.trim_start().starts_with("linkerd")).map(|d| {
        let level = d.split_once('=').map_or("trace", |(_, level)| level);
        format!(",homarus_proxy={level}")
    });
    filter.to_owned() + &ours.collect::<String>()
}

const DEFAULT_LOG: &str = "warn,linkerd=info,hickory=error";

impl Config {
    /// Reads the process's environment, and checks that the files it names are there.
    pub fn from_env() -> Result<Self, InvalidConfig> {
        let mut config = Self::parse(std::env::vars_os().collect())?;
        // The one variable of the injector's without our prefix that we have to know.
        config.identity.instance = std::env::var("_pod_uid").unwrap_or_default();
        config.identity.check_token().map_err(|error| InvalidConfig(vec![error]))?;
        Ok(config)
    }

    /// Parses variables. No I/O.
    pub fn parse(mut vars: Vars) -> Result<Self, InvalidConfig> {
        let v = &mut vars;
        // The log was set up before.
        let _ = (v.text("LOG"), v.text("LOG_FORMAT"));
        let process = Process::read(v);
        let inbound = Inbound::read(v);
        let outbound = Outbound::read(v, process.ingress_mode);
        let discovery = Discovery::read(v);
        let identity = Identity::read(v);
        let (errors, warnings, unused) = vars.finish();
        match (discovery, identity) {
            (Some(discovery), Some(identity)) if errors.is_empty() => {
                Ok(Self { process, inbound, outbound, discovery, identity, warnings, unused })
            }
            _ => Err(InvalidConfig(errors)),
        }
    }
}

impl Process {
    fn read(v: &mut Vars) -> Self {
        Self {
            admin_addr: v.or("ADMIN_LISTEN_ADDR", parsed, ([127, 0, 0, 1], 4191).into()),
            metrics_retain_idle: v.or("METRICS_RETAIN_IDLE", time, Duration::from_secs(600)),
            shutdown_grace: v.or("SHUTDOWN_GRACE_PERIOD", time, Duration::from_secs(120)),
            shutdown_endpoint: v.or("SHUTDOWN_ENDPOINT_ENABLED", boolean, false),
            ingress_mode: v.or("INGRESS_MODE", boolean, false),
            access_log: v.lenient("ACCESS_LOG", access_log).flatten(),
            cores: cores(v),
            dns_ttl: (v.or("DNS_MIN_TTL", time_or_none, None), v.or("DNS_MAX_TTL", time_or_none, None)),
        }
    }
}

fn access_log(text: &str) -> Result<Option<AccessLog>, &'static str> {
    match text {
        "" => Ok(None),
        "apache" => Ok(Some(AccessLog::Apache)),
        "json" => Ok(Some(AccessLog::Json)),
        _ => Err("expected apache or json"),
    }
}

/// Bad values are warned about: a proxy on one core is better than none.
fn cores(v: &mut Vars) -> Cores {
    let count = |text: &str| text.parse().ok().filter(|n| *n > 0).ok_or("expected a positive number");
    let ratio = |text: &str| text.parse().ok().filter(|r| *r > 0.0 && *r <= 1.0).ok_or("expected a number above 0, at most 1");
    let cores = v.lenient("CORES", count);
    Cores {
        min: v.lenient("CORES_MIN", count).or(cores),
        max: v.lenient("CORES_MAX", count),
        ratio: v.lenient("CORES_MAX_RATIO", ratio),
    }
}

impl Inbound {
    fn read(v: &mut Vars) -> Self {
        if v.text("INBOUND_METRICS_AUTHORITY_LABELS").is_some_and(|value| value == "unsafe") {
            v.warn("INBOUND_METRICS_AUTHORITY_LABELS", "labels that any client can make up are not supported by this version");
        }
        let direction = Direction::read(v, &transport::INBOUND);
        Self {
            listen: v.or("INBOUND_LISTEN_ADDR", parsed, ([0, 0, 0, 0], 4143).into()),
            direction,
            ips: v.or("INBOUND_IPS", ips, Default::default()),
            policy: InboundPolicy::read(v),
        }
    }
}

impl Outbound {
    fn read(v: &mut Vars, ingress_mode: bool) -> Self {
        let one = v.or("OUTBOUND_LISTEN_ADDR", parsed, ([127, 0, 0, 1], 4140).into());
        Self {
            listen: v.or("OUTBOUND_LISTEN_ADDRS", listen_addrs, vec![one]),
            direction: Direction::read(v, &transport::OUTBOUND),
            tcp_queue_capacity: v.or("OUTBOUND_TCP_QUEUE_CAPACITY", parsed, 10_000),
            tcp_failfast: v.or("OUTBOUND_TCP_FAILFAST_TIMEOUT", time, Duration::from_secs(3)),
            informational_headers: !v.or("OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", boolean, ingress_mode),
            hostname_labels: v.or("OUTBOUND_METRICS_HOSTNAME_LABELS", boolean, false),
        }
    }
}
