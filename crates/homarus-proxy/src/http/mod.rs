//! The HTTP engine, both roles: the only place that names h2.
//!
//! HTTP/1 is our own: a codec without I/O (`h1::{head, framing}`), and two loops around it that hold a buffer only
//! while bytes are in it. HTTP/2 is the `h2` crate without anything around it. Stages see [`Request`], [`Response`] and the
//! concrete [`Body`].
//!
//! A [`Handler`] answers requests; what it wants to know of the answer's way back it learns through a [`Tally`], which the
//! server loops tell of every frame, so that nothing has to wrap bodies.
//!
//! Absent on purpose: HTTP/2 push, h2c upgrades by header, HTTP/1 pipelining of our own requests, relayed 1xx responses
//! (proxy-wire §6.4).

pub mod body;
pub mod channel;
pub mod h1;
pub mod h2;
pub mod headers;

pub use body::{Again, Body, BodyError, Frame, Frames};

use crate::{io::Io, secure::Standing};
use ::http::{StatusCode, Version};
use homarus_daemon::drain::Drain;
use std::rc::Rc;

/// The head of a request.
pub type RequestHead = ::http::request::Parts;
/// The head of a response.
pub type ResponseHead = ::http::response::Parts;

/// A request as a server gets it.
pub struct Request {
    /// Method, target, version, headers.
    pub head: RequestHead,
    /// Its body.
    pub body: Body,
}

/// A response as a handler gives it.
pub struct Response<T> {
    /// Status, version, headers.
    pub head: ResponseHead,
    /// Its body.
    pub body: Body,
    /// Learns how the response gets on.
    pub tally: T,
    /// The client's connection shall end after this response.
    pub close: bool,
    /// After 101, or 2xx to CONNECT: the other side of the tunnel.
    pub upgrade: Option<Io>,
}

impl<T> Response<T> {
    /// A response without a body.
    pub fn empty(status: StatusCode, tally: T) -> Self {
        let mut head = ::http::Response::new(()).into_parts().0;
        head.status = status;
        Self { head, body: Body::empty(), tally, close: false, upgrade: None }
    }
}

/// Answers requests.
pub trait Handler: 'static {
    /// What learns how responses get on.
    type Tally: Tally;

    /// Answers one request. May be dropped at any await when the client goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response<Self::Tally>>;
}

/// Learns how a response gets on. Dropped without an end: the client went away.
pub trait Tally: 'static {
    /// A frame of so many bytes was passed on.
    fn data(&mut self, bytes: usize);

    /// All was passed on.
    fn complete(&mut self, trailers: Option<&::http::HeaderMap>);

    /// The body broke off.
    fn failed(&mut self, error: &BodyError);
}

impl Tally for () {
    fn data(&mut self, _: usize) {}
    fn complete(&mut self, _: Option<&::http::HeaderMap>) {}
    fn failed(&mut self, _: &BodyError) {}
}

/// When a server's connection has to end: politely, after what is under way.
#[derive(Clone)]
pub struct Ending {
    drain: Drain,
    standing: Option<Rc<Standing>>,
}

impl Ending {
    /// When the process does, or when the client is no longer believed.
    pub fn new(drain: Drain, io: &Io) -> Self {
        Self { drain, standing: io.standing().cloned() }
    }

    /// Resolves when the connection has to end.
    pub async fn comes(&mut self) {
        tokio::select! {
            () = self.drain.signaled() => {}
            () = lost(self.standing.as_deref()) => {}
        }
    }

    /// Whether the connection has to end.
    pub fn has_come(&self) -> bool {
        self.drain.is_signaled() || self.standing.as_ref().is_some_and(|standing| standing.is_lost())
    }
}

async fn lost(standing: Option<&Standing>) {
    match standing {
        Some(standing) => standing.lost().await,
        None => std::future::pending().await,
    }
}

/// Why a server connection ended otherwise than by its client's or our own wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection broke.
    #[error("connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The client broke the protocol.
    #[error("client broke HTTP/1: {0}")]
    Http1(#[from] h1::Invalid),
    /// The client broke the protocol.
    #[error("HTTP/2 connection failed: {0}")]
    Http2(#[from] ::h2::Error),
    /// A response could not be finished, so the connection had to be cut.
    #[error("response broke off: {0}")]
    Response(#[from] BodyError),
}

/// Why a request got no response.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub error: BodyError,
    /// The peer has certainly not processed it, or it may be processed twice: it may be sent again, elsewhere or on a new connection.
    pub may_repeat: bool,
}

/// Whether a version is spoken by the HTTP/2 engine.
pub fn is_http2(version: Version) -> bool {
    version == Version::HTTP_2
}

/// The settings of our servers, as the operator decided.
pub fn server_settings(config: &crate::config::Http2Server) -> h2::Settings {
    h2::Settings {
        stream_window: Some(config.windows.0),
        connection_window: Some(config.windows.1),
        max_concurrent_streams: config.max_concurrent_streams,
        max_frame_size: config.max_frame_size,
        max_header_list_size: config.max_header_list_size,
        max_pending_accept_reset_streams: config.max_pending_accept_reset_streams,
        max_send_buffer_size: config.max_send_buf_size,
        keep_alive: config.keep_alive.map(|(interval, timeout)| h2::KeepAlive { interval, timeout, while_idle: true }),
    }
}
