//! The server's side of an HTTP/2 connection.

use super::{Incoming, MAX_HEADER_LIST_BYTES, Sending, Sent, Settings};
use crate::{
    http::{Body, Ending, Handler, Request, Response, ServeError, Tally},
    io::Io,
    net,
};
use ::h2::{Reason, RecvStream, server::SendResponse};
use bytes::Bytes;
use std::{cell::Cell, future::poll_fn, rc::Rc, time::Duration};

/// How long a client may take over its preface and settings.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection until its client or its ending ends it. Requests are handled side by side.
pub async fn serve<H: Handler>(io: Io, handler: Rc<H>, settings: &Settings, mut ending: Ending) -> Result<(), ServeError> {
    let mut connection = match net::timeout(PREFACE_TIMEOUT, builder(settings).handshake::<_, Bytes>(io)).await {
        Some(connected) => connected?,
        None => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    };
    let streams = Rc::new(Cell::new(0usize));
    let busy = streams.clone();
    let ping = settings.keep_alive.and_then(|keep_alive| Some((connection.ping_pong()?, keep_alive)));
    let mut gone = Box::pin(async move {
        match ping {
            Some((ping, keep_alive)) => super::keep_alive(ping, keep_alive, move || busy.get() > 0).await,
            None => std::future::pending().await,
        }
    });
    // A response may ask for the end of the client's connection.
    let closing = Rc::new(tokio::sync::Notify::new());
    let mut closing_down = false;
    let mut ended = Box::pin(async move { ending.comes().await });
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            () = closing.notified(), if !closing_down => {
                connection.graceful_shutdown();
                closing_down = true;
                continue;
            }
            () = &mut ended, if !closing_down => {
                connection.graceful_shutdown();
                closing_down = true;
                continue;
            }
            () = &mut gone => return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "client answers no ping").into()),
        };
        match accepted {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok((request, respond))) => {
                let stream = Open::count(&streams);
                tokio::task::spawn_local(answer(request, respond, handler.clone(), closing.clone(), stream));
            }
        }
    }
}

fn builder(settings: &Settings) -> ::h2::server::Builder {
    let mut builder = ::h2::server::Builder::new();
    builder.max_header_list_size(settings.max_header_list_size.unwrap_or(MAX_HEADER_LIST_BYTES));
    if let Some(bytes) = settings.stream_window {
        builder.initial_window_size(bytes);
    }
    if let Some(bytes) = settings.connection_window {
        builder.initial_connection_window_size(bytes);
    }
    if let Some(n) = settings.max_concurrent_streams {
        builder.max_concurrent_streams(n);
    }
    if let Some(bytes) = settings.max_frame_size {
        builder.max_frame_size(bytes);
    }
    if let Some(n) = settings.max_pending_accept_reset_streams {
        builder.max_pending_accept_reset_streams(n);
    }
    if let Some(bytes) = settings.max_send_buffer_size {
        builder.max_send_buffer_size(bytes);
    }
    builder
}

/// A stream that is open, counted as long as it lives.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn count(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One request and its response.
async fn answer<H: Handler>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    handler: Rc<H>,
    closing: Rc<tokio::sync::Notify>,
    _stream: Open,
) {
    let (head, stream) = request.into_parts();
    let body = if stream.is_end_stream() { Body::empty() } else { Body::http2(Incoming::new(stream)) };
    let handled = {
        let handle = handler.handle(Request { head, body });
        let mut handle = std::pin::pin!(handle);
        poll_fn(|cx| {
            if let std::task::Poll::Ready(response) = handle.as_mut().poll(cx) {
                return std::task::Poll::Ready(Some(response));
            }
            // A client that resets its stream gives the request up.
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(response) = handled else { return };
    if response.close {
        closing.notify_one();
    }
    send(response, respond).await;
}

async fn send<T: Tally>(response: Response<T>, mut respond: SendResponse<Bytes>) {
    let Response { mut head, body, mut tally, .. } = response;
    head.version = http::Version::HTTP_2;
    let head_only = body.is_end();
    let stream = match respond.send_response(http::Response::from_parts(head, ()), head_only) {
        Ok(stream) => stream,
        Err(error) => {
            // A head that can't be sent (say, with headers HTTP/2 forbids) must not leave the stream open.
            respond.send_reset(Reason::INTERNAL_ERROR);
            return tally.failed(&error.into());
        }
    };
    if head_only {
        return tally.complete(None);
    }
    let mut sending = Sending::new(stream, body);
    match poll_fn(|cx| sending.poll(cx, &mut tally)).await {
        Sent::Complete(trailers) => tally.complete(trailers.as_deref()),
        Sent::SourceFailed(error) | Sent::Refused(error) => tally.failed(&error),
    }
}
