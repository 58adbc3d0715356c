//! Services as nf_tables rules, like kube-proxy's: what is dialed at a ClusterIP goes to an endpoint drawn by lot.
//!
//! [`Ruleset::of`] is pure: what Services and EndpointSlices say into what the kernel must do. The whole table is
//! replaced in one transaction at each change; connections that are there keep their endpoint (conntrack).
//! What is addressed to a ClusterIP and went to no endpoint is refused, so that a client learns at once.
//! `sessionAffinity`, NodePort and LoadBalancer are absent: they belong to a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{SERVICE_NAME, headless};

/// Endpoints of one Service port beyond this number get no traffic through the ClusterIP.
pub(crate) const ENDPOINTS_MAX: usize = 1000;

/// A transport that a Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) fn named(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What a client dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frontend {
    pub(crate) address: Ipv4Addr,
    pub(crate) transport: Transport,
    pub(crate) port: u16,
}

/// All that the kernel must know of Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Frontends with at least one endpoint.
    pub(crate) services: BTreeMap<Frontend, Vec<(Ipv4Addr, u16)>>,
}

impl Ruleset {
    /// Combines Services with their slices.
    pub(crate) fn of<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|l| l.get(SERVICE_NAME));
            if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) {
                let key = (namespace.as_str(), service.as_str());
                by_service.entry(key).or_default().push(slice);
            }
        }
        let mut ruleset = Self::default();
        for service in services.into_iter().filter(|s| !headless(s)) {
            let key =
                (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default());
            let slices = by_service.get(&key).map_or(&[][..], Vec::as_slice);
            ruleset.add(service, slices);
        }
        ruleset
    }

    fn add(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let addresses: BTreeSet<Ipv4Addr> =
            spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref()).filter_map(|ip| ip.parse().ok()).collect();
        for port in spec.ports.iter().flatten() {
            let Some(transport) = Transport::named(port.protocol.as_deref()) else {
                continue;
            };
            let name = port.name.as_deref().unwrap_or_default();
            let endpoints = endpoints(slices, name, transport);
            let Ok(number) = u16::try_from(port.port) else { continue };
            for address in addresses.iter().filter(|_| !endpoints.is_empty()) {
                let frontend = Frontend { address: *address, transport, port: number };
                self.services.insert(frontend, endpoints.clone());
            }
        }
    }

    /// The addresses that may dial themselves through a Service.
    pub(crate) fn hairpins(&self) -> BTreeSet<Ipv4Addr> {
        self.services.values().flatten().map(|(ip, _)| *ip).collect()
    }
}

/// The ready endpoints of one port; where none is ready, those that still serve while they end (KEP-1669).
fn endpoints(slices: &[&EndpointSlice], port: &str, transport: Transport) -> Vec<(Ipv4Addr, u16)> {
    let mut ready = BTreeSet::new();
    let mut ending = BTreeSet::new();
    for slice in slices {
        let number = slice.ports.iter().flatten().find_map(|p| {
            let named = p.name.as_deref().unwrap_or_default() == port;
            let same = Transport::named(p.protocol.as_deref()) == Some(transport);
            p.port.filter(|_| named && same)
        });
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            let Some(address) = address else { continue };
            if conditions.ready.unwrap_or(true) {
                ready.insert((address, number));
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                ending.insert((address, number));
            }
        }
    }
    let chosen = if ready.is_empty() { ending } else { ready };
    chosen.into_iter().take(ENDPOINTS_MAX).collect()
}
