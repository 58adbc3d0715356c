//! The process: its threads, from start to drain.
//!
//! Listeners are bound at once, so that clients can connect; connections are carried when there is a certificate. The first
//! worker accepts; with several workers it hands each socket to the one with the fewest connections.

use crate::{
    accept::{self, Accepted},
    admin::Admin,
    config::{Config, Direction},
    discover::{Control, Discovery, Peers},
    dns::Dns,
    inbound::Inbound,
    net::{self, TcpListener, TcpStream},
    observe::{
        Registry,
        process::{self, Process},
        stack::Stacks,
    },
    outbound::Outbound,
    secure::{
        Keyring, Trust,
        certify::{Certify, StartError},
    },
    worker::{InFlight, Worker},
};
use homarus_daemon::{
    drain::{self, Drain, Signal},
    logs::Filter,
};
use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, mpsc},
    task::LocalSet,
};

/// Sockets that may wait for their worker.
const HANDED_OVER: usize = 1024;

/// Why the proxy doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No identity can be had.
    #[error(transparent)]
    Identity(#[from] StartError),
    /// An address can't be listened on.
    #[error("cannot listen on {0}: {1}; does another proxy run here?")]
    Bind(SocketAddr, io::Error),
    /// The machine gives no threads or no sockets.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A thread ended that should not have.
    #[error("a worker thread failed")]
    Worker,
}

/// What all workers are made of.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    discovery: Discovery,
    keyring: Keyring,
    registry: Registry,
    drain: Drain,
    in_flight: [Arc<InFlight>; 2],
}

/// Which way a connection goes.
#[derive(Clone, Copy)]
enum Side {
    Inbound,
    Outbound,
}

/// A socket on its way to its worker.
type Handed = (Side, std::net::TcpStream, SocketAddr);

/// A worker as the acceptor sees it.
struct Taker {
    open: Arc<AtomicUsize>,
    sockets: mpsc::Sender<Handed>,
}

