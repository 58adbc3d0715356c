//! What to redirect: flags of proxy-init as texts ([`Request`]), and resolved values ([`Config`]).

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;

/// Entries per list. Rules are made per entry and must fit one netlink message.
pub const MAX_LIST_ENTRIES: usize = 512;

/// Why a configuration can't be used. Always the caller's fault; retrying doesn't help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A proxy port is missing or isn't one.
    #[error("--{flag} must be a valid TCP port number, 1 to 65535")]
    ProxyPort {
        /// The flag without its dashes.
        flag: &'static str,
    },
    /// A number in `--ports-to-redirect` isn't a port.
    #[error("--ports-to-redirect: {0} is not a valid TCP port number")]
    PortToRedirect(i64),
    /// A subnet isn't an address and a prefix length.
    #[error("{0:?} is not a valid CIDR address: write an address and a prefix length, such as 10.0.0.0/8")]
    Subnet(String),
    /// A uid or gid is beyond 32 bits.
    #[error("--{flag}: {value} is not a valid id")]
    Id {
        /// The flag without its dashes.
        flag: &'static str,
        /// What was given.
        value: i64,
    },
    /// A list is longer than [`MAX_LIST_ENTRIES`].
    #[error("--{flag} has {entries} entries, at most {MAX_LIST_ENTRIES} are possible: write neighbouring ports as ranges")]
    TooMany {
        /// The flag without its dashes.
        flag: &'static str,
        /// How many were given.
        entries: usize,
    },
}

/// The values of proxy-init's flags, as given. `-1` is what the reference uses for "not given".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where inbound connections go.
    pub incoming_proxy_port: i64,
    /// Where outbound connections go.
    pub outgoing_proxy_port: i64,
    /// The proxy's user, whose connections are left alone; 0 and less mean none.
    pub proxy_uid: i64,
    /// The proxy's group, whose connections are left alone; 0 and less mean none.
    pub proxy_gid: i64,
    /// Inbound ports to redirect; empty means all.
    pub ports_to_redirect: Vec<i64>,
    /// Ports and ranges `a-b` left alone inbound.
    pub inbound_ports_to_ignore: Vec<String>,
    /// Ports and ranges `a-b` left alone outbound.
    pub outbound_ports_to_ignore: Vec<String>,
    /// Sources left alone inbound.
    pub subnets_to_ignore: Vec<String>,
    /// Whether IPv6 is redirected too.
    pub ipv6: bool,
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is no port and no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a port nor a range <lower>-<upper> of ports")]
pub struct InvalidPortRange(String);

