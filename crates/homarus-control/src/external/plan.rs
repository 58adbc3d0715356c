//! Which slices there should be.

use crate::index::Index;
use homarus_model::facts::{ExternalWorkload, Id, PortRef, Service, ServiceKind};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// How many endpoints a slice holds, as Kubernetes' own do.
const MAX_ENDPOINTS: usize = 100;
/// Where Services are left alone.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As EndpointSlices call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}

/// A slice that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The family of its addresses.
    pub family: Family,
    /// Names and numbers of its ports.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Its endpoints.
    pub addresses: Vec<SliceAddress>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceAddress {
    /// The address.
    pub ip: IpAddr,
    /// The workload.
    pub workload: Id,
    /// Whether it takes traffic.
    pub ready: bool,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
}

/// The slices of every Service that selects external workloads.
pub(super) fn slices(index: &Index) -> BTreeMap<Id, Vec<Slice>> {
    let mut all = BTreeMap::new();
    for (service, workloads) in index.services_of_externals() {
        let skipped = service.kind == ServiceKind::ExternalName || *service.id.namespace == *SYSTEM_NAMESPACE;
        let slices = if skipped { Vec::new() } else { of_service(service, &workloads) };
        if !slices.is_empty() {
            all.insert(service.id.clone(), slices);
        }
    }
    all
}

/// Names and numbers of ports.
type Ports = Vec<(Arc<str>, u16)>;

fn of_service(service: &Service, workloads: &[&ExternalWorkload]) -> Vec<Slice> {
    let mut groups: BTreeMap<(Family, Ports), Vec<SliceAddress>> = BTreeMap::new();
    let (four, six) = service.families;
    let families = [(Family::V4, four), (Family::V6, six)].into_iter().filter_map(|(family, wanted)| wanted.then_some(family));
    for family in families {
        for workload in workloads {
            let ports: Vec<_> =
                service.ports.iter().filter_map(|p| Some((p.name.clone(), resolve(&p.target, workload)?))).collect();
            for ip in workload.ips.iter().copied().filter(|ip| family.has(*ip)) {
                let (id, zone) = (workload.id.clone(), workload.zone.clone());
                let address = SliceAddress { ip, workload: id, ready: workload.ready, zone };
                groups.entry((family, ports.clone())).or_default().push(address);
            }
        }
    }
    let chunked = groups.into_iter().flat_map(|((family, ports), addresses)| {
        let chunks: Vec<_> = addresses.chunks(MAX_ENDPOINTS).map(<[_]>::to_vec).collect();
        chunks.into_iter().map(move |addresses| Slice { family, ports: ports.clone(), addresses })
    });
    chunked.collect()
}

/// A target port has to be declared by the workload.
fn resolve(target: &PortRef, workload: &ExternalWorkload) -> Option<u16> {
    match target {
        PortRef::Number(number) => workload.ports.iter().find(|p| p.port == *number).map(|p| p.port),
        PortRef::Name(name) => workload.named_ports(name).next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::scenario::{World, external, id, ip, service};
    use homarus_model::facts::{Kind, Selector};

    fn world() -> World {
        let selecting = Service { selector: Some(Selector::of_labels([("app", "web")])), ..service("shop/web", "10.2.0.1") };
        World::new().with(selecting).with(service("shop/other", "10.2.0.2"))
    }

    #[test]
    fn a_service_gets_a_slice_of_the_workloads_it_selects() {
        let world = world()
            .with(external("shop/vm", "web", "192.0.2.1"))
            .with(external("shop/db", "db", "192.0.2.2"))
            .with(external("else/vm", "web", "192.0.2.3"));
        let all = slices(&world.0);
        assert_eq!(all.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/web"]);
        let [slice] = &all[&id("shop/web")][..] else { panic!("{all:?}") };
        assert_eq!((slice.family, &slice.ports[..]), (Family::V4, &[("http".into(), 8080)][..]));
        assert_eq!(slice.addresses.len(), 1);
        assert_eq!((slice.addresses[0].ip, slice.addresses[0].ready), (ip("192.0.2.1"), true));
        let mut world = world;
        world.delete(Kind::ExternalWorkload, "shop/vm");
        assert!(slices(&world.0).is_empty());
    }

    #[test]
    fn families_and_ports_make_slices_of_their_own() {
        let mut two = external("shop/two", "web", "192.0.2.2");
        two.ips.push(ip("fd00::2"));
        let mut other_port = external("shop/three", "web", "192.0.2.3");
        other_port.ports[0].port = 9090;
        let world = world().with(external("shop/one", "web", "192.0.2.1")).with(two).with(other_port);
        let all = &slices(&world.0)[&id("shop/web")];
        let shape: Vec<_> = all.iter().map(|s| (s.family, s.ports[0].1, s.addresses.len())).collect();
        assert_eq!(shape, [(Family::V4, 8080, 2), (Family::V4, 9090, 1), (Family::V6, 8080, 1)]);
    }

    #[test]
    fn a_slice_holds_a_hundred() {
        let mut all = world();
        for n in 0..201u8 {
            all.tell(external(&format!("shop/vm-{n:03}"), "web", &format!("192.0.2.{n}")));
        }
        let sizes: Vec<_> = slices(&all.0)[&id("shop/web")].iter().map(|s| s.addresses.len()).collect();
        assert_eq!(sizes, [100, 100, 1]);
    }

    #[test]
    fn undeclared_ports_and_system_services_have_none() {
        let mut undeclared = external("shop/vm", "web", "192.0.2.1");
        undeclared.ports.clear();
        let all = slices(&world().with(undeclared).0);
        assert!(all[&id("shop/web")][0].ports.is_empty());
        let selector = Some(Selector::of_labels([("app", "web")]));
        let system = Service { selector, ..service("kube-system/web", "10.2.0.3") };
        let world = World::new().with(system).with(external("kube-system/vm", "web", "192.0.2.1"));
        assert!(slices(&world.0).is_empty());
    }
}
