//! The annotations that people configure the mesh with: one table of all of them.
//!
//! Read from pod templates; those marked so are inherited from the namespace when the pod lacks them. The metadata of the
//! workload itself (Deployment, …) is never read. A value that can't be read never stops a pod: the default stays, and
//! the mistake is reported by name.

use std::collections::BTreeMap;
use std::str::FromStr;

use homarus_model::inbound::DefaultPolicy;
use homarus_model::{duration, network, ports};

/// Who injected a pod.
pub const CREATED_BY: &str = "linkerd.io/created-by";
/// The version of the proxy in a pod.
pub const PROXY_VERSION_INJECTED: &str = "linkerd.io/proxy-version";
/// The SHA-256 of the trust anchors a pod was injected with.
pub const TRUST_ROOT_SHA256: &str = "linkerd.io/trust-root-sha256";
/// Of a namespace: whether pods in it that came up without the proxy they ask for are evicted, so that they are made again.
pub const EVICT_UNINJECTED: &str = "homarus.io/evict-uninjected";
/// What begins the names of settings.
pub const PREFIX: &str = "config.linkerd.io/";

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `enabled`, `disabled` or `ingress`.
    InjectMode,
    /// Anything.
    Text,
    /// One of some words.
    OneOf(&'static [&'static str]),
    /// Go's `ParseBool`.
    Bool,
    /// A port, 1 to 65535.
    Port,
    /// A comma list of ports and ranges.
    Ports,
    /// A comma list of ports, ranges and names of container ports.
    PortsAndNames,
    /// A comma list of networks.
    Networks,
    /// Go's durations.
    Duration,
    /// A quantity of Kubernetes, as `100m` or `64Mi`.
    Quantity,
    /// A number between 0 and 1, both excluded.
    Ratio,
    /// A user or group id; -1 for none.
    Id,
    /// A whole number of seconds.
    Seconds,
    /// A default inbound policy.
    Policy,
    /// A JSON list of environment variables.
    EnvList,
}

/// Where a setting is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// From the pod, else from its namespace.
    Namespace,
    /// From the pod only.
    Pod,
}

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// The whole name.
    pub name: &'static str,
    /// How its value is read.
    pub syntax: Syntax,
    /// Where it is read.
    pub scope: Scope,
    /// The default of the chart; empty where there is none.
    pub default: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// Whether the injector's metrics have a label for it.
    pub in_metrics: bool,
}

const fn ns(name: &'static str, syntax: Syntax, default: &'static str, about: &'static str) -> Annotation {
    Annotation { name, syntax, scope: Scope::Namespace, default, about, in_metrics: true }
}

const fn unlabelled(name: &'static str, syntax: Syntax, default: &'static str, about: &'static str) -> Annotation {
    Annotation { in_metrics: false, ..ns(name, syntax, default, about) }
}

const fn pod(name: &'static str, syntax: Syntax, default: &'static str, about: &'static str) -> Annotation {
    Annotation { name, syntax, scope: Scope::Pod, default, about, in_metrics: false }
}

const ON_OFF: Syntax = Syntax::OneOf(&["enabled", "disabled"]);

macro_rules! settings {
    ($($konst:ident = $make:ident($name:literal, $syntax:expr, $default:literal, $about:literal);)*) => {
        $(#[doc = concat!("`", $name, "`: ", $about, ".")]
        pub const $konst: &str = $name;)*

        /// Every annotation of this mesh that configures a pod.
        pub const ALL: &[Annotation] = &[$($make($name, $syntax, $default, $about),)*];
    };
}

