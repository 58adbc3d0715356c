//! Names of the control plane into addresses (proxy-wire §4).
//!
//! SRV records first: a headless Service answers with one target for each pod, whose first label is the pod's address with
//! dashes. Then A and AAAA. Answers are kept for their TTL, within the operator's bounds; whoever connects again asks again.

use crate::{
    config::ControlAddr,
    observe::{
        Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use hickory_resolver::{
    Resolver, TokioResolver,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use homarus_model::name::Host;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

/// Addresses of one name that are used, at most.
const MAX_ADDRS: usize = 256;
/// Answers that are kept: the control plane has three names.
const CACHE_SIZE: u64 = 16;

static RESOLUTIONS: Family = Family {
    name: "control_dns_resolutions",
    help: "Counts the number of DNS resolutions of control plane names",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The machine's resolver can't be used.
    #[error("no DNS resolver: {0}; is /etc/resolv.conf readable?")]
    Setup(NetError),
    /// The question failed.
    #[error("failed to resolve {name}: {source}")]
    Lookup {
        /// What was asked.
        name: String,
        /// Why.
        source: NetError,
    },
    /// The answer holds no address.
    #[error("{0} has no addresses: is the control plane running?")]
    Empty(String),
}

/// Resolves names, and remembers the answers. Made at the first name: most proxies of one machine never need it.
#[derive(Debug)]
pub struct Dns {
    ttl: (Option<Duration>, Option<Duration>),
    resolver: OnceLock<TokioResolver>,
    registry: Registry,
}

impl Dns {
    /// A resolver as the machine is configured, with bounds for TTLs.
    pub fn new(min_ttl: Option<Duration>, max_ttl: Option<Duration>, registry: Registry) -> Self {
        Self { ttl: (min_ttl, max_ttl), resolver: OnceLock::new(), registry }
    }

    /// The addresses behind a part of the control plane; `client` is who asks, for the metrics.
    pub async fn resolve(&self, client: &'static str, addr: &ControlAddr) -> Result<Vec<SocketAddr>, DnsError> {
        let port = addr.authority.port;
        let name = match &addr.authority.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            Host::Name(name) if name.as_str() == "localhost" => return Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]),
            // With its dot, if it has one: then search domains don't matter.
            Host::Name(_) => addr.text.rsplit_once(':').map_or(&*addr.text, |(host, _)| host),
        };
        let resolver = self.resolver()?;
        let mut ips = match resolver.lookup(name, RecordType::SRV).await {
            Ok(found) => found.answers().iter().filter_map(|r| srv_ip(&r.data)).collect(),
            Err(_) => Vec::new(),
        };
        self.count(client, "SRV", !ips.is_empty());
        if ips.is_empty() {
            let found = resolver.lookup_ip(name).await;
            self.count(client, "A/AAAA", found.is_ok());
            ips = found.map_err(|source| DnsError::Lookup { name: name.to_owned(), source })?.iter().collect();
        }
        ips.truncate(MAX_ADDRS);
        if ips.is_empty() {
            return Err(DnsError::Empty(name.to_owned()));
        }
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn resolver(&self) -> Result<&TokioResolver, DnsError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let mut builder = Resolver::builder(TokioRuntimeProvider::default()).map_err(DnsError::Setup)?;
        let options = builder.options_mut();
        (options.positive_min_ttl, options.positive_max_ttl) = self.ttl;
        options.cache_size = CACHE_SIZE;
        let resolver = builder.build().map_err(DnsError::Setup)?;
        Ok(self.resolver.get_or_init(|| resolver))
    }

    fn count(&self, client: &'static str, record_type: &'static str, found: bool) {
        let result = if found { "ok" } else { "not_found" };
        let labels = Labels::new().with("client", client).with("record_type", record_type).with("result", result);
        self.registry.counter(&RESOLUTIONS, labels).inc();
    }
}

/// The address in the first label of a target: `10-1-2-3.name.` or `fd00--1.name.`.
fn srv_ip(record: &RData) -> Option<IpAddr> {
    let RData::SRV(srv) = record else { return None };
    label_ip(&String::from_utf8_lossy(srv.target.iter().next()?))
}

fn label_ip(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::from);
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from);
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_stand_in_labels() {
        assert_eq!(label_ip("10-1-2-3"), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(label_ip("fd00--1-2"), Some("fd00::1:2".parse().unwrap()));
        for not in ["", "web-0", "10-1-2", "10-1-2-256"] {
            assert_eq!(label_ip(not), None, "{not}");
        }
    }
}
