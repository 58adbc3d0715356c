//! The server's side of an HTTP/1 connection.
//!
//! One request at a time. Between requests the connection is parked: it waits for the socket and holds no buffer. A body is
//! read only when the handler asks for it, so a slow receiver slows the sender.

use super::{
    Invalid,
    conn::{Access, Conn, Sending},
    framing::{Decoder, Framing},
    head::{self, ParsedRequest},
};
use crate::{
    forward::copy,
    http::{Body, BodyError, Ending, Frame, Handler, Request, Response, ServeError, Tally},
    io::Io,
    net,
};
use http::{HeaderValue, Method, StatusCode, Version, header};
use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// How long a client may take over one head once it has begun. Slower ones are cut off, so that they can't hold buffers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What is read, and for how long, of a client that still sends after the answer that ends its connection.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// What is read of a body that nobody wanted, so that the connection can go on.
const DISCARD_BYTES: u64 = 64 * 1024;

/// The connection while a request is under way: its body is read through a second handle.
struct Exchange {
    conn: Option<Conn>,
    decoder: Decoder,
    /// `100 Continue` has to be sent before the body is read.
    continue_first: bool,
}

type Shared = Rc<RefCell<Exchange>>;

/// The body of a request.
pub struct Incoming(Shared);

/// What comes after a request.
enum Next {
    /// Another one.
    Request(Conn),
    /// The end.
    Close(Conn),
    /// A tunnel to this.
    Tunnel(Conn, Io),
}

/// Serves a connection until its client or its ending ends it.
pub async fn serve<H: Handler>(io: Io, handler: &H, mut ending: Ending) -> Result<(), ServeError> {
    let mut conn = Conn::new(io);
    loop {
        if conn.input().is_empty() {
            // Readiness may be stale: only bytes begin a request, and the time that it may take.
            let read = tokio::select! {
                biased;
                read = poll_fn(|cx| conn.poll_fill(cx)) => Some(read?),
                () = ending.comes() => None,
            };
            match read {
                None => return finish(conn).await,
                Some(0) => return Ok(()),
                Some(_) => {}
            }
        }
        // Boxed, both, so that a parked connection is small.
        conn = match Box::pin(exchange(conn, handler, &ending)).await? {
            Some(Next::Request(next)) => next,
            last => return Box::pin(leave(last)).await,
        };
    }
}

/// After the last request.
async fn leave(last: Option<Next>) -> Result<(), ServeError> {
    match last {
        None => Ok(()),
        Some(Next::Request(conn) | Next::Close(conn)) => finish(conn).await,
        Some(Next::Tunnel(conn, other)) => {
            let _ = copy::both(conn.into_io(), other).await;
            Ok(())
        }
    }
}

async fn finish(mut conn: Conn) -> Result<(), ServeError> {
    Ok(poll_fn(|cx| conn.io.poll_finish(cx)).await?)
}

/// Ends a connection whose client may still be sending. Closing it with bytes unread would reset it, and the client might
/// lose the answer that says why (RFC 9112 §9.6).
async fn linger(mut conn: Conn) -> Result<(), ServeError> {
    poll_fn(|cx| conn.io.poll_finish(cx)).await?;
    let mut left = LINGER_BYTES;
    let ended = async {
        while left > 0 {
            let taken = conn.input().len();
            conn.consume(taken);
            match poll_fn(|cx| conn.poll_fill(cx)).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => return,
            }
        }
    };
    let _ = net::timeout(LINGER, ended).await;
    Ok(())
}

/// One request and its response; none: the client has gone.
async fn exchange<H: Handler>(mut conn: Conn, handler: &H, ending: &Ending) -> Result<Option<Next>, ServeError> {
    let read = net::timeout(HEAD_TIMEOUT, poll_fn(|cx| conn.poll_head(cx, head::parse_request))).await;
    let parsed = match read {
        Some(Ok(Some(parsed))) => parsed,
        Some(Ok(None)) => return Ok(None),
        Some(Err(BodyError::Invalid(invalid))) => return refuse(conn, invalid).await,
        Some(Err(BodyError::Io(error))) => return Err(error.into()),
        Some(Err(error)) => return Err(error.into()),
        None => return refuse(conn, Invalid::Truncated).await,
    };
    let ParsedRequest { head, framing, keep_alive, expects_continue, wants_upgrade } = parsed;
    let asked = Asked { method: head.method.clone(), version: head.version, keep_alive, wants_upgrade };
    let has_body = framing != Framing::None;
    let shared = Rc::new(RefCell::new(Exchange {
        conn: Some(conn),
        decoder: Decoder::new(framing),
        continue_first: expects_continue && has_body,
    }));
    let body = if has_body { Body::http1_request(Incoming(shared.clone())) } else { Body::empty() };
    let response = tokio::select! {
        biased;
        response = handler.handle(Request { head, body }) => response,
        () = poll_fn(|cx| poll_left(&shared, cx)) => return Ok(None),
    };
    respond(&shared, response, &asked, ending).await
}

/// What a request says of how its response has to look.
struct Asked {
    method: Method,
    version: Version,
    keep_alive: bool,
    wants_upgrade: bool,
}

/// Ready when the client has left while nothing but its leaving can come: its request is given up then. What it sends
/// ahead is its next request, and ends the watch.
fn poll_left(shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
    let mut exchange = shared.borrow_mut();
    let Exchange { conn: Some(conn), decoder, .. } = &mut *exchange else { return Poll::Pending };
    if !decoder.is_done() || !conn.input().is_empty() {
        return Poll::Pending;
    }
    match conn.poll_fill(cx) {
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
        _ => Poll::Pending,
    }
}

