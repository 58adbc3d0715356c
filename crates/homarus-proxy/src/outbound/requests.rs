//! Requests of one connection from the workload.

use super::{MAX_TRIES, destination::Destination, ingress::Names, pick};
use crate::{
    balance::{Exchange, Reply},
    fault::{Cause, Fault},
    http::{Body, BodyError, Handler, Request, RequestHead, Response, Tally, headers, is_http2},
    net::{self, Instant},
    observe::http::{grpc_status, h2_reason},
    route::{
        Route, RouteBackend,
        metrics::{Ended, RouteMetrics},
    },
    worker::{Admitted, Worker},
};
use homarus_model::route as matching;
use http::{HeaderMap, Method, StatusCode, Version, header};
use std::{net::IpAddr, rc::Rc};

/// Answers the requests of one connection.
pub struct Requests {
    worker: Rc<Worker>,
    destination: Rc<Destination>,
    client: IpAddr,
    /// In ingress mode, other destinations that requests may choose.
    names: Option<Rc<Names>>,
}

/// What is told how a response gets on: its endpoint, its backend, its route.
pub struct Told {
    exchange: Option<Exchange>,
    route: Option<Routed>,
    started: Instant,
    ended: Ended,
    grpc: bool,
    done: bool,
    _admitted: Option<Admitted>,
}

/// Where a request went.
struct Routed {
    route: Rc<Route>,
    backend: Option<usize>,
    metrics: Rc<RouteMetrics>,
}

impl Routed {
    fn backend(&self) -> Option<&RouteBackend> {
        self.backend.and_then(|index| self.route.backend(index))
    }
}

/// What has to be known of a request to the end.
struct Asked {
    grpc: bool,
    absolute: bool,
    wants_upgrade: bool,
    require_id: Option<http::HeaderValue>,
    started: Instant,
}

impl Requests {
    /// For a connection of `client` to a destination.
    pub fn new(worker: &Rc<Worker>, destination: &Rc<Destination>, client: IpAddr, names: &Option<Rc<Names>>) -> Self {
        Self { worker: worker.clone(), destination: destination.clone(), client, names: names.clone() }
    }

    async fn carry(
        &self,
        destination: &Destination,
        mut head: RequestHead,
        body: Body,
        asked: &Asked,
        told: &mut Told,
    ) -> Result<Reply, Fault> {
        let resolved = destination.resolved_within(self.worker.config.outbound.direction.failfast).await?;
        let routes = resolved.kind.routes(is_http2(head.version)).map_err(|cause| Fault::new(cause, ""))?;
        let matching = match_head(&head);
        let route = routes.find(&matching)?;
        let metrics = route.metrics.of(matching.host);
        told.route = Some(Routed { route: route.clone(), backend: None, metrics: metrics.clone() });
        let (index, chosen) = route.choose_indexed(&mut head)?;
        told.routed(index);
        chosen.metrics.request();
        let body = body.counted(metrics);
        self.try_endpoints(head, body, asked, chosen).await.map_err(|fault| fault.within(format_args!("route {}", route.meta)))
    }

    /// Sends the request to an endpoint, and to another if the first has certainly not processed it.
    async fn try_endpoints(&self, head: RequestHead, body: Body, asked: &Asked, chosen: &RouteBackend) -> Result<Reply, Fault> {
        let backend = &chosen.backend;
        let (mut body, again) = body.replayable();
        let mut tried = Vec::new();
        loop {
            let endpoint = pick(backend, &tried).await?;
            let here = |cause| Fault::new(cause, format!("backend {}: endpoint {}", backend.meta, endpoint.addr()));
            if let Some(id) = &asked.require_id
                && endpoint.endpoint().tls.as_ref().is_none_or(|tls| tls.id.as_str().as_bytes() != id.as_bytes())
            {
                return Err(here(Cause::WrongIdentity));
            }
            let last = tried.len() + 1 >= MAX_TRIES;
            let refused = match endpoint.send(head.clone(), body, asked.absolute, asked.wants_upgrade).await {
                Ok(reply) if last || !reply.head.headers.contains_key(&headers::UNPROCESSED) => {
                    return Ok(finish(reply, backend.is_forward()));
                }
                Ok(reply) => match again.body().filter(|_| backend.another(&[endpoint.addr()]).is_some()) {
                    Some(next) => {
                        tried.push(endpoint.addr());
                        body = next;
                        continue;
                    }
                    None => return Ok(finish(reply, backend.is_forward())),
                },
                Err(refused) => refused,
            };
            // A connection that died while idle says nothing of its endpoint; one that can't be made does.
            let unreachable = matches!(refused.cause, Cause::Connect(_) | Cause::ConnectTimeout(_));
            if unreachable {
                tried.push(endpoint.addr());
            } else {
                tried.extend((!refused.may_repeat).then(|| endpoint.addr()));
            }
            let elsewhere = !unreachable || backend.another(&tried).is_some();
            match again.body() {
                Some(next) if refused.may_repeat && !last && elsewhere => body = next,
                _ => return Err(here(refused.cause)),
            }
        }
    }

    fn refuse(&self, destination: &Destination, fault: Fault, asked: &Asked, mut told: Told) -> Response<Told> {
        let fault = fault.within(destination.name());
        destination.metrics.http_error(&fault);
        let kind = if asked.grpc { "gRPC" } else { "HTTP" };
        tracing::info!(client = %self.client, error = %fault, "{kind} request failed");
        told.ended = Ended::of(&fault);
        told.grpc = false;
        fault.respond(asked.grpc, self.worker.config.outbound.informational_headers, told)
    }
}

