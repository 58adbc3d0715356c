//! The script of connections from the workload: what was dialed, what is spoken, which way, and there.

mod destination;
mod metrics;
mod requests;

use crate::{
    accept::Accepted,
    balance::Endpoint,
    detect::{self, First, http::Verdict},
    fault::Fault,
    forward::copy,
    http::{Ending, h1, h2},
    io::Io,
    route::{Backend, Opaque},
    worker::Worker,
};
use bytes::Bytes;
pub(crate) use requests::{match_head, wants_upgrade};

use destination::{Destination, Kind, Resolved};
use requests::Requests;
use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};

/// Endpoints that one request or connection is tried at, at most.
const MAX_TRIES: usize = 4;

/// The outbound side of one worker.
pub struct Outbound {
    worker: Rc<Worker>,
    http2: h2::Settings,
    destinations: RefCell<HashMap<SocketAddr, Rc<Destination>, ahash::RandomState>>,
}

/// How a connection goes on once it is known what it speaks.
enum Way {
    /// Bytes, between these two.
    Copy(Io, Io),
    /// HTTP/1 requests.
    Http1(Io),
    /// HTTP/2 requests.
    Http2(Io),
}

impl Outbound {
    /// Nothing is known yet.
    pub fn new(worker: Rc<Worker>) -> Rc<Self> {
        let http2 = crate::http::server_settings(&worker.config.outbound.direction.http2_server);
        let this = Rc::new(Self { worker, http2, destinations: RefCell::default() });
        tokio::task::spawn_local(this.clone().forget_idle());
        this
    }

    /// Carries one connection to its end.
    pub async fn carry(self: Rc<Self>, accepted: Accepted) {
        let (client, original_dst) = (accepted.client, accepted.original_dst);
        let destination = self.destination(original_dst);
        let ended = match self.worker.settled(self.settle(&destination, accepted)).await {
            Ok(Some(Way::Copy(client, server))) => copy::both(client, server).await.map_err(|e| e.to_string()),
            Ok(Some(Way::Http1(io))) => {
                let requests = Requests::new(&self.worker, &destination, client.ip());
                h1::server::serve(io, &requests, Ending::new(self.worker.drain.clone(), None)).await.map_err(|e| e.to_string())
            }
            Ok(Some(Way::Http2(io))) => {
                let requests = Rc::new(Requests::new(&self.worker, &destination, client.ip()));
                Box::pin(h2::server::serve(io, requests, &self.http2, Ending::new(self.worker.drain.clone(), None)))
                    .await
                    .map_err(|e| e.to_string())
            }
            Ok(None) => Ok(()),
            Err(fault) => {
                destination.metrics.tcp_error(&fault);
                tracing::info!(%client, %original_dst, error = %fault, "Connection closed");
                Ok(())
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%client, %original_dst, error, "connection ended");
        }
    }

    /// Finds out what the connection speaks and, if it is opaque, connects it.
    async fn settle(&self, destination: &Destination, accepted: Accepted) -> Result<Option<Way>, Fault> {
        let resolved = destination.resolved().await?;
        let mut io = Io::from(accepted.tcp);
        io.count(destination.metrics.accepted.clone());
        match &resolved.kind {
            Kind::Refused(why) => Err(Fault::new(crate::fault::Cause::InvalidPolicy(why.to_string()), destination.name())),
            Kind::Opaque(opaque) => {
                destination.metrics.protocol("opaq");
                let server = self.connect(destination, opaque).await?;
                Ok(Some(Way::Copy(io, server)))
            }
            Kind::Http1(_) => Ok(Some(Way::Http1(io))),
            Kind::Http2(_) | Kind::Grpc(_) => Ok(Some(Way::Http2(io))),
            Kind::Detect { opaque, .. } => self.detect(destination, &resolved, opaque, io).await,
        }
    }

    /// Reads the protocol off the first bytes; a server may speak first (proxy-wire §7.2).
    async fn detect(
        &self,
        destination: &Destination,
        resolved: &Resolved,
        opaque: &Opaque,
        mut io: Io,
    ) -> Result<Option<Way>, Fault> {
        let limit = self.worker.config.outbound.direction.detect_timeout;
        let begun = crate::net::now();
        let speculate = async || if resolved.may_speculate { self.connect(destination, opaque).await.ok() } else { None };
        let first = detect::first(&mut io, limit, destination.is_server_first(), speculate).await;
        let (verdict, server) = match first.map_err(|e| destination.broken(&e))? {
            First::Ended => return Ok(None),
            First::Server(server) => {
                destination.remember_server_first();
                return Ok(Some(Way::Copy(io, server)));
            }
            First::Silence(server) => (Verdict::NotHttp, server),
            First::Client(mut buffer, server) => {
                let mut verdict = detect::http::verdict(&buffer);
                while verdict == Verdict::Unclear {
                    let left = (begun + limit).saturating_duration_since(crate::net::now());
                    match crate::net::timeout(left, detect::more(&mut io, &mut buffer)).await {
                        Some(Ok(1..)) => verdict = detect::http::verdict(&buffer),
                        Some(Err(error)) => return Err(destination.broken(&error)),
                        Some(Ok(_)) | None => verdict = Verdict::NotHttp,
                    }
                }
                io.unread(Bytes::copy_from_slice(&buffer));
                (verdict, server)
            }
        };
        destination.metrics.detected(verdict, crate::net::now().duration_since(begun));
        Ok(Some(match verdict {
            Verdict::Http1 => Way::Http1(io),
            Verdict::Http2 => Way::Http2(io),
            Verdict::NotHttp | Verdict::Unclear => match server {
                Some(server) => Way::Copy(io, server),
                None => Way::Copy(io, self.connect(destination, opaque).await?),
            },
        }))
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
            match endpoint.open().await {
                Ok(connected) => {
                    opaque.metrics.opened();
                    return Ok(connected.io);
                }
                Err(error) => {
                    tried.push(endpoint.addr());
                    if tried.len() >= MAX_TRIES || backend.another(&tried).is_none() {
                        let place = format!("backend {}: endpoint {}", backend.meta, endpoint.addr());
                        return Err(here(Fault::new(error.cause(), place)));
                    }
                }
            }
        }
    }

    /// The destination behind an address; made when it is first dialed.
    fn destination(&self, original_dst: SocketAddr) -> Rc<Destination> {
        let mut destinations = self.destinations.borrow_mut();
        destinations.entry(original_dst).or_insert_with(|| Destination::new(&self.worker, original_dst)).clone()
    }

    /// Forgets destinations that nobody has dialed for the idle time (proxy-wire §7.1).
    async fn forget_idle(self: Rc<Self>) {
        let idle = self.worker.config.outbound.direction.discovery_idle;
        loop {
            crate::net::sleep(idle.clamp(Duration::from_millis(100), Duration::from_secs(1))).await;
            let now = crate::net::now();
            self.destinations.borrow_mut().retain(|_, destination| {
                if Rc::strong_count(destination) > 1 {
                    destination.used(now);
                }
                !destination.is_idle(now, idle)
            });
        }
    }
}

/// An endpoint of a backend that was not tried yet.
async fn pick(backend: &Backend, tried: &[SocketAddr]) -> Result<Rc<Endpoint>, Fault> {
    backend.pick(tried).await.map_err(|cause| Fault::new(cause, format!("backend {}", backend.meta)))
}
