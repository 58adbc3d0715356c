//! Routes: which are in force where.

use super::{Dirty, Index, links::Link};
use homarus_model::facts::{Id, Kind, ParentKind, Route, RouteGroup, RouteKind, Server};

/// All kinds of routes.
const KINDS: [RouteKind; 3] = [RouteKind::Http(RouteGroup::Gateway), RouteKind::Http(RouteGroup::Policy), RouteKind::Grpc];

impl Index {
    /// The routes in force on a Server, oldest first.
    pub(super) fn routes_on_server(&self, server: &Server) -> Vec<&Route> {
        let namespace = &*server.id.namespace;
        let all = KINDS.into_iter().flat_map(|kind| self.facts.routes_in(kind, namespace));
        in_order(all.filter(|route| is_on_server(route, server)).collect())
    }

    /// The routes in force for clients of a namespace on a Service's port, oldest first: those of the Service's own
    /// namespace, and the client's own.
    pub(super) fn routes_on_service(&self, service: &Id, port: u16, client: &str) -> Vec<&Route> {
        let all = self.links.of(&Link::Parent(service.clone())).filter_map(|(kind, id)| match kind {
            Kind::Route(kind) => self.facts.route(*kind, id),
            _ => None,
        });
        let is_told = |route: &&Route| route.id.namespace == service.namespace || *route.id.namespace == *client;
        in_order(all.filter(is_told).filter(|route| is_on_service(route, service, port)).collect())
    }

    pub(super) fn touch_route(&self, route: &Route, dirty: &mut Dirty) {
        for parent in &route.parents {
            match parent.kind {
                ParentKind::Server => self.touch_policies(&route.id.namespace, dirty),
                ParentKind::Service => self.touch_told(&parent.id, dirty),
            }
        }
    }

    /// What clients are told of Services depends on the Services that their routes refer to.
    pub(super) fn touch_parents_of_backend(&self, backend: &Id, dirty: &mut Dirty) {
        for (kind, id) in self.links.of(&Link::Backend(backend.clone())) {
            let Kind::Route(kind) = kind else { continue };
            let Some(route) = self.facts.route(*kind, id) else { continue };
            for parent in route.parents.iter().filter(|p| p.kind == ParentKind::Service) {
                self.touch_told(&parent.id, dirty);
            }
        }
    }
}

fn in_order(mut routes: Vec<&Route>) -> Vec<&Route> {
    routes.sort_by(|a, b| (a.age, &a.id.name, a.kind, &a.id.namespace).cmp(&(b.age, &b.id.name, b.kind, &b.id.namespace)));
    routes
}

/// A route whose reference to a Server can't be honoured is left out as a whole (control-plane §5.5).
fn is_on_server(route: &Route, server: &Server) -> bool {
    let to_servers = || route.parents.iter().filter(|p| p.kind == ParentKind::Server);
    let honoured = to_servers().all(|p| p.id.namespace == route.id.namespace && p.port.is_none() && p.section.is_none());
    let accepted =
        || route.accepted.iter().any(|a| a.kind == ParentKind::Server && a.name == server.id.name && a.port.is_none() && a.ours);
    honoured && to_servers().any(|p| p.id == server.id) && accepted()
}

fn is_on_service(route: &Route, service: &Id, port: u16) -> bool {
    let to_port =
        |p: &&homarus_model::facts::Parent| p.kind == ParentKind::Service && p.id == *service && p.port.is_none_or(|p| p == port);
    route.parents.iter().filter(to_port).any(|parent| {
        let accepts = |a: &&homarus_model::facts::Acceptance| {
            a.kind == ParentKind::Service && a.name == parent.id.name && a.port == parent.port
        };
        route.accepted.iter().any(|a| accepts(&a))
    })
}
