//! Routes of a client's requests, resolved: matching is the model's, what a match leads to is made once per policy.

mod backend;
pub mod metrics;

pub use backend::{Backend, Backends, Dispatch};

use crate::fault::{Cause, Fault};
use homarus_model::{
    Meta,
    outbound::{self, Distribution, OpaqueRoute, RoutePolicy},
    route::{self, Filter, GrpcRoute, HttpRoute, InjectedFailure, RequestHead},
};
use metrics::{BackendMetrics, Families, HostMetrics, TcpRouteMetrics};
use rand::Rng;
use std::{rc::Rc, sync::Arc};

/// All routes of requests of one protocol.
#[derive(Clone)]
pub enum Routes {
    /// HTTP routes.
    Http(Rc<[HttpRoute<Rc<Route>>]>),
    /// gRPC routes.
    Grpc(Rc<[GrpcRoute<Rc<Route>>]>),
}

/// What requests of one rule have: filters, backends, metrics.
pub struct Route {
    /// The route object or default.
    pub meta: Arc<Meta>,
    filters: Arc<[Filter]>,
    choice: Choice<RouteBackend>,
    /// What is counted.
    pub metrics: HostMetrics,
}

/// A backend as a rule refers to it.
pub struct RouteBackend {
    filters: Arc<[Filter]>,
    /// The backend.
    pub backend: Rc<Backend>,
    /// What is counted.
    pub metrics: BackendMetrics,
}

/// What opaque connections have.
pub struct Opaque {
    /// The route object or default.
    pub meta: Arc<Meta>,
    /// Why they are refused, if they are.
    pub refuse: Option<outbound::Refusal>,
    choice: Choice<Rc<Backend>>,
    /// What is counted.
    pub metrics: TcpRouteMetrics,
}

/// How one of several is chosen.
enum Choice<B> {
    Empty,
    First(Vec<B>),
    Weighted(Vec<(B, u32)>),
}

impl<B> Choice<B> {
    fn of(distribution: &Distribution, mut make: impl FnMut(&outbound::RouteBackend) -> B) -> Self {
        match distribution {
            Distribution::Empty => Self::Empty,
            Distribution::FirstAvailable(backends) => Self::First(backends.iter().map(make).collect()),
            Distribution::RandomAvailable(backends) => Self::Weighted(backends.iter().map(|(b, w)| (make(b), *w)).collect()),
        }
    }

    /// The first that is available, or a draw by weight among those that are (proxy-traffic §1.3).
    fn choose(&self, available: impl Fn(&B) -> bool) -> Result<usize, Cause> {
        match self {
            Self::Empty => Err(Cause::LoadShed),
            Self::First(backends) => backends.iter().position(available).ok_or(Cause::LoadShed),
            Self::Weighted(backends) => {
                let weights: Vec<(usize, u64)> = backends
                    .iter()
                    .enumerate()
                    .filter(|(_, (b, w))| *w > 0 && available(b))
                    .map(|(i, (_, w))| (i, u64::from(*w)))
                    .collect();
                let total: u64 = weights.iter().map(|(_, w)| w).sum();
                if total == 0 {
                    return Err(Cause::LoadShed);
                }
                let mut draw = rand::rng().random_range(0..total);
                for (i, weight) in weights {
                    match draw.checked_sub(weight) {
                        Some(left) => draw = left,
                        None => return Ok(i),
                    }
                }
                Err(Cause::LoadShed)
            }
        }
    }
}

impl<B> Choice<B> {
    fn item(&self, index: usize) -> Option<&B> {
        match self {
            Self::Empty => None,
            Self::First(backends) => backends.get(index),
            Self::Weighted(backends) => backends.get(index).map(|(b, _)| b),
        }
    }
}

impl Routes {
    /// Resolves HTTP routes.
    pub fn http(routes: &[HttpRoute<RoutePolicy>], backends: &Backends) -> Self {
        Self::Http(routes.iter().map(|r| r.map(|policy| Route::new(policy, backends, &metrics::HTTP))).collect())
    }

    /// Resolves gRPC routes.
    pub fn grpc(routes: &[GrpcRoute<RoutePolicy>], backends: &Backends) -> Self {
        Self::Grpc(routes.iter().map(|r| r.map(|policy| Route::new(policy, backends, &metrics::GRPC))).collect())
    }

