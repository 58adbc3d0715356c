//! What the control plane tells: where connections go, who is there, who may come.
//!
//! One subscription per target per process, run by the admin thread, whose answers all workers share: each answer is a
//! snapshot, and only the latest counts. A subscription lives for as long as somebody holds its [`Watched`] value; workers
//! hold it for their idle time, so there is no other timer. Within its life, a subscription survives everything: a stream
//! that ends is opened again, with back-off if it failed, and meanwhile the last good answer stays.
//!
//! Doubt denies: a policy that can't be read refuses, an endpoint that can't be read isn't used, a port whose policy doesn't
//! come within [`inbound::ANSWER_TIMEOUT`] gets the environment's default, counted.
//!
//! Deliberately absent: choosing between several servers of the control plane by their load. There are few streams, and
//! each proxy draws its server at random.

mod cache;
mod connect;
mod endpoints;
mod episode;
mod follow;
mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

pub use connect::{ConnectError, Control, Peers};
pub use inbound::ANSWER_TIMEOUT;

use crate::{
    config::{Config, InboundPolicy},
    dns::Dns,
    net,
    observe::Registry,
};
use cache::Cache;
use episode::Episodes;
use homarus_model::{Authority, endpoint::Endpoint, inbound::ServerPolicy, outbound::ClientPolicy, profile::Profile};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

/// The latest value, shared by all workers; none until the first answer.
pub type Watched<T> = watch::Receiver<Option<Arc<T>>>;

/// The largest message that the control plane may send: some ten thousand endpoints.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Destinations and backends at once, at most: an application that scans the network must not fill our memory.
const MAX_TARGETS: usize = 16 * 1024;
/// Names at once, at most: whoever may choose them takes no place of an address. It is more than all workers ask about at a
/// time without an answer.
const MAX_NAMES: usize = 8 * 1024;
/// A workload has no more.
const MAX_PORTS: usize = 1 << 16;

/// Where connections to one original destination go, or requests to one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    /// As this policy says.
    Policy {
        /// The policy: the control plane's, or one made here when it knows none.
        policy: Arc<ClientPolicy>,
        /// What else is known of the address.
        profile: Option<Arc<Profile>>,
    },
    /// The control plane refuses to speak of it: close, and say why.
    Refused(Arc<str>),
    /// What it says can't be read: HTTP requests get 500, other connections are closed.
    Invalid {
        /// What can't be read, and what to try.
        why: Arc<str>,
        /// What could be read says that requests must not be looked for.
        opaque: bool,
    },
}

/// The endpoints of one backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSet {
    /// False: nothing of that name is known.
    pub exists: bool,
    /// The endpoints. One that didn't change is the same value as before.
    pub endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
}

/// Answers of the control plane. Clones share their subscriptions.
#[derive(Clone, Debug)]
pub struct Discovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    destination: Arc<Control>,
    policy: Arc<Control>,
    target: Target,
    inbound_default: InboundPolicy,
    episodes: Episodes,
    outbound: Cache<Authority, Outbound>,
    /// The same for names.
    named: Cache<Authority, Outbound>,
    endpoints: Cache<Arc<str>, EndpointSet>,
    inbound: Cache<u16, ServerPolicy>,
    /// The workload's ports: asked about for as long as the proxy runs.
    kept: Mutex<Vec<Watched<ServerPolicy>>>,
    /// When the proxy began to ask.
    started: net::Instant,
    /// Told when the control plane says that the workload has ended.
    over: Notify,
}

/// Who asks, and about what.
#[derive(Debug)]
struct Target {
    workload: String,
    context_token: String,
    profile_networks: Arc<[ipnet::IpNet]>,
    profile_suffixes: Arc<[String]>,
}

impl Inner {
    /// The subscriptions that one to this address or name is among.
    fn asked_about(&self, dialed: &Authority) -> &Cache<Authority, Outbound> {
        if dialed.dns_name().is_some() { &self.named } else { &self.outbound }
    }
}

impl Discovery {
    /// Begins to ask about the workload's ports; everything else is asked about when it is needed. `runtime` is the admin
    /// thread's, `registry` its shard.
    pub fn start(config: &Config, runtime: Handle, dns: Arc<Dns>, peers: Peers, registry: &Registry) -> Self {
        let discovery = &config.discovery;
        let control = |name, addr: &crate::config::ControlAddr| {
            let limits = discovery.stream_limits.toward(addr);
            Arc::new(Control::new(name, addr.clone(), limits, &config.outbound.direction, dns.clone(), peers.clone(), registry))
        };
        let (destination, policy) = (control("destination", &discovery.destination), control("policy", &discovery.policy));
        Self::with(config, runtime, destination, policy, registry)
    }

    /// The same, with these clients.
    fn with(config: &Config, runtime: Handle, destination: Arc<Control>, policy: Arc<Control>, registry: &Registry) -> Self {
        let discovery = &config.discovery;
        let inner = Inner {
            runtime,
            destination,
            policy,
            target: Target {
                workload: discovery.workload.clone(),
                context_token: discovery.context_token.clone(),
                profile_networks: discovery.profile_networks.clone(),
                profile_suffixes: discovery.profile_suffixes.clone(),
            },
            inbound_default: config.inbound.policy.clone(),
            episodes: Episodes::new(registry.clone()),
            outbound: Cache::new(MAX_TARGETS),
            named: Cache::new(MAX_NAMES),
            endpoints: Cache::new(MAX_TARGETS),
            inbound: Cache::new(MAX_PORTS),
            kept: Mutex::default(),
            started: net::now(),
            over: Notify::new(),
        };
        let this = Self(Arc::new(inner));
        let ports = config.inbound.policy.ports.iter().filter(|p| *p != config.process.admin_addr.port());
        let ports = ports.chain([config.process.admin_addr.port()]).map(|port| this.inbound(port)).collect();
        *this.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = ports;
        this
    }

    /// Resolves when the control plane has said that all of the workload has ended but this proxy.
    pub async fn workload_over(&self) {
        self.0.over.notified().await;
    }

    /// Where connections to an address go, or requests to a name (proxy-wire §7.1, §7.4).
    pub fn outbound(&self, dialed: &Authority) -> Watched<Outbound> {
        let refusal = || Outbound::Refused("too many destinations at once".into());
        self.0.asked_about(dialed).subscribe(dialed.clone(), refusal, |sender| {
            let (inner, dialed) = (self.0.clone(), dialed.clone());
            self.0.runtime.spawn(async move {
                let asking = outbound::ask(&inner, &dialed, &sender);
                inner.asked_about(&dialed).keep(&dialed, &sender, asking).await;
            });
        })
    }

    /// The endpoints of a backend, by the `name:port` that its policy gives.
    pub fn endpoints(&self, path: &Arc<str>) -> Watched<EndpointSet> {
        self.0.endpoints.subscribe(path.clone(), EndpointSet::default, |sender| {
            let (inner, path) = (self.0.clone(), path.clone());
            self.0.runtime.spawn(async move {
                let asking = endpoints::ask(&inner, &path, &sender);
                inner.endpoints.keep(&path, &sender, asking).await;
            });
        })
    }

    /// The policy of a port of the workload; none until the first answer or, without one, the environment's default.
    pub fn inbound(&self, port: u16) -> Watched<ServerPolicy> {
        self.0.inbound.subscribe(port, inbound::invalid, |sender| {
            let inner = self.0.clone();
            self.0.runtime.spawn(async move {
                let asking = inbound::ask(&inner, port, &sender);
                inner.inbound.keep(&port, &sender, asking).await;
            });
        })
    }
}
