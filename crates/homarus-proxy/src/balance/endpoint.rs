//! One endpoint: its connections, its load, whether it is ready, and what is counted about it.

use super::{
    Load,
    exchange::{Exchange, Pending},
};
use crate::{
    fault::Cause,
    forward::{
        connect::{ConnectError, Target},
        metrics,
    },
    http::{
        Body, RequestHead, ResponseHead,
        h1::{
            client::{Client as Http1, Received, Send},
            pool::Pool,
        },
        h2::{self, client::Client as Http2, shared::Shared},
        headers, is_http2,
    },
    io::Io,
    net,
    observe::{
        Labels,
        balancer::{EndpointGauges, EndpointState},
        http::RequestMetrics,
        labels,
        stack::{Place, Stack},
    },
    secure::EndpointTls,
    worker::Worker,
};
use homarus_model::{
    endpoint::{self as model, ProtocolHint},
    outbound::Ewma,
};
use homarus_wire::transport::Session;
use http::{HeaderMap, HeaderValue, Uri, Version, header, uri};
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// While requests wait, an endpoint is tried again at least this often.
const EAGER_RETRY: Duration = Duration::from_millis(250);

/// What an endpoint is part of.
pub struct Settings {
    /// How its load is estimated.
    pub ewma: Ewma,
    /// The authority that metrics name: the backend's; none for a plain forward.
    pub authority: Option<Arc<str>>,
    /// Woken when it becomes ready.
    pub ready: Rc<Notify>,
    /// What metrics call it.
    pub place: Place,
    /// Where it is counted as ready or not; none: nowhere.
    pub counted: Option<EndpointGauges>,
}

/// One endpoint.
pub struct Endpoint {
    worker: Rc<Worker>,
    endpoint: Arc<model::Endpoint>,
    /// It is this very workload.
    local: bool,
    target: Target,
    load: Load,
    http1: Rc<Pool>,
    http2: Rc<Shared<ConnectError>>,
    http2_settings: h2::Settings,
    set_aside: Cell<bool>,
    wanted: Notify,
    ready: Rc<Notify>,
    metrics: Rc<RequestMetrics>,
    state: RefCell<Option<EndpointState>>,
    stack: Stack,
    me: Weak<Self>,
}

/// A response, with what has to be told how it gets on.
pub struct Reply {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
    /// The connection, if it is a tunnel now.
    pub tunnel: Option<Io>,
    /// What is counted until the response ends.
    pub exchange: Exchange,
}

/// Why an endpoint gave no response.
pub struct Refused {
    /// What happened.
    pub cause: Cause,
    /// The application has certainly not seen the request, or may be asked it twice.
    pub may_repeat: bool,
}

impl Endpoint {
    /// An endpoint that is taken to be ready until it proves otherwise.
    pub fn new(worker: Rc<Worker>, endpoint: Arc<model::Endpoint>, settings: Settings) -> Rc<Self> {
        let config = worker.config.clone();
        let direction = &config.outbound.direction;
        let local = worker.config.inbound.ips.contains(&endpoint.addr.ip());
        let labels = Self::labels(&endpoint, local, settings.authority.as_deref());
        let tls = endpoint.tls.clone().filter(|_| !local);
        let direct = endpoint.tagged_transport_port.is_some() || endpoint.authority_override.is_some();
        let target = Target {
            addr: endpoint.addr,
            tagged_port: endpoint.tagged_transport_port.filter(|_| tls.is_some()),
            tls: tls.map(|expect| Arc::new(EndpointTls::new(worker.keyring.clone(), expect, direct))),
            authority_override: endpoint.authority_override.clone().filter(|_| !local),
            socket: direction.connect_socket,
            limit: direction.connect_timeout,
            metrics: metrics::to_endpoint(&worker.registry, &labels.0, &endpoint.labels),
            trust: worker.trust.clone(),
        };
        Rc::new_cyclic(|me| Self {
            load: Load::new(settings.ewma, net::now()),
            http1: Pool::new(direction.max_idle_conns, direction.idle_timeout),
            http2: Shared::new(),
            http2_settings: http2_settings(&direction.http2_client, &endpoint.http2),
            set_aside: Cell::new(false),
            wanted: Notify::new(),
            ready: settings.ready,
            metrics: RequestMetrics::new(&worker.registry, labels.1),
            state: RefCell::new(settings.counted.map(|gauges| gauges.count(true))),
            stack: worker.stacks.stand(settings.place),
            me: me.clone(),
            local,
            target,
            endpoint,
            worker,
        })
    }

