//! Choosing an endpoint: power of two choices by peak-EWMA load, over the endpoints that are ready (proxy-traffic §1).
//!
//! A [`Balancer`] follows discovery and keeps an [`Endpoint`] for each address as long as that is known. An endpoint that
//! can't be reached is set aside and tried again in the background; requests go to the others meanwhile. When none is
//! ready, requests wait; if none becomes ready while one waits for the failfast timeout, all that wait fail, and new ones
//! are shed at once until an endpoint is ready.

mod endpoint;
mod exchange;
mod load;

pub use endpoint::{Endpoint, Refused, Reply, Settings};
pub use exchange::Exchange;
pub use load::Load;

use crate::{
    discover::{EndpointSet, Watched},
    fault::Cause,
    net::{self, Instant},
    observe::{
        balancer::{BalancerMetrics, Queued},
        stack::{Place, Stack},
    },
    worker::Worker,
};
use homarus_model::outbound::Ewma;
use rand::Rng;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// Endpoints of one backend, and the choice among them.
pub struct Balancer {
    worker: Rc<Worker>,
    path: Arc<str>,
    ewma: Ewma,
    watch: RefCell<Watched<EndpointSet>>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Woken when an endpoint may have become ready.
    ready: Rc<Notify>,
    queue: Queue,
    told: Cell<bool>,
    places: Places,
    stack: Stack,
    metrics: BalancerMetrics,
}

/// What a balancer is for, as metrics name it and its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The balancer.
    pub balance: Place,
    /// Its endpoints.
    pub endpoint: Place,
}

/// How long requests may wait for an endpoint, and how many at once.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// So many.
    pub capacity: usize,
    /// So long.
    pub failfast: Duration,
}

/// Requests that wait for a ready endpoint.
struct Queue {
    waiting: Cell<usize>,
    since: Cell<Option<Instant>>,
    /// Nothing became ready in time: shed until something does.
    failfast: Cell<bool>,
    capacity: usize,
    timeout: Duration,
}

impl Balancer {
    /// Follows the endpoints of `path`.
    pub fn new(
        worker: Rc<Worker>,
        path: Arc<str>,
        ewma: Ewma,
        places: Places,
        patience: Patience,
        metrics: BalancerMetrics,
    ) -> Rc<Self> {
        let queue = Queue {
            waiting: Cell::new(0),
            since: Cell::new(None),
            failfast: Cell::new(false),
            capacity: patience.capacity,
            timeout: patience.failfast,
        };
        let watch = RefCell::new(worker.discovery.endpoints(&path));
        let stack = worker.stacks.stand(places.balance);
        let (endpoints, ready, told) = (RefCell::default(), Rc::default(), Cell::new(false));
        Rc::new(Self { worker, path, ewma, watch, endpoints, ready, queue, told, places, stack, metrics })
    }

    /// What is discovered.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Whether a request would find an endpoint, or may wait for one: false means shed.
    pub fn is_available(&self) -> bool {
        self.sync();
        !self.queue.failfast.get() || self.any_ready()
    }

    /// An endpoint for one request or connection; waits for one to be ready. `except` was tried already: it is taken only if
    /// there is no other, and a request that has tried all there are does not wait.
    pub async fn pick(&self, except: &[SocketAddr]) -> Result<Rc<Endpoint>, Cause> {
        if let Some(endpoint) = self.try_pick(except) {
            self.metrics.passed();
            self.stack.ready();
            return Ok(endpoint);
        }
        if self.queue.failfast.get() || self.queue.waiting.get() >= self.queue.capacity {
            self.stack.failed();
            return Err(Cause::LoadShed);
        }
        self.stack.not_ready();
        let since = net::now();
        let picked = self.wait().await;
        self.stack.waited(net::now().duration_since(since), picked.is_ok());
        picked
    }

    /// Waits for an endpoint that is ready.
    async fn wait(&self) -> Result<Rc<Endpoint>, Cause> {
        let _waiting = Waiting::enter(self);
        loop {
            let since = self.queue.since.get().unwrap_or_else(net::now);
            let left = (since + self.queue.timeout).saturating_duration_since(net::now());
            self.endpoints.borrow().iter().for_each(|e| e.want());
            let (ready, mut watch) = (self.ready.clone(), self.watch.borrow().clone());
            let woken = net::timeout(left, async {
                tokio::select! {
                    () = ready.notified() => {}
                    _ = watch.changed() => {}
                }
            });
            let timed_out = woken.await.is_none();
            if let Some(endpoint) = self.try_pick(&[]) {
                // Others that wait may find one too.
                self.ready.notify_waiters();
                return Ok(endpoint);
            }
            if timed_out || self.queue.failfast.get() {
                self.enter_failfast();
                return Err(Cause::FailFast);
            }
        }
    }