settings! {
    INJECT = unlabelled("linkerd.io/inject", Syntax::InjectMode, "", "whether pods get a proxy");
    PROXY_IMAGE = ns("config.linkerd.io/proxy-image", Syntax::Text, "cr.l5d.io/linkerd/proxy", "image of proxy and init");
    PROXY_VERSION = ns("config.linkerd.io/proxy-version", Syntax::Text, "", "version of that image");
    IMAGE_PULL_POLICY = ns("config.linkerd.io/image-pull-policy", Syntax::OneOf(&["Always", "IfNotPresent", "Never"]), "IfNotPresent", "when to pull it");
    CONTROL_PORT = ns("config.linkerd.io/control-port", Syntax::Port, "4190", "port of the tap server");
    INBOUND_PORT = ns("config.linkerd.io/inbound-port", Syntax::Port, "4143", "port of the inbound proxy");
    OUTBOUND_PORT = ns("config.linkerd.io/outbound-port", Syntax::Port, "4140", "port of the outbound proxy");
    ADMIN_PORT = ns("config.linkerd.io/admin-port", Syntax::Port, "4191", "port of the admin server");
    POD_INBOUND_PORTS = ns("config.linkerd.io/pod-inbound-ports", Syntax::Ports, "", "without effect: the list is computed");
    ADMIN_SHUTDOWN = ns("config.linkerd.io/proxy-admin-shutdown", ON_OFF, "disabled", "whether the admin server ends the proxy on request");
    LOG_LEVEL = ns("config.linkerd.io/proxy-log-level", Syntax::Text, "warn,linkerd=info,hickory=error", "log filter of the proxy");
    LOG_FORMAT = ns("config.linkerd.io/proxy-log-format", Syntax::OneOf(&["plain", "json"]), "plain", "log format of the proxy");
    LOG_HTTP_HEADERS = ns("config.linkerd.io/proxy-log-http-headers", Syntax::OneOf(&["off", "insecure"]), "off", "whether headers are logged");
    REQUIRE_IDENTITY_PORTS = ns("config.linkerd.io/proxy-require-identity-inbound-ports", Syntax::Ports, "", "ports that only meshed clients may use");
    HOSTNAME_LABELS = ns("config.linkerd.io/proxy-metrics-hostname-labels", Syntax::Bool, "false", "host names in outbound metrics");
    OUTBOUND_CONNECT_TIMEOUT = ns("config.linkerd.io/proxy-outbound-connect-timeout", Syntax::Duration, "1000ms", "how long connecting may take");
    INBOUND_CONNECT_TIMEOUT = ns("config.linkerd.io/proxy-inbound-connect-timeout", Syntax::Duration, "100ms", "how long connecting to the app may take");
    OUTBOUND_DISCOVERY_CACHE = ns("config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout", Syntax::Duration, "5s", "how long unused discovery results are kept");
    INBOUND_DISCOVERY_CACHE = ns("config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout", Syntax::Duration, "90s", "how long unused policies are kept");
    DISABLE_OUTBOUND_DETECT_TIMEOUT = ns("config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout", Syntax::Bool, "false", "wait for ever for a client's first bytes");
    DISABLE_INBOUND_DETECT_TIMEOUT = ns("config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout", Syntax::Bool, "false", "the same for inbound connections");
    SHUTDOWN_GRACE_PERIOD = ns("config.linkerd.io/shutdown-grace-period", Syntax::Duration, "", "how long a draining proxy may take");
    CPU_REQUEST = ns("config.linkerd.io/proxy-cpu-request", Syntax::Quantity, "", "CPU to reserve; also the fewest workers");
    CPU_LIMIT = ns("config.linkerd.io/proxy-cpu-limit", Syntax::Quantity, "", "most CPU; also the most workers");
    CPU_RATIO_LIMIT = pod("config.linkerd.io/proxy-cpu-ratio-limit", Syntax::Ratio, "", "most workers as a part of the node's CPUs");
    MEMORY_REQUEST = ns("config.linkerd.io/proxy-memory-request", Syntax::Quantity, "", "memory to reserve");
    MEMORY_LIMIT = ns("config.linkerd.io/proxy-memory-limit", Syntax::Quantity, "", "most memory");
    STORAGE_REQUEST = ns("config.linkerd.io/proxy-ephemeral-storage-request", Syntax::Quantity, "", "ephemeral storage to reserve");
    STORAGE_LIMIT = ns("config.linkerd.io/proxy-ephemeral-storage-limit", Syntax::Quantity, "", "most ephemeral storage");
    PROXY_UID = ns("config.linkerd.io/proxy-uid", Syntax::Id, "2102", "user of the proxy, exempt from redirection");
    PROXY_GID = ns("config.linkerd.io/proxy-gid", Syntax::Id, "-1", "group of the proxy, exempt from redirection");
    EXTERNAL_PROFILES = ns("config.linkerd.io/enable-external-profiles", Syntax::Bool, "false", "profiles for names outside of the cluster");
    SKIP_INBOUND_PORTS = ns("config.linkerd.io/skip-inbound-ports", Syntax::Ports, "4567,4568", "inbound ports that bypass the proxy");
    SKIP_OUTBOUND_PORTS = ns("config.linkerd.io/skip-outbound-ports", Syntax::Ports, "4567,4568", "outbound ports that bypass the proxy");
    SKIP_SUBNETS = ns("config.linkerd.io/skip-subnets", Syntax::Networks, "", "networks whose traffic to the pod bypasses the proxy");
    OPAQUE_PORTS = ns("config.linkerd.io/opaque-ports", Syntax::PortsAndNames, "25,587,3306,4444,5432,6379,9300,11211", "ports whose protocol is not detected");
    DEFAULT_INBOUND_POLICY = ns("config.linkerd.io/default-inbound-policy", Syntax::Policy, "all-unauthenticated", "who may connect where no Server says");
    ACCESS_LOG = ns("config.linkerd.io/access-log", Syntax::OneOf(&["apache", "json"]), "", "a line for each request");
    AWAIT = ns("config.linkerd.io/proxy-await", ON_OFF, "enabled", "whether the app waits for the proxy");
    DEBUG_SIDECAR = ns("config.linkerd.io/enable-debug-sidecar", Syntax::Bool, "false", "adds the debug container");
    DEBUG_IMAGE = pod("config.linkerd.io/debug-image", Syntax::Text, "cr.l5d.io/linkerd/debug", "its image");
    DEBUG_IMAGE_VERSION = pod("config.linkerd.io/debug-image-version", Syntax::Text, "", "version of its image");
    DEBUG_IMAGE_PULL_POLICY = pod("config.linkerd.io/debug-image-pull-policy", Syntax::OneOf(&["Always", "IfNotPresent", "Never"]), "", "when to pull it");
    GATEWAY = pod("config.linkerd.io/enable-gateway", Syntax::Bool, "false", "makes the pod a multicluster gateway");
    CLOSE_WAIT_TIMEOUT = pod("config.linkerd.io/close-wait-timeout", Syntax::Duration, "0", "conntrack's close-wait timeout; needs a privileged init");
    NATIVE_SIDECAR = ns("config.linkerd.io/proxy-enable-native-sidecar", Syntax::Bool, "true", "runs the proxy as a native sidecar");
    NATIVE_SIDECAR_BETA = pod("config.beta.linkerd.io/proxy-enable-native-sidecar", Syntax::Bool, "", "its former name");
    NATIVE_SIDECAR_ALPHA = unlabelled("config.alpha.linkerd.io/proxy-enable-native-sidecar", Syntax::Bool, "", "its first name");
    WAIT_BEFORE_EXIT = unlabelled("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", Syntax::Seconds, "0", "sleep before the proxy ends; not for native sidecars");
    ADDITIONAL_ENV = ns("config.linkerd.io/proxy-additional-env", Syntax::EnvList, "", "more environment variables, merged by name");
}

