//! The policy of a workload's port (control-plane §5).

use super::Key;
use crate::index::{Absence, Index, Topic, workloads::Subject};
use homarus_model::{
    Meta,
    facts::{
        AuthorizationPolicy, Id, IdentityPattern, IdentitySource, Phase, Route, RouteFilter, RouteRule, Rules, Server,
        ServerAuthorization, ServerProtocol, ServerSelection, Target,
    },
    inbound::{Authentication, Authorization, DETECT_TIMEOUT, DefaultPolicy, Protocol, RoutePolicy, ServerPolicy},
    meta::Resource,
    network::Network,
    route::{self, Filter, GrpcRoute, HttpMatch, HttpRoute, PathMatch, Rule},
    workload::Workload,
};
use std::sync::Arc;

/// Which port of which workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundKey {
    /// The workload.
    pub workload: Workload,
    /// Its port.
    pub port: u16,
}

impl Key for InboundKey {
    type View = ServerPolicy;

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Workload(self.workload.clone()), Topic::Policies(self.workload.namespace.clone())]
    }

    fn view(&self, index: &Index) -> Result<ServerPolicy, Absence> {
        let subject = index.subject(&self.workload).ok_or_else(|| Absence::NotFound("unknown server".into()))?;
        // Not who is done: its proxy has ended with it, and the next pod of this name may ask before we hear of that.
        if matches!(subject, Subject::Pod(pod) if pod.phase == Phase::ProxyOnly) {
            return Err(Absence::Over(homarus_wire::WORKLOAD_OVER));
        }
        let probes = index.probe_route(subject, self.port);
        Ok(match index.server_of(subject, self.port) {
            Some(server) => index.server_policy(server, probes),
            None => index.default_policy(subject, self.port, probes),
        })
    }
}

type HttpRoutes = Vec<HttpRoute<RoutePolicy>>;

impl Index {
    fn default_policy(&self, subject: Subject<'_>, port: u16, probes: Option<HttpRoute<RoutePolicy>>) -> ServerPolicy {
        let settings = subject.settings();
        let mut policy = settings.default_policy.unwrap_or(self.settings().default_policy);
        if let DefaultPolicy::Allow { authenticated, .. } = &mut policy {
            *authenticated |= settings.require_identity.contains(port);
        }
        let opaque = settings.opaque.as_ref().is_some_and(|ports| ports.contains(port));
        let protocol = match opaque {
            true => Protocol::Opaque,
            false => Protocol::Detect { timeout: DETECT_TIMEOUT, routes: default_http(probes).into() },
        };
        let authorizations = policy.authorizations(&self.settings().cluster_networks);
        ServerPolicy { server: Meta::default_named(policy.as_str()), protocol, authorizations }
    }

    fn server_policy(&self, server: &Server, probes: Option<HttpRoute<RoutePolicy>>) -> ServerPolicy {
        let routes = self.routes_on_server(server);
        let http = || -> Arc<[_]> {
            let own: HttpRoutes = routes.iter().filter_map(|route| self.http_route(route)).collect();
            // A Server with routes of its own answers for everything, probes included.
            if own.is_empty() { default_http(probes.clone()).into() } else { own.into() }
        };
        let grpc = || -> Arc<[_]> {
            let own: Vec<_> = routes.iter().filter_map(|route| self.grpc_route(route)).collect();
            if own.is_empty() { [GrpcRoute::catch_all(RoutePolicy::default_route())].into() } else { own.into() }
        };
        let protocol = match server.protocol {
            ServerProtocol::Unknown => Protocol::Detect { timeout: DETECT_TIMEOUT, routes: http() },
            ServerProtocol::Http1 => Protocol::Http1(http()),
            ServerProtocol::Http2 => Protocol::Http2(http()),
            ServerProtocol::Grpc => Protocol::Grpc(grpc()),
            ServerProtocol::Opaque => Protocol::Opaque,
            ServerProtocol::Tls => Protocol::Tls,
        };
        let authorizations = self.server_authorizations(server).into();
        ServerPolicy { server: policy_meta("server", &server.id), protocol, authorizations }
    }

    /// Everything that grants: policies, ServerAuthorizations, and the Server's own default.
    fn server_authorizations(&self, server: &Server) -> Vec<Authorization> {
        let namespace = &*server.id.namespace;
        let targets = |policy: &&AuthorizationPolicy| match &policy.target {
            Target::Server(name) => *name == server.id.name,
            Target::Namespace => true,
            Target::Route(..) => false,
        };
        let policies = self.facts.policies_in(namespace).filter(targets).filter_map(|p| self.policy_grant(p));
        let selects = |grant: &&ServerAuthorization| match &grant.servers {
            ServerSelection::Name(name) => *name == server.id.name,
            ServerSelection::Selector(selector) => selector.matches(&server.labels),
        };
        let grants = self.facts.grants_in(namespace).filter(selects).filter_map(|g| self.server_grant(g));
        let default = server.access.authorizations(&self.settings().cluster_networks);
        policies.chain(grants).chain(default.iter().cloned()).collect()
    }

