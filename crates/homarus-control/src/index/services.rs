//! Services and their endpoints.

use super::{Dirty, Index, Topic, links::Link};
use homarus_model::facts::{EndpointSlice, Id, Kind, Service};
use std::net::IpAddr;

impl Index {
    /// The Services that have this cluster address.
    pub(super) fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Service> {
        let ids = self.links.of(&Link::Ip(ip)).filter(|(kind, _)| *kind == Kind::Service);
        ids.filter_map(|(_, id)| self.facts.service(id))
    }

    /// The parts of a Service's endpoints.
    pub(super) fn slices_of(&self, service: &Id) -> impl Iterator<Item = &EndpointSlice> {
        self.links.of(&Link::SliceOf(service.clone())).filter_map(|(_, id)| self.facts.slice(id))
    }

    pub(super) fn touch_service(&self, service: &Service, dirty: &mut Dirty) {
        dirty.insert(Topic::Endpoints(service.id.clone()));
        self.touch_told(&service.id, dirty);
        dirty.extend(service.cluster_ips.iter().copied().map(Topic::Ip));
        self.touch_parents_of_backend(&service.id, dirty);
    }

    /// What clients are told of a Service, under its name and its addresses, beside its endpoints.
    pub(super) fn touch_told(&self, service: &Id, dirty: &mut Dirty) {
        dirty.insert(Topic::Service(service.clone()));
        let addresses = self.facts.service(service).map(|s| &s.cluster_ips[..]).unwrap_or_default();
        dirty.extend(addresses.iter().copied().map(Topic::Ip));
    }

    pub(super) fn touch_slice(&self, slice: &EndpointSlice, dirty: &mut Dirty) {
        let service = slice.service.iter().map(|name| Id { namespace: slice.id.namespace.clone(), name: name.clone() });
        dirty.extend(service.map(Topic::Endpoints));
    }

    /// The Service that a ServiceProfile is about, by its name.
    pub(super) fn touch_profiled(&self, fqn: &str, dirty: &mut Dirty) {
        let local = fqn.strip_suffix(&*self.settings.cluster_domain).and_then(|name| name.strip_suffix(".svc."));
        if let Some((name, namespace)) = local.and_then(|name| name.split_once('.')) {
            self.touch_told(&Id::new(namespace, name), dirty);
        }
    }
}
