//! The admin server of a controller.
//!
//! | Path | Answer |
//! |---|---|
//! | `/ping` | 200 `pong`: kubelet's liveness probe of Go controllers |
//! | `/live` | 200 `live`: the same for the policy controller |
//! | `/ready` | 200 `ok`, or 500 `not ready` and what is waited for |
//! | `/metrics` | the registry |
//!
//! It answers on a port that anyone in the cluster may reach, so it only tells and never does, and it is
//! bounded: [`MAX_CONNECTIONS`] at once, each with [`HEADER_TIMEOUT`] to say what it wants.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, info};

use crate::args::Listen;
use crate::drain::Drain;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::readiness::Readiness;

/// Connections served at once; more wait in the listen queue.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to send a request's head.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// An admin server that listens but doesn't answer yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
}

impl Admin {
    /// Takes the port.
    pub async fn bind(address: Listen, metrics: Metrics, readiness: Readiness) -> std::io::Result<Self> {
        Ok(Self { listener: address.bind().await?, metrics, readiness })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the program drains.
    pub async fn serve(self, mut drain: Drain) {
        if let Ok(address) = self.local_addr() {
            info!(%address, "admin server listening");
        }
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let answers = Arc::new((self.metrics, self.readiness));
        loop {
            let accepted = tokio::select! {
                () = drain.signaled() => return,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            let Some((stream, slot)) = accepted else {
                continue;
            };
            let (answers, drain) = (Arc::clone(&answers), drain.clone());
            tokio::spawn(async move {
                carry(stream, answers, drain).await;
                drop(slot);
            });
        }
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            debug!(%error, "failed to accept an admin connection");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

async fn carry(stream: TcpStream, answers: Arc<(Metrics, Readiness)>, drain: Drain) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &answers)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut signal = drain.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = signal.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection failed");
    }
}

fn answer(method: &Method, path: &str, (metrics, readiness): &(Metrics, Readiness)) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    match path {
        "/ping" => text(StatusCode::OK, "pong\n"),
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => ready(readiness),
        "/metrics" => match metrics.text() {
            Ok(body) => typed(StatusCode::OK, CONTENT_TYPE, body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be encoded\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let body = format!("not ready\nwaiting for: {}\n", waiting.join(", "));
    text(StatusCode::INTERNAL_SERVER_ERROR, body)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
