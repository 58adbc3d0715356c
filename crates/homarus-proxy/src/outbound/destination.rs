//! What one worker knows of one original destination, or of a name: the policy, resolved, and what was seen there before.

use super::metrics::{DestinationMetrics, Protocols};
use crate::{
    discover::{self, Watched},
    fault::{Cause, Fault},
    net::{self, Instant},
    route::{Backends, Opaque, Routes},
    worker::Worker,
};
use homarus_model::{
    Authority, Meta,
    outbound::{ClientPolicy, Dispatcher, Distribution, OpaqueRoute, Protocol, Refusal, RoutePolicy},
    profile::Profile,
    route::HttpRoute,
};
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// How long it is remembered that a server speaks first.
const REMEMBER: Duration = Duration::from_secs(300);

/// One original destination, or a name that requests choose.
pub struct Destination {
    worker: Rc<Worker>,
    dialed: Authority,
    watch: RefCell<Watched<discover::Outbound>>,
    resolved: RefCell<Option<Rc<Resolved>>>,
    used: Cell<Instant>,
    server_first: Cell<Option<Instant>>,
    /// What is counted.
    pub metrics: DestinationMetrics,
}

/// What is known of where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet.
    Asked,
    /// Nothing is carried there.
    Nowhere,
    /// Somewhere.
    Somewhere,
}

/// A policy with everything that it leads to.
pub struct Resolved {
    backends: Backends,
    /// What is spoken there.
    pub kind: Kind,
    /// No route could change the backend of an opaque connection, so the server may be connected before the client speaks.
    pub may_speculate: bool,
}

/// What is spoken.
pub enum Kind {
    /// Find out.
    Detect {
        /// Routes of HTTP/1 requests.
        http1: Routes,
        /// Routes of HTTP/2 requests.
        http2: Routes,
        /// Everything else.
        opaque: Rc<Opaque>,
    },
    /// HTTP/1.
    Http1(Routes),
    /// HTTP/2.
    Http2(Routes),
    /// gRPC.
    Grpc(Routes),
    /// Requests of any kind, by name; there is no connection that could speak anything else.
    Requests {
        /// Routes of HTTP/1 requests.
        http1: Routes,
        /// Routes of HTTP/2 requests.
        http2: Routes,
    },
    /// Bytes.
    Opaque(Rc<Opaque>),
    /// Nothing: connections are closed.
    Refused(Arc<str>),
    /// Nothing, but requests hear why: the policy can't be read, and doubt denies (proxy-wire §7.1).
    Unreadable(Arc<str>),
}

impl Destination {
    /// Begins to ask about an address or name.
    pub fn new(worker: &Rc<Worker>, dialed: Authority) -> Rc<Self> {
        Rc::new(Self {
            watch: RefCell::new(worker.discovery.outbound(&dialed)),
            metrics: DestinationMetrics::new(&worker.registry, &dialed),
            worker: worker.clone(),
            dialed,
            resolved: RefCell::default(),
            used: Cell::new(net::now()),
            server_first: Cell::default(),
        })
    }

    /// What errors call it.
    pub fn name(&self) -> String {
        format!("logical service {}", self.dialed)
    }

    /// Gives a request without an authority that of the destination.
    pub fn give_authority(&self, head: &mut crate::http::RequestHead) {
        let authority = self.dialed.to_string();
        if let Ok(value) = http::HeaderValue::from_str(authority.strip_suffix(":80").unwrap_or(&authority)) {
            head.headers.insert(http::header::HOST, value);
        }
    }

    /// A fault of the client's own connection.
    pub fn broken(&self, error: &io::Error) -> Fault {
        Fault::new(Cause::Broken(format!("client connection: {error}")), self.name())
    }

    /// The current policy; waits for the first.
    pub async fn resolved(&self) -> Result<Rc<Resolved>, Fault> {
        if self.resolved.borrow().is_none() {
            let mut watch = self.watch.borrow().clone();
            if watch.wait_for(Option::is_some).await.is_err() {
                return Err(Fault::new(Cause::Unexpected("discovery has ended".into()), self.name()));
            }
        }
        self.current().ok_or_else(|| Fault::new(Cause::Unexpected("discovery has no answer".into()), self.name()))
    }

    /// The current policy; a request, which has a client that waits, waits only so long for the first.
    pub async fn resolved_within(&self, limit: Duration) -> Result<Rc<Resolved>, Fault> {
        if let Some(resolved) = self.current() {
            return Ok(resolved);
        }
        let late = || format!("the control plane has not told of it within {limit:?}; are its pods running and ready?");
        // Boxed, so that requests that needn't wait don't carry a timer.
        let answered = Box::pin(net::timeout(limit, self.resolved())).await;
        answered.unwrap_or_else(|| Err(Fault::new(Cause::ConnectTimeout(late()), "")))
    }