    /// The labels of connections and of requests.
    fn labels(endpoint: &model::Endpoint, local: bool, authority: Option<&str>) -> (Labels, Labels) {
        let of = |labels: Labels| {
            let labels = match authority {
                Some(authority) => labels.with("authority", authority),
                None => labels,
            };
            let labels = labels::server_tls(labels::target(labels, endpoint.addr), endpoint, local);
            endpoint.labels.iter().fold(labels, |labels, (k, v)| labels.with(&format!("dst_{k}"), v))
        };
        let direction = Labels::new().with("direction", "outbound");
        (of(direction.clone().with("peer", "dst")), of(direction))
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.endpoint.addr
    }

    /// What discovery told of it.
    pub fn endpoint(&self) -> &Arc<model::Endpoint> {
        &self.endpoint
    }

    /// Whether it takes requests.
    pub fn is_ready(&self) -> bool {
        !self.set_aside.get()
    }

    /// Its load now.
    pub fn load(&self) -> f64 {
        self.load.value(net::now())
    }

    /// Requests wait: an endpoint that was set aside should be tried soon.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// A connection for opaque bytes. The load counts until it is established.
    pub async fn open(&self) -> Result<Io, ConnectError> {
        self.stack.ready();
        let (started, _pending) = (net::now(), Pending::begin(self.me.clone()));
        match self.target.connect(None).await {
            Ok(io) => {
                let now = net::now();
                self.load.sample(now.duration_since(started), now);
                Ok(io)
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Sends a request. `absolute`: its target was in absolute form.
    pub async fn send(&self, mut head: RequestHead, body: Body, absolute: bool, wants_upgrade: bool) -> Result<Reply, Refused> {
        self.stack.ready();
        let hint = self.endpoint.hint;
        if self.endpoint.authority_override.is_some() {
            self.override_authority(&mut head);
        }
        if is_http2(head.version) {
            return self.send_http2(head, body, None).await;
        }
        if hint == ProtocolHint::Http2 && !self.local && !wants_upgrade {
            let version = head.version;
            return match upgrade(&mut head, absolute) {
                Ok(()) => self.send_http2(head, body, Some(version)).await,
                Err(cause) => Err(Refused { cause, may_repeat: false }),
            };
        }
        self.send_http1(head, body, absolute, wants_upgrade).await
    }

    /// A gateway is asked for what it is to reach (proxy-wire §7.3).
    fn override_authority(&self, head: &mut RequestHead) {
        let Some(authority) = &self.endpoint.authority_override else { return };
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.authority = authority.to_string().parse().ok();
        parts.scheme.get_or_insert(uri::Scheme::HTTP);
        parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(parts).unwrap_or_default();
        head.headers.remove(header::HOST);
        head.headers.remove(&headers::DST_CANONICAL);
    }

    async fn send_http2(&self, mut head: RequestHead, body: Body, upgraded: Option<Version>) -> Result<Reply, Refused> {
        let client = match self.http2().await {
            Ok(client) => client,
            Err(error) => return Err(Refused { cause: error.cause(), may_repeat: true }),
        };
        // One that was made for an origin-form request has an authority by now; a scheme is what HTTP/2 wants besides.
        head.version = Version::HTTP_2;
        let exchange = self.begin(&head.headers);
        match client.send(head, body).await {
            Ok((mut head, body)) => {
                if let Some(asked) = upgraded {
                    head.version = restore_version(&mut head.headers, asked);
                }
                Ok(Reply { exchange: exchange.answered(&head, &body), head, body, tunnel: None })
            }
            Err(error) => Err(exchange.refused(error)),
        }
    }

    async fn send_http1(&self, mut head: RequestHead, body: Body, absolute: bool, wants_upgrade: bool) -> Result<Reply, Refused> {
        if head.version != Version::HTTP_10 {
            head.version = Version::HTTP_11;
        }
        // A connection of an HTTP/1.0 request, of one without a host, or of one that may become a tunnel, is its own.
        let own = head.version == Version::HTTP_10 || wants_upgrade || absolute || !has_host(&head);
        let idle = if own { None } else { self.http1.take() };
        let client = match idle {
            Some(client) => client,
            None => match self.target.connect(Some(Session::Http1).filter(|_| self.endpoint.hint != ProtocolHint::Opaque)).await {
                Ok(io) => Http1::new(io),
                Err(error) => {
                    self.failed(&error);
                    return Err(Refused { cause: error.cause(), may_repeat: true });
                }
            },
        };
        let exchange = self.begin(&head.headers);
        let pool = (!own).then(|| Rc::downgrade(&self.http1));
        match client.send(Send { head: &head, body, absolute, wants_upgrade, pool }).await {
            Ok(Received { head, body, tunnel }) => Ok(Reply { exchange: exchange.answered(&head, &body), head, body, tunnel }),
            Err(error) => Err(exchange.refused(error)),
        }
    }

    /// The shared HTTP/2 connection.
    async fn http2(&self) -> Result<Http2, Rc<ConnectError>> {
        let connect = || {
            let me = self.me.clone();
            async move {
                match me.upgrade() {
                    Some(me) => me.connect_http2().await,
                    None => Err(ConnectError::Canceled),
                }
            }
        };
        self.http2.client(connect).await
    }

    async fn connect_http2(&self) -> Result<Http2, ConnectError> {
        let session = Some(Session::Http2).filter(|_| self.endpoint.hint != ProtocolHint::Opaque);
        let made = match self.target.connect(session).await {
            Ok(io) => Http2::connect(io, &self.http2_settings)
                .await
                .map_err(|error| ConnectError::Tcp(self.addr(), std::io::Error::other(error))),
            Err(error) => Err(error),
        };
        made.inspect_err(|error| self.failed(error))
    }

    fn begin(&self, request: &HeaderMap) -> Exchange {
        self.metrics.request();
        Exchange::begin(Pending::begin(self.me.clone()), self.metrics.clone(), headers::is_grpc(request))
    }

    /// Its load, for what is under way.
    pub(super) fn pending(&self) -> &Load {
        &self.load
    }

    fn count_ready(&self, ready: bool) {
        if let Some(state) = &mut *self.state.borrow_mut() {
            state.set(ready);
        }
    }

    /// It can't be reached: set it aside, and try again in the background.
    fn failed(&self, error: &ConnectError) {
        if self.set_aside.replace(true) {
            return;
        }
        self.count_ready(false);
        tracing::debug!(endpoint = %self.addr(), %error, "endpoint set aside");
        tokio::task::spawn_local(reconnect(self.me.clone()));
    }
}

/// Tries an endpoint until it can be reached or is no longer known.
async fn reconnect(endpoint: Weak<Endpoint>) {
    for attempt in 0.. {
        let Some(this) = endpoint.upgrade() else { return };
        let delay = this.worker.config.outbound.direction.connect_backoff.delay(attempt, rand::random());
        net::sleep(delay.min(EAGER_RETRY)).await;
        // Full back-off only while nobody waits for it.
        let rest = delay.saturating_sub(EAGER_RETRY);
        if !rest.is_zero() {
            let _ = net::timeout(rest, this.wanted.notified()).await;
        }
        let http2 = this.endpoint.hint == ProtocolHint::Http2 && !this.local;
        let session = if http2 { Session::Http2 } else { Session::Http1 };
        let Ok(io) = this.target.connect(Some(session).filter(|_| this.endpoint.hint != ProtocolHint::Opaque)).await else {
            continue;
        };
        // What was connected to find out is of no use to requests that come much later; a new one is quickly made.
        drop(io);
        this.set_aside.set(false);
        this.count_ready(true);
        this.ready.notify_waiters();
        return;
    }
}

/// Makes an HTTP/1 request one of HTTP/2 that remembers what it was (proxy-wire §7.3).
fn upgrade(head: &mut RequestHead, absolute: bool) -> Result<(), Cause> {
    let form = match (head.version, absolute) {
        (Version::HTTP_10, false) => "HTTP/1.0",
        (Version::HTTP_10, true) => "HTTP/1.0; absolute-form",
        (_, false) => "HTTP/1.1",
        (_, true) => "HTTP/1.1; absolute-form",
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    if parts.authority.is_none() {
        parts.authority = head.headers.get(header::HOST).and_then(|h| uri::Authority::from_maybe_shared(h.clone()).ok());
    }
    parts.scheme.get_or_insert(uri::Scheme::HTTP);
    parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(parts).map_err(|_| Cause::Unexpected("request without an authority".into()))?;
    head.headers.insert(&headers::ORIG_PROTO, HeaderValue::from_static(form));
    head.headers.remove(header::TRANSFER_ENCODING);
    Ok(())
}

/// The version that the endpoint says the response had; that of the request if it doesn't say.
fn restore_version(headers: &mut HeaderMap, asked: Version) -> Version {
    match headers.remove(&headers::ORIG_PROTO) {
        Some(value) if value.as_bytes().starts_with(b"HTTP/1.0") => Version::HTTP_10,
        Some(_) => Version::HTTP_11,
        None => asked,
    }
}

fn has_host(head: &RequestHead) -> bool {
    head.headers.get(header::HOST).is_some_and(|h| !h.is_empty()) || head.uri.authority().is_some()
}

fn http2_settings(ours: &crate::config::Http2Client, endpoint: &model::Http2Params) -> h2::Settings {
    h2::Settings {
        stream_window: Some(endpoint.initial_stream_window.unwrap_or(ours.stream_window)),
        connection_window: Some(endpoint.initial_connection_window.unwrap_or(ours.connection_window)),
        keep_alive: endpoint.keep_alive.map(|k| h2::KeepAlive {
            interval: k.interval,
            timeout: k.timeout,
            while_idle: k.while_idle,
        }),
        ..h2::Settings::default()
    }
}