    fn server_grant(&self, grant: &ServerAuthorization) -> Option<Authorization> {
        let networks = match &grant.networks[..] {
            [] => self.settings().cluster_networks.iter().copied().map(Network::from).collect(),
            networks => networks.to_vec(),
        };
        let authentication = self.authentication(&grant.proof)?;
        Some(Authorization { meta: policy_meta("serverauthorization", &grant.id), networks, authentication })
    }

    /// What a policy grants. None if it asks for something that doesn't exist: then it grants nothing.
    fn policy_grant(&self, policy: &AuthorizationPolicy) -> Option<Authorization> {
        let networks = match &policy.networks {
            None => Network::everywhere(),
            Some(id) => self.facts.network(id)?.networks.clone(),
        };
        let authentication = match &policy.clients {
            None => Authentication::Unauthenticated,
            Some(IdentitySource::MeshTls(id)) => self.identities(&self.facts.mesh_tls(id)?.identities)?,
            Some(IdentitySource::ServiceAccount(id)) => self.identities(&[IdentityPattern::ServiceAccount(id.clone())])?,
        };
        Some(Authorization { meta: policy_meta("authorizationpolicy", &policy.id), networks, authentication })
    }

    fn http_route(&self, route: &Route) -> Option<HttpRoute<RoutePolicy>> {
        match &route.rules {
            Rules::Http(rules) => Some(self.inbound_route(route, rules)),
            Rules::Grpc(_) => None,
        }
    }

    fn grpc_route(&self, route: &Route) -> Option<GrpcRoute<RoutePolicy>> {
        match &route.rules {
            Rules::Grpc(rules) => Some(self.inbound_route(route, rules)),
            Rules::Http(_) => None,
        }
    }

    fn inbound_route<M: Clone>(&self, route: &Route, rules: &[RouteRule<M>]) -> route::Route<M, RoutePolicy> {
        let meta = Meta::Resource(Resource {
            group: route.kind.group().as_str().into(),
            kind: route.kind.as_str().into(),
            namespace: "".into(),
            name: route.id.name.clone(),
            section: "".into(),
            port: None,
        });
        let targets = |policy: &&AuthorizationPolicy| {
            matches!(&policy.target, Target::Route(group, kind, name)
                if *group == route.kind.group() && *kind == route.kind && *name == route.id.name)
        };
        let policies = self.facts.policies_in(&route.id.namespace).filter(targets);
        let authorizations: Arc<[_]> = policies.filter_map(|p| self.policy_grant(p)).collect();
        let rule = |rule: &RouteRule<M>| Rule {
            matches: rule.matches.clone(),
            policy: RoutePolicy {
                meta: meta.clone(),
                authorizations: authorizations.clone(),
                filters: rule.filters.iter().filter_map(filter).collect(),
            },
        };
        route::Route { hosts: route.hosts.clone(), rules: rules.iter().map(rule).collect() }
    }

    /// The kubelet's probes of a port, allowed from where kubelets are.
    fn probe_route(&self, subject: Subject<'_>, port: u16) -> Option<HttpRoute<RoutePolicy>> {
        let Subject::Pod(pod) = subject else { return None };
        let networks = &self.settings().probe_networks;
        let paths = pod.probes.get(&port).filter(|_| !networks.is_empty())?;
        let matches = paths.iter().map(|path| HttpMatch {
            path: Some(PathMatch::Exact(path.clone())),
            method: Some(http::Method::GET),
            ..HttpMatch::default()
        });
        let meta = Meta::default_named("probe");
        let allowed = Authorization {
            meta: meta.clone(),
            networks: networks.iter().copied().map(Network::from).collect(),
            authentication: Authentication::Unauthenticated,
        };
        let policy = RoutePolicy { meta, authorizations: [allowed].into(), filters: Arc::new([]) };
        Some(HttpRoute { hosts: Vec::new(), rules: vec![Rule { matches: matches.collect(), policy }] })
    }
}

fn default_http(probes: Option<HttpRoute<RoutePolicy>>) -> HttpRoutes {
    let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
    let rule = Rule { matches: vec![everything], policy: RoutePolicy::default_route() };
    std::iter::once(HttpRoute { hosts: Vec::new(), rules: vec![rule] }).chain(probes).collect()
}

/// Responses aren't changed where they come from.
fn filter(from: &RouteFilter) -> Option<Filter> {
    match from {
        RouteFilter::RequestHeaders(modifier) => Some(Filter::RequestHeaders(modifier.clone())),
        RouteFilter::Redirect(redirect) => Some(Filter::Redirect(redirect.clone())),
        RouteFilter::ResponseHeaders(_) => None,
    }
}

/// Policy objects are told without their namespace: it is the workload's.
fn policy_meta(kind: &str, id: &Id) -> Meta {
    Meta::Resource(Resource {
        group: "policy.linkerd.io".into(),
        kind: kind.into(),
        namespace: "".into(),
        name: id.name.clone(),
        section: "".into(),
        port: None,
    })
}
