//! Backends of one destination: made when a policy first refers to them, kept as long as one does.

use super::metrics;
use crate::{
    balance::{Balancer, Endpoint, Patience, Places, Settings},
    fault::Cause,
    observe::{
        Labels, Registry,
        balancer::{self, BalancerMetrics, Families},
        labels,
        stack::Place,
    },
    worker::Worker,
};
use homarus_model::{
    Authority, Meta,
    outbound::{self, Dispatcher, Ewma},
};
use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

/// What a route refers to.
pub struct Backend {
    /// The Service port, or a default.
    pub meta: Arc<Meta>,
    /// How its endpoints are found.
    pub dispatch: Dispatch,
}

/// How a backend's endpoints are found.
pub enum Dispatch {
    /// Among those of a service.
    Balance(Rc<Balancer>),
    /// There is just this one.
    Forward(Rc<Endpoint>),
    /// There is none: requests fail.
    Fail,
}

impl Backend {
    /// Whether a request would find an endpoint, or may wait for one.
    pub fn is_available(&self) -> bool {
        match &self.dispatch {
            Dispatch::Balance(balancer) => balancer.is_available(),
            // Requests to the only endpoint wait, or fail with its own error.
            Dispatch::Forward(_) | Dispatch::Fail => true,
        }
    }

    /// An endpoint for one request or connection; `except` were tried already.
    pub async fn pick(&self, except: &[SocketAddr]) -> Result<Rc<Endpoint>, Cause> {
        match &self.dispatch {
            Dispatch::Balance(balancer) => balancer.pick(except).await,
            Dispatch::Forward(endpoint) => Ok(endpoint.clone()),
            Dispatch::Fail => Err(Cause::NoBackend),
        }
    }

    /// Another endpoint that is ready now.
    pub fn another(&self, except: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        match &self.dispatch {
            Dispatch::Balance(balancer) => balancer.try_pick(except),
            Dispatch::Forward(_) | Dispatch::Fail => None,
        }
    }

    /// Whether there is just one endpoint, so that the client's connection is one with the endpoint's.
    pub fn is_forward(&self) -> bool {
        matches!(self.dispatch, Dispatch::Forward(_))
    }
}

/// What differs in the metrics of requests and of opaque connections.
struct Traffic {
    families: &'static Families,
    places: Places,
    forward: Place,
}

static HTTP: Traffic = Traffic {
    families: &balancer::HTTP,
    places: Places { balance: Place::HttpBalance, endpoint: Place::HttpEndpoint },
    forward: Place::HttpForward,
};
static OPAQUE: Traffic = Traffic {
    families: &balancer::TCP,
    places: Places { balance: Place::OpaqueBalance, endpoint: Place::OpaqueEndpoint },
    forward: Place::OpaqueForward,
};

/// The backends of one destination.
pub struct Backends {
    worker: Rc<Worker>,
    parent: Arc<Meta>,
    dialed: Authority,
    http: RefCell<Vec<(outbound::Backend, Rc<Backend>)>>,
    tcp: RefCell<Vec<(outbound::Backend, Rc<Backend>)>>,
}

impl Backends {
    /// None yet.
    pub fn new(worker: Rc<Worker>, parent: Arc<Meta>, dialed: Authority) -> Self {
        Self { worker, parent, dialed, http: RefCell::default(), tcp: RefCell::default() }
    }

    /// The object that routes are attached to.
    pub fn parent(&self) -> &Arc<Meta> {
        &self.parent
    }

    /// The same destination under a newer policy: backends that it also refers to stay as they are.
    pub fn renewed(&self, parent: Arc<Meta>) -> Self {
        Self {
            worker: self.worker.clone(),
            parent,
            dialed: self.dialed.clone(),
            http: RefCell::new(self.http.borrow().clone()),
            tcp: RefCell::new(self.tcp.borrow().clone()),
        }
    }

    /// Lets go of backends that no route holds.
    pub fn trim(&self) {
        for known in [&self.http, &self.tcp] {
            known.borrow_mut().retain(|(_, backend)| Rc::strong_count(backend) > 1);
        }
    }

    /// Where series are made.
    pub fn registry(&self) -> &Registry {
        &self.worker.registry
    }

    /// Whether metrics of routes tell the hosts that are asked for.
    pub fn tell_hosts(&self) -> bool {
        self.worker.config.outbound.hostname_labels
    }

    /// What was dialed.
    pub fn dialed(&self) -> &Authority {
        &self.dialed
    }

    /// The labels of a route here.
    pub fn labels(&self, route: &Meta) -> Labels {
        labels::namespaced(labels::ported(Labels::new(), "parent", &self.parent), "route", route)
    }

    /// A backend of HTTP requests.
    pub fn http(&self, backend: &outbound::Backend) -> Rc<Backend> {
        known_or(&self.http, backend, || {
            let labels = metrics::backend(labels::ported(Labels::new(), "parent", &self.parent), &backend.meta);
            let direction = &self.worker.config.outbound.direction;
            let patience = Patience { capacity: direction.queue_capacity, failfast: direction.failfast };
            self.make(backend, &HTTP, patience, &labels)
        })
    }

    /// A backend of opaque connections.
    pub fn tcp(&self, backend: &outbound::Backend) -> Rc<Backend> {
        known_or(&self.tcp, backend, || {
            let concrete = match &backend.dispatcher {
                Dispatcher::Balance { path, .. } => path.to_string(),
                Dispatcher::Forward(endpoint) => endpoint.addr.to_string(),
                Dispatcher::Fail => String::new(),
            };
            let labels = labels::ported(Labels::new(), "parent", &self.parent).with("logical", &self.dialed);
            let labels = metrics::backend(labels.with("concrete", concrete), &backend.meta);
            let outbound = &self.worker.config.outbound;
            let patience = Patience { capacity: outbound.tcp_queue_capacity, failfast: outbound.tcp_failfast };
            self.make(backend, &OPAQUE, patience, &labels)
        })
    }

    fn make(&self, backend: &outbound::Backend, kind: &Traffic, patience: Patience, labels: &Labels) -> Rc<Backend> {
        let worker = &self.worker;
        let dispatch = match &backend.dispatcher {
            Dispatcher::Balance { path, ewma } => {
                let metrics = BalancerMetrics::new(kind.families, &worker.registry, labels, patience.failfast);
                Dispatch::Balance(Balancer::new(worker.clone(), path.clone(), *ewma, kind.places, patience, metrics))
            }
            Dispatcher::Forward(endpoint) => {
                let (ewma, place) = (Ewma::default(), kind.forward);
                let settings = Settings { ewma, authority: None, ready: Rc::default(), place, counted: None };
                Dispatch::Forward(Endpoint::new(self.worker.clone(), endpoint.clone(), settings))
            }
            Dispatcher::Fail => Dispatch::Fail,
        };
        Rc::new(Backend { meta: backend.meta.clone(), dispatch })
    }
}

fn known_or(
    known: &RefCell<Vec<(outbound::Backend, Rc<Backend>)>>,
    backend: &outbound::Backend,
    make: impl FnOnce() -> Rc<Backend>,
) -> Rc<Backend> {
    if let Some((_, made)) = known.borrow().iter().find(|(b, _)| b == backend) {
        return made.clone();
    }
    let made = make();
    known.borrow_mut().push((backend.clone(), made.clone()));
    made
}