/// The annotation of this name, if it is one of ours.
pub fn find(name: &str) -> Option<&'static Annotation> {
    ALL.iter().find(|annotation| annotation.name == name)
}

/// A value that can't be read. The fault of whoever wrote it; the default is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {name}: {value:?} is not valid: {reason}")]
pub struct InvalidAnnotation {
    /// Which one.
    pub name: &'static str,
    /// What it says.
    pub value: String,
    /// What it should say.
    pub reason: String,
}

/// All of our annotations in a map whose values can't be read.
pub fn invalid(annotations: &BTreeMap<String, String>) -> Vec<InvalidAnnotation> {
    let ours = ALL.iter().filter_map(|annotation| Some((annotation, annotations.get(annotation.name)?)));
    ours.filter_map(|(annotation, value)| annotation.check(value).err()).collect()
}

impl Annotation {
    /// Whether the value can be read.
    pub fn check(&self, value: &str) -> Result<(), InvalidAnnotation> {
        self.syntax.check(value).map_err(|reason| InvalidAnnotation { name: self.name, value: value.to_owned(), reason })
    }

    /// The label of this annotation in the injector's metrics.
    pub fn metric_label(&self) -> String {
        self.name.rsplit('/').next().unwrap_or_default().replace('-', "_")
    }
}

