//! Facts by kind and name.

use homarus_model::facts::{
    AuthorizationPolicy, EndpointSlice, ExternalWorkload, Fact, Id, Kind, MeshTlsAuthentication, NetworkAuthentication, Node,
    OwnerKind, OwnerObject, Pod, Route, RouteKind, Server, ServerAuthorization, Service,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(super) struct Facts(HashMap<Kind, BTreeMap<Id, Arc<Fact>>>);

/// Typed views into the table: a fact is stored under its own kind only.
macro_rules! finders {
    ($($name:ident: $kind:ident),*) => {
        $(pub(super) fn $name(&self, id: &Id) -> Option<&$kind> {
            match &**self.find(Kind::$kind, id)? {
                Fact::$kind(fact) => Some(fact),
                _ => None,
            }
        })*
    };
}
macro_rules! scans {
    ($($name:ident: $kind:ident),*) => {
        $(pub(super) fn $name<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a $kind> + use<'a> {
            self.in_namespace(Kind::$kind, namespace).filter_map(|fact| match fact {
                Fact::$kind(fact) => Some(fact),
                _ => None,
            })
        })*
    };
}

impl Facts {
    finders!(
        pod: Pod, external: ExternalWorkload, node: Node, service: Service, slice: EndpointSlice,
        mesh_tls: MeshTlsAuthentication, network: NetworkAuthentication
    );
    scans!(
        pods_in: Pod, externals_in: ExternalWorkload, services_in: Service, servers_in: Server, grants_in: ServerAuthorization,
        policies_in: AuthorizationPolicy
    );

    pub(super) fn owner(&self, kind: OwnerKind, id: &Id) -> Option<&OwnerObject> {
        match &**self.find(Kind::Owner(kind), id)? {
            Fact::Owner(fact) => Some(fact),
            _ => None,
        }
    }

    pub(super) fn route(&self, kind: RouteKind, id: &Id) -> Option<&Route> {
        match &**self.find(Kind::Route(kind), id)? {
            Fact::Route(fact) => Some(fact),
            _ => None,
        }
    }

    pub(super) fn routes_in<'a>(&'a self, kind: RouteKind, namespace: &str) -> impl Iterator<Item = &'a Route> + use<'a> {
        self.in_namespace(Kind::Route(kind), namespace).filter_map(|fact| match fact {
            Fact::Route(fact) => Some(fact),
            _ => None,
        })
    }

    pub(super) fn has_profile(&self, id: &Id) -> bool {
        self.find(Kind::ServiceProfile, id).is_some()
    }

    pub(super) fn find(&self, kind: Kind, id: &Id) -> Option<&Arc<Fact>> {
        self.0.get(&kind)?.get(id)
    }

    pub(super) fn insert(&mut self, fact: Arc<Fact>) {
        self.0.entry(fact.kind()).or_default().insert(fact.id().clone(), fact);
    }

    pub(super) fn remove(&mut self, kind: Kind, id: &Id) {
        if let Some(facts) = self.0.get_mut(&kind) {
            facts.remove(id);
        }
    }

    pub(super) fn count(&self, kind: Kind) -> impl Iterator<Item = (Arc<str>, usize)> {
        let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for id in self.0.get(&kind).into_iter().flat_map(BTreeMap::keys) {
            *counts.entry(id.namespace.clone()).or_default() += 1;
        }
        counts.into_iter()
    }

    fn in_namespace<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Fact> + use<'a> {
        let first = Id::new(namespace, "");
        let namespace = first.namespace.clone();
        let facts = self.0.get(&kind).into_iter().flat_map(move |facts| facts.range(first.clone()..));
        facts.take_while(move |(id, _)| id.namespace == namespace).map(|(_, fact)| &**fact)
    }
}
