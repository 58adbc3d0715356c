//! gRPC over HTTP/2, as far as controllers speak it: one request message; one answer, or a stream of them.
//!
//! Not tonic's server, for the sake of its memory: there every subscriber's message is copied into a buffer of its own,
//! and stays there while the client is slow. Here messages are framed once, shared, and handed to HTTP/2 as they are;
//! a stream is asked for the next one only when the client's window is open.

use super::metrics::{Calls, Method};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use homarus_daemon::drain::Drain;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{debug, info, warn};

pub use tonic::{Code, Status};

/// A request names a target and says who asks: a few hundred bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// How long a request's message may take to come in.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once. Meshed proxies share a few, through the controller's own proxy.
const MAX_CONNECTIONS: usize = 20_000;
/// Streams of one connection: all of a big mesh may come through one.
const MAX_STREAMS: u32 = 1_000_000;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// A client that doesn't answer pings is gone, and so are its subscriptions.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Compression flag and length.
const PREFIX_BYTES: usize = 5;

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    /// The method of this path, if it exists.
    fn method(&self, path: &str) -> Option<Method>;

    /// Answers a call. Nothing here waits: a view is there or it isn't.
    fn call(&self, method: Method, message: Bytes) -> Result<Reply, Status>;
}

/// The answer to a call, framed.
pub enum Reply {
    /// One message.
    One(Bytes),
    /// Messages for as long as the client listens.
    Stream(BoxStream<'static, Bytes>),
}

/// A message with its prefix, ready to be sent.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(&message.encode_to_vec()[..]);
    bytes.freeze()
}

/// Reads the message of a call.
pub fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::invalid_argument(format!("the request can't be decoded: {error}")))
}

/// Serves a listener until the program drains.
pub async fn serve(listener: TcpListener, service: Arc<dyn Service>, calls: Calls, mut drain: Drain) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "gRPC server listening");
    }
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = drain.signaled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, calls, drain) = (service.clone(), calls.clone(), drain.clone());
                tokio::spawn(async move {
                    carry(stream, peer, service, calls, drain).await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection; raise the limit of open files if this goes on");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn carry(stream: TcpStream, peer: SocketAddr, service: Arc<dyn Service>, calls: Calls, mut drain: Drain) {
    // Changes are small and somebody waits for them.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, calls) = (service.clone(), calls.clone());
        async move { Ok::<_, Infallible>(answer(request, service, calls).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "connection failed");
    }
}

async fn answer(request: Request<Incoming>, service: Arc<dyn Service>, calls: Calls) -> Response<Messages> {
    let Some(method) = service.method(request.uri().path()) else {
        return refuse(Status::unimplemented("no such method"), None);
    };
    let call = calls.begin(method);
    let answered = match message(request.into_body()).await {
        Ok(message) => {
            call.received();
            service.call(method, message)
        }
        Err(status) => Err(status),
    };
    let stream = match answered {
        Ok(Reply::One(message)) => Box::pin(futures::stream::iter([message])),
        Ok(Reply::Stream(stream)) => stream,
        Err(status) => return refuse(status, Some(call)),
    };
    let mut response = Response::new(Messages { stream: Some(stream), call: Some(call) });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The one message of a request.
async fn message(body: Incoming) -> Result<Bytes, Status> {
    let body = Limited::new(body, MAX_REQUEST_BYTES).collect();
    let body = tokio::time::timeout(REQUEST_TIMEOUT, body).await.map_err(|_| Status::deadline_exceeded("no request came"))?;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Status::resource_exhausted(format!("a request may have {MAX_REQUEST_BYTES} bytes")),
        None => Status::internal("the request broke off"),
    })?;
    let mut bytes = body.to_bytes();
    let prefix = (bytes.len() >= PREFIX_BYTES).then(|| bytes.split_to(PREFIX_BYTES));
    match prefix.as_deref() {
        Some([0, a, b, c, d]) if bytes.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize => Ok(bytes),
        Some([1, ..]) => Err(Status::unimplemented("compressed requests are not supported")),
        _ => Err(Status::internal("the request is not one message")),
    }
}

fn refuse(status: Status, call: Option<super::metrics::Call>) -> Response<Messages> {
    if let Some(call) = call {
        call.end(status.code());
    }
    let mut response = Response::new(Messages { stream: None, call: None });
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if status.add_header(response.headers_mut()).is_err() {
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("13"));
    }
    response
}

/// The body of an answer: messages, then the trailers that say that all is well.
struct Messages {
    stream: Option<BoxStream<'static, Bytes>>,
    call: Option<super::metrics::Call>,
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match futures::ready!(stream.as_mut().poll_next(cx)) {
            Some(message) => {
                if let Some(call) = &self.call {
                    call.sent();
                }
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            None => {
                self.stream = None;
                if let Some(call) = self.call.take() {
                    call.end(Code::Ok);
                }
                let trailers =
                    HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }
}
