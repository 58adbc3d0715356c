//! HTTP/2, on the `h2` crate.

pub mod client;
pub mod server;
pub mod shared;

use super::{Body, BodyError, Frame, Tally};
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

/// Settings of one side of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Initial window of a stream, in bytes.
    pub stream_window: Option<u32>,
    /// Initial window of a connection, in bytes.
    pub connection_window: Option<u32>,
    /// Streams that the peer may have open.
    pub max_concurrent_streams: Option<u32>,
    /// Largest frame that we take.
    pub max_frame_size: Option<u32>,
    /// Largest header list that we take, in bytes.
    pub max_header_list_size: Option<u32>,
    /// Streams that a peer may reset before we looked at them.
    pub max_pending_accept_reset_streams: Option<usize>,
    /// What may wait to be sent on one stream, in bytes.
    pub max_send_buffer_size: Option<usize>,
    /// Keep-alive pings.
    pub keep_alive: Option<KeepAlive>,
}

/// Keep-alive pings: a peer that doesn't answer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time between pings.
    pub interval: Duration,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// Ping also while there is no stream.
    pub while_idle: bool,
}

/// The header list that is taken unless the operator says otherwise.
pub const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// A body that a peer sends.
pub struct Incoming {
    stream: RecvStream,
    data_done: bool,
    /// Tells the connection that the stream is still there.
    _open: Option<client::Open>,
}

impl Incoming {
    /// Wraps a stream.
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, data_done: false, _open: None }
    }

    /// The same body, counted as a stream of its connection.
    pub(super) fn counted(self, open: client::Open) -> Self {
        Self { _open: Some(open), ..self }
    }

    /// The next part of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        while !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever asks for the next part is done with this one.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                // A peer that resets with NO_ERROR has sent a whole response and wants no more of the request.
                Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|t| Ok(Frame::Trailers(Box::new(t))))),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How many bytes will come, if that is known.
    pub fn exact_len(&self) -> Option<u64> {
        self.is_end().then_some(0)
    }
}

/// A body on its way out.
pub(super) struct Sending {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data that waits for the peer's window.
    pending: Bytes,
}

/// How sending a body ended.
pub(super) enum Sent {
    /// All of it went.
    Complete(Option<Box<HeaderMap>>),
    /// The source broke off; the stream was reset.
    SourceFailed(BodyError),
    /// The receiver doesn't want it.
    Refused(BodyError),
}

impl Sending {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, pending: Bytes::new() }
    }

    /// Passes the body on until its end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tally: &mut impl Tally) -> Poll<Sent> {
        loop {
            if !self.pending.is_empty() {
                if let Err(error) = ready!(self.poll_send(cx)) {
                    return Poll::Ready(Sent::Refused(error));
                }
                continue;
            }
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Sent::Refused(reset.map_or_else(BodyError::from, |r| ::h2::Error::from(r).into())));
            }
            let ended = match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    tally.data(data.len());
                    self.pending = data;
                    // The last data frame can carry the end with it.
                    if self.body.is_end() {
                        let data = std::mem::take(&mut self.pending);
                        self.stream.reserve_capacity(data.len());
                        if self.stream.capacity() >= data.len() {
                            let sent = self.stream.send_data(data, true);
                            return Poll::Ready(sent.map_or_else(|e| Sent::Refused(e.into()), |()| Sent::Complete(None)));
                        }
                        self.pending = data;
                    }
                    continue;
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    let sent = self.stream.send_trailers((*trailers).clone());
                    sent.map(|()| Sent::Complete(Some(trailers)))
                }
                None => self.stream.send_data(Bytes::new(), true).map(|()| Sent::Complete(None)),
                Some(Err(error)) => {
                    self.stream.send_reset(reset_reason(&error));
                    return Poll::Ready(Sent::SourceFailed(error));
                }
            };
            return Poll::Ready(ended.unwrap_or_else(|error| Sent::Refused(error.into())));
        }
    }

    /// Sends as much of the pending data as the peer's window takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.stream.reserve_capacity(self.pending.len());
        if self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(BodyError::Canceled)),
            }
        }
        let n = self.stream.capacity().min(self.pending.len());
        if n > 0 {
            let data = self.pending.split_to(n);
            self.stream.send_data(data, false)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The reason that tells a peer why its stream ends: that of the other side's reset, if that was it.
pub(super) fn reset_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Http2(error) => error.reason().unwrap_or(Reason::INTERNAL_ERROR),
        BodyError::Canceled => Reason::CANCEL,
        _ => Reason::INTERNAL_ERROR,
    }
}

/// Pings until the peer no longer answers. Resolves only then.
pub(super) async fn keep_alive(mut ping: ::h2::PingPong, settings: KeepAlive, busy: impl Fn() -> bool) {
    loop {
        crate::net::sleep(settings.interval).await;
        if !settings.while_idle && !busy() {
            continue;
        }
        match crate::net::timeout(settings.timeout, ping.ping(::h2::Ping::opaque())).await {
            Some(Ok(_)) => {}
            _ => return,
        }
    }
}
