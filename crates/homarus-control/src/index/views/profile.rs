//! What is known of an address or a name that a client dialed (control-plane §3).

use super::Key;
use crate::index::{Absence, Index, Topic, links::Link, workloads::Subject};
use homarus_model::{
    Meta,
    endpoint::Endpoint,
    facts::{ExternalWorkload, Id, Kind, Phase, Pod, Service, SliceTarget},
    meta::Resource,
    profile::Profile,
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// Which profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProfileKey {
    /// What the client dialed.
    pub target: ProfileTarget,
    /// The client's namespace: it may have profiles of its own.
    pub client: Arc<str>,
}

/// What a client dialed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProfileTarget {
    /// An address.
    Addr(SocketAddr),
    /// A Service's port.
    Service(Id, u16),
    /// A port of the endpoint with this hostname.
    Instance(Arc<str>, Id, u16),
}

impl Key for ProfileKey {
    type View = Profile;

    fn topics(&self) -> Vec<Topic> {
        match &self.target {
            ProfileTarget::Addr(addr) => vec![Topic::Ip(addr.ip())],
            ProfileTarget::Service(id, _) => vec![Topic::Service(id.clone())],
            ProfileTarget::Instance(_, id, _) => vec![Topic::Endpoints(id.clone())],
        }
    }

    fn view(&self, index: &Index) -> Result<Profile, Absence> {
        match &self.target {
            ProfileTarget::Addr(addr) => {
                let mut services = index.services_at(addr.ip());
                match (services.next(), services.next()) {
                    (None, _) => index.address_profile(*addr),
                    (Some(service), None) => Ok(index.service_profile(service, addr.port(), &self.client)),
                    (Some(a), Some(b)) => {
                        Err(Absence::Ambiguous(format!("{} is the cluster address of {} and of {}", addr.ip(), a.id, b.id)))
                    }
                }
            }
            ProfileTarget::Service(id, port) => match index.facts.service(id) {
                Some(service) => Ok(index.service_profile(service, *port, &self.client)),
                None => Err(Absence::NotFound(format!("no such service: {id}"))),
            },
            ProfileTarget::Instance(hostname, id, port) => index.instance_profile(hostname, id, *port),
        }
    }
}

impl Index {
    fn service_profile(&self, service: &Service, port: u16, client: &str) -> Profile {
        if service.port(port).is_none() {
            return Profile::default();
        }
        let Id { namespace, name } = &service.id;
        let fqn: Arc<str> = self.settings().service_name(namespace, name).into();
        let opaque = service.opaque.as_ref().unwrap_or(&self.settings().default_opaque_ports);
        // The client's own profile comes before that of the service's namespace.
        let profiles = [client, &**namespace].map(|ns| Id::new(ns, fqn.clone()));
        let profile = profiles.iter().find(|id| self.facts.has_profile(id));
        Profile {
            opaque_protocol: opaque.contains(port),
            endpoint: None,
            parent: Some(Meta::service(namespace.clone(), name.clone(), port)),
            profile: profile.map(profile_meta),
            fqn: Some(fqn),
        }
    }

    fn instance_profile(&self, hostname: &str, service: &Id, port: u16) -> Result<Profile, Absence> {
        let absent = || Absence::NotFound(format!("no endpoint {hostname} of service {service}"));
        let mut endpoints = self.slices_of(service).flat_map(|slice| &slice.endpoints);
        let endpoint = endpoints.find(|e| e.hostname.as_deref() == Some(hostname)).ok_or_else(absent)?;
        let addr = endpoint.addresses.first().map(|ip| SocketAddr::new(*ip, port)).ok_or_else(absent)?;
        match &endpoint.target {
            SliceTarget::Pod(id) => Ok(self.pod_profile(addr, self.facts.pod(id).ok_or_else(absent)?)),
            SliceTarget::External(id) => Ok(self.external_profile(addr, self.facts.external(id).ok_or_else(absent)?)),
            SliceTarget::Unnamed | SliceTarget::Other => Ok(self.unknown_profile(addr)),
        }
    }