    /// The current policy, if there was any answer yet. Cheap while nothing changes.
    pub fn current(&self) -> Option<Rc<Resolved>> {
        let mut watch = self.watch.borrow_mut();
        if let Some(resolved) = &*self.resolved.borrow()
            && !watch.has_changed().unwrap_or(false)
        {
            return Some(resolved.clone());
        }
        let answer = watch.borrow_and_update().clone()?;
        let before = self.resolved.borrow_mut().take();
        let resolved = Rc::new(self.resolve(&answer, before.as_deref()));
        *self.resolved.borrow_mut() = Some(resolved.clone());
        drop(before);
        resolved.backends.trim();
        self.metrics.set_parent(&self.worker.registry, resolved.backends.parent());
        Some(resolved)
    }

    fn resolve(&self, answer: &discover::Outbound, before: Option<&Resolved>) -> Resolved {
        let backends = |parent: &Arc<Meta>| match before {
            Some(before) => before.backends.renewed(parent.clone()),
            None => Backends::new(self.worker.clone(), parent.clone(), self.dialed.clone()),
        };
        match answer {
            discover::Outbound::Policy { policy, profile } => {
                let backends = backends(&policy.parent);
                let (may_speculate, kind) = match (self.worker.config.process.ingress_mode, self.dialed.dns_name()) {
                    (false, _) => (may_speculate(policy), Kind::new(policy, profile.as_deref(), &backends)),
                    (true, None) => (may_speculate(policy), Kind::detecting(policy, &backends)),
                    (true, Some(_)) => (false, Kind::requests(policy, &backends)),
                };
                Resolved { kind, backends, may_speculate }
            }
            discover::Outbound::Refused(why) | discover::Outbound::Invalid { why, opaque: true } => {
                Resolved { backends: backends(&invalid()), kind: Kind::Refused(why.clone()), may_speculate: false }
            }
            discover::Outbound::Invalid { why, opaque: false } => {
                Resolved { backends: backends(&invalid()), kind: Kind::Unreadable(why.clone()), may_speculate: false }
            }
        }
    }

    /// Whether a server here spoke first not long ago.
    pub fn is_server_first(&self) -> bool {
        self.server_first.get().is_some_and(|at| net::now().duration_since(at) < REMEMBER)
    }

    /// A server here spoke first.
    pub fn remember_server_first(&self) {
        self.server_first.set(Some(net::now()));
    }

    /// Somebody has a connection or request here.
    pub fn used(&self, now: Instant) {
        self.used.set(now);
    }

    /// When somebody had a connection or request here.
    pub fn last_used(&self) -> Instant {
        self.used.get()
    }

    /// What the last request or connection heard of it.
    pub fn standing(&self) -> Standing {
        match self.resolved.borrow().as_deref() {
            None => Standing::Asked,
            Some(Resolved { kind: Kind::Refused(_), .. }) => Standing::Nowhere,
            Some(_) => Standing::Somewhere,
        }
    }

    /// Whether somebody has had a connection or request here within so long.
    pub fn is_held(self: &Rc<Self>, now: Instant, idle: Duration) -> bool {
        if Rc::strong_count(self) > 1 {
            self.used(now);
        }
        now.saturating_duration_since(self.used.get()) <= idle
    }
}

/// The parent of what can't be read.
fn invalid() -> Arc<Meta> {
    Arc::new(Meta::default_named("invalid"))
}

/// Whether all routes lead to the backend of opaque connections, so that connecting it early changes nothing.
fn may_speculate(policy: &ClientPolicy) -> bool {
    let nothing: Arc<[_]> = Arc::new([]);
    let (http1, http2, opaque) = match &policy.protocol {
        Protocol::Detect { http1, http2, opaque, .. } => (http1, http2, opaque),
        Protocol::Opaque(opaque) => (&nothing, &nothing, opaque),
        Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Grpc(_) => return false,
    };
    let only = |distribution: &Distribution| match distribution.backends()[..] {
        [backend] => Some(backend.backend.clone()),
        _ => None,
    };
    let Some(backend) = only(&opaque.distribution) else { return false };
    let reachable = !matches!(backend.dispatcher, Dispatcher::Fail) && opaque.refuse.is_none();
    let mut rules = http1.iter().chain(http2.iter()).flat_map(|route| &route.rules);
    reachable && rules.all(|rule| only(&rule.policy.distribution).as_ref() == Some(&backend))
}

impl Kind {
    /// What is configured to be spoken, as metrics name it; none: nothing is.
    pub fn protocol(&self) -> Option<Protocols> {
        match self {
            Self::Detect { .. } => Some(Protocols::Detect),
            Self::Http1(_) => Some(Protocols::Http1),
            Self::Http2(_) | Self::Grpc(_) => Some(Protocols::Http2),
            Self::Opaque(_) => Some(Protocols::Opaque),
            Self::Requests { .. } | Self::Refused(_) | Self::Unreadable(_) => None,
        }
    }

    /// What applies to connections that aren't HTTP.
    pub fn opaque(&self) -> Result<&Rc<Opaque>, Cause> {
        match self {
            Self::Detect { opaque, .. } | Self::Opaque(opaque) => Ok(opaque),
            Self::Http1(_) | Self::Http2(_) | Self::Grpc(_) | Self::Requests { .. } => {
                Err(Cause::InvalidPolicy("the destination has become HTTP; connect again".into()))
            }
            Self::Refused(why) => Err(Cause::Refused(why.to_string())),
            Self::Unreadable(why) => Err(Cause::InvalidPolicy(why.to_string())),
        }
    }

