//! DNS names and authorities.

use std::{fmt, net::IpAddr, net::SocketAddr, str::FromStr, sync::Arc};

/// A DNS name: lower case, without a trailing dot, at most 253 bytes of labels of 1 to 63 letters, digits, `-` or `_`.
///
/// Underscores are allowed because mesh names carry them (proxy-wire §6.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

/// Why a text is not a DNS name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a DNS name: labels of 1 to 63 letters, digits, '-' or '_' are separated by dots, 253 bytes at most")]
pub struct InvalidName;

impl DnsName {
    /// The name, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is `suffix` or ends in `.suffix`.
    pub fn is_within(&self, suffix: &str) -> bool {
        self.0.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for DnsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.len() > 253 || !name.split('.').all(label) || name.parse::<IpAddr>().is_ok() {
            return Err(InvalidName);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The host of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name that has to be resolved or discovered.
    Name(DnsName),
    /// An address, as is.
    Ip(IpAddr),
}

/// A host and a port: what a client means to talk to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// The name or address.
    pub host: Host,
    /// The port, never absent: whoever parses knows the default.
    pub port: u16,
}

/// Why a text is not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// The part before the port.
    #[error("the host is neither a DNS name nor an IP address (IPv6 addresses stand in brackets)")]
    Host,
    /// The part after the colon.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Authority {
    /// An authority of a name.
    pub fn name(name: DnsName, port: u16) -> Self {
        Self { host: Host::Name(name), port }
    }

    /// Parses `host`, `host:port`, `1.2.3.4:port` or `[::1]:port`; a missing port is `default_port`.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, InvalidAuthority> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None => default_port,
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().ok().filter(|p| *p != 0).ok_or(InvalidAuthority::Port)?
            }
            Some(_) => return Err(InvalidAuthority::Port),
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => Host::Ip(IpAddr::V6(v6.parse().map_err(|_| InvalidAuthority::Host)?)),
            None => match host.parse() {
                Ok(IpAddr::V4(ip)) => Host::Ip(ip.into()),
                Ok(IpAddr::V6(_)) => return Err(InvalidAuthority::Host),
                Err(_) => Host::Name(host.parse().map_err(|_| InvalidAuthority::Host)?),
            },
        };
        Ok(Self { host, port })
    }

    /// The name, if the host is one.
    pub fn dns_name(&self) -> Option<&DnsName> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::Ip(_) => None,
        }
    }

    /// The socket address, if the host is an address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

/// Splits `host[:port]`, keeping the brackets of an IPv6 host.
fn split_port(text: &str) -> Result<(&str, Option<&str>), InvalidAuthority> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(InvalidAuthority::Host)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(InvalidAuthority::Host),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(InvalidAuthority::Host),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        assert_eq!("Web.Default.svc.".parse::<DnsName>().unwrap().as_str(), "web.default.svc");
        for bad in ["", ".", "a..b", "a b", "-.é", "1.2.3.4", "::1"] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad}");
        }
        let name: DnsName = "web.ns.svc.cluster.local".parse().unwrap();
        assert!(name.is_within("svc.cluster.local"));
        assert!(!name.is_within("vc.cluster.local"));
    }

    #[test]
    fn authorities() {
        for (text, shown) in [
            ("web", "web:80"),
            ("web.ns:8080", "web.ns:8080"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("[::1]:443", "[::1]:443"),
            ("[::1]", "[::1]:80"),
        ] {
            assert_eq!(Authority::parse(text, 80).unwrap().to_string(), shown);
        }
        for bad in ["web:", "web:0", "web:65536", "web:+1", "::1", "::1:80", "[::1", "[1.2.3.4]:80", "a:b:c", ":80", "web:80 "] {
            assert!(Authority::parse(bad, 80).is_err(), "{bad}");
        }
    }
}