impl Handler for Requests {
    type Tally = Told;

    async fn handle(&self, request: Request) -> Response<Told> {
        let Request { mut head, body } = request;
        let asked = Asked {
            grpc: is_http2(head.version) && headers::is_grpc(&head.headers),
            absolute: !is_http2(head.version) && head.uri.scheme().is_some(),
            wants_upgrade: wants_upgrade(&head),
            require_id: head.headers.remove(&headers::REQUIRE_ID),
            started: net::now(),
        };
        let chosen = self.names.as_ref().and_then(|names| names.chosen(&mut head.headers, asked.started));
        let destination: &Destination = match &chosen {
            Some(Ok(named)) => named,
            _ => &self.destination,
        };
        let admitted = self.worker.in_flight[1].admit();
        let overload = admitted.is_none();
        let mut told = Told::new(asked.started, asked.grpc, admitted);
        if overload {
            return self.refuse(destination, Fault::new(Cause::LoadShed, "too many requests under way"), &asked, told);
        }
        if let Some(Err(cause)) = &chosen {
            return self.refuse(destination, Fault::new(cause.clone(), ""), &asked, told);
        }
        if !asked.wants_upgrade {
            headers::strip_connection(&mut head.headers);
        }
        if head.uri.authority().is_none() && !head.headers.contains_key(header::HOST) {
            destination.give_authority(&mut head);
        }
        match Box::pin(self.carry(destination, head, body, &asked, &mut told)).await {
            Ok(Reply { head, body, tunnel, exchange }) => {
                told.answered(exchange, head.status, &head.headers);
                let close = head.extensions.get::<CloseClient>().is_some();
                Response { head, body, tally: told, close, upgrade: tunnel }
            }
            Err(fault) => self.refuse(destination, fault, &asked, told),
        }
    }
}

/// The endpoint's proxy asked for the end of the client's connection.
#[derive(Clone)]
struct CloseClient;

/// What the peer's proxy said to us stays here (proxy-wire §6.5).
fn finish(mut reply: Reply, forward: bool) -> Reply {
    let fields = &mut reply.head.headers;
    if let Some(error) = fields.remove(&headers::PROXY_ERROR) {
        tracing::info!(error = %error.to_str().unwrap_or("unreadable"), status = %reply.head.status, "Remote proxy error");
    }
    fields.remove(&headers::UNPROCESSED);
    if fields.remove(&headers::PROXY_CONNECTION).is_some() && forward {
        reply.head.extensions.insert(CloseClient);
    }
    if reply.tunnel.is_none() {
        headers::strip_connection(fields);
    }
    reply
}

/// Another protocol, or a tunnel, on this very connection (proxy-wire §6.4).
pub(crate) fn wants_upgrade(head: &RequestHead) -> bool {
    head.version == Version::HTTP_11
        && (head.method == Method::CONNECT
            || (head.headers.contains_key(header::UPGRADE) && !headers::has_token(&head.headers, &header::UPGRADE, "h2c")))
}

/// What routes look at.
pub(crate) fn match_head(head: &RequestHead) -> matching::RequestHead<'_> {
    let host = head.uri.host().or_else(|| {
        let host = head.headers.get(header::HOST)?.to_str().ok()?;
        Some(host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(h, _)| h))
    });
    matching::RequestHead { method: &head.method, host, path: head.uri.path(), query: head.uri.query(), headers: &head.headers }
}

impl Told {
    fn new(started: Instant, grpc: bool, admitted: Option<Admitted>) -> Self {
        let ended = Ended { status: None, grpc: None, error: "UNKNOWN" };
        Self { exchange: None, route: None, started, ended, grpc, done: false, _admitted: admitted }
    }

    fn routed(&mut self, backend: usize) {
        if let Some(route) = &mut self.route {
            route.backend = Some(backend);
        }
    }

    fn answered(&mut self, exchange: Exchange, status: StatusCode, headers: &HeaderMap) {
        self.exchange = Some(exchange);
        let grpc = if self.grpc { grpc_status(headers) } else { None };
        self.ended = Ended { status: Some(status), grpc, error: "" };
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let Some(routed) = &self.route else { return };
        let now = net::now();
        let ended = match self.ended {
            // A body that ended without a status was a success.
            Ended { grpc: None, error: "", .. } if self.grpc => Ended { grpc: Some(0), ..self.ended },
            ended => ended,
        };
        routed.metrics.ended(ended, now.duration_since(self.started));
        if let Some(backend) = routed.backend() {
            let sent = self.exchange.as_ref().map_or(self.started, Exchange::started);
            backend.metrics.ended(ended, now.duration_since(sent));
        }
    }
}

impl Tally for Told {
    fn data(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.data(bytes);
        }
        if let Some(backend) = self.route.as_ref().and_then(Routed::backend) {
            backend.metrics.frame(bytes);
        }
    }

    fn complete(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete(trailers);
        }
        if self.grpc {
            self.ended.grpc = trailers.and_then(grpc_status).or(self.ended.grpc);
        }
        self.end();
    }

    fn failed(&mut self, error: &BodyError) {
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(error);
        }
        self.ended.error = match error.h2_reason().map(h2_reason::name) {
            Some("CANCEL") => "CANCEL",
            Some("REFUSED_STREAM") => "REFUSED",
            Some("ENHANCE_YOUR_CALM") => "ENHANCE_YOUR_CALM",
            Some(_) => "RESET",
            None => "IO",
        };
        self.end();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.done {
            self.ended.error = "CANCEL";
            self.end();
        }
    }
}
