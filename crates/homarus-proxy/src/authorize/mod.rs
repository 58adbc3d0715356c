//! Who may come: a verdict before the application sees a byte (proxy-traffic §6).
//!
//! Forwarding needs a [`Permit`] or a [`Grant`], which only this module makes. Verdicts follow the current policy: each
//! request is judged anew (a policy that didn't change is a pointer compared), and open connections are judged again when
//! the policy changes.

mod metrics;

pub use metrics::{HeaderMetrics, PortMetrics, RouteMetrics};

use crate::{
    discover::Watched,
    fault::{Cause, Fault},
    http::Frames,
    io::TransportMetrics,
    observe::{Counter, Labels, Registry, http::RequestMetrics, labels},
    worker::Worker,
};
use homarus_model::{
    Meta,
    inbound::{self, Authorization, ClientTls, DefaultPolicy, Protocol, RoutePolicy, ServerPolicy},
    route::{self, Filter, GrpcRoute, HttpRoute, InjectedFailure, RequestHead},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

/// Different clients whose verdicts are remembered for one policy; then all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// The policy of one port, as one worker knows it.
pub struct Port {
    registry: Registry,
    /// What the metrics of this port are about.
    target: SocketAddr,
    watch: RefCell<Watched<ServerPolicy>>,
    policy: RefCell<Option<Rc<Policy>>>,
    used: Cell<crate::net::Instant>,
}

/// One policy of a port, with what was found out under it.
pub struct Policy {
    /// As told.
    pub server: Arc<ServerPolicy>,
    routes: Routes,
    port: SocketAddr,
    registry: Registry,
    /// What is counted.
    pub metrics: PortMetrics,
    verdicts: RefCell<HashMap<Client, Verdict, ahash::RandomState>>,
    connections: RefCell<HashMap<ClientTls, Rc<TransportMetrics>, ahash::RandomState>>,
}

/// The rules of a policy, numbered.
enum Routes {
    Http(Vec<HttpRoute<usize>>, Vec<RoutePolicy>),
    Grpc(Vec<GrpcRoute<usize>>, Vec<RoutePolicy>),
    None,
}

/// Whom a verdict is about.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Client {
    rule: usize,
    addr: IpAddr,
    tls: ClientTls,
}

/// What was decided.
#[derive(Clone)]
enum Verdict {
    Granted(Rc<Grant>),
    Denied(Counter),
}

/// A client may send requests of one rule.
pub struct Grant {
    filters: Arc<[Filter]>,
    allowed: Counter,
    /// What is counted about its requests.
    pub requests: Rc<RequestMetrics>,
    /// What is counted about requests of the rule.
    pub route: RouteMetrics,
}

impl Frames for Grant {
    fn frame(&self, bytes: usize) {
        self.route.request_frame(bytes);
    }
}

/// A client may have a connection.
pub struct Permit {
    authorization: Meta,
}

impl Permit {
    /// What permits it.
    pub fn authorization(&self) -> &Meta {
        &self.authorization
    }
}