    fn new(policy: &ClientPolicy, profile: Option<&Profile>, backends: &Backends) -> Self {
        // The profile's word on opaque ports wins (proxy-wire §7.2).
        if profile.is_some_and(|p| p.opaque_protocol)
            && let Some(opaque) = opaque_of(policy)
        {
            return Self::Opaque(Opaque::new(&opaque, backends));
        }
        match &policy.protocol {
            Protocol::Detect { http1, http2, opaque, .. } => {
                let shared = Routes::http(http1, backends);
                let http2 = if http1 == http2 { shared.clone() } else { Routes::http(http2, backends) };
                Self::Detect { http1: shared, http2, opaque: Opaque::new(opaque, backends) }
            }
            Protocol::Http1(routes) => Self::Http1(Routes::http(routes, backends)),
            Protocol::Http2(routes) => Self::Http2(Routes::http(routes, backends)),
            Protocol::Grpc(routes) => Self::Grpc(Routes::grpc(routes, backends)),
            Protocol::Opaque(opaque) => Self::Opaque(Opaque::new(opaque, backends)),
        }
    }

    /// The routes of HTTP requests of a version.
    pub fn routes(&self, http2_request: bool) -> Result<&Routes, Cause> {
        match self {
            Self::Detect { http2, .. } | Self::Requests { http2, .. } if http2_request => Ok(http2),
            Self::Detect { http1, .. } | Self::Requests { http1, .. } => Ok(http1),
            Self::Http1(routes) | Self::Http2(routes) | Self::Grpc(routes) => Ok(routes),
            Self::Opaque(_) => Err(Cause::InvalidPolicy("the destination has become opaque; connect again".into())),
            Self::Refused(why) => Err(Cause::Refused(why.to_string())),
            Self::Unreadable(why) => Err(Cause::InvalidPolicy(why.to_string())),
        }
    }

    /// In ingress mode connections to addresses are always looked into, whatever is configured (proxy-wire §7.4).
    fn detecting(policy: &ClientPolicy, backends: &Backends) -> Self {
        let (http1, http2) = requests_of(policy, backends);
        let nothing = || OpaqueRoute {
            meta: policy.parent.clone(),
            refuse: Some(Refusal::Invalid("nothing but requests is sent there, and there is no route".into())),
            distribution: Distribution::Empty,
        };
        let opaque = opaque_of(policy).unwrap_or_else(nothing);
        Self::Detect { http1, http2, opaque: Opaque::new(&opaque, backends) }
    }

    /// What requests that choose this name get.
    fn requests(policy: &ClientPolicy, backends: &Backends) -> Self {
        let (http1, http2) = requests_of(policy, backends);
        Self::Requests { http1, http2 }
    }
}

/// The routes of requests of both versions. Whoever sends requests to what is configured as opaque reaches the same backend,
/// whose proxy passes them on as bytes.
fn requests_of(policy: &ClientPolicy, backends: &Backends) -> (Routes, Routes) {
    let both = |routes: Routes| (routes.clone(), routes);
    match &policy.protocol {
        Protocol::Detect { http1, http2, .. } if http1 == http2 => both(Routes::http(http1, backends)),
        Protocol::Detect { http1, http2, .. } => (Routes::http(http1, backends), Routes::http(http2, backends)),
        Protocol::Http1(routes) | Protocol::Http2(routes) => both(Routes::http(routes, backends)),
        Protocol::Grpc(routes) => both(Routes::grpc(routes, backends)),
        Protocol::Opaque(OpaqueRoute { refuse: Some(_), .. }) => both(Routes::http(&[], backends)),
        Protocol::Opaque(OpaqueRoute { meta, distribution, .. }) => {
            let policy = RoutePolicy { meta: meta.clone(), filters: Arc::new([]), distribution: distribution.clone() };
            both(Routes::http(&[HttpRoute::catch_all(policy)], backends))
        }
    }
}

/// What applies to opaque connections; of a policy that only knows requests, its first rule's backends.
fn opaque_of(policy: &ClientPolicy) -> Option<OpaqueRoute> {
    let of = |meta: &Arc<Meta>, distribution: &Distribution| OpaqueRoute {
        meta: meta.clone(),
        refuse: None,
        distribution: distribution.clone(),
    };
    match &policy.protocol {
        Protocol::Detect { opaque, .. } | Protocol::Opaque(opaque) => Some(opaque.clone()),
        Protocol::Http1(routes) | Protocol::Http2(routes) => {
            routes.iter().flat_map(|r| &r.rules).map(|r| of(&r.policy.meta, &r.policy.distribution)).next()
        }
        Protocol::Grpc(routes) => routes.iter().flat_map(|r| &r.rules).map(|r| of(&r.policy.meta, &r.policy.distribution)).next(),
    }
}