impl Syntax {
    fn check(self, value: &str) -> Result<(), String> {
        let valid = |valid: bool, expected: &str| if valid { Ok(()) } else { Err(format!("expected {expected}")) };
        match self {
            Self::Text => Ok(()),
            Self::InjectMode => valid(["enabled", "disabled", "ingress"].contains(&value), "enabled, disabled or ingress"),
            Self::OneOf(words) => valid(words.contains(&value), &words.join(" or ")),
            Self::Bool => valid(parse_bool(value).is_some(), "true or false"),
            Self::Port => valid(value.parse::<u16>().is_ok_and(|port| port != 0), "a port from 1 to 65535"),
            Self::Ports => {
                split_ports(value).1.into_iter().next().map_or(Ok(()), |bad| Err(format!("{bad:?} is no port or range")))
            }
            Self::PortsAndNames => {
                valid(items(value).all(|item| parse_port_or_name(item).is_some()), "ports, ranges or port names")
            }
            Self::Networks => network::parse_list(value).map(|_| ()).map_err(|error| error.to_string()),
            Self::Duration => duration::parse_go(value).map(|_| ()).map_err(|error| error.to_string()),
            Self::Quantity => valid(Quantity::from_str(value).is_ok(), "a quantity like 100m or 64Mi"),
            Self::Ratio => valid(value.parse::<f64>().is_ok_and(|ratio| ratio > 0.0 && ratio < 1.0), "a number between 0 and 1"),
            Self::Id => valid(value.parse::<i64>().is_ok_and(|id| id >= -1), "a numeric id"),
            Self::Seconds => valid(value.parse::<u32>().is_ok(), "a number of seconds"),
            Self::Policy => value.parse::<DefaultPolicy>().map(|_| ()).map_err(|error| error.to_string()),
            Self::EnvList => parse_env_list(value).map(|_| ()),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// The items of a comma list, trimmed; blank ones are left out.
pub(crate) fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A list of ports and ranges as (good items, bad items), as they were written.
pub fn split_ports(list: &str) -> (Vec<&str>, Vec<&str>) {
    items(list).partition(|item| ports::parse_range(item).is_some())
}

/// An item of a list of opaque ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOrName<'a> {
    /// A port or a range, as it was written.
    Port(&'a str),
    /// The name of a container port (an IANA service name).
    Name(&'a str),
}

/// Reads an item of a list of opaque ports.
pub fn parse_port_or_name(item: &str) -> Option<PortOrName<'_>> {
    if ports::parse_range(item).is_some() {
        return Some(PortOrName::Port(item));
    }
    let bytes = item.as_bytes();
    let name = bytes.len() <= 15
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !item.starts_with('-')
        && !item.ends_with('-')
        && !item.contains("--");
    name.then_some(PortOrName::Name(item))
}

/// The most additional environment variables that an annotation may bring.
pub const MAX_ADDITIONAL_ENV: usize = 256;

/// A JSON list of environment variables, each with a name.
pub fn parse_env_list(text: &str) -> Result<Vec<serde_json::Value>, String> {
    let list: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|error| format!("expected a JSON list: {error}"))?;
    if list.len() > MAX_ADDITIONAL_ENV {
        return Err(format!("more than {MAX_ADDITIONAL_ENV} variables"));
    }
    match list.iter().position(|env| env["name"].as_str().is_none_or(str::is_empty)) {
        Some(at) => Err(format!("variable {} has no name", at + 1)),
        None => Ok(list),
    }
}

/// A quantity of Kubernetes; only what a mesh needs of it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Quantity(f64);

impl FromStr for Quantity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| ())?;
        let scale = match suffix {
            "" => 1.0,
            "n" => 1e-9,
            "u" => 1e-6,
            "m" => 1e-3,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "P" => 1e15,
            "E" => 1e18,
            "Ki" => 1024f64,
            "Mi" => 1024f64.powi(2),
            "Gi" => 1024f64.powi(3),
            "Ti" => 1024f64.powi(4),
            "Pi" => 1024f64.powi(5),
            "Ei" => 1024f64.powi(6),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E']).ok_or(())?;
                10f64.powi(digits.parse().map_err(|_| ())?)
            }
        };
        // Negative and endless amounts can't be had of anything.
        Some(number * scale).filter(|amount| amount.is_finite() && *amount >= 0.0).map(Self).ok_or(())
    }
}