impl PortRange {
    /// The range from `first` to `last`; `None` if it would be empty.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The range of one port.
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether it is one port only.
    pub fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Whether `port` lies within.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = first.parse().ok().zip(last.parse().ok());
        range.and_then(|(first, last)| Self::new(first, last)).ok_or_else(|| InvalidPortRange(text.to_string()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// What to redirect, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where inbound connections go.
    pub inbound_port: NonZeroU16,
    /// Where outbound connections go.
    pub outbound_port: NonZeroU16,
    /// The proxy's user; root would exempt most applications, so it can't be said.
    pub proxy_uid: Option<u32>,
    /// The proxy's group.
    pub proxy_gid: Option<u32>,
    /// Inbound ports to redirect; empty means all.
    pub redirect_only: Vec<u16>,
    /// Inbound ports left alone.
    pub skip_inbound: Vec<PortRange>,
    /// Outbound ports left alone.
    pub skip_outbound: Vec<PortRange>,
    /// Sources left alone inbound. They mean nothing outbound.
    pub skip_sources: Vec<IpNet>,
    /// Whether IPv6 is redirected too.
    pub ipv6: bool,
}

impl Config {
    /// Checks what was asked for. An entry of a port list that is no port is skipped with a log line, as the reference
    /// does: it must not keep a pod from starting that starts today.
    pub fn resolve(request: &Request) -> Result<Self, ConfigError> {
        Ok(Self {
            inbound_port: proxy_port("incoming-proxy-port", request.incoming_proxy_port)?,
            outbound_port: proxy_port("outgoing-proxy-port", request.outgoing_proxy_port)?,
            proxy_uid: exempt_id("proxy-uid", request.proxy_uid)?,
            proxy_gid: exempt_id("proxy-gid", request.proxy_gid)?,
            redirect_only: ports_to_redirect(&request.ports_to_redirect)?,
            skip_inbound: port_ranges("inbound-ports-to-ignore", &request.inbound_ports_to_ignore)?,
            skip_outbound: port_ranges("outbound-ports-to-ignore", &request.outbound_ports_to_ignore)?,
            skip_sources: subnets(&request.subnets_to_ignore)?,
            ipv6: request.ipv6,
        })
    }
}

fn proxy_port(flag: &'static str, value: i64) -> Result<NonZeroU16, ConfigError> {
    NonZeroU16::try_from(u16::try_from(value).unwrap_or(0)).map_err(|_| ConfigError::ProxyPort { flag })
}

fn exempt_id(flag: &'static str, value: i64) -> Result<Option<u32>, ConfigError> {
    if value <= 0 {
        return Ok(None);
    }
    u32::try_from(value).map(Some).map_err(|_| ConfigError::Id { flag, value })
}

fn ports_to_redirect(ports: &[i64]) -> Result<Vec<u16>, ConfigError> {
    bounded("ports-to-redirect", ports.len())?;
    ports.iter().map(|&port| u16::try_from(port).map_err(|_| ConfigError::PortToRedirect(port))).collect()
}

fn port_ranges(flag: &'static str, texts: &[String]) -> Result<Vec<PortRange>, ConfigError> {
    bounded(flag, texts.len())?;
    let parsed = texts.iter().filter_map(|text| match text.parse() {
        Ok(range) => Some(range),
        Err(error) => {
            tracing::error!(flag, %error, "entry skipped");
            None
        }
    });
    Ok(parsed.collect())
}

fn subnets(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    bounded("subnets-to-ignore", texts.len())?;
    texts
        .iter()
        .map(|text| {
            let net: IpNet = text.trim().parse().map_err(|_| ConfigError::Subnet(text.clone()))?;
            Ok(net.trunc())
        })
        .collect()
}

fn bounded(flag: &'static str, entries: usize) -> Result<(), ConfigError> {
    if entries > MAX_LIST_ENTRIES {
        return Err(ConfigError::TooMany { flag, entries });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn texts() -> impl Strategy<Value = Vec<String>> {
        vec("\\PC{0,12}|[0-9]{0,6}-?[0-9]{0,6}|[0-9a-f.:]{1,12}/[0-9]{0,3}", 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any flags: a rule set that can be installed, or one flag that is blamed.
        #[test]
        fn whatever_is_asked_for_is_refused_or_possible(
            numbers: [i64; 4],
            small: bool,
            ports in vec(any::<i64>(), 0..4),
            ranges in texts(),
            subnets in texts(),
            ipv6: bool,
        ) {
            let [incoming_proxy_port, outgoing_proxy_port, proxy_uid, proxy_gid] =
                if small { numbers.map(|number| number % 70_000) } else { numbers };
            let request = Request {
                incoming_proxy_port,
                outgoing_proxy_port,
                proxy_uid,
                proxy_gid,
                ports_to_redirect: ports,
                inbound_ports_to_ignore: ranges.clone(),
                outbound_ports_to_ignore: ranges,
                subnets_to_ignore: subnets,
                ipv6,
            };
            match Config::resolve(&request) {
                Ok(config) => {
                    prop_assert_eq!(i64::from(config.inbound_port.get()), incoming_proxy_port);
                    prop_assert!(config.skip_inbound.iter().all(|range| range.first() <= range.last()));
                    prop_assert!(config.skip_sources.len() == request.subnets_to_ignore.len());
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn lists_are_bounded() {
        let request = Request {
            incoming_proxy_port: 4143,
            outgoing_proxy_port: 4140,
            proxy_uid: 2102,
            proxy_gid: 0,
            ports_to_redirect: vec![80; MAX_LIST_ENTRIES + 1],
            inbound_ports_to_ignore: Vec::new(),
            outbound_ports_to_ignore: Vec::new(),
            subnets_to_ignore: Vec::new(),
            ipv6: true,
        };
        assert!(matches!(Config::resolve(&request), Err(ConfigError::TooMany { flag: "ports-to-redirect", .. })));
        let fits = Request { ports_to_redirect: vec![80; MAX_LIST_ENTRIES], ..request };
        assert!(Config::resolve(&fits).is_ok());
    }
}
