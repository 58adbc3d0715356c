//! Links between facts: which facts name what.
//!
//! The links of a fact depend on nothing but that fact, so that taking it out takes exactly these out again.

use homarus_model::facts::{Fact, Id, IdentitySource, Kind, OwnerKind, ParentKind, Route, SliceTarget};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// What a fact names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Link {
    /// The address is its own: Services, pods, external workloads.
    Ip(IpAddr),
    /// It takes ports of the node with this address: pods.
    HostIp(IpAddr),
    /// It is a part of the Service's endpoints: slices.
    SliceOf(Id),
    /// It holds this workload: slices.
    Holds(Kind, Id),
    /// It belongs to this: pods.
    OwnedBy(OwnerKind, Id),
    /// It is attached to the Service: routes.
    Parent(Id),
    /// It sends requests to the Service: routes.
    Backend(Id),
    /// It asks for this authentication: policies.
    Asks(Kind, Id),
}

#[derive(Debug, Default)]
pub(super) struct Links(HashMap<Link, BTreeSet<(Kind, Id)>>);

impl Links {
    /// The facts that name this.
    pub(super) fn of<'a>(&'a self, link: &Link) -> impl Iterator<Item = &'a (Kind, Id)> + use<'a> {
        self.0.get(link).into_iter().flatten()
    }

    pub(super) fn insert(&mut self, fact: &Fact) {
        for link in links(fact) {
            self.0.entry(link).or_default().insert((fact.kind(), fact.id().clone()));
        }
    }

    pub(super) fn remove(&mut self, fact: &Fact) {
        let this = (fact.kind(), fact.id().clone());
        for link in links(fact) {
            if let Some(facts) = self.0.get_mut(&link) {
                facts.remove(&this);
                if facts.is_empty() {
                    self.0.remove(&link);
                }
            }
        }
    }
}

fn links(fact: &Fact) -> Vec<Link> {
    match fact {
        Fact::Pod(pod) => {
            let mut links: Vec<_> = pod.ips.iter().copied().map(Link::Ip).collect();
            if pod.ports.iter().any(|p| p.host_port.is_some()) {
                links.extend(pod.host_ips.iter().copied().map(Link::HostIp));
            }
            let owner = pod.owner.as_ref().and_then(|owner| {
                let kind = match &*owner.kind {
                    "replicaset" => OwnerKind::ReplicaSet,
                    "job" => OwnerKind::Job,
                    _ => return None,
                };
                Some(Link::OwnedBy(kind, Id { namespace: pod.id.namespace.clone(), name: owner.name.clone() }))
            });
            links.extend(owner);
            links
        }
        Fact::ExternalWorkload(external) => external.ips.iter().copied().map(Link::Ip).collect(),
        Fact::Service(service) => service.cluster_ips.iter().copied().map(Link::Ip).collect(),
        Fact::EndpointSlice(slice) => {
            let service = slice.service.iter().map(|name| Id { namespace: slice.id.namespace.clone(), name: name.clone() });
            let held = slice.endpoints.iter().filter_map(|endpoint| match &endpoint.target {
                SliceTarget::Pod(id) => Some(Link::Holds(Kind::Pod, id.clone())),
                SliceTarget::External(id) => Some(Link::Holds(Kind::ExternalWorkload, id.clone())),
                SliceTarget::Unnamed | SliceTarget::Other => None,
            });
            service.map(Link::SliceOf).chain(held).collect()
        }
        Fact::AuthorizationPolicy(policy) => {
            let clients = policy.clients.iter().filter_map(|source| match source {
                IdentitySource::MeshTls(id) => Some(Link::Asks(Kind::MeshTlsAuthentication, id.clone())),
                IdentitySource::ServiceAccount(_) => None,
            });
            clients.chain(policy.networks.iter().map(|id| Link::Asks(Kind::NetworkAuthentication, id.clone()))).collect()
        }
        Fact::Route(route) => route_links(route),
        Fact::Node(_)
        | Fact::Owner(_)
        | Fact::ServiceProfile(_)
        | Fact::Server(_)
        | Fact::ServerAuthorization(_)
        | Fact::MeshTlsAuthentication(_)
        | Fact::NetworkAuthentication(_) => Vec::new(),
    }
}

fn route_links(route: &Route) -> Vec<Link> {
    let mut links = Vec::new();
    for parent in route.parents.iter().filter(|p| p.kind == ParentKind::Service) {
        links.push(Link::Parent(parent.id.clone()));
        let backends = route.backends().into_iter().map(|(namespace, name)| {
            // A backend without a namespace is in the parent's (control-plane §6.2).
            let namespace = namespace.unwrap_or(&parent.id.namespace).clone();
            Link::Backend(Id { namespace, name: name.clone() })
        });
        links.extend(backends);
    }
    links
}
