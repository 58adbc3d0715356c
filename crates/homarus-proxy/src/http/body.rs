//! Bodies: one concrete type for all that can be carried.

use super::{h1, h2};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// What is kept of a request's body so that it can be sent again (issue: bodies up to 64 KiB).
pub const REPLAY_BYTES: usize = 64 * 1024;

/// A body, or what is left of it.
pub struct Body {
    kind: Kind,
    frames: Option<Rc<dyn Frames>>,
}

/// Learns the sizes of a body's data frames.
pub trait Frames {
    /// A frame of so many bytes has come.
    fn frame(&self, bytes: usize);
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, frames: None }
    }
}

enum Kind {
    Empty,
    Full(Bytes),
    Http1Request(h1::server::Incoming),
    Http1Response(Box<h1::client::Incoming>),
    Http2(h2::Incoming),
    Replay(Replayed),
}

/// A part of a body.
#[derive(Debug)]
pub enum Frame {
    /// Some bytes.
    Data(Bytes),
    /// The trailers; nothing follows.
    Trailers(Box<HeaderMap>),
}

/// Why a body, or a request with it, came to no end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer reset the stream, or the connection of all streams ended.
    #[error("{0}")]
    Http2(#[from] ::h2::Error),
    /// The peer broke the protocol.
    #[error("{0}")]
    Invalid(#[from] h1::Invalid),
    /// Nobody wants it any more.
    #[error("canceled")]
    Canceled,
    /// Something took too long.
    #[error("{0}")]
    TimedOut(&'static str),
}

impl BodyError {
    /// The code of the HTTP/2 error, if it is one.
    pub fn h2_reason(&self) -> Option<u32> {
        match self {
            Self::Http2(error) => error.reason().map(u32::from),
            Self::Canceled => Some(::h2::Reason::CANCEL.into()),
            _ => None,
        }
    }
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Kind::Empty.into()
    }

    /// The same body, whose frames are counted.
    pub fn counted(mut self, frames: Rc<dyn Frames>) -> Self {
        if !self.is_end() {
            self.frames = Some(frames);
        }
        self
    }

    /// A body of these bytes.
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Kind::Empty.into() } else { Kind::Full(bytes).into() }
    }

    pub(super) fn http1_request(incoming: h1::server::Incoming) -> Self {
        Kind::Http1Request(incoming).into()
    }

    pub(super) fn http1_response(incoming: h1::client::Incoming) -> Self {
        Kind::Http1Response(Box::new(incoming)).into()
    }

    pub(super) fn http2(incoming: h2::Incoming) -> Self {
        Kind::Http2(incoming).into()
    }

    /// The same body, and the means to send it again. What passes is kept, up to [`REPLAY_BYTES`].
    pub fn replayable(self) -> (Self, Again) {
        match self.kind {
            Kind::Empty => (self, Again::Empty),
            Kind::Full(ref bytes) => {
                let again = Again::Full(bytes.clone());
                (self, again)
            }
            _ => {
                let replay = Rc::new(RefCell::new(Replay { inner: self, kept: Vec::new(), kept_bytes: 0, lost: false }));
                (Kind::Replay(Replayed { replay: replay.clone(), at: 0 }).into(), Again::Replay(replay))
            }
        }
    }

    /// The next part; none is the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = ready!(self.poll_next(cx));
        if let (Some(frames), Some(Ok(Frame::Data(data)))) = (&self.frames, &frame) {
            frames.frame(data.len());
        }
        Poll::Ready(frame)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::Data(bytes))))
            }
            Kind::Http1Request(incoming) => incoming.poll_frame(cx),
            Kind::Http1Response(incoming) => incoming.poll_frame(cx),
            Kind::Http2(incoming) => incoming.poll_frame(cx),
            Kind::Replay(replay) => replay.poll_frame(cx),
        }
    }

    /// All bytes of the body; fails if there are more than `limit`.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await {
            if let Frame::Data(data) = frame? {
                if all.len() + data.len() > limit {
                    return Err(h1::Invalid::TooLarge.into());
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(all.into())
    }

    /// Whether nothing more will come; false only means that it isn't known.
    pub fn is_end(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Http1Request(incoming) => incoming.is_end(),
            Kind::Http1Response(incoming) => incoming.is_end(),
            Kind::Http2(incoming) => incoming.is_end(),
            Kind::Replay(replayed) => replayed.is_end(),
        }
    }

    /// How many bytes will come, if that is known.
    pub fn exact_len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Empty => Some(0),
            Kind::Full(bytes) => Some(bytes.len() as u64),
            Kind::Http1Request(incoming) => incoming.exact_len(),
            Kind::Http1Response(incoming) => incoming.exact_len(),
            Kind::Http2(incoming) => incoming.exact_len(),
            Kind::Replay(replayed) => replayed.exact_len(),
        }
    }
}

/// The means to send a body again.
pub enum Again {
    /// There is none.
    Empty,
    /// It is here.
    Full(Bytes),
    /// What passed of it is here, and the rest is still to come.
    Replay(Rc<RefCell<Replay>>),
}

impl Again {
    /// The body from its beginning, if all that passed was kept. Whoever has the one before must be done with it.
    pub fn body(&self) -> Option<Body> {
        match self {
            Self::Empty => Some(Body::empty()),
            Self::Full(bytes) => Some(Body::full(bytes.clone())),
            Self::Replay(replay) if !replay.borrow().lost => Some(Kind::Replay(Replayed { replay: replay.clone(), at: 0 }).into()),
            Self::Replay(_) => None,
        }
    }
}

/// A body that remembers what passed.
pub struct Replay {
    inner: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Too much passed, or something that can't be kept.
    lost: bool,
}

/// One sending of it.
struct Replayed {
    replay: Rc<RefCell<Replay>>,
    /// What of it is sent, in pieces.
    at: usize,
}

impl Replayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let replay = &mut *self.replay.borrow_mut();
        if let Some(bytes) = replay.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::Data(bytes.clone()))));
        }
        let frame = ready!(replay.inner.poll_frame(cx));
        match &frame {
            Some(Ok(Frame::Data(bytes))) if !replay.lost && replay.kept_bytes + bytes.len() <= REPLAY_BYTES => {
                replay.kept_bytes += bytes.len();
                replay.kept.push(bytes.clone());
                self.at += 1;
            }
            None => {}
            _ => {
                replay.lost = true;
                replay.kept = Vec::new();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end(&self) -> bool {
        let replay = self.replay.borrow();
        self.at >= replay.kept.len() && replay.inner.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        let replay = self.replay.borrow();
        let again: u64 = replay.kept.iter().skip(self.at).map(|b| b.len() as u64).sum();
        replay.inner.exact_len().map(|n| n + again)
    }
}
