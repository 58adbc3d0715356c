//! A control plane inside the test's process.
//!
//! It answers from a [`State`] that a test changes at any time; every stream sends its new value when there is one. One
//! state is served in several namespaces, each on its loopback, because proxies speak plaintext to loopback only.

mod service;
mod views;

use homarus_identity::{
    Credential, Issuer, TrustAnchors,
    authority::Pair,
    csr::{self, Request as SigningRequest},
    issuer::Validity,
    key::Key,
};
use homarus_model::Identity;
use homarus_wire::trust::{TrustServer, WatchRequest};
use linkerd2_proxy_api::{
    destination::destination_server::DestinationServer, identity::identity_server::IdentityServer,
    inbound::inbound_server_policies_server::InboundServerPoliciesServer,
    outbound::outbound_policies_server::OutboundPoliciesServer,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

pub use linkerd2_proxy_api as api;

use crate::ground::Site;

/// The port of the control plane in each namespace.
pub const PORT: u16 = 8090;

/// Everything the control plane knows. Services and policies are found by their addresses and ports.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Services.
    pub services: Vec<Service>,
    /// Policies by port; other ports have the default one.
    pub inbound: HashMap<u16, Inbound>,
    /// The policy of other ports.
    pub default_inbound: Inbound,
    /// How it behaves.
    pub mood: Mood,
    /// How long leaves live; a day if not said.
    pub leaf_lifetime: Option<Duration>,
    /// The roots that proxies are told to believe, PEM; none: that service isn't known here.
    pub trust: Option<String>,
}

/// How the control plane behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Sane,
    /// Answers after this long.
    Slow(Duration),
    /// Sends messages without meaning.
    Nonsense,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, in the namespace `test`.
    pub name: String,
    /// Its cluster address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether its port is opaque.
    pub opaque: bool,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Whether it has outbound policies; otherwise the answer is that there is none.
    pub policy: bool,
    /// Its outbound policy is one that no proxy can read.
    pub unreadable: bool,
}

/// An endpoint of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub addr: SocketAddr,
    /// Its mesh identity; none: it is not meshed.
    pub identity: Option<String>,
    /// Its proxy takes requests as HTTP/2.
    pub h2: bool,
    /// Its proxy takes tagged connections here.
    pub tagged: Option<u16>,
}

/// The policy of a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inbound {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Who may connect.
    pub allow: Allow,
}

/// What a policy says is spoken.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub enum Protocol {
    #[default]
    Detect,
    Opaque,
    Http1,
    Http2,
    Grpc,
}

/// Whom a policy allows.
#[derive(Clone, Copy, Debug, Default)]
pub enum Allow {
    /// Anyone.
    #[default]
    Unauthenticated,
    /// Any mesh identity.
    Authenticated,
    /// Anyone, with a word in the log.
    Audit,
    /// Only clients in `10.0.0.0/8`.
    Cluster,
    /// Only clients elsewhere.
    Elsewhere,
    /// Nobody.
    Deny,
}

/// The control plane. Clones share the state.
#[derive(Clone)]
pub struct Control {
    state: Arc<watch::Sender<State>>,
    authority: Arc<Mutex<Authority>>,
    next: Arc<Mutex<Option<Authority>>>,
    standings: Arc<Mutex<Vec<WatchRequest>>>,
    /// PEM of the first root.
    pub anchors: Arc<str>,
}

/// Who signs.
#[derive(Clone)]
struct Authority {
    root: Pair,
    issuer: Pair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let root = Pair::root(name, Duration::from_secs(86_400 * 7), SystemTime::now()).unwrap();
        let issuer = root.issuer("identity.linkerd.cluster.local", Duration::from_secs(86_400 * 6), SystemTime::now()).unwrap();
        Self { root, issuer }
    }
}

/// The control plane as it is served in one namespace; stops when dropped.
pub struct Serving {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Control {
    /// A new mesh, with a root of its own and nothing in it.
    pub fn new() -> Self {
        let authority = Authority::new("root.linkerd.cluster.local");
        let anchors = authority.root.certificate.to_pem().into();
        let state = Arc::new(watch::channel(State::default()).0);
        let authority = Arc::new(Mutex::new(authority));
        Self { state, authority, next: Arc::default(), standings: Arc::default(), anchors }
    }

    /// Changes something; streams send what follows from it.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Changes the policy of all ports.
    pub fn allow(&self, allow: Allow) {
        self.change(|state| state.default_inbound.allow = allow);
    }

    /// Makes whatever policy a service has readable or not.
    pub fn unreadable(&self, service: &str, unreadable: bool) {
        self.change(|state| {
            let found = state.services.iter_mut().find(|s| s.name == service);
            found.unwrap_or_else(|| panic!("no service {service}")).unreadable = unreadable;
        });
    }

    /// Makes a new root, which issues all leaves from now on; gives its PEM. Nobody believes it yet.
    pub fn rotate(&self) -> String {
        let pem = self.rotate_later();
        self.sign_with_next();
        pem
    }

