//! HTTP/2 toward the control plane: one connection that gRPC clients share.
//!
//! It stands under tonic's generated clients in place of tonic's own transport, which brings a connection pool, a balancer
//! and their queues for what is a handful of long streams. Requests are single messages, so they are collected before they
//! are sent; responses are streams.

mod meter;

pub use meter::Meter;

use bytes::{Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use http::{Request, Response, uri};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest request; ours have some hundred bytes.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// What the server may send ahead on one stream, and on all together: sets of endpoints come in one message.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The server's headers are few.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Why a call failed before it had an answer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The connection, or the stream on it.
    #[error("HTTP/2 connection to the control plane failed: {0}")]
    Http2(#[from] h2::Error),
    /// Our own request.
    #[error("invalid request to the control plane: {0}")]
    Request(String),
}

/// A connection to one server of the control plane. Clones share it; it closes when the last is dropped.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Bytes>,
    authority: uri::Authority,
    meter: Arc<Meter>,
    /// How many clones there are is how many streams may be open.
    users: Arc<()>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("authority", &self.authority).field("users", &self.users()).finish_non_exhaustive()
    }
}

impl Channel {
    /// Begins HTTP/2 on a connection. The future that is returned beside the channel carries it, and has to be spawned.
    pub async fn begin<IO>(
        io: IO,
        authority: uri::Authority,
        meter: Arc<Meter>,
    ) -> Result<(Self, impl Future<Output = ()> + Send), ChannelError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection): (_, Connection<IO, Bytes>) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .handshake(io)
            .await?;
        let carry = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the control plane ended");
            }
        };
        Ok((Self { send, authority, meter, users: Arc::new(()) }, carry))
    }

    /// How many share this connection.
    pub fn users(&self) -> usize {
        Arc::strong_count(&self.users)
    }

    /// Whether both are the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.users, &other.users)
    }

    /// Whether another stream may be opened now: the server is there, and takes more than there are.
    pub fn has_room(&mut self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let open = !matches!(self.send.poll_ready(&mut context), Poll::Ready(Err(_)));
        // One of the clones is not a stream but whoever keeps the channel.
        open && self.users() <= self.send.current_max_send_streams()
    }
}

impl tonic::codegen::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = ChannelError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ChannelError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.send.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let (send, authority, mut exchange) = (self.send.clone(), self.authority.clone(), self.meter.begin());
        Box::pin(async move {
            let answered = ask(send, authority, request).await.inspect_err(|_| exchange.broke())?;
            exchange.head(answered.status(), answered.headers());
            Ok(answered.map(|stream| Incoming { stream, exchange, part: Part::Data }))
        })
    }
}

async fn ask(
    send: SendRequest<Bytes>,
    authority: uri::Authority,
    request: Request<tonic::body::Body>,
) -> Result<Response<h2::RecvStream>, ChannelError> {
    let (mut head, body) = request.into_parts();
    let mut parts = head.uri.into_parts();
    (parts.scheme, parts.authority) = (Some(uri::Scheme::HTTP), Some(authority));
    head.uri = parts.try_into().map_err(|e: uri::InvalidUriParts| ChannelError::Request(e.to_string()))?;
    let message = collect(body).await?;
    let (response, mut stream) = send.ready().await?.send_request(Request::from_parts(head, ()), false)?;
    stream.send_data(message, true)?;
    Ok(response.await?)
}

async fn collect(body: tonic::body::Body) -> Result<Bytes, ChannelError> {
    let mut body = std::pin::pin!(body);
    let mut message = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|status| ChannelError::Request(status.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if message.len() + data.len() > MAX_REQUEST_BYTES {
                return Err(ChannelError::Request(format!("longer than {MAX_REQUEST_BYTES} bytes")));
            }
            message.extend_from_slice(&data);
        }
    }
    Ok(message.freeze())
}

/// A response as it comes in.
#[derive(Debug)]
pub struct Incoming {
    stream: h2::RecvStream,
    exchange: meter::Exchange,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Data,
    Trailers,
    End,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Part::Data = self.part {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // tonic bounds messages itself: what has arrived may be followed by as much.
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.exchange.data();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    self.exchange.broke();
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.part = Part::Trailers,
            }
        }
        if let Part::End = self.part {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.part = Part::End;
        match &trailers {
            Ok(Some(trailers)) => self.exchange.trailers(trailers),
            Ok(None) => {}
            Err(_) => self.exchange.broke(),
        }
        Poll::Ready(trailers.map(|t| t.map(Frame::trailers)).transpose())
    }
}
