//! The script of connections from the workload: what was dialed, what is spoken, which way, and there.

mod destination;
mod ingress;
mod metrics;
mod requests;

use crate::{
    accept::Accepted,
    balance::Endpoint,
    detect::{self, First, Timing, http::Verdict, metrics::Detected},
    fault::Fault,
    forward::copy,
    http::{Ending, h1, h2},
    io::Io,
    net::{self, Instant},
    route::{Backend, Opaque},
    worker::Worker,
};
use bytes::Bytes;
use futures::future::{FutureExt, LocalBoxFuture, TryFutureExt};
pub(crate) use requests::{match_head, wants_upgrade};

use destination::{Destination, Kind};
use ingress::Names;
use requests::Requests;
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

/// Endpoints that one request or connection is tried at, at most.
const MAX_TRIES: usize = 4;

/// The outbound side of one worker.
pub struct Outbound {
    worker: Rc<Worker>,
    http2: h2::Settings,
    destinations: RefCell<HashMap<SocketAddr, Rc<Destination>, ahash::RandomState>>,
    /// In ingress mode, where requests go that choose by name.
    names: Option<Rc<Names>>,
}

/// How a connection goes on once it is known what it speaks.
enum Way {
    /// Bytes, between these two.
    Copy(Io, Io, Rc<Opaque>),
    /// HTTP/1 requests.
    Http1(Io),
    /// HTTP/2 requests.
    Http2(Io),
}

/// What the first bytes of a connection say.
enum Spoken {
    /// Nothing: the client has gone.
    Nothing,
    /// HTTP/1 requests.
    Http1,
    /// HTTP/2 requests.
    Http2,
    /// Something else. A connection to the server may be there already.
    Other(Option<Io>),
}

impl Outbound {
    /// Nothing is known yet.
    pub fn new(worker: Rc<Worker>) -> Rc<Self> {
        let http2 = crate::http::server_settings(&worker.config.outbound.direction.http2_server);
        let names = worker.config.process.ingress_mode.then(|| Rc::new(Names::new(worker.clone())));
        let this = Rc::new(Self { worker, http2, destinations: RefCell::default(), names });
        tokio::task::spawn_local(this.clone().forget_idle());
        this
    }

    /// Carries one connection to its end.
    pub async fn carry(self: Rc<Self>, accepted: Accepted) {
        let (client, original_dst) = (accepted.client, accepted.original_dst);
        let destination = self.destination(original_dst);
        let going = match Box::pin(self.worker.settled(Box::pin(self.settle(&destination, accepted)))).await {
            Ok(Some(way)) => self.go(&destination, way, client.ip()),
            Ok(None) => return,
            Err(fault) => {
                destination.metrics.tcp_error(&fault);
                tracing::info!(%client, %original_dst, error = %fault, "Connection closed");
                return;
            }
        };
        if let Err(error) = going.await {
            tracing::debug!(%client, %original_dst, error, "connection ended");
        }
    }