impl Port {
    /// Begins to ask about a port.
    pub fn new(worker: &Worker, target: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            registry: worker.registry.clone(),
            target,
            watch: RefCell::new(worker.discovery.inbound(target.port())),
            policy: RefCell::default(),
            used: Cell::new(crate::net::now()),
        })
    }

    /// The policy; waits for the first answer, which discovery bounds.
    pub async fn policy(&self) -> Result<Rc<Policy>, Fault> {
        if self.policy.borrow().is_none() {
            let mut watch = self.watch.borrow().clone();
            // An end of discovery leaves no answer: then doubt denies.
            let _ = watch.wait_for(Option::is_some).await;
        }
        self.current().ok_or_else(|| Fault::new(Cause::Unauthorized, format!("port {}: no policy is known", self.target.port())))
    }

    /// The policy of probes, which can't wait: until the first answer anyone may ask. All that they are told is whether this
    /// proxy is ready, and a refusal then would only delay its workload.
    pub fn policy_of_probes(&self) -> Rc<Policy> {
        self.current().unwrap_or_else(|| {
            let anyone = DefaultPolicy::Allow { authenticated: false, cluster: false };
            Rc::new(Policy::new(Arc::new(anyone.server_policy(&[], false)), self.target, &self.registry))
        })
    }

    /// The policy now, if there was any answer yet. Cheap while nothing changes.
    pub fn current(&self) -> Option<Rc<Policy>> {
        let mut watch = self.watch.borrow_mut();
        if let Some(policy) = &*self.policy.borrow()
            && !watch.has_changed().unwrap_or(false)
        {
            return Some(policy.clone());
        }
        let server = watch.borrow_and_update().clone()?;
        let policy = Rc::new(Policy::new(server, self.target, &self.registry));
        *self.policy.borrow_mut() = Some(policy.clone());
        Some(policy)
    }

    /// Resolves when the policy has changed.
    pub async fn changed(&self) {
        let mut watch = self.watch.borrow().clone();
        watch.mark_unchanged();
        if watch.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Somebody has a connection here.
    pub fn used(&self, now: crate::net::Instant) {
        self.used.set(now);
    }

    /// Whether nobody has had a connection here for so long.
    pub fn is_idle(&self, now: crate::net::Instant, idle: std::time::Duration) -> bool {
        now.duration_since(self.used.get()) > idle
    }
}

impl Policy {
    fn new(server: Arc<ServerPolicy>, port: SocketAddr, registry: &Registry) -> Self {
        let routes = match &server.protocol {
            Protocol::Detect { routes, .. } | Protocol::Http1(routes) | Protocol::Http2(routes) => {
                let (routes, rules) = numbered(routes);
                Routes::Http(routes, rules)
            }
            Protocol::Grpc(routes) => {
                let (routes, rules) = numbered(routes);
                Routes::Grpc(routes, rules)
            }
            Protocol::Opaque | Protocol::Tls => Routes::None,
        };
        let metrics = PortMetrics::new(registry, port, &server.server);
        let (verdicts, connections) = (RefCell::default(), RefCell::default());
        Self { server, routes, port, registry: registry.clone(), metrics, verdicts, connections }
    }

    /// What is counted about connections of such clients; made for the first of them.
    pub fn connections(&self, tls: &ClientTls, make: impl FnOnce() -> Rc<TransportMetrics>) -> Rc<TransportMetrics> {
        let mut connections = self.connections.borrow_mut();
        if let Some(known) = connections.get(tls) {
            return known.clone();
        }
        if connections.len() >= MAX_REMEMBERED {
            connections.clear();
        }
        let made = make();
        connections.insert(tls.clone(), made.clone());
        made
    }

    /// Judges a connection by the server's own authorizations.
    pub fn connection(&self, addr: IpAddr, tls: &ClientTls) -> Result<Permit, Fault> {
        match inbound::authorize(self.server.authorizations.iter(), addr, tls) {
            Some(authorization) => {
                self.metrics.tcp_allowed(&authorization.meta, tls);
                self.audit(authorization, addr);
                Ok(Permit { authorization: authorization.meta.clone() })
            }
            None => {
                let server = &self.server.server;
                self.metrics.tcp_denied(tls);
                tracing::info!(
                    server.group = server.group(), server.kind = server.kind(), server.name = server.name(),
                    tls = ?tls, client = %addr, "Connection denied"
                );
                Err(Fault::new(Cause::Unauthorized, format!("server {server}")))
            }
        }
    }

    /// Whether an open connection would still be permitted.
    pub fn still_permits(&self, addr: IpAddr, tls: &ClientTls) -> bool {
        let permits = inbound::authorize(self.server.authorizations.iter(), addr, tls).is_some();
        if !permits {
            self.metrics.tcp_terminated(tls);
            tracing::info!(server.name = self.server.server.name(), tls = ?tls, client = %addr, "Connection terminated due to policy change");
        }
        permits
    }