    /// Makes a new root, which issues nothing yet; gives its PEM.
    pub fn rotate_later(&self) -> String {
        let next = Authority::new("second-root.linkerd.cluster.local");
        let pem = next.root.certificate.to_pem();
        *self.next.lock() = Some(next);
        pem
    }

    /// From now on the root that was made for later issues all leaves.
    pub fn sign_with_next(&self) {
        if let Some(next) = self.next.lock().take() {
            *self.authority.lock() = next;
        }
        // Whoever is told of roots is told of the new signer too.
        self.change(|_| {});
    }

    /// Tells proxies to believe these roots.
    pub fn trust(&self, roots: &str) {
        self.change(|state| state.trust = Some(roots.to_owned()));
    }

    /// What proxies said they stand on, the last of each workload.
    pub fn standings(&self) -> Vec<WatchRequest> {
        self.standings.lock().clone()
    }

    /// The fingerprint of who signs leaves.
    pub fn signer(&self) -> String {
        self.authority.lock().issuer.certificate.fingerprint()
    }

    /// A credential, as the identity controller would issue it.
    pub fn credential(&self, identity: &str) -> Credential {
        let name: Identity = identity.parse().unwrap();
        let key = Key::generate().unwrap();
        let request = csr::make(&name, &key).unwrap();
        let leaf = self.issuer().issue(&SigningRequest::parse(&request).unwrap(), identity, SystemTime::now()).unwrap();
        let Authority { root, issuer } = self.authority.lock().clone();
        let anchors = TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
        let above = vec![issuer.certificate.der().to_vec()];
        Credential::verified(&name, &key, leaf.der().to_vec(), above, &anchors, SystemTime::now()).unwrap()
    }

    /// Changes the endpoints of a service.
    pub fn endpoints(&self, service: &str, endpoints: Vec<Endpoint>) {
        self.change(|state| {
            let found = state.services.iter_mut().find(|s| s.name == service);
            found.unwrap_or_else(|| panic!("no service {service}")).endpoints = endpoints;
        });
    }

    /// Serves in a namespace.
    pub fn serve(&self, site: &Site) -> Serving {
        let listener = site.listen_at(SocketAddr::new([127, 0, 0, 1].into(), PORT));
        listener.set_nonblocking(true).unwrap();
        let me = Arc::new(self.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(IdentityServer::from_arc(me.clone()))
                .add_service(TrustServer::new(me.clone()))
                .add_service(DestinationServer::from_arc(me.clone()))
                .add_service(OutboundPoliciesServer::from_arc(me.clone()))
                .add_service(InboundServerPoliciesServer::from_arc(me))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                .await
                .unwrap();
        };
        // All connections end with the runtime, and that with the thread.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Serving { stop: Some(stop), thread: Some(thread) }
    }

    fn issuer(&self) -> Issuer {
        let (Authority { root, issuer }, lifetime) = (self.authority.lock().clone(), self.state.borrow().leaf_lifetime);
        let anchors = TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
        let validity = match lifetime {
            Some(lifetime) => Validity { lifetime, skew: Duration::ZERO },
            None => Validity::default(),
        };
        Issuer::from_pem(&issuer.certificate.to_pem(), &issuer.key_pem(), &anchors, validity, SystemTime::now()).unwrap()
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// A service of HTTP, or whatever is detected, with a policy and no endpoint.
    pub fn new(name: &str, ip: impl Into<IpAddr>, port: u16) -> Self {
        Self { name: name.into(), ip: ip.into(), port, opaque: false, endpoints: Vec::new(), policy: true, unreadable: false }
    }

    /// Where it is dialed.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Its full name.
    pub fn fqdn(&self) -> String {
        format!("{}.test.svc.cluster.local", self.name)
    }
}

impl Endpoint {
    /// An endpoint outside the mesh.
    pub fn unmeshed(addr: SocketAddr) -> Self {
        Self { addr, identity: None, h2: false, tagged: None }
    }

    /// A meshed one as the control plane usually describes it: HTTP/2 between proxies, tagged opaque connections.
    pub fn meshed(addr: SocketAddr, identity: &str) -> Self {
        Self { addr, identity: Some(identity.into()), h2: true, tagged: Some(crate::ground::INBOUND) }
    }

    /// A meshed one that is reached on its own port only.
    pub fn transparent(addr: SocketAddr, identity: &str) -> Self {
        Self { tagged: None, ..Self::meshed(addr, identity) }
    }
}

impl State {
    fn service(&self, authority: &str) -> Option<&Service> {
        self.services.iter().find(|s| authority == s.addr().to_string() || authority == format!("{}:{}", s.fqdn(), s.port))
    }

    fn endpoint(&self, authority: &str) -> Option<(&Service, &Endpoint)> {
        let all = self.services.iter().flat_map(|s| s.endpoints.iter().map(move |e| (s, e)));
        all.into_iter().find(|(_, e)| e.addr.to_string() == authority)
    }

    fn inbound(&self, port: u32) -> Inbound {
        u16::try_from(port).ok().and_then(|port| self.inbound.get(&port)).copied().unwrap_or(self.default_inbound)
    }
}
