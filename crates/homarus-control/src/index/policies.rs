//! Servers and who may ask them.

use super::{Dirty, Index, Topic, links::Link, workloads::Subject};
use homarus_model::{
    facts::{Id, IdentityPattern, Kind, Proof, Server, ServerProtocol, Workloads},
    inbound::{Authentication, Suffix},
};

impl Index {
    /// The Server that is in force on a port of a workload: of all that claim it, the oldest, then the first by name.
    pub(super) fn server_of(&self, subject: Subject<'_>, port: u16) -> Option<&Server> {
        let servers = self.facts.servers_in(&subject.id().namespace);
        let claims = servers.filter(|server| subject.is_selected_by(server) && subject.means(&server.port, port));
        claims.min_by(|a, b| (a.age, &a.id).cmp(&(b.age, &b.id)))
    }

    /// Whether any Server makes a port of a workload opaque for its clients.
    pub(super) fn is_opaque_by_server(&self, subject: Subject<'_>, port: u16) -> bool {
        self.facts.servers_in(&subject.id().namespace).any(|server| {
            server.protocol == ServerProtocol::Opaque && subject.is_selected_by(server) && subject.means(&server.port, port)
        })
    }

    /// What clients have to prove. Patterns that can't be a name of this mesh prove nothing.
    pub(super) fn authentication(&self, proof: &Proof) -> Option<Authentication> {
        match proof {
            Proof::Unauthenticated => Some(Authentication::Unauthenticated),
            Proof::Tls => Some(Authentication::TlsUnauthenticated),
            Proof::Identities(patterns) => self.identities(patterns),
        }
    }

    /// Clients with one of these identities; none if there is none.
    pub(super) fn identities(&self, patterns: &[IdentityPattern]) -> Option<Authentication> {
        let naming = &self.settings.naming;
        let mut identities = std::collections::BTreeSet::new();
        let mut suffixes = Vec::new();
        for pattern in patterns {
            match pattern {
                IdentityPattern::Any => suffixes.push(Suffix::any()),
                IdentityPattern::Suffix(suffix) => suffixes.push(Suffix::of_parts(&suffix.split('.').collect::<Vec<_>>())),
                IdentityPattern::Exact(id) => {
                    identities.insert(id.clone());
                }
                IdentityPattern::ServiceAccount(id) => {
                    identities.extend(naming.service_account(&id.namespace, &id.name));
                }
                IdentityPattern::Namespace(namespace) => {
                    let (ns, domain) = (&*naming.control_plane_ns, &*naming.trust_domain);
                    suffixes.push(Suffix::of_parts(&[&**namespace, "serviceaccount", "identity", ns, domain]));
                }
            }
        }
        let none = identities.is_empty() && suffixes.is_empty();
        (!none).then_some(Authentication::TlsAuthenticated { identities, suffixes })
    }

    pub(super) fn touch_policies(&self, namespace: &std::sync::Arc<str>, dirty: &mut Dirty) {
        dirty.insert(Topic::Policies(namespace.clone()));
    }

    pub(super) fn touch_authentication(&self, kind: Kind, id: &Id, dirty: &mut Dirty) {
        for (_, policy) in self.links.of(&Link::Asks(kind, id.clone())) {
            self.touch_policies(&policy.namespace, dirty);
        }
    }

    pub(super) fn touch_server(&self, server: &Server, dirty: &mut Dirty) {
        let namespace = &server.id.namespace;
        self.touch_policies(namespace, dirty);
        if server.protocol != ServerProtocol::Opaque {
            return;
        }
        // Clients have to know that a port is opaque, too.
        match &server.workloads {
            Workloads::Pods(selector) => {
                for pod in self.facts.pods_in(namespace).filter(|pod| selector.matches(&pod.labels)) {
                    self.touch_addressed(Subject::Pod(pod), dirty);
                }
            }
            Workloads::External(selector) => {
                for external in self.facts.externals_in(namespace).filter(|x| selector.matches(&x.labels)) {
                    self.touch_addressed(Subject::External(external), dirty);
                }
            }
        }
    }
}