/// Runs until the drain is over.
pub fn run(config: Config, log: Option<Filter>) -> Result<(), RunError> {
    tell(&config);
    let config = Arc::new(config);
    let registry = Registry::default();
    let (certify, certified) = Certify::prepare(config.identity.clone(), registry.shard(0))?;
    let (signal, drain) = drain::channel();
    let admin_runtime = runtime()?;
    let peers = Peers { anchors: certified.anchors.clone(), material: certified.material.clone() };
    let dns = Arc::new(Dns::new(config.process.dns_ttl.0, config.process.dns_ttl.1, registry.shard(0)));
    let discovery = {
        let _entered = admin_runtime.enter();
        Discovery::start(&config, admin_runtime.handle().clone(), dns.clone(), peers.clone(), &registry.shard(0))
    };
    let (keyring, follow) = Keyring::follow(certified.material.clone());
    let limit = |direction: &Direction| InFlight::new(direction.max_in_flight);
    let in_flight = [limit(&config.inbound.direction), limit(&config.outbound.direction)];
    let parts = Parts { config: config.clone(), discovery, keyring, registry: registry.clone(), drain, in_flight };

    let workers = config.process.cores.workers(thread::available_parallelism().map_or(1, usize::from));
    let runtimes: Vec<Runtime> = (0..workers).map(|_| runtime()).collect::<Result<_, _>>()?;
    let process = Process::started_now(runtimes.iter().map(|r| r.metrics()).collect(), Some(certified.times.clone()));
    let admin = Arc::new(Admin::new(&config.process, registry, process, log));
    let listeners = bind(&config, &runtimes[0])?;
    let admin_listener = listen(&admin_runtime, config.process.admin_addr, None, &config.inbound.direction)?;

    let issuer = &config.identity.issuer;
    let limits = config.discovery.stream_limits.toward(issuer);
    let issuer = Control::new("identity", issuer.clone(), limits, &config.outbound.direction, dns, peers, &parts.registry.shard(0));
    let (done, mut finished) = mpsc::channel::<()>(1);
    let admin_parts = parts.clone();
    thread::Builder::new().name("admin".into()).spawn(move || {
        let local = LocalSet::new();
        local.spawn_local(certify.run(issuer));
        local.spawn_local(follow);
        local.block_on(&admin_runtime, administer(admin_parts, admin, admin_listener, signal, &mut finished));
        // The grace period is over, or everybody is done: what is left has had its time.
        std::process::exit(0);
    })?;
    let threads = start_workers(parts, runtimes, listeners)?;
    let failed = threads.into_iter().map(thread::JoinHandle::join).filter(Result::is_err).count();
    drop(done);
    if failed > 0 {
        return Err(RunError::Worker);
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Tells the operator what runs with which settings.
fn tell(config: &Config) {
    tracing::info!("{}", process::build_info());
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !config.unused.is_empty() {
        tracing::debug!(variables = ?config.unused, "variables that this version does not read");
    }
    if config.process.ingress_mode {
        tracing::info!("ingress mode: requests go to the Service that l5d-dst-override names");
    }
    tracing::info!("Admin interface on {}", config.process.admin_addr);
    tracing::info!("Inbound interface on {}", config.inbound.listen);
    for addr in &config.outbound.listen {
        tracing::info!("Outbound interface on {addr}");
    }
    tracing::info!("SNI is {}", config.identity.server_name);
    tracing::info!("Local identity is {}", config.identity.name);
    tracing::info!("Destinations resolved via {}", config.discovery.destination.text);
}

/// The listeners that the first worker accepts on.
type Listeners = Vec<(Side, TcpListener)>;

fn bind(config: &Config, runtime: &Runtime) -> Result<Listeners, RunError> {
    let (inbound, outbound) = (&config.inbound.direction, &config.outbound.direction);
    let mut listeners = vec![(Side::Inbound, listen(runtime, config.inbound.listen, inbound.backlog, inbound)?)];
    for addr in &config.outbound.listen {
        listeners.push((Side::Outbound, listen(runtime, *addr, outbound.backlog, outbound)?));
    }
    Ok(listeners)
}

fn listen(runtime: &Runtime, addr: SocketAddr, backlog: Option<u32>, direction: &Direction) -> Result<TcpListener, RunError> {
    let _entered = runtime.enter();
    net::listen(addr, backlog, &direction.accept_socket).map_err(|error| RunError::Bind(addr, error))
}

/// The admin thread: serves the admin port until somebody asks the process to end and the workers are done.
async fn administer(parts: Parts, admin: Arc<Admin>, listener: TcpListener, signal: Signal, finished: &mut mpsc::Receiver<()>) {
    let mut keyring = parts.keyring.clone();
    let grace = parts.config.process.shutdown_grace;
    // The admin server outlives the drain, so that it can be watched; it has a drain of its own that never comes.
    let (_never, own_drain) = drain::channel();
    let worker = Rc::new(parts.worker(0, own_drain.clone()));
    let server = Inbound::new(worker, Some(admin.clone()));
    tokio::task::spawn_local(accept::serve(listener, own_drain, move |tcp, client| {
        let Ok(local) = tcp.local_addr() else { return };
        let accepted = Accepted { tcp, client, original_dst: net::unmapped(local) };
        tokio::task::spawn_local(server.clone().carry(accepted));
    }));
    let ready = admin.clone();
    tokio::task::spawn_local(async move {
        if keyring.ready().await.is_some() {
            ready.set_ready();
        }
    });
    let reason = match drain::requests() {
        Ok(mut requests) => tokio::select! {
            request = requests.next() => request.to_string(),
            () = admin.shutdown_requested() => "the shutdown endpoint".into(),
            () = parts.discovery.workload_over() => "word that the workload has ended".into(),
        },
        Err(error) => {
            tracing::warn!(%error, "signals can't be listened to");
            admin.shutdown_requested().await;
            "the shutdown endpoint".into()
        }
    };
    tracing::info!("received {reason}, starting shutdown");
    signal.start();
    if net::timeout(grace, finished.recv()).await.is_none() {
        tracing::warn!(?grace, "connections did not end within the grace period; leaving anyway");
    }
}

impl Parts {
    /// A worker's state; made on its thread.
    fn worker(&self, shard: usize, drain: Drain) -> Worker {
        let registry = self.registry.shard(shard);
        Worker {
            trust: Trust::start(self.keyring.clone(), &registry),
            stacks: Stacks::new(registry.clone()),
            config: self.config.clone(),
            discovery: self.discovery.clone(),
            keyring: self.keyring.clone(),
            registry,
            drain,
            in_flight: self.in_flight.clone(),
        }
    }
}

fn start_workers(parts: Parts, runtimes: Vec<Runtime>, listeners: Listeners) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let mut takers = Vec::new();
    let mut receivers = Vec::new();
    for _ in &runtimes {
        let (sockets, receiver) = mpsc::channel(HANDED_OVER);
        takers.push(Taker { open: Arc::default(), sockets });
        receivers.push(receiver);
    }
    let opens: Vec<_> = takers.iter().map(|s| s.open.clone()).collect();
    let mut first = Some((listeners, takers));
    let mut threads = Vec::new();
    for (i, ((runtime, receiver), open)) in runtimes.into_iter().zip(receivers).zip(opens).enumerate() {
        let (parts, first) = (parts.clone(), first.take());
        threads.push(thread::Builder::new().name(format!("worker-{i}")).spawn(move || {
            LocalSet::new().block_on(&runtime, work(parts, i + 1, first, receiver, open));
        })?);
    }
    Ok(threads)
}

/// One worker, until the drain and then the end of its connections.
async fn work(
    parts: Parts,
    shard: usize,
    first: Option<(Listeners, Vec<Taker>)>,
    mut sockets: mpsc::Receiver<Handed>,
    open: Arc<AtomicUsize>,
) {
    let worker = Rc::new(parts.worker(shard, parts.drain.clone()));
    let carrier = Rc::new(Carrier {
        inbound: Inbound::new(worker.clone(), None),
        outbound: Outbound::new(worker),
        open,
        here: Cell::new(0),
        ended: Notify::new(),
    });
    if let Some((listeners, takers)) = first {
        accept_when_certified(&parts, listeners, takers, &carrier).await;
    }
    let mut drain = parts.drain.clone();
    loop {
        tokio::select! {
            biased;
            () = drain.signaled() => break,
            handed = sockets.recv() => {
                let Some((side, socket, client)) = handed else { break };
                match TcpStream::from_std(socket) {
                    Ok(tcp) => carrier.carry(side, tcp, client),
                    Err(error) => tracing::debug!(%error, "handed socket is unusable"),
                }
            }
        }
    }
    drain.signaled().await;
    while carrier.here.get() > 0 {
        carrier.ended.notified().await;
    }
}

/// Waits for the first certificate, then accepts.
async fn accept_when_certified(parts: &Parts, listeners: Listeners, takers: Vec<Taker>, carrier: &Rc<Carrier>) {
    let (mut keyring, mut drain) = (parts.keyring.clone(), parts.drain.clone());
    tokio::select! {
        () = drain.signaled() => return,
        _ = keyring.ready() => {}
    }
    let takers = Rc::new(takers);
    for (side, listener) in listeners {
        let (carrier, takers) = (carrier.clone(), takers.clone());
        let assign = move |tcp, client| carrier.assign(&takers, side, tcp, client);
        tokio::task::spawn_local(accept::serve(listener, parts.drain.clone(), assign));
    }
}

/// Carries one worker's connections, and counts them.
struct Carrier {
    inbound: Rc<Inbound>,
    outbound: Rc<Outbound>,
    /// Open connections, as the acceptor sees them.
    open: Arc<AtomicUsize>,
    here: Cell<usize>,
    ended: Notify,
}

impl Carrier {
    /// Gives a connection to the worker that has the fewest.
    fn assign(self: &Rc<Self>, takers: &[Taker], side: Side, tcp: TcpStream, client: SocketAddr) {
        let least = takers.iter().min_by_key(|taker| taker.open.load(Relaxed));
        match least {
            Some(taker) if !Arc::ptr_eq(&taker.open, &self.open) => match tcp.into_std() {
                Ok(socket) => {
                    if taker.sockets.try_send((side, socket, client)).is_err() {
                        tracing::warn!(%client, "connection closed: its worker is overloaded");
                    }
                }
                Err(error) => tracing::debug!(%error, "socket can't change threads"),
            },
            _ => self.carry(side, tcp, client),
        }
    }

    fn carry(self: &Rc<Self>, side: Side, tcp: TcpStream, client: SocketAddr) {
        let Some(accepted) = Accepted::new(tcp, client) else { return };
        let counted = Counted::new(self.clone());
        match side {
            Side::Inbound => {
                let carried = self.inbound.clone().carry(accepted);
                tokio::task::spawn_local(async move {
                    carried.await;
                    drop(counted);
                });
            }
            Side::Outbound => {
                let carried = self.outbound.clone().carry(accepted);
                tokio::task::spawn_local(async move {
                    carried.await;
                    drop(counted);
                });
            }
        }
    }
}

/// One open connection.
struct Counted(Rc<Carrier>);

impl Counted {
    fn new(carrier: Rc<Carrier>) -> Self {
        carrier.open.fetch_add(1, Relaxed);
        carrier.here.set(carrier.here.get() + 1);
        Self(carrier)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.here.set(self.0.here.get() - 1);
        self.0.ended.notify_one();
    }
}