    /// Goes a way to its end. Each is boxed: an idle connection has the memory of its own way and of no other.
    fn go(&self, destination: &Rc<Destination>, way: Way, client: IpAddr) -> LocalBoxFuture<'_, Result<(), String>> {
        match way {
            Way::Copy(client, server, route) => {
                route.metrics.opened();
                let ended = move |copied: io::Result<()>| {
                    route.metrics.ended(copied.as_ref().err().map(|_| "unexpected"));
                    copied.map_err(|e| e.to_string())
                };
                Box::pin(copy::both(client, server).map(ended))
            }
            Way::Http1(io) => {
                let requests = Requests::new(&self.worker, destination, client, &self.names);
                let ending = Ending::new(self.worker.drain.clone(), &io);
                Box::pin(async move { h1::server::serve(io, &requests, ending).await.map_err(|e| e.to_string()) })
            }
            Way::Http2(io) => {
                let requests = Rc::new(Requests::new(&self.worker, destination, client, &self.names));
                let ending = Ending::new(self.worker.drain.clone(), &io);
                Box::pin(h2::server::serve(io, requests, &self.http2, ending).map_err(|e| e.to_string()))
            }
        }
    }

    /// Finds out what the connection speaks and, if it is opaque, connects it.
    async fn settle(&self, destination: &Destination, accepted: Accepted) -> Result<Option<Way>, Fault> {
        // Requests in ingress mode may go elsewhere: they are looked for even where the address leads nowhere.
        let known = if self.names.is_some() { None } else { Some(destination.resolved().await?) };
        let mut io = Io::from(accepted.tcp);
        io.count(destination.metrics.accepted().clone());
        let configured = known.as_deref().inspect(|resolved| destination.metrics.connection(&resolved.kind));
        let server = match configured.map(|resolved| &resolved.kind) {
            Some(Kind::Refused(_) | Kind::Opaque(_)) => None,
            Some(Kind::Http1(_)) => return Ok(Some(Way::Http1(io))),
            Some(Kind::Http2(_) | Kind::Grpc(_)) => return Ok(Some(Way::Http2(io))),
            None | Some(Kind::Detect { .. } | Kind::Unreadable(_) | Kind::Requests { .. }) => {
                match self.detect(destination, &mut io).await? {
                    Spoken::Nothing => return Ok(None),
                    Spoken::Http1 => return Ok(Some(Way::Http1(io))),
                    Spoken::Http2 => return Ok(Some(Way::Http2(io))),
                    Spoken::Other(server) => server,
                }
            }
        };
        let resolved = match known {
            Some(resolved) => resolved,
            None => destination.resolved().await?,
        };
        let opaque = resolved.kind.opaque().map_err(|cause| Fault::new(cause, destination.name()))?;
        let server = match server {
            Some(server) => server,
            None => self.connect(destination, opaque).await?,
        };
        Ok(Some(Way::Copy(io, server, opaque.clone())))
    }

    /// Reads the protocol off the first bytes; a server may speak first (proxy-wire §7.2).
    async fn detect(&self, destination: &Destination, io: &mut Io) -> Result<Spoken, Fault> {
        let begun = net::now();
        let detected = self.first_words(destination, io, begun).await;
        let result = match &detected {
            Ok((Spoken::Nothing, _)) | Err(_) => Detected::Error,
            Ok((Spoken::Http1, _)) => Detected::Http1,
            Ok((Spoken::Http2, _)) => Detected::Http2,
            Ok((Spoken::Other(_), Timing::InTime)) => Detected::NotHttp,
            Ok((Spoken::Other(_), Timing::TooLate)) => Detected::ReadTimeout,
        };
        // In ingress mode, what is known of the address may have come meanwhile; its parent is what both are counted under.
        if self.names.is_some()
            && let Some(resolved) = destination.current()
        {
            destination.metrics.connection(&resolved.kind);
        }
        destination.metrics.detected(result, net::now().duration_since(begun));
        Ok(detected.map_err(|error| destination.broken(&error))?.0)
    }

    async fn first_words(&self, destination: &Destination, io: &mut Io, begun: Instant) -> io::Result<(Spoken, Timing)> {
        let limit = self.worker.config.outbound.direction.detect_timeout;
        let speculate = async || {
            let resolved = destination.resolved().await.ok()?;
            match resolved.kind.opaque() {
                Ok(opaque) if resolved.may_speculate => self.connect(destination, opaque).await.ok(),
                _ => None,
            }
        };
        let (mut buffer, server) = match detect::first(io, limit, destination.is_server_first(), speculate).await? {
            First::Ended => return Ok((Spoken::Nothing, Timing::InTime)),
            First::Server(server) => {
                destination.remember_server_first();
                return Ok((Spoken::Other(Some(server)), Timing::InTime));
            }
            First::Silence(server) => return Ok((Spoken::Other(server), Timing::TooLate)),
            First::Client(buffer, server) => (buffer, server),
        };
        let (verdict, ended) = detect::settle(io, &mut buffer, begun + limit).await?;
        io.unread(Bytes::copy_from_slice(&buffer));
        Ok((
            match verdict {
                Verdict::Http1 => Spoken::Http1,
                Verdict::Http2 => Spoken::Http2,
                Verdict::NotHttp | Verdict::Unclear => Spoken::Other(server),
            },
            ended,
        ))
    }

    /// Connects an opaque connection; an endpoint that refuses is replaced by another.
    async fn connect(&self, destination: &Destination, opaque: &Opaque) -> Result<Io, Fault> {
        let here = |fault: Fault| fault.within(destination.name());
        if let Some(refusal) = &opaque.refuse {
            opaque.metrics.opened();
            opaque.metrics.ended(Some(metrics::refusal_label(refusal)));
            return Err(here(metrics::refusal_fault(refusal, &opaque.meta)));
        }
        let backend = opaque.choose().map_err(here)?;
        let mut tried = Vec::new();
        loop {
            let endpoint = pick(backend, &tried).await.map_err(here)?;
            let error = match endpoint.open().await {
                Ok(io) => return Ok(io),
                Err(error) => error,
            };
            tried.push(endpoint.addr());
            if tried.len() >= MAX_TRIES || backend.another(&tried).is_none() {
                opaque.metrics.opened();
                opaque.metrics.ended(Some("unexpected"));
                let place = format!("backend {}: endpoint {}", backend.meta, endpoint.addr());
                return Err(here(Fault::new(error.cause(), place)));
            }
        }
    }

    /// The destination behind an address; made when it is first dialed.
    fn destination(&self, original_dst: SocketAddr) -> Rc<Destination> {
        let mut destinations = self.destinations.borrow_mut();
        destinations.entry(original_dst).or_insert_with(|| Destination::new(&self.worker, original_dst.into())).clone()
    }

    /// Forgets destinations that nobody has dialed for the idle time (proxy-wire §7.1).
    async fn forget_idle(self: Rc<Self>) {
        let idle = self.worker.config.outbound.direction.discovery_idle;
        loop {
            net::sleep(idle.clamp(Duration::from_millis(100), Duration::from_secs(1))).await;
            let now = net::now();
            self.destinations.borrow_mut().retain(|_, destination| destination.is_held(now, idle));
            if let Some(names) = &self.names {
                names.forget_idle(now, idle);
            }
        }
    }
}

/// An endpoint of a backend that was not tried yet.
async fn pick(backend: &Backend, tried: &[SocketAddr]) -> Result<Rc<Endpoint>, Fault> {
    backend.pick(tried).await.map_err(|cause| Fault::new(cause, format!("backend {}", backend.meta)))
}
