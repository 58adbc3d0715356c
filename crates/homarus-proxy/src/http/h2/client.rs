//! The client's side of an HTTP/2 connection: many exchanges at a time.

use super::{Incoming, KeepAlive, MAX_HEADER_LIST_BYTES, Sending, Sent, Settings};
use crate::{
    http::{Body, RequestHead, ResponseHead, SendError},
    io::Io,
    secure::Standing,
};
use ::h2::{Reason, client::SendRequest};
use bytes::Bytes;
use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll};
use tokio::sync::Notify;

/// A connection that takes requests as long as it lives. Clones share it.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    closed: Cell<bool>,
    streams: Cell<usize>,
    /// Woken when the last stream has ended.
    idle: Notify,
}

/// Counts a direction of a stream as long as it lives: until its request is sent, and until its response is read.
pub(in crate::http) struct Open(Rc<State>);

impl Open {
    fn count(state: &Rc<State>) -> Self {
        state.streams.set(state.streams.get() + 1);
        Self(state.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Resolves when the endpoint answers no ping.
async fn silent(ping: Option<(::h2::PingPong, KeepAlive)>, state: Rc<State>) {
    match ping {
        Some((ping, keep_alive)) => super::keep_alive(ping, keep_alive, move || state.streams.get() > 0).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the endpoint is no longer believed and what was under way has ended. There are no new streams meanwhile.
async fn disbelieved(standing: Option<Rc<Standing>>, state: &State) {
    match standing {
        Some(standing) => standing.lost().await,
        None => std::future::pending().await,
    }
    state.closed.set(true);
    loop {
        let idle = state.idle.notified();
        if state.streams.get() == 0 {
            return;
        }
        idle.await;
    }
}

impl Client {
    /// Begins HTTP/2 on a connection; the connection's own work runs on this worker until it ends.
    pub async fn connect(io: Io, settings: &Settings) -> Result<Self, ::h2::Error> {
        let standing = io.standing().cloned();
        let (send, mut connection) = builder(settings).handshake::<_, Bytes>(io).await?;
        let state = Rc::new(State::default());
        let ping = connection.ping_pong().zip(settings.keep_alive);
        let shared = state.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP/2 connection ended");
                },
                () = silent(ping, shared.clone()) => tracing::debug!("endpoint answers no ping"),
                () = disbelieved(standing, &shared) => {}
            }
            shared.closed.set(true);
        });
        Ok(Self { send, state })
    }

    /// Whether new requests may be sent.
    pub fn is_open(&self) -> bool {
        !self.state.closed.get()
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&self, head: RequestHead, body: Body) -> Result<(ResponseHead, Body), SendError> {
        let mut send = self.send.clone();
        if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
            self.state.closed.set(true);
            return Err(SendError { error: error.into(), may_repeat: true });
        }
        let end = body.is_end();
        let open = Open::count(&self.state);
        let (response, stream) = match send.send_request(http::Request::from_parts(head, ()), end) {
            Ok(begun) => begun,
            Err(error) => {
                let may_repeat = self.begin_failed(&error);
                return Err(SendError { error: error.into(), may_repeat });
            }
        };
        let mut response = std::pin::pin!(response);
        if end {
            return match response.await {
                Ok(response) => Ok(receive(response, None, open)),
                Err(error) => Err(SendError { may_repeat: is_unprocessed(&error), error: error.into() }),
            };
        }
        let mut sending = Sending::new(stream, body);
        let mut sent = false;
        let got = poll_fn(|cx| {
            if !sent && let Poll::Ready(ended) = sending.poll(cx, &mut ()) {
                if let Sent::SourceFailed(error) = ended {
                    return Poll::Ready(Err((error, false)));
                }
                // If the server refused it, its response or its reset says why.
                sent = true;
            }
            response.as_mut().poll(cx).map_err(|error| (is_unprocessed(&error), error)).map_err(|(u, e)| (e.into(), u))
        })
        .await;
        match got {
            Ok(response) => Ok(receive(response, (!sent).then_some(sending), open)),
            Err((error, may_repeat)) => Err(SendError { error, may_repeat }),
        }
    }

    /// A request that could not even begin: nobody has seen it, but its head may be what is wrong.
    fn begin_failed(&self, error: &::h2::Error) -> bool {
        let connection = error.is_go_away() || error.is_io();
        if connection {
            self.state.closed.set(true);
        }
        connection || error.reason() == Some(Reason::REFUSED_STREAM)
    }
}

/// What small frames that nobody has read yet may cost, each 256 bytes less its size, before the server is taken for hostile:
/// some 65,000 frames. Streams of many clients share a connection to an application, and a controller tells all of them
/// of a change at once.
const SMALL_FRAMES_BUDGET: usize = 16 << 20;

fn builder(settings: &Settings) -> ::h2::client::Builder {
    let mut builder = ::h2::client::Builder::new();
    builder.enable_push(false);
    builder.max_header_list_size(settings.max_header_list_size.unwrap_or(MAX_HEADER_LIST_BYTES));
    builder.data_frame_budget(SMALL_FRAMES_BUDGET);
    if let Some(bytes) = settings.stream_window {
        builder.initial_window_size(bytes);
    }
    if let Some(bytes) = settings.connection_window {
        builder.initial_connection_window_size(bytes);
    }
    if let Some(bytes) = settings.max_frame_size {
        builder.max_frame_size(bytes);
    }
    builder
}

/// Makes the response; what is left of the request's body is sent on meanwhile.
fn receive(response: http::Response<::h2::RecvStream>, sending: Option<Sending>, open: Open) -> (ResponseHead, Body) {
    let (head, stream) = response.into_parts();
    if let Some(mut sending) = sending {
        let also = Open::count(&open.0);
        tokio::task::spawn_local(async move {
            let _ = poll_fn(|cx| sending.poll(cx, &mut ())).await;
            drop(also);
        });
    }
    let body = if stream.is_end_stream() { Body::empty() } else { Body::http2(Incoming::new(stream).counted(open)) };
    (head, body)
}

/// Whether the peer has certainly not processed a request that failed so (RFC 9113 §8.7).
fn is_unprocessed(error: &::h2::Error) -> bool {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM) && error.is_remote();
    // A GOAWAY fails only streams that the peer says it will not process.
    refused || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
}