async fn refuse(mut conn: Conn, invalid: Invalid) -> Result<Option<Next>, ServeError> {
    let status = if invalid == Invalid::TooLarge { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let mut response = Response::empty(status, ());
    response.head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    conn.put_head(|out| head::write_response(out, &response.head, Version::HTTP_11, Framing::None, true))?;
    poll_fn(|cx| conn.poll_flush(cx)).await?;
    linger(conn).await?;
    Err(invalid.into())
}

/// Writes the response and decides what comes next.
async fn respond<T: Tally>(
    shared: &Shared,
    mut response: Response<T>,
    asked: &Asked,
    ending: &Ending,
) -> Result<Option<Next>, ServeError> {
    if let Some(other) = response.upgrade.take().filter(|_| asked.wants_upgrade) {
        return tunnel(shared, response, other).await;
    }
    let framing = response_framing(&response, asked);
    let close = response.close
        || !asked.keep_alive
        || framing == Framing::UntilEnd
        || ending.has_come()
        || shared.borrow().decoder.remaining().is_some_and(|left| left > DISCARD_BYTES);
    take_conn(shared)?.put_head(|out| head::write_response(out, &response.head, asked.version, framing, close))?;
    let mut sending = Sending::new(response.body, framing);
    let sent = poll_fn(|cx| match sending.poll(&mut &**shared, cx, &mut response.tally) {
        Poll::Ready(Ok(())) => take_conn(shared)?.poll_flush(cx).map_err(BodyError::from),
        Poll::Pending if poll_left(shared, cx).is_ready() => Poll::Ready(Err(BodyError::Canceled)),
        other => other,
    });
    if let Err(error) = sent.await {
        response.tally.failed(&error);
        return Err(error.into());
    }
    // Nothing stays borrowed: whoever still sends the request's body may ask for more of it meanwhile.
    let conn = shared.borrow_mut().conn.take();
    let mut decoder = std::mem::replace(&mut shared.borrow_mut().decoder, Decoder::new(Framing::None));
    let Some(mut conn) = conn else { return Err(BodyError::Canceled.into()) };
    if close && decoder.is_done() {
        return Ok(Some(Next::Close(conn)));
    }
    if close {
        linger(conn).await?;
        return Ok(None);
    }
    let discarded = net::timeout(HEAD_TIMEOUT, discard(&mut conn, &mut decoder)).await;
    if discarded != Some(true) {
        linger(conn).await?;
        return Ok(None);
    }
    Ok(Some(Next::Request(conn)))
}

impl Access for &RefCell<Exchange> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Conn) -> R) -> Option<R> {
        self.borrow_mut().conn.as_mut().map(f)
    }
}

/// The connection of an exchange, for the moment.
fn take_conn(shared: &Shared) -> Result<std::cell::RefMut<'_, Conn>, BodyError> {
    std::cell::RefMut::filter_map(shared.borrow_mut(), |exchange| exchange.conn.as_mut()).map_err(|_| BodyError::Canceled)
}

/// Reads past a body that nobody wanted; false: it is too long, or broken.
async fn discard(conn: &mut Conn, decoder: &mut Decoder) -> bool {
    let mut left = DISCARD_BYTES;
    while !decoder.is_done() {
        match poll_fn(|cx| conn.poll_body(cx, decoder)).await {
            Some(Ok(Frame::Data(data))) if data.len() as u64 <= left => left -= data.len() as u64,
            Some(Ok(Frame::Trailers(_))) => {}
            None if decoder.is_done() => {}
            _ => return false,
        }
    }
    true
}

/// How the end of a response will be known (RFC 9112 §6.3).
fn response_framing<T>(response: &Response<T>, asked: &Asked) -> Framing {
    let status = response.head.status;
    if asked.method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (asked.method == Method::CONNECT && status.is_success())
    {
        return Framing::None;
    }
    let announced = response.head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    match announced.or(response.body.exact_len()) {
        Some(n) => Framing::Length(n),
        None if asked.version == Version::HTTP_10 => Framing::UntilEnd,
        None => Framing::Chunked,
    }
}

/// Announces the tunnel and hands both ends over.
async fn tunnel<T: Tally>(shared: &Shared, mut response: Response<T>, other: Io) -> Result<Option<Next>, ServeError> {
    take_conn(shared)?.put_head(|out| head::write_response(out, &response.head, Version::HTTP_11, Framing::None, false))?;
    poll_fn(|cx| take_conn(shared)?.poll_flush(cx).map_err(BodyError::from)).await?;
    response.tally.complete(None);
    let conn = shared.borrow_mut().conn.take();
    Ok(conn.map(|conn| Next::Tunnel(conn, other)))
}

impl Incoming {
    /// The next part of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut exchange = self.0.borrow_mut();
        let Exchange { conn, decoder, continue_first } = &mut *exchange;
        // The response is complete and the connection has gone on without this body.
        let Some(conn) = conn else { return Poll::Ready(Some(Err(BodyError::Canceled))) };
        if std::mem::take(continue_first) {
            conn.put_head(|out| super::Put::put(out, b"HTTP/1.1 100 Continue\r\n\r\n"))?;
            let _ = conn.poll_flush(cx)?;
        }
        conn.poll_body(cx, decoder)
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.0.borrow().decoder.is_done()
    }

    /// How many bytes will come, if that is known.
    pub fn exact_len(&self) -> Option<u64> {
        self.0.borrow().decoder.remaining()
    }
}
