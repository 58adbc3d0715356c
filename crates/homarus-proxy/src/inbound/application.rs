//! The application behind one port: connections to it, one pool and one HTTP/2 connection.

use crate::{
    admin::{self, Admin},
    fault::{Cause, Fault},
    forward::metrics,
    http::{
        Body, RequestHead, ResponseHead, SendError,
        h1::{
            client::{Client as Http1, Send},
            pool::Pool,
        },
        h2::{self, client::Client as Http2, shared::Shared},
        is_http2,
    },
    io::{Io, TransportMetrics},
    net::{self, FirstWord},
    observe::{
        Labels,
        stack::{Place, Stack},
    },
    worker::Worker,
};
use http::{Version, header};
use std::{
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

/// Connections that one request is sent on, at most: several may have died while idle; an application that closes each at once
/// is broken.
const MAX_TRIES: usize = 8;

/// An application, and the connections to it.
pub struct Application {
    worker: Rc<Worker>,
    target: SocketAddr,
    pool: Rc<Pool>,
    http2: Rc<Shared<Fault>>,
    me: Weak<Self>,
    metrics: Rc<TransportMetrics>,
    stack: Stack,
    /// The application is the proxy itself.
    admin: Option<Arc<Admin>>,
}

/// A response of the application.
pub struct Answer {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
    /// The connection, if it is a tunnel now.
    pub tunnel: Option<Io>,
}

impl Application {
    /// No connection yet.
    pub fn new(worker: &Rc<Worker>, target: SocketAddr, admin: Option<Arc<Admin>>) -> Rc<Self> {
        let direction = &worker.config.inbound.direction;
        let labels = Labels::new().with("direction", "inbound").with("peer", "dst");
        let labels = labels.with("tls", "no_identity").with("no_tls_reason", "loopback");
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            worker: worker.clone(),
            target,
            pool: Pool::new(direction.max_idle_conns, direction.idle_timeout),
            http2: Shared::new(),
            metrics: metrics::transport(&worker.registry, &labels),
            stack: worker.stacks.stand(Place::InboundLogical),
            admin,
        })
    }

    /// A new connection.
    pub async fn open(&self, first: FirstWord) -> Result<Io, Fault> {
        if self.admin.is_some() {
            return Err(Fault::new(Cause::Unexpected("the admin server speaks HTTP only".into()), ""));
        }
        let config = &self.worker.config.inbound;
        if self.target.port() == config.listen.port() {
            let text = format!("inbound connection must not target port {}", self.target.port());
            return Err(Fault::new(Cause::Unexpected(text), ""));
        }
        let limit: Duration = config.direction.connect_timeout;
        match net::connect(self.target, &config.direction.connect_socket, limit, first).await {
            Ok(tcp) => {
                let mut io = Io::from(tcp);
                io.count(self.metrics.clone());
                Ok(io)
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                Err(self.fault(Cause::ConnectTimeout(format!("connect timed out after {limit:?}"))))
            }
            Err(error) => Err(self.fault(Cause::connect(error))),
        }
    }

    fn fault(&self, cause: Cause) -> Fault {
        Fault::new(cause, format!("application {}", self.target))
    }

    /// Sends a request; again, if the connection it was sent on had died while idle.
    pub async fn send(
        &self,
        client: SocketAddr,
        head: RequestHead,
        body: Body,
        absolute: bool,
        wants_upgrade: bool,
    ) -> Result<Answer, Fault> {
        self.stack.ready();
        if let Some(admin) = &self.admin {
            return self.ask_admin(admin, client, head, body).await;
        }
        let (mut body, again) = body.replayable();
        let mut tries = 0;
        loop {
            tries += 1;
            let sent = if is_http2(head.version) {
                self.send_http2(head.clone(), body).await
            } else {
                self.send_http1(&head, body, absolute, wants_upgrade).await
            };
            match sent {
                Ok(answer) => return Ok(answer),
                Err(Failed::Connect(fault)) => return Err(fault),
                Err(Failed::Send(SendError { may_repeat: true, error })) => match again.body().filter(|_| tries < MAX_TRIES) {
                    Some(next) => body = next,
                    None => return Err(self.fault(Cause::Broken(error.to_string()))),
                },
                Err(Failed::Send(SendError { error, .. })) => {
                    return Err(self.fault(Cause::Broken(format!("application broke the connection: {error}"))));
                }
            }
        }
    }

    /// Whether a request is a probe of the proxy itself.
    pub fn is_probe(&self, head: &RequestHead) -> bool {
        self.admin.is_some() && admin::is_probe(head.uri.path())
    }

    /// The proxy answers by itself.
    async fn ask_admin(&self, admin: &Admin, client: SocketAddr, head: RequestHead, body: Body) -> Result<Answer, Fault> {
        let read = body.collect(admin::MAX_BODY_BYTES).await;
        let body = read.map_err(|error| self.fault(Cause::Broken(error.to_string())))?;
        let response = admin::respond(admin, &http::Request::from_parts(head, body), client);
        let (head, body) = response.into_parts();
        Ok(Answer { head, body: Body::full(body), tunnel: None })
    }

    async fn send_http1(&self, head: &RequestHead, body: Body, absolute: bool, wants_upgrade: bool) -> Result<Answer, Failed> {
        let hostless = head.headers.get(header::HOST).is_none_or(|h| h.is_empty()) && head.uri.authority().is_none();
        let own = head.version == Version::HTTP_10 || wants_upgrade || absolute || hostless;
        let client = match if own { None } else { self.pool.take() } {
            Some(client) => client,
            None => Http1::new(self.open(FirstWord::Ours).await.map_err(Failed::Connect)?),
        };
        let pool = (!own).then(|| Rc::downgrade(&self.pool));
        let got = client.send(Send { head, body, absolute, wants_upgrade, pool }).await.map_err(Failed::Send)?;
        Ok(Answer { head: got.head, body: got.body, tunnel: got.tunnel })
    }

    async fn connect_http2(&self) -> Result<Http2, Fault> {
        let io = self.open(FirstWord::Ours).await?;
        let ours = &self.worker.config.inbound.direction.http2_client;
        let settings = h2::Settings {
            stream_window: Some(ours.stream_window),
            connection_window: Some(ours.connection_window),
            ..h2::Settings::default()
        };
        Http2::connect(io, &settings).await.map_err(|error| self.fault(Cause::Broken(error.to_string())))
    }

    async fn send_http2(&self, head: RequestHead, body: Body) -> Result<Answer, Failed> {
        let connect = || {
            let me = self.me.clone();
            async move {
                match me.upgrade() {
                    Some(me) => me.connect_http2().await,
                    None => Err(Fault::new(Cause::Unexpected("the application has gone".into()), "")),
                }
            }
        };
        let client = self.http2.client(connect).await.map_err(|fault| Failed::Connect((*fault).clone()))?;
        let (head, body) = client.send(head, body).await.map_err(Failed::Send)?;
        Ok(Answer { head, body, tunnel: None })
    }
}

enum Failed {
    Connect(Fault),
    Send(SendError),
}
