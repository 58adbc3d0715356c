//! Connections to one part of the control plane.

use crate::{
    config::{Backoff, ControlAddr, Direction, StreamLimits},
    dns::{Dns, DnsError},
    http::channel::{Channel, ChannelError, Meter},
    net::{self, FirstWord, SocketOptions},
    observe::{
        Labels, Registry,
        balancer::{self, BalancerMetrics},
    },
    secure::{
        self, Material,
        control::{self, TlsError},
    },
};
use homarus_identity::TrustAnchors;
use rand::seq::SliceRandom;
use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::{Mutex, watch};

/// Connections to one part of the control plane, at most. Each carries as many streams as the server allows.
const MAX_CONNECTIONS: usize = 16;
/// Tries that are told at warning level, one in so many.
const TOLD_FAILURES: u32 = 10;

/// Whoever waits so long for a connection is told by the metrics that the gate is shut (proxy-wire §4). Nobody is refused:
/// what was known stays in use.
const FAILFAST: Duration = Duration::from_secs(30);

/// Whom we are and whom we believe, as it changes.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Whom we believe.
    pub anchors: watch::Receiver<TrustAnchors>,
    /// What we show; none before the first certificate.
    pub material: watch::Receiver<Option<Material>>,
}

/// Why there is no connection. All may pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// Nobody listens there, or nobody answers.
    #[error("failed to connect to {addr}: {source}")]
    Connect {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Whoever is there isn't who they should be.
    #[error("no TLS with {addr}: {source}")]
    Tls {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: TlsError,
    },
    /// They don't speak HTTP/2.
    #[error("no HTTP/2 with {addr}: {source}")]
    Http {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: ChannelError,
    },
    /// The address can't stand in a request.
    #[error("{0:?} is no authority")]
    Authority(Arc<str>),
}

/// One part of the control plane.
#[derive(Debug)]
pub struct Control {
    name: &'static str,
    addr: ControlAddr,
    limits: StreamLimits,
    options: SocketOptions,
    timeout: Duration,
    backoff: Backoff,
    dns: Arc<Dns>,
    peers: Peers,
    meter: Arc<Meter>,
    balance: BalancerMetrics,
    /// The addresses behind the name, as far as metrics know.
    resolved: parking_lot::Mutex<BTreeSet<SocketAddr>>,
    channels: Mutex<Vec<Channel>>,
}

impl Control {
    /// A part of the control plane; nothing is connected yet.
    pub fn new(
        name: &'static str,
        addr: ControlAddr,
        limits: StreamLimits,
        outbound: &Direction,
        dns: Arc<Dns>,
        peers: Peers,
        registry: &Registry,
    ) -> Self {
        let meter = Meter::new(registry, &addr.label(), addr.tls.as_ref());
        let labels = Labels::new().with("addr", addr.label());
        let balance = BalancerMetrics::new(balancer::control(name), registry, &labels, FAILFAST);
        Self {
            name,
            addr,
            limits,
            options: outbound.connect_socket,
            timeout: outbound.connect_timeout,
            backoff: outbound.connect_backoff,
            dns,
            peers,
            meter,
            balance,
            resolved: parking_lot::Mutex::default(),
            channels: Mutex::default(),
        }
    }

    /// How long its streams may be silent.
    pub(super) fn limits(&self) -> StreamLimits {
        self.limits
    }

    /// How long to wait after so many failures in a row.
    pub fn backoff(&self, failures: u32) -> Duration {
        self.backoff.delay(failures, rand::random())
    }

    /// Waits until there is something to show there. Whoever came without a certificate would stay a stranger for as long as
    /// the connection lives.
    pub(super) async fn introduced(&self) {
        if self.addr.tls.is_some() {
            // An error means that there will never be a certificate, because the process ends.
            let _ = self.peers.material.clone().wait_for(Option::is_some).await;
        }
    }

