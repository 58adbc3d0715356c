//! What every sample server does the same way: listen, say so, and end politely.
//!
//! A server ends in two steps: at the stop signal it takes no new connection and finishes what it has begun; after
//! [`DRAIN_LIMIT`] it ends anyway, so that a client that never lets go can't hold a rollout.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tower::Service;

/// How long begun requests may take once the program was asked to end: less than the 30 seconds a pod is given.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// Concurrent HTTP/2 streams that one client connection may open.
const MAX_STREAMS: u32 = 1024;

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port can't be listened on.
    #[error("cannot listen on port {port}: {source}; is another program using it?")]
    Bind {
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed as a whole.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The HTTP server failed as a whole.
    #[error("the HTTP server failed: {0}")]
    Http(#[source] std::io::Error),
    /// The system refused to deliver signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// The wish that a program ends, seen by all of its servers.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// The other end of [`Stop`]; dropping it asks to end as well.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Asks everything that holds the [`Stop`] to end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// A wish and the means to utter it.
    pub fn channel() -> (Stopper, Stop) {
        let (tx, rx) = watch::channel(false);
        (Stopper(tx), Stop(rx))
    }

    /// A wish that SIGTERM or SIGINT utters. Must be called within a runtime.
    pub fn on_signals() -> Result<Stop, ServeError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        let (stopper, stop) = Stop::channel();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "draining");
            stopper.stop();
            // Whoever is impatient may ask again.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
        Ok(stop)
    }

    /// Completes when the program is to end.
    pub async fn asked(mut self) {
        // An error means that the stopper is gone, which is a wish to end, too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Runs `server` until it ends, or until [`DRAIN_LIMIT`] after the wish.
    async fn bound<T>(self, server: impl Future<Output = Result<T, ServeError>>) -> Result<Option<T>, ServeError> {
        let overtime = async {
            self.asked().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        tokio::select! {
            done = server => done.map(Some),
            () = overtime => {
                tracing::warn!(limit = ?DRAIN_LIMIT, "ending with requests still open");
                Ok(None)
            }
        }
    }
}

/// Listens on `port` of every address, IPv6 and IPv4 alike where the system has both.
pub async fn listen(port: u16) -> Result<TcpListener, ServeError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpListener::bind(both).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(ServeError::Bind { port, source: error }),
        // Without IPv6 in the kernel there is still the other one.
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(|source| ServeError::Bind { port, source }),
    }
}

/// A service as tonic wants it, by its short name.
pub trait GrpcService:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> GrpcService for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// Serves gRPC until `stop`.
pub async fn serve_grpc<S: GrpcService>(listener: TcpListener, service: S, stop: Stop) -> Result<(), ServeError> {
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .tcp_nodelay(true)
        .serve_with_incoming_shutdown(service, TcpListenerStream::new(listener), stop.clone().asked());
    stop.bound(async { Ok(server.await?) }).await.map(|_| ())
}

/// Serves HTTP/1.1 and HTTP/2 until `stop`.
pub async fn serve_http(listener: TcpListener, app: axum::Router, stop: Stop) -> Result<(), ServeError> {
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().asked());
    stop.bound(async { server.await.map_err(ServeError::Http) }).await.map(|_| ())
}