    /// An endpoint that is ready now.
    pub fn try_pick(&self, except: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        self.sync();
        let picked = choose(&self.endpoints.borrow(), except)?;
        self.queue.since.set(None);
        if self.queue.failfast.replace(false) {
            self.metrics.gate_open();
        }
        Some(picked)
    }

    fn any_ready(&self) -> bool {
        self.endpoints.borrow().iter().any(|e| e.is_ready())
    }

    fn enter_failfast(&self) {
        if !self.queue.failfast.replace(true) {
            self.metrics.gate_shut();
            self.ready.notify_waiters();
        }
    }

    /// Takes over what discovery has told since.
    fn sync(&self) {
        let mut watch = self.watch.borrow_mut();
        if !watch.has_changed().unwrap_or(false) && !self.endpoints.borrow().is_empty() {
            return;
        }
        let Some(set) = watch.borrow_and_update().clone() else { return };
        let mut endpoints = self.endpoints.borrow_mut();
        let mut added = 0;
        let before: BTreeMap<SocketAddr, Rc<Endpoint>> = endpoints.drain(..).map(|e| (e.addr(), e)).collect();
        for (addr, found) in &set.endpoints {
            let known = before.get(addr).filter(|e| Arc::ptr_eq(e.endpoint(), found));
            endpoints.push(match known {
                Some(endpoint) => endpoint.clone(),
                None => {
                    added += usize::from(!before.contains_key(addr));
                    let settings = Settings {
                        ewma: self.ewma,
                        authority: Some(self.path.clone()),
                        ready: self.ready.clone(),
                        place: self.places.endpoint,
                        counted: Some(self.metrics.endpoints().clone()),
                    };
                    Endpoint::new(self.worker.clone(), found.clone(), settings)
                }
            });
        }
        let removed = before.keys().filter(|addr| !set.endpoints.contains_key(addr)).count();
        if added + removed > 0 || !self.told.get() {
            self.metrics.updated(endpoints.len(), added, removed, !self.told.replace(true));
        }
    }
}

/// One request that waits.
struct Waiting<'a> {
    balancer: &'a Balancer,
    _queued: Queued<'a>,
}

impl<'a> Waiting<'a> {
    fn enter(balancer: &'a Balancer) -> Self {
        let queue = &balancer.queue;
        queue.waiting.set(queue.waiting.get() + 1);
        if queue.since.get().is_none() {
            queue.since.set(Some(net::now()));
        }
        Self { balancer, _queued: balancer.metrics.queue() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let queue = &self.balancer.queue;
        queue.waiting.set(queue.waiting.get() - 1);
        if queue.waiting.get() == 0 {
            queue.since.set(None);
        }
    }
}

/// Power of two choices: of two different endpoints drawn among the ready ones, the less loaded.
fn choose(endpoints: &[Rc<Endpoint>], except: &[SocketAddr]) -> Option<Rc<Endpoint>> {
    let usable = |e: &Rc<Endpoint>| e.is_ready() && !except.contains(&e.addr());
    if let [only] = endpoints {
        return usable(only).then(|| only.clone());
    }
    let all = except.is_empty() && endpoints.iter().all(|e| e.is_ready());
    let mut rng = rand::rng();
    let mut draw = |n: usize| {
        let a = rng.random_range(0..n);
        let b = rng.random_range(0..n - 1);
        (a, if b >= a { b + 1 } else { b })
    };
    let lighter = |a: &Rc<Endpoint>, b: &Rc<Endpoint>| if b.load() < a.load() { b.clone() } else { a.clone() };
    if all && endpoints.len() > 1 {
        let (a, b) = draw(endpoints.len());
        return Some(lighter(&endpoints[a], &endpoints[b]));
    }
    let ready: Vec<&Rc<Endpoint>> = endpoints.iter().filter(|e| usable(e)).collect();
    match ready[..] {
        [] => None,
        [only] => Some(only.clone()),
        _ => {
            let (a, b) = draw(ready.len());
            Some(lighter(ready[a], ready[b]))
        }
    }
}