    /// A connection with room for a stream. Tries until there is one; whoever asks meanwhile waits for the same.
    pub async fn channel(&self) -> Channel {
        self.introduced().await;
        let _queued = self.balance.queue();
        let mut channels = self.channels.lock().await;
        let (begun, mut failures, mut shut) = (net::now(), 0, false);
        loop {
            channels.retain_mut(|c| c.has_room() || c.users() > 1);
            if let Some(with_room) = channels.iter_mut().position(Channel::has_room) {
                return channels[with_room].clone();
            }
            if channels.len() >= MAX_CONNECTIONS {
                // All are full: the request waits for a stream to end.
                return channels[0].clone();
            }
            match self.dial().await {
                Ok(channel) => {
                    if shut {
                        self.balance.gate_open();
                    }
                    if failures > 0 {
                        tracing::info!(client = self.name, addr = %self.addr.label(), "connected to the control plane again");
                    }
                    channels.push(channel);
                }
                Err(error) => {
                    self.tell(failures, &error);
                    if !shut && net::now().duration_since(begun) >= FAILFAST {
                        self.balance.gate_shut();
                        shut = true;
                    }
                    net::sleep(self.backoff(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    fn tell(&self, failures: u32, error: &ConnectError) {
        let addr = self.addr.label();
        if failures.is_multiple_of(TOLD_FAILURES) {
            tracing::warn!(client = self.name, %addr, %error, "failed to connect to the control plane; it is tried again");
        } else {
            tracing::debug!(client = self.name, %addr, %error, "failed to connect to the control plane again");
        }
    }

    /// A connection stays silent: the next stream gets another.
    pub(super) async fn distrust(&self, channel: &Channel) {
        self.channels.lock().await.retain(|c| !c.is_same(channel));
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let _queued = self.balance.queue();
        self.dial().await
    }

    /// Each address is tried once, in random order.
    async fn dial(&self) -> Result<Channel, ConnectError> {
        let authority = self.addr.text.parse().map_err(|_| ConnectError::Authority(self.addr.text.clone()))?;
        let mut addrs = self.dns.resolve(self.name, &self.addr).await?;
        self.count_resolved(&addrs);
        addrs.shuffle(&mut rand::rng());
        let _pending = self.balance.endpoints().count(false);
        let mut last = Err(ConnectError::Dns(DnsError::Empty(self.addr.label())));
        for addr in addrs {
            last = self.connect_to(addr, &authority).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn count_resolved(&self, addrs: &[SocketAddr]) {
        let now: BTreeSet<SocketAddr> = addrs.iter().copied().collect();
        let mut before = self.resolved.lock();
        let (added, removed) = (now.difference(&before).count(), before.difference(&now).count());
        if added + removed > 0 {
            self.balance.updated(now.len(), added, removed, before.is_empty());
            *before = now;
        }
    }

    /// Connects within the one time limit that covers TCP, TLS and the first frames.
    async fn connect_to(&self, addr: SocketAddr, authority: &http::uri::Authority) -> Result<Channel, ConnectError> {
        let connecting = async {
            let failed = |source| ConnectError::Connect { addr, source };
            let socket = net::connect(addr, &self.options, self.timeout, FirstWord::Ours).await.map_err(failed)?;
            let Some(server) = &self.addr.tls else {
                return self.start(socket, addr, authority, std::future::pending()).await;
            };
            let (anchors, material) = (self.peers.anchors.borrow().clone(), self.peers.material.borrow().clone());
            let failed = |source| ConnectError::Tls { addr, source };
            let stream = control::connect(socket, server, anchors, material).await.map_err(failed)?;
            let distrusted = secure::distrusted(stream.peer_chain(), self.peers.anchors.clone());
            self.start(stream, addr, authority, distrusted).await
        };
        let timed_out = || ConnectError::Connect { addr, source: io::ErrorKind::TimedOut.into() };
        net::timeout(self.timeout, connecting).await.ok_or_else(timed_out)?
    }

    /// Begins HTTP/2. The connection ends with its server's or our own wish, or when the server is `distrusted`, which says
    /// why.
    async fn start<IO>(
        &self,
        io: IO,
        addr: SocketAddr,
        authority: &http::uri::Authority,
        distrusted: impl Future<Output = &'static str> + Send + 'static,
    ) -> Result<Channel, ConnectError>
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let begun = Channel::begin(io, authority.clone(), self.meter.clone()).await;
        let (channel, carry) = begun.map_err(|source| ConnectError::Http { addr, source })?;
        let ready = self.balance.endpoints().count(true);
        tokio::spawn(async move {
            tokio::select! {
                () = carry => {}
                why = distrusted => tracing::info!(%addr, why, "connection to the control plane ended"),
            }
            drop(ready);
        });
        Ok(channel)
    }
}