    /// Judges a request: its route, then who may send such requests, then the route's filters.
    pub fn request(&self, head: &RequestHead<'_>, addr: IpAddr, tls: &ClientTls) -> Result<Rc<Grant>, Fault> {
        let (rule, policy) = self.rule(head).ok_or_else(|| {
            self.metrics.route_not_found(tls);
            Fault::new(Cause::NoRoute, format!("server {}", self.server.server))
        })?;
        let client = Client { rule, addr, tls: tls.clone() };
        let known = self.verdicts.borrow().get(&client).cloned();
        let verdict = known.unwrap_or_else(|| self.judge(client, policy));
        match verdict {
            Verdict::Granted(grant) => {
                grant.allowed.inc();
                filter(&grant.filters).map_err(|cause| Fault::new(cause, format!("route {}", policy.meta)))?;
                Ok(grant)
            }
            Verdict::Denied(denied) => {
                denied.inc();
                let (server, route) = (&self.server.server, &policy.meta);
                tracing::info!(
                    server.group = server.group(), server.kind = server.kind(), server.name = server.name(),
                    route.group = route.group(), route.kind = route.kind(), route.name = route.name(),
                    client.tls = ?tls, client.ip = %addr, "Request denied"
                );
                Err(Fault::new(Cause::Unauthorized, format!("server {server}: route {route}")))
            }
        }
    }

    fn rule(&self, head: &RequestHead<'_>) -> Option<(usize, &RoutePolicy)> {
        let (found, rules) = match &self.routes {
            Routes::Http(routes, rules) => (route::find(routes, head), rules),
            Routes::Grpc(routes, rules) => (route::find(routes, head), rules),
            Routes::None => return None,
        };
        let rule = *found?;
        Some((rule, rules.get(rule)?))
    }

    fn judge(&self, client: Client, policy: &RoutePolicy) -> Verdict {
        let grants = policy.authorizations.iter().chain(self.server.authorizations.iter());
        let verdict = match inbound::authorize(grants, client.addr, &client.tls) {
            Some(authorization) => {
                self.audit(authorization, client.addr);
                Verdict::Granted(Rc::new(self.grant(policy, authorization, &client.tls)))
            }
            None => Verdict::Denied(self.metrics.http_denied(&policy.meta, &client.tls)),
        };
        let mut verdicts = self.verdicts.borrow_mut();
        if verdicts.len() >= MAX_REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(client, verdict.clone());
        verdict
    }

    fn grant(&self, policy: &RoutePolicy, authorization: &Authorization, tls: &ClientTls) -> Grant {
        let server = &self.server.server;
        let base = labels::target(Labels::new().with("direction", "inbound"), self.port);
        let labels = labels::server(labels::client_tls(base, tls), server, self.port.port());
        let labels = labels::named(labels::named(labels, "route", &policy.meta), "authz", &authorization.meta);
        Grant {
            filters: policy.filters.clone(),
            allowed: self.metrics.http_allowed(&policy.meta, &authorization.meta, tls),
            requests: RequestMetrics::new(&self.registry, labels),
            route: RouteMetrics::new(
                &self.registry,
                server,
                self.port.port(),
                &policy.meta,
                matches!(self.routes, Routes::Grpc(..)),
            ),
        }
    }

    fn audit(&self, authorization: &Authorization, addr: IpAddr) {
        let meta = &authorization.meta;
        if meta.kind() == "default" && meta.name() == "audit" {
            tracing::info!(
                server.name = self.server.server.name(), authz.group = meta.group(), authz.kind = meta.kind(),
                authz.name = meta.name(), client.ip = %addr, "Request allowed"
            );
        }
    }
}

/// The same routes with their policies aside, by number.
fn numbered<M: Clone>(routes: &[route::Route<M, RoutePolicy>]) -> (Vec<route::Route<M, usize>>, Vec<RoutePolicy>) {
    let mut rules = Vec::new();
    let routes = routes.iter().map(|r| {
        r.map(|policy| {
            rules.push(policy.clone());
            rules.len() - 1
        })
    });
    (routes.collect(), rules)
}

/// Filters of inbound requests. What this version can't do fails the request.
fn filter(filters: &[Filter]) -> Result<(), Cause> {
    match filters.first() {
        None => Ok(()),
        Some(Filter::Fail(InjectedFailure::Http { message, .. } | InjectedFailure::Grpc { message, .. })) => {
            Err(Cause::Unexpected(message.to_string()))
        }
        Some(_) => Err(Cause::InvalidPolicy("a filter of this route is not supported by this version of the proxy".into())),
    }
}