impl Quantity {
    /// The whole number that is not less: of cores, say. At least 1.
    pub fn ceil(self) -> u32 {
        let up = self.0.ceil().clamp(1.0, f64::from(u32::MAX));
        // Clamped above, so nothing is lost.
        up as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(name: &str, good: &[&str], bad: &[&str]) {
        let annotation = find(name).unwrap();
        for value in good {
            assert_eq!(annotation.check(value), Ok(()), "{name}: {value}");
        }
        for value in bad {
            let error = annotation.check(value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        check(INJECT, &["enabled", "disabled", "ingress"], &["true", ""]);
        check(SKIP_INBOUND_PORTS, &["", "80", "80, 443,8000-9000"], &["80,x", "9-8", "0"]);
        check(OPAQUE_PORTS, &["80", "mysql,3306,4000-4010"], &["My", "-a", "a--b", "12-x-", "abcdefghijklmnop"]);
        check(DEFAULT_INBOUND_POLICY, &["deny", "audit", "cluster-authenticated"], &["all", ""]);
        check(CPU_LIMIT, &["100m", "1.5", "2", "1e3"], &["", "x", "1 core", "-1", "1e400", "0e400"]);
        check(MEMORY_LIMIT, &["64Mi", "1G"], &["64MiB"]);
        check(CPU_RATIO_LIMIT, &["0.5"], &["0", "1", "x"]);
        check(DEBUG_SIDECAR, &["true", "T", "0"], &["yes", "TrUe"]);
        check(SHUTDOWN_GRACE_PERIOD, &["1m30s"], &["30"]);
        check(ADDITIONAL_ENV, &["[]", r#"[{"name":"A","value":"b"}]"#], &["{}", r#"[{"value":"b"}]"#, "["]);
        check(SKIP_SUBNETS, &["10.0.0.0/8,fd00::/8"], &["10.0.0.0/33"]);
        check(PROXY_GID, &["-1", "2102"], &["-2", "x"]);
    }

    #[test]
    fn the_table_agrees_with_itself() {
        for (i, annotation) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|other| other.name != annotation.name), "{} is there twice", annotation.name);
            if !annotation.default.is_empty() {
                assert_eq!(annotation.check(annotation.default), Ok(()), "default of {}", annotation.name);
            }
        }
        assert_eq!(find(OPAQUE_PORTS).unwrap().metric_label(), "opaque_ports");
        assert!(find("config.linkerd.io/trace-collector").is_none());
    }

    #[test]
    fn mistakes_are_named() {
        let annotations = [(CPU_LIMIT, "lots"), (PROXY_IMAGE, "x"), ("other.io/y", "z")];
        let annotations = annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let bad = invalid(&annotations);
        assert_eq!(bad.iter().map(|bad| bad.name).collect::<Vec<_>>(), [CPU_LIMIT]);
    }

    #[test]
    fn cores_are_rounded_up() {
        for (text, cores) in [("100m", 1), ("1", 1), ("1001m", 2), ("1.5", 2), ("0", 1)] {
            assert_eq!(Quantity::from_str(text).unwrap().ceil(), cores, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn quantities_are_amounts(text in "\\PC{0,12}|[+-]?[0-9.]{0,6}[numkKMGTPEei]{0,2}[+-]?[0-9]{0,4}") {
            if let Ok(quantity) = Quantity::from_str(&text) {
                prop_assert!(quantity.ceil() >= 1);
            }
        }

        #[test]
        fn values_are_fine_or_blamed(which in 0..ALL.len(), value in "\\PC{0,40}|[0-9a-z,.:/-]{0,24}|[\\[\\]{}\",:a-z]{0,24}") {
            if let Err(blamed) = ALL[which].check(&value) {
                prop_assert_eq!(blamed.name, ALL[which].name);
                prop_assert!(!blamed.reason.is_empty());
            }
        }
    }
}
