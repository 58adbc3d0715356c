//! HTTPS for API servers: TLS 1.3 with a certificate that is followed while it changes, HTTP/1.1 or HTTP/2.
//!
//! Bounded: [`MAX_CONNECTIONS`] at once, [`HANDSHAKE_TIMEOUT`] for TLS, [`HEADER_TIMEOUT`] for a request's head,
//! [`BODY_TIMEOUT`] and [`MAX_REVIEW_BYTES`] for its body.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use homarus_daemon::drain::Drain;
use homarus_daemon::watch_files::{WatchedFiles, read};
use homarus_identity::{Key, pem};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::admission::MAX_REVIEW_BYTES;
use super::cluster::Cluster;
use super::webhook::Webhook;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The certificate of the moment; always one that fits its key.
#[derive(Clone, Debug)]
pub(super) struct ServingCertificate(Arc<RwLock<Arc<CertifiedKey>>>);

impl ServingCertificate {
    /// Reads `tls.crt` and `tls.key`; at the start they must be good.
    pub(super) fn load(dir: &Path) -> anyhow::Result<Self> {
        let [crt, key] = files(dir).map(|path| read(&path));
        let certified = certified(&crt?, &key?).with_context(|| format!("the certificate in {} can't be used", dir.display()))?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(certified)))))
    }

    /// Puts new certificates into use as they appear, unless they are bad: then the old one stays.
    pub(super) async fn follow(self, dir: PathBuf, mut drain: Drain) {
        let mut watched = WatchedFiles::new(files(&dir));
        // What is there now counts as seen only if it is what is in use.
        if let Ok(contents) = watched.read() {
            self.replace(&contents);
        }
        loop {
            tokio::select! {
                () = drain.signaled() => return,
                contents = watched.changed() => self.replace(&contents),
            }
        }
    }

    fn replace(&self, contents: &[Vec<u8>]) {
        let [crt, key] = contents else { return };
        match certified(crt, key) {
            Ok(new) if new.cert == self.0.read().cert => {}
            Ok(new) => {
                *self.0.write() = Arc::new(new);
                info!("updated serving certificate");
            }
            Err(error) => warn!(%error, "skipping a bad serving certificate: the old one stays"),
        }
    }

    fn config(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

fn files(dir: &Path) -> [PathBuf; 2] {
    ["tls.crt", "tls.key"].map(|name| dir.join(name))
}

fn certified(crt: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
    let chain = pem::certificates(std::str::from_utf8(crt).context("tls.crt is not text")?)?;
    let key = Key::from_pem(std::str::from_utf8(key).context("tls.key is not text")?)?;
    let certified = CertifiedKey::new(chain, key.signing_key());
    certified.keys_match().context("tls.crt and tls.key don't belong together")?;
    Ok(certified)
}

/// Serves until the program drains.
pub(super) async fn serve<C: Cluster>(
    listener: TcpListener,
    certificate: ServingCertificate,
    webhook: Arc<Webhook<C>>,
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

async fn carry<C: Cluster>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook<C>>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        () = drain.signaled() => return Ok(()),
        stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => stream.context("TLS handshake timed out")??,
    };
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(respond(request, &webhook).await) }
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

async fn respond<C: Cluster>(request: Request<Incoming>, webhook: &Webhook<C>) -> Response<Full<Bytes>> {
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
