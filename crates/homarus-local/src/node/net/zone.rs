//! The names of the cluster (the Kubernetes DNS specification, 1.1), built from Services and EndpointSlices.
//!
//! Pure: [`Zone::of`] makes a whole new zone at each change, [`Zone::ask`] answers from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{SERVICE_NAME, headless};

/// The endpoints of a headless Service beyond this number have no record.
const RECORDS_MAX: usize = 1000;

/// What a name stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    /// Port and target.
    pub(crate) services: BTreeSet<(u16, String)>,
    pub(crate) alias: Option<String>,
}

/// What the zone says to a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name is not below the cluster's domain.
    Elsewhere,
    /// It is, and nobody has it.
    Nothing,
    Found(Entry),
    /// The name of an address.
    Pointer(String),
}

/// All names of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    domain: String,
    names: BTreeMap<String, Entry>,
    pointers: BTreeMap<Ipv4Addr, String>,
}

impl Zone {
    /// The names that Services and their endpoints have below `domain`.
    pub(crate) fn of<'a>(
        domain: &str,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut zone = Self { domain: domain.to_lowercase(), ..Self::default() };
        let mut headless_services = BTreeMap::new();
        for service in services {
            let Some(name) = zone.service_name(service) else { continue };
            if headless(service) {
                zone.alias(&name, service);
                let all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses);
                let meta = &service.metadata;
                let key = (meta.namespace.clone(), meta.name.clone());
                headless_services.insert(key, (name, all == Some(true)));
            } else {
                zone.cluster_ip(&name, service);
            }
        }
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|l| l.get(SERVICE_NAME)).cloned();
            let key = (slice.metadata.namespace.clone(), service);
            if let Some((name, all)) = headless_services.get(&key) {
                zone.endpoints(name, slice, *all);
            }
        }
        zone
    }

    fn service_name(&self, service: &Service) -> Option<String> {
        let meta = &service.metadata;
        let (name, namespace) = (meta.name.as_ref()?, meta.namespace.as_ref()?);
        Some(format!("{name}.{namespace}.svc.{}", self.domain))
    }

    fn alias(&mut self, name: &str, service: &Service) {
        let spec = service.spec.as_ref();
        // A headless Service has its name before it has an endpoint.
        let entry = self.names.entry(name.into()).or_default();
        entry.alias = spec.filter(|s| s.type_.as_deref() == Some("ExternalName")).and_then(|s| s.external_name.clone());
    }

    fn cluster_ip(&mut self, name: &str, service: &Service) {
        let Some(spec) = &service.spec else { return };
        let addresses: BTreeSet<Ipv4Addr> =
            spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).filter_map(|ip| ip.parse().ok()).collect();
        for address in &addresses {
            self.pointers.insert(*address, name.into());
        }
        self.names.entry(name.into()).or_default().addresses.extend(addresses);
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let number = u16::try_from(port.port).unwrap_or(0);
            self.service_record(name, port.name.as_deref(), protocol, (number, name.into()));
        }
    }

    fn endpoints(&mut self, service: &str, slice: &EndpointSlice, not_ready_too: bool) {
        for endpoint in slice.endpoints.iter().take(RECORDS_MAX) {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            let Some(address) = address.filter(|_| ready || not_ready_too) else { continue };
            let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
            let name = format!("{host}.{service}");
            for name in [service, name.as_str()] {
                let entry = self.names.entry(name.into()).or_default();
                entry.addresses.insert(address);
            }
            self.pointers.insert(address, name.clone());
            for port in slice.ports.iter().flatten() {
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                let number = port.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
                let target = (number, name.clone());
                self.service_record(service, port.name.as_deref(), protocol, target);
            }
        }
    }

    fn service_record(&mut self, service: &str, port: Option<&str>, protocol: &str, target: (u16, String)) {
        let Some(port) = port.filter(|p| !p.is_empty()) else { return };
        let name = format!("_{port}._{}.{service}", protocol.to_lowercase());
        self.names.entry(name).or_default().services.insert(target);
    }

    /// What the zone says to a name in lower case, without its last dot.
    pub(crate) fn ask(&self, name: &str) -> Answer {
        if let Some(address) = reverse(name) {
            let pointer = self.pointers.get(&address).cloned();
            return pointer.map_or(Answer::Elsewhere, Answer::Pointer);
        }
        let Some(rest) = name.strip_suffix(self.domain.as_str()) else {
            return Answer::Elsewhere;
        };
        if !rest.is_empty() && !rest.ends_with('.') {
            return Answer::Elsewhere;
        }
        if let Some(entry) = self.names.get(name) {
            return Answer::Found(entry.clone());
        }
        if let Some(address) = pod_name(rest) {
            return Answer::Found(Entry { addresses: [address].into(), ..Entry::default() });
        }
        // A name on the way to others exists without records (RFC 8020).
        let below = format!(".{name}");
        if rest.is_empty() || self.names.keys().any(|k| k.ends_with(&below)) {
            return Answer::Found(Entry::default());
        }
        Answer::Nothing
    }
}

fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

/// `a-b-c-d.<namespace>.pod.`
fn pod_name(rest: &str) -> Option<Ipv4Addr> {
    let (address, rest) = rest.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    (rest == "pod." && !namespace.is_empty()).then_some(())?;
    address.replace('-', ".").parse().ok()
}

/// `d.c.b.a.in-addr.arpa`
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = name.strip_suffix(".in-addr.arpa")?.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}
