//! The script of connections toward the workload: who comes, for which port, may they, what do they speak, and to the
//! application.

mod application;
mod direct;
mod requests;

use crate::{
    accept::Accepted,
    admin::Admin,
    authorize::{HeaderMetrics, Policy, Port},
    buffers::Buffer,
    detect::{self, First, http::Verdict, metrics::Detected, tls::Hello},
    fault::{Cause, Fault},
    forward::{copy, metrics},
    http::{Ending, h1, h2},
    io::Io,
    net::{self, FirstWord},
    secure::{self, Peer},
    worker::Worker,
};
use application::Application;
use bytes::Bytes;
use futures::future::{LocalBoxFuture, TryFutureExt};
use homarus_model::inbound::{ClientTls, NoTls, Protocol};
use requests::Requests;
use std::{cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

/// The inbound side of one worker.
pub struct Inbound {
    worker: Rc<Worker>,
    admin: Option<Arc<Admin>>,
    http2: h2::Settings,
    headers: HeaderMetrics,
    ports: RefCell<HashMap<SocketAddr, Rc<Port>, ahash::RandomState>>,
    applications: RefCell<HashMap<SocketAddr, Rc<Application>, ahash::RandomState>>,
}

/// One client's connection, as far as it is known.
struct Connection {
    /// Its bytes, TLS of the mesh taken off.
    io: Io,
    client: SocketAddr,
    tls: ClientTls,
    /// The application's address.
    target: SocketAddr,
    port: Rc<Port>,
}

/// How a connection goes on.
enum Way {
    /// Bytes, between these two.
    Copy(Connection, Io),
    /// HTTP/1 requests.
    Http1(Connection),
    /// HTTP/2 requests.
    Http2(Connection),
}

impl Inbound {
    /// Nothing is known yet. With `admin`, this is the inbound side of the admin port: the application is the proxy itself.
    pub fn new(worker: Rc<Worker>, admin: Option<Arc<Admin>>) -> Rc<Self> {
        let http2 = crate::http::server_settings(&worker.config.inbound.direction.http2_server);
        let headers = HeaderMetrics::new(worker.registry.clone());
        let (ports, applications) = (RefCell::default(), RefCell::default());
        let this = Rc::new(Self { worker, admin, http2, headers, ports, applications });
        tokio::task::spawn_local(this.clone().forget_idle());
        this
    }

    /// Carries one connection to its end.
    pub async fn carry(self: Rc<Self>, accepted: Accepted) {
        let (client, original_dst) = (accepted.client, accepted.original_dst);
        let end = |error: String| tracing::debug!(%client, %original_dst, error, "connection ended");
        let going = match Box::pin(self.worker.settled(Box::pin(self.settle(accepted)))).await {
            Ok(Some(way)) => self.go(way),
            Ok(None) => return,
            Err(fault) => return end(fault.to_string()),
        };
        if let Err(error) = going.await {
            end(error);
        }
    }

    /// Goes a way to its end. Each is boxed: an idle connection has the memory of its own way and of no other.
    fn go(&self, way: Way) -> LocalBoxFuture<'_, Result<(), String>> {
        match way {
            Way::Copy(connection, server) => Box::pin(self.copy(connection, server)),
            Way::Http1(connection) => {
                let (io, requests) = self.requests(connection);
                let ending = Ending::new(self.worker.drain.clone(), &io);
                Box::pin(async move { h1::server::serve(io, &requests, ending).await.map_err(|e| e.to_string()) })
            }
            Way::Http2(connection) => {
                let (io, requests) = self.requests(connection);
                let ending = Ending::new(self.worker.drain.clone(), &io);
                Box::pin(h2::server::serve(io, Rc::new(requests), &self.http2, ending).map_err(|e| e.to_string()))
            }
        }
    }

    /// Finds out who comes, whether they may, and what they speak.
    async fn settle(&self, accepted: Accepted) -> Result<Option<Way>, Fault> {
        let Accepted { tcp, client, original_dst } = accepted;
        let config = &self.worker.config.inbound;
        if self.admin.is_none() && !config.ips.is_empty() && !config.ips.contains(&original_dst.ip()) {
            return Err(Fault::new(Cause::Unauthorized, format!("{original_dst} is not an address of this workload")));
        }
        if self.admin.is_none() && original_dst.port() == config.listen.port() {
            return self.direct(tcp, client, original_dst).await;
        }
        let port = self.port(original_dst);
        // Of the admin port it is known what is spoken there; its requests wait for the policy, but for probes.
        let policy = match self.admin {
            Some(_) => port.policy_of_probes(),
            None => port.policy().await?,
        };
        let io = Io::from(tcp);
        let tls = ClientTls::None(NoTls::PortSkipped);
        let connection = Connection { io, client, tls, target: original_dst, port };
        if policy.server.protocol == Protocol::Opaque {
            return self.opaque(connection, &policy, None).await.map(Some);
        }
        self.transparent(connection, &policy).await
    }

    /// A connection to an application's own port: maybe TLS of the mesh, then what the policy says (proxy-wire §6.2).
    async fn transparent(&self, mut connection: Connection, policy: &Policy) -> Result<Option<Way>, Fault> {
        connection.tls = ClientTls::None(NoTls::NoTlsFromRemote);
        let limit = self.worker.config.inbound.direction.detect_timeout;
        let begun = net::now();
        let (mut buffer, server) = match self.first(&mut connection, policy, limit).await? {
            First::Ended => return Ok(None),
            First::Server(server) | First::Silence(Some(server)) => {
                policy.metrics.detected(Detected::NotHttp, net::now().duration_since(begun));
                return Ok(Some(Way::Copy(connection, server)));
            }
            First::Silence(None) => {
                policy.metrics.tcp_error("tls detection timeout");
                return Err(Fault::new(Cause::Unexpected("tls detection timeout".into()), ""));
            }
            First::Client(buffer, server) => (buffer, server),
        };
        let hello = loop {
            match detect::tls::hello(&buffer) {
                Hello::Incomplete => {
                    let left = (begun + limit).saturating_duration_since(net::now());
                    match net::timeout(left, detect::more(&mut connection.io, &mut buffer)).await {
                        Some(Ok(1..)) => {}
                        Some(Ok(_)) => return Ok(None),
                        Some(Err(error)) => return Err(broken(&error)),
                        None => {
                            policy.metrics.tcp_error("tls detection timeout");
                            return Err(Fault::new(Cause::Unexpected("tls detection timeout".into()), ""));
                        }
                    }
                }
                hello => break hello,
            }
        };
        match hello {
            Hello::For { sni, .. } if self.is_ours(&sni) => {
                drop(server);
                let (tls, peer) = self.end_tls(connection.io, buffer, None).await?;
                connection.io = tls;
                connection.tls = ClientTls::Terminated(peer.identity);
                self.terminated(connection, policy).await
            }
            hello => {
                if let Hello::For { sni, .. } = hello {
                    connection.tls = ClientTls::Passthru { sni: sni.into() };
                }
                self.spoken(connection, policy, buffer, server, begun).await
            }
        }
    }

    /// A connection of which TLS of the mesh was taken off.
    async fn terminated(&self, mut connection: Connection, policy: &Policy) -> Result<Option<Way>, Fault> {
        let begun = net::now();
        let limit = match &policy.server.protocol {
            Protocol::Http2(_) | Protocol::Grpc(_) => return Ok(Some(Way::Http2(connection))),
            Protocol::Tls | Protocol::Opaque => return self.opaque(connection, policy, None).await.map(Some),
            Protocol::Detect { timeout, .. } => *timeout,
            Protocol::Http1(_) => self.worker.config.inbound.direction.detect_timeout,
        };
        let always_http = matches!(policy.server.protocol, Protocol::Http1(_));
        match self.first(&mut connection, policy, limit).await? {
            First::Ended => Ok(None),
            First::Server(server) => {
                policy.metrics.detected(Detected::NotHttp, net::now().duration_since(begun));
                Ok(Some(Way::Copy(connection, server)))
            }
            First::Silence(server) => {
                policy.metrics.detected(Detected::ReadTimeout, net::now().duration_since(begun));
                if always_http {
                    return Ok(Some(Way::Http1(connection)));
                }
                self.opaque(connection, policy, server).await.map(Some)
            }
            First::Client(buffer, server) => self.spoken(connection, policy, buffer, server, begun).await,
        }
    }

    /// A client that has spoken: these are its first bytes.
    async fn spoken(
        &self,
        mut connection: Connection,
        policy: &Policy,
        mut buffer: Buffer,
        server: Option<Io>,
        begun: net::Instant,
    ) -> Result<Option<Way>, Fault> {
        let meshed = matches!(connection.tls, ClientTls::Terminated(_));
        let limit = match &policy.server.protocol {
            Protocol::Http2(_) | Protocol::Grpc(_) => {
                connection.io.unread(Bytes::copy_from_slice(&buffer));
                return Ok(Some(Way::Http2(connection)));
            }
            Protocol::Http1(_) if !meshed => {
                connection.io.unread(Bytes::copy_from_slice(&buffer));
                return Ok(Some(Way::Http1(connection)));
            }
            Protocol::Tls | Protocol::Opaque => {
                connection.io.unread(Bytes::copy_from_slice(&buffer));
                return self.opaque(connection, policy, server).await.map(Some);
            }
            Protocol::Detect { timeout, .. } => *timeout,
            Protocol::Http1(_) => self.worker.config.inbound.direction.detect_timeout,
        };
        let settled = detect::settle(&mut connection.io, &mut buffer, begun + limit).await;
        policy.metrics.detected(Detected::of(&settled), net::now().duration_since(begun));
        let (verdict, _) = settled.map_err(|e| broken(&e))?;
        connection.io.unread(Bytes::copy_from_slice(&buffer));
        drop(buffer);
        match verdict {
            Verdict::Http2 => Ok(Some(Way::Http2(connection))),
            Verdict::Http1 => Ok(Some(Way::Http1(connection))),
            _ if matches!(policy.server.protocol, Protocol::Http1(_)) => Ok(Some(Way::Http1(connection))),
            _ => self.opaque(connection, policy, server).await.map(Some),
        }
    }

    /// Waits for the first bytes. If the client is silent and may connect, the application gets the chance to speak first.
    async fn first(&self, connection: &mut Connection, policy: &Policy, limit: Duration) -> Result<First, Fault> {
        let Connection { io, client, tls, target, .. } = connection;
        let speculate = async || {
            if !matches!(policy.server.protocol, Protocol::Detect { .. }) {
                return None;
            }
            // Not counted as a denial: its first bytes may prove who it is.
            homarus_model::inbound::authorize(policy.server.authorizations.iter(), client.ip(), tls)?;
            self.application(*target).open(FirstWord::Open).await.ok()
        };
        detect::first(io, limit, false, speculate).await.map_err(|e| broken(&e))
    }

    /// Judges an opaque connection and connects it.
    async fn opaque(&self, connection: Connection, policy: &Policy, server: Option<Io>) -> Result<Way, Fault> {
        let _permit = policy.connection(connection.client.ip(), &connection.tls)?;
        let server = match server {
            Some(server) => server,
            None => {
                let first = if connection.io.has_prefix() { FirstWord::Ours } else { FirstWord::Open };
                self.application(connection.target).open(first).await.inspect_err(|_| policy.metrics.tcp_error("i/o"))?
            }
        };
        Ok(Way::Copy(connection, server))
    }

    /// Copies until an end, or a policy that no longer permits.
    fn copy(&self, connection: Connection, server: Io) -> impl Future<Output = Result<(), String>> + use<> {
        let Connection { mut io, client, tls, target, port } = connection;
        self.count(&mut io, &port, target, &tls);
        let mut both = copy::both(io, server);
        async move {
            let revoked = async {
                loop {
                    port.changed().await;
                    if port.current().is_none_or(|policy| !policy.still_permits(client.ip(), &tls)) {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                copied = &mut both => copied.map_err(|e| e.to_string()),
                () = revoked => Ok(()),
            }
        }
    }

    /// Counts a connection under the policy of its port.
    fn count(&self, io: &mut Io, port: &Port, target: SocketAddr, tls: &ClientTls) {
        if let Some(policy) = port.current() {
            io.count(policy.connections(tls, || {
                let labels = policy.metrics.accept_labels(&policy.server.server, target, tls);
                metrics::transport(&self.worker.registry, &labels)
            }));
        }
    }

    fn requests(&self, connection: Connection) -> (Io, Requests) {
        let Connection { mut io, client, tls, target, port, .. } = connection;
        self.count(&mut io, &port, target, &tls);
        (io, Requests::new(self.worker.clone(), port, self.application(target), client, tls))
    }

    /// Ends TLS of a client. `direct` configurations speak ALPN.
    async fn end_tls(&self, io: Io, buffer: Buffer, direct: Option<bool>) -> Result<(Io, Peer), Fault> {
        let refused = |error: String| Fault::new(Cause::Unexpected(error), "TLS");
        let keys = self.worker.keyring.current().ok_or_else(|| refused("no certificate yet".into()))?;
        let config = direct.map_or_else(|| keys.server(), |resumes| keys.direct(resumes));
        let Ok((tcp, _)) = io.into_tcp() else { return Err(refused("TLS inside TLS".into())) };
        let limit = self.worker.config.inbound.direction.detect_timeout;
        let accepted = Box::pin(secure::accept(tcp, config, buffer, limit)).await;
        let (tls, peer) = accepted.map_err(|error| refused(error.to_string()))?;
        let standing = self.worker.trust.standing(&tls, &peer);
        Ok((Io::meshed(tls, standing.as_ref()), peer))
    }

    fn is_ours(&self, sni: &str) -> bool {
        self.worker.config.identity.server_name.as_str() == sni
    }

    /// What is known of a port.
    fn port(&self, target: SocketAddr) -> Rc<Port> {
        self.ports.borrow_mut().entry(target).or_insert_with(|| Port::new(&self.worker, target)).clone()
    }

    /// The application behind a port.
    fn application(&self, target: SocketAddr) -> Rc<Application> {
        self.applications
            .borrow_mut()
            .entry(target)
            .or_insert_with(|| Application::new(&self.worker, target, self.admin.clone()))
            .clone()
    }

    /// Forgets ports that nobody has dialed for the idle time.
    async fn forget_idle(self: Rc<Self>) {
        let idle = self.worker.config.inbound.direction.discovery_idle;
        loop {
            net::sleep(idle.clamp(Duration::from_millis(100), Duration::from_secs(5))).await;
            let now = net::now();
            self.ports.borrow_mut().retain(|_, port| {
                if Rc::strong_count(port) > 1 {
                    port.used(now);
                }
                !port.is_idle(now, idle)
            });
            let ports = self.ports.borrow();
            self.applications.borrow_mut().retain(|target, app| Rc::strong_count(app) > 1 || ports.contains_key(target));
        }
    }
}

fn broken(error: &io::Error) -> Fault {
    Fault::new(Cause::Broken(format!("client connection: {error}")), "")
}
