//! Facts in, views out: what every proxy must know, as a function of what the cluster says.
//!
//! The index is pure and synchronous, and has one writer. Its law (a property test, `law.rs`): after any order of
//! changes, every view equals that of an index that was built from the final facts alone; and a view that has changed
//! depends on a topic that [`Index::apply`] has named. So whoever keeps views needs to look again only at those.
//!
//! It has two parts: the facts, by kind and name; and the links between them, which are only derived from facts, one by
//! one, so that the work for a change is bounded by what it is linked to. Views are computed from both when somebody
//! asks ([`views`]); nothing is kept twice.

mod facts;
#[cfg(test)]
mod law;
mod links;
mod policies;
mod routes;
#[cfg(test)]
pub(crate) mod scenario;
mod services;
mod settings;
pub mod views;
mod workloads;

pub use settings::{CLUSTER_NETWORKS, OPAQUE_PORTS, Settings};

use facts::Facts;
use homarus_model::{
    facts::{Change, Fact, Id, Kind},
    workload::Workload,
};
use links::Links;
use std::{collections::HashSet, net::IpAddr, sync::Arc};

/// All that is known of the cluster.
#[derive(Debug)]
pub struct Index {
    settings: Arc<Settings>,
    facts: Facts,
    links: Links,
}

/// What views depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A Service, its routes, and what these refer to.
    Service(Id),
    /// The endpoints of a Service.
    Endpoints(Id),
    /// What has this address.
    Ip(IpAddr),
    /// A workload.
    Workload(Workload),
    /// The inbound policies of a namespace.
    Policies(Arc<str>),
}

/// The topics that a change has touched.
pub type Dirty = HashSet<Topic>;

/// Why there is no view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// Nothing of that name is known; it may come.
    #[error("{0}")]
    NotFound(String),
    /// It can't be asked for.
    #[error("{0}")]
    Invalid(String),
    /// More than one thing answers to it.
    #[error("{0}")]
    Ambiguous(String),
    /// Whoever it would be about has ended for good, and nobody else tells the one who asks.
    #[error("{0}")]
    Over(&'static str),
    /// It can't be told now, whatever it is: asking again helps.
    #[error("{0}")]
    Busy(&'static str),
    /// The answer depends on more of the client than the key says: ask with a new key.
    #[error("the view depends on the client's node now")]
    Rekey,
}

impl Index {
    /// An index of an empty cluster.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), facts: Facts::default(), links: Links::default() }
    }

    /// What the control plane was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes in a change, and says what depends on it.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        let (kind, id, new) = match change {
            Change::Apply(fact) => (fact.kind(), fact.id().clone(), Some(fact)),
            Change::Delete(kind, id) => (kind, id, None),
        };
        let old = self.facts.find(kind, &id).cloned();
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.touch(&old, dirty);
            self.links.remove(&old);
            self.facts.remove(kind, &id);
        }
        if let Some(new) = new {
            self.links.insert(&new);
            self.facts.insert(new.clone());
            self.touch(&new, dirty);
        }
    }

    /// How many facts of a kind there are, in each namespace.
    pub fn count(&self, kind: Kind) -> impl Iterator<Item = (Arc<str>, usize)> {
        self.facts.count(kind)
    }

    /// Names what depends on a fact that is known (still, or now).
    fn touch(&self, fact: &Fact, dirty: &mut Dirty) {
        match fact {
            // Only the zone of a client matters, and that is settled when it asks.
            Fact::Node(_) => {}
            Fact::Owner(owner) => self.touch_owned(owner, dirty),
            Fact::Pod(pod) => self.touch_pod(pod, dirty),
            Fact::ExternalWorkload(external) => self.touch_external(external, dirty),
            Fact::Service(service) => self.touch_service(service, dirty),
            Fact::EndpointSlice(slice) => self.touch_slice(slice, dirty),
            Fact::ServiceProfile(id) => self.touch_profiled(&id.name, dirty),
            Fact::Server(server) => self.touch_server(server, dirty),
            Fact::ServerAuthorization(grant) => self.touch_policies(&grant.id.namespace, dirty),
            Fact::AuthorizationPolicy(policy) => self.touch_policies(&policy.id.namespace, dirty),
            Fact::MeshTlsAuthentication(x) => self.touch_authentication(Kind::MeshTlsAuthentication, &x.id, dirty),
            Fact::NetworkAuthentication(x) => self.touch_authentication(Kind::NetworkAuthentication, &x.id, dirty),
            Fact::Route(route) => self.touch_route(route, dirty),
        }
    }
}