    /// The profile of an address that is no Service's.
    fn address_profile(&self, addr: SocketAddr) -> Result<Profile, Absence> {
        if let Some(pod) = self.one_pod(Link::Ip(addr.ip()), addr, |_| true)? {
            return Ok(self.pod_profile(addr, pod));
        }
        let exposes = |pod: &Pod| pod.ports.iter().any(|p| p.host_port == Some(addr.port()));
        if let Some(pod) = self.one_pod(Link::HostIp(addr.ip()), addr, exposes)? {
            let behind = pod.ports.iter().find(|p| p.host_port == Some(addr.port()));
            // The node's port leads to the pod's, where its proxy can be reached as well.
            let direct = behind.zip(pod.ips.first()).map(|(port, ip)| SocketAddr::new(*ip, port.port));
            return Ok(self.pod_profile(direct.unwrap_or(addr), pod));
        }
        let ids = self.links.of(&Link::Ip(addr.ip())).filter(|(kind, _)| *kind == Kind::ExternalWorkload);
        let declares = |id| self.facts.external(id).filter(|x| x.ports.iter().any(|p| p.port == addr.port()));
        let mut found = ids.filter_map(|(_, id)| declares(id));
        match (found.next(), found.next()) {
            (None, _) => Ok(self.unknown_profile(addr)),
            (Some(external), None) => Ok(self.external_profile(addr, external)),
            (Some(a), Some(b)) => Err(shared(addr, &a.id, &b.id)),
        }
    }

    fn unknown_profile(&self, addr: SocketAddr) -> Profile {
        workload_profile(Endpoint::plain(addr), self.is_opaque_by_default(addr.port()))
    }

    fn external_profile(&self, addr: SocketAddr, external: &ExternalWorkload) -> Profile {
        let mut endpoint = self.external_endpoint(addr, external, "");
        name_namespace(&mut endpoint, &external.id.namespace);
        workload_profile(endpoint, self.is_opaque(Subject::External(external), addr.port()))
    }

    /// The only live pod behind a link.
    fn one_pod(&self, link: Link, addr: SocketAddr, also: impl Fn(&Pod) -> bool) -> Result<Option<&Pod>, Absence> {
        let ids = self.links.of(&link).filter(|(kind, _)| *kind == Kind::Pod);
        let live = |pod: &&Pod| !pod.terminating && !matches!(pod.phase, Phase::ProxyOnly | Phase::Done) && also(pod);
        let mut pods = ids.filter_map(|(_, id)| self.facts.pod(id)).filter(live);
        match (pods.next(), pods.next()) {
            (Some(a), Some(b)) => Err(shared(addr, &a.id, &b.id)),
            (pod, _) => Ok(pod),
        }
    }

    fn pod_profile(&self, addr: SocketAddr, pod: &Pod) -> Profile {
        let opaque = self.is_opaque(Subject::Pod(pod), addr.port());
        let known = (pod.phase == Phase::Running).then(|| self.pod_endpoint(addr, pod, "")).flatten();
        let Some(mut endpoint) = known else {
            return workload_profile(Endpoint::plain(addr), opaque);
        };
        name_namespace(&mut endpoint, &pod.id.namespace);
        workload_profile(endpoint, opaque)
    }
}

fn workload_profile(endpoint: Endpoint, opaque_protocol: bool) -> Profile {
    Profile { opaque_protocol, endpoint: Some(endpoint), ..Profile::default() }
}

fn name_namespace(endpoint: &mut Endpoint, namespace: &str) {
    let labels: &mut BTreeMap<_, _> = Arc::make_mut(&mut endpoint.labels);
    labels.insert("namespace".to_owned(), namespace.to_owned());
}

fn shared(addr: SocketAddr, a: &Id, b: &Id) -> Absence {
    Absence::Ambiguous(format!("{addr} belongs to {a} and to {b}"))
}

fn profile_meta(id: &Id) -> Meta {
    Meta::Resource(Resource {
        group: "linkerd.io".into(),
        kind: "".into(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        section: "".into(),
        port: None,
    })
}