    /// The route of a request.
    pub fn find(&self, request: &RequestHead<'_>) -> Result<Rc<Route>, Fault> {
        let found = match self {
            Self::Http(routes) => route::find(routes, request),
            Self::Grpc(routes) => route::find(routes, request),
        };
        found.cloned().ok_or_else(|| Fault::new(Cause::NoRoute, ""))
    }
}

impl Route {
    fn new(policy: &RoutePolicy, backends: &Backends, families: &'static Families) -> Rc<Self> {
        let labels = backends.labels(&policy.meta);
        let choice = Choice::of(&policy.distribution, |b| RouteBackend {
            filters: b.filters.clone(),
            metrics: BackendMetrics::new(families, backends.registry(), metrics::backend(labels.clone(), &b.backend.meta)),
            backend: backends.http(&b.backend),
        });
        let metrics = HostMetrics::new(families, backends.registry(), labels, backends.tell_hosts());
        Rc::new(Self { meta: policy.meta.clone(), filters: policy.filters.clone(), choice, metrics })
    }

    /// The backend of one request, past the filters of the route and of the backend, and which of the route's it is.
    pub fn choose_indexed(&self, head: &mut crate::http::RequestHead) -> Result<(usize, &RouteBackend), Fault> {
        let here = |cause| Fault::new(cause, format!("route {}", self.meta));
        apply(&self.filters, head).map_err(here)?;
        let index = self.choice.choose(|b| b.backend.is_available()).map_err(here)?;
        let chosen = self.choice.item(index).ok_or_else(|| here(Cause::LoadShed))?;
        apply(&chosen.filters, head).map_err(|cause| here(cause).within(format_args!("backend {}", chosen.backend.meta)))?;
        Ok((index, chosen))
    }

    /// One of the route's backends.
    pub fn backend(&self, index: usize) -> Option<&RouteBackend> {
        self.choice.item(index)
    }
}

impl Opaque {
    /// Resolves what applies to opaque connections.
    pub fn new(route: &OpaqueRoute, backends: &Backends) -> Rc<Self> {
        let labels = backends.labels(&route.meta);
        let choice = Choice::of(&route.distribution, |b| backends.tcp(&b.backend));
        let metrics = TcpRouteMetrics::new(backends.registry(), labels, backends.dialed());
        Rc::new(Self { meta: route.meta.clone(), refuse: route.refuse.clone(), choice, metrics })
    }

    /// The backend of one connection.
    pub fn choose(&self) -> Result<&Rc<Backend>, Fault> {
        let chosen = self.choice.choose(|b| b.is_available()).map(|i| self.choice.item(i));
        chosen.and_then(|b| b.ok_or(Cause::LoadShed)).map_err(|cause| Fault::new(cause, format!("route {}", self.meta)))
    }
}

/// Filters of requests (proxy-traffic §5.1). What this version can't do fails the request: nothing passes unfiltered.
fn apply(filters: &[Filter], head: &mut crate::http::RequestHead) -> Result<(), Cause> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(modifier) => modify(&mut head.headers, modifier),
            Filter::Fail(failure) if takes(failure) => return Err(injected(failure)),
            Filter::Fail(_) => {}
            Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Unknown => {
                return Err(Cause::InvalidPolicy("a filter of this route is not supported by this version of the proxy".into()));
            }
        }
    }
    Ok(())
}

fn takes(failure: &InjectedFailure) -> bool {
    let ratio = failure.ratio();
    ratio.takes(rand::rng().random_range(0..ratio.denominator.max(1)))
}

fn injected(failure: &InjectedFailure) -> Cause {
    match failure {
        InjectedFailure::Http { status, message, .. } => Cause::Injected(*status, message.to_string()),
        InjectedFailure::Grpc { code, message, .. } => Cause::InjectedGrpc(*code, message.to_string()),
    }
}

/// First add, then set, then remove.
fn modify(headers: &mut http::HeaderMap, modifier: &route::HeaderModifier) {
    for (name, value) in &modifier.add {
        headers.append(name, value.clone());
    }
    for (name, value) in &modifier.set {
        headers.insert(name, value.clone());
    }
    for name in &modifier.remove {
        headers.remove(name);
    }
}
