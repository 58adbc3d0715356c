//! HTTPS for API servers: TLS 1.3, HTTP/1.1 or HTTP/2; whoever posts a review to `/` is answered.
//!
//! Bounded: [`MAX_CONNECTIONS`] at once, [`HANDSHAKE_TIMEOUT`] for TLS, [`HEADER_TIMEOUT`] for a request's head,
//! [`BODY_TIMEOUT`] and [`MAX_REVIEW_BYTES`] for its body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use homarus_daemon::drain::Drain;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::Answer;
use super::review::MAX_REVIEW_BYTES;
use super::serving::ServingCertificate;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves until the program drains.
pub(crate) async fn serve<A: Answer>(
    listener: TcpListener,
    certificate: ServingCertificate,
    webhook: Arc<A>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(certificate.config()?));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = drain.signaled() => return Ok(()),
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            } => accepted,
        };
        let (stream, slot) = match accepted {
            (Ok((stream, _)), Ok(slot)) => (stream, slot),
            (Err(error), _) => {
                debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
            (_, Err(_)) => return Ok(()),
        };
        let (acceptor, webhook, drain) = (acceptor.clone(), Arc::clone(&webhook), drain.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(stream, acceptor, webhook, drain).await {
                debug!(%error, "connection failed");
            }
            drop(slot);
        });
    }
}

async fn carry<A: Answer>(stream: TcpStream, acceptor: TlsAcceptor, webhook: Arc<A>, mut drain: Drain) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        () = drain.signaled() => return Ok(()),
        stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => stream.context("TLS handshake timed out")??,
    };
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(respond(request, &*webhook).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_TIMEOUT).max_concurrent_streams(100);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| anyhow::anyhow!(error))
}

async fn respond<A: Answer>(request: Request<Incoming>, webhook: &A) -> Response<Full<Bytes>> {
    if request.method() != Method::POST || request.uri().path() != "/" {
        return answer(StatusCode::NOT_FOUND, "text/plain", "admission reviews are posted to /\n".to_owned());
    }
    let reading = timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_REVIEW_BYTES).collect());
    let body = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return answer(StatusCode::BAD_REQUEST, "text/plain", format!("the body can't be read: {error}\n")),
        Err(_) => return answer(StatusCode::REQUEST_TIMEOUT, "text/plain", "the body came too slowly\n".to_owned()),
    };
    match webhook.answer(&body).await {
        Ok(review) => answer(StatusCode::OK, "application/json", review.to_string()),
        Err(error) => answer(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
