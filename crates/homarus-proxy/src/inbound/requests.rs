//! Requests of one connection toward the workload.

use super::application::{Answer, Application};
use crate::{
    authorize::{Grant, Port},
    fault::{Cause, Fault},
    http::{BodyError, Handler, Request, RequestHead, Response, Tally, headers, is_http2},
    net::{self, Instant},
    observe::{
        access::Entry,
        http::{Broken, Class, grpc_status},
    },
    outbound::{match_head, wants_upgrade},
    worker::{Admitted, Worker},
};
use homarus_model::{Identity, inbound::ClientTls};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header};
use std::{net::SocketAddr, rc::Rc};

/// Answers the requests of one connection.
pub struct Requests {
    worker: Rc<Worker>,
    port: Rc<Port>,
    application: Rc<Application>,
    client: SocketAddr,
    tls: ClientTls,
    /// The client's identity as a header, rendered once.
    client_id: Option<HeaderValue>,
}

/// What is told how a response gets on.
pub struct Told {
    grant: Option<Rc<Grant>>,
    started: Instant,
    class: Class,
    grpc: bool,
    first: bool,
    done: bool,
    access: Option<Box<Entry>>,
    _admitted: Option<Admitted>,
}

/// How a request looked before another proxy upgraded it.
#[derive(Clone, Copy)]
struct Original {
    absolute: bool,
}

impl Requests {
    /// For a connection of a client to a port.
    pub fn new(worker: Rc<Worker>, port: Rc<Port>, application: Rc<Application>, client: SocketAddr, tls: ClientTls) -> Self {
        let client_id = tls.identity().map(|id| headers::text(Identity::as_str(id)));
        Self { worker, port, application, client, tls, client_id }
    }

    async fn carry(&self, request: Request, upgrade: bool, absolute: bool, told: &mut Told) -> Result<Answer, Fault> {
        let Request { mut head, mut body } = request;
        let policy = match self.application.is_probe(&head) {
            true => self.port.policy_of_probes(),
            false => self.port.policy().await?,
        };
        let grant =
            policy.request(&match_head(&head), self.client.ip(), &self.tls).inspect_err(|f| policy.metrics.http_error(f))?;
        grant.requests.request();
        grant.route.request();
        body = body.counted(grant.clone());
        told.grant = Some(grant);
        match &self.client_id {
            Some(id) => _ = head.headers.insert(&headers::CLIENT_ID, id.clone()),
            None => _ = head.headers.remove(&headers::CLIENT_ID),
        }
        self.application.send(self.client, head, body, absolute, upgrade).await.inspect_err(|f| policy.metrics.http_error(f))
    }

    fn refuse(&self, fault: &Fault, grpc: bool, mut told: Told) -> Response<Told> {
        let kind = if grpc { "gRPC" } else { "HTTP" };
        if !matches!(fault.cause, Cause::Unauthorized) {
            tracing::info!(client = %self.client, error = %fault, "{kind} request failed");
        }
        told.class = Class {
            status: Some(if grpc { StatusCode::OK } else { fault.status() }),
            grpc: grpc.then(|| fault.grpc_code()),
            error: None,
        };
        fault.respond(grpc, self.client_id.is_some(), told)
    }
}

impl Handler for Requests {
    type Tally = Told;

    async fn handle(&self, request: Request) -> Response<Told> {
        let Request { mut head, body } = request;
        let grpc = is_http2(head.version) && headers::is_grpc(&head.headers);
        let admitted = self.worker.in_flight[0].admit();
        let overload = admitted.is_none();
        let mut told = Told::new(grpc, admitted);
        if let Some(form) = self.worker.config.process.access_log {
            told.access = Some(Entry::begin(form, self.client, self.tls.identity(), &head));
        }
        if overload {
            return self.refuse(&Fault::new(Cause::LoadShed, "too many requests under way"), grpc, told);
        }
        let was_absolute = !is_http2(head.version) && head.uri.scheme().is_some();
        let original = restore(&mut head);
        let upgrade = original.is_none() && wants_upgrade(&head);
        if !upgrade {
            headers::strip_connection(&mut head.headers);
        }
        if is_http2(head.version) && head.uri.authority().is_none() && !head.headers.contains_key(header::HOST) {
            return self.refuse(&Fault::new(Cause::Unexpected("request without an authority".into()), ""), grpc, told);
        }
        let absolute = original.map_or(was_absolute, |o| o.absolute);
        match Box::pin(self.carry(Request { head, body }, upgrade, absolute, &mut told)).await {
            Ok(Answer { mut head, body, tunnel }) => {
                if tunnel.is_none() {
                    headers::strip_connection(&mut head.headers);
                }
                if original.is_some() {
                    mark_original(&mut head.headers, head.version);
                }
                told.answered(head.status, &head.headers);
                Response { head, body, tally: told, close: false, upgrade: tunnel }
            }
            Err(fault) => self.refuse(&fault, grpc, told),
        }
    }
}

/// Makes a request that was upgraded on the way what it was (proxy-wire §6.5).
fn restore(head: &mut RequestHead) -> Option<Original> {
    if !is_http2(head.version) {
        return None;
    }
    let value = head.headers.remove(&headers::ORIG_PROTO)?;
    let text = value.to_str().unwrap_or_default();
    let absolute = text.contains("absolute-form");
    let version = if text.starts_with("HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
    head.version = version;
    if !head.headers.contains_key(header::HOST)
        && let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
    if !absolute {
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map(Uri::from).unwrap_or_default();
    }
    Some(Original { absolute })
}

/// Tells the other proxy what the response was before it became HTTP/2.
fn mark_original(headers: &mut HeaderMap, version: Version) {
    let text = if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    headers.insert(&headers::ORIG_PROTO, HeaderValue::from_static(text));
    headers.remove(header::TRANSFER_ENCODING);
}

impl Told {
    fn new(grpc: bool, admitted: Option<Admitted>) -> Self {
        let class = Class { status: None, grpc: None, error: None };
        Self { grant: None, started: net::now(), class, grpc, first: false, done: false, access: None, _admitted: admitted }
    }

    fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.class = Class { status: Some(status), grpc: if self.grpc { grpc_status(headers) } else { None }, error: None };
        if let Some(access) = &mut self.access {
            access.processing = net::now().duration_since(self.started);
        }
    }

    fn first(&mut self) {
        if std::mem::replace(&mut self.first, true) {
            return;
        }
        if let (Some(grant), Some(status)) = (&self.grant, self.class.status) {
            grant.requests.latency(status, net::now().duration_since(self.started));
        }
    }

    fn end(&mut self) {
        self.first();
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Some(mut access) = self.access.take() {
            access.status = self.class.status;
            access.end(net::now().duration_since(self.started));
        }
        if let Some(grant) = &self.grant {
            grant.requests.response(self.class);
            let elapsed = net::now().duration_since(self.started);
            grant.route.ended(self.class.status.map(|s| s.as_u16()), self.class.grpc, elapsed, elapsed);
        }
    }
}

impl Tally for Told {
    fn data(&mut self, bytes: usize) {
        self.first();
        if let Some(grant) = &self.grant {
            grant.route.response_frame(bytes);
        }
        if let Some(access) = &mut self.access {
            access.response_bytes += bytes as u64;
        }
    }

    fn complete(&mut self, trailers: Option<&HeaderMap>) {
        if self.grpc {
            self.class.grpc = trailers.and_then(grpc_status).or(self.class.grpc);
        }
        self.end();
    }

    fn failed(&mut self, error: &BodyError) {
        self.class.error = Some(Broken::of(error));
        self.end();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.done {
            self.end();
        }
    }
}
