//! The client's side of an HTTP/1 connection: one exchange at a time, and back to the pool.

use super::{
    conn::{Conn, Sending},
    framing::{Decoder, Framing},
    head::{self, ParsedResponse},
    pool::Pool,
};
use crate::{
    http::{Body, BodyError, Frame, RequestHead, ResponseHead, SendError},
    io::Io,
};
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use std::{
    future::poll_fn,
    io,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
};

/// A connection that can take a request.
pub struct Client {
    conn: Conn,
    /// It has carried a request before, so the peer may have closed it meanwhile.
    reused: bool,
}

/// How a request is sent.
pub struct Send<'a> {
    /// Its head. The version decides between HTTP/1.0 and 1.1.
    pub head: &'a RequestHead,
    /// Its body.
    pub body: Body,
    /// The target keeps its absolute form.
    pub absolute: bool,
    /// A change of protocol is asked for.
    pub wants_upgrade: bool,
    /// Where the connection goes afterwards; none: it ends.
    pub pool: Option<Weak<Pool>>,
}

/// What came back.
pub struct Received {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
    /// The connection, if it is a tunnel now.
    pub tunnel: Option<Io>,
}

/// The body of a response, with the connection it comes from.
pub struct Incoming {
    conn: Option<Conn>,
    decoder: Decoder,
    /// What is still to be sent of the request.
    sending: Option<Sending>,
    keep_alive: bool,
    pool: Option<Weak<Pool>>,
}

impl Client {
    /// A fresh connection.
    pub fn new(io: Io) -> Self {
        Self { conn: Conn::new(io), reused: false }
    }

    /// Whether nothing has come that nobody asked for (an end, an error, or a stray response), and the peer is believed.
    pub fn is_usable(&mut self) -> bool {
        self.conn.input().is_empty() && !self.is_lost() && !self.conn.io.is_readable_now()
    }

    /// Whether the connection has to end because its peer is no longer believed.
    pub fn is_lost(&self) -> bool {
        self.conn.io.is_lost()
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(self, send: Send<'_>) -> Result<Received, SendError> {
        let Self { mut conn, reused } = self;
        let Send { head, body, absolute, wants_upgrade, pool } = send;
        let framing = request_framing(head, &body);
        if let Err(invalid) = conn.put_head(|out| head::write_request(out, head, absolute, framing)) {
            return Err(SendError { error: invalid.into(), may_repeat: false });
        }
        let mut sending = Sending::new(body, framing);
        match poll_fn(|cx| poll_response(&mut conn, &mut sending, cx, &head.method, wants_upgrade)).await {
            Ok(parsed) => Ok(receive(conn, sending, parsed, wants_upgrade, &head.method, pool)),
            Err(error) => {
                // A connection that was used before has most likely died while idle, but its end may also be that of a server
                // which had begun: what must not happen twice isn't sent twice (RFC 9110 §9.2.2).
                let may_repeat = reused && head.method.is_idempotent() && matches!(&error, BodyError::Io(e) if is_dead(e));
                Err(SendError { error, may_repeat })
            }
        }
    }
}

fn is_dead(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe | K::ConnectionAborted | K::NotConnected)
}

fn request_framing(head: &RequestHead, body: &Body) -> Framing {
    match body.exact_len() {
        Some(0) if head.headers.contains_key(header::CONTENT_LENGTH) => Framing::Length(0),
        Some(0) => Framing::None,
        Some(n) => Framing::Length(n),
        None => match head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()) {
            Some(n) => Framing::Length(n),
            None if head.version == Version::HTTP_10 => Framing::UntilEnd,
            None => Framing::Chunked,
        },
    }
}

/// Sends on and waits for the head of the final response. Interim responses are swallowed (proxy-wire §6.4).
fn poll_response(
    conn: &mut Conn,
    sending: &mut Sending,
    cx: &mut Context<'_>,
    method: &Method,
    wants_upgrade: bool,
) -> Poll<Result<ParsedResponse, BodyError>> {
    let mut broken = None;
    if let Poll::Ready(sent) = sending.poll(conn, cx, &mut ()) {
        match sent {
            Ok(()) if conn.has_output() => broken = flush(conn, cx),
            Ok(()) => broken = flush(conn, cx),
            Err(BodyError::Io(error)) => broken = Some(error),
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    loop {
        // A server may have answered before it stopped reading.
        return match conn.poll_head(cx, |buf| head::parse_response(buf, method)) {
            Poll::Ready(Ok(Some(parsed))) => {
                let status = parsed.head.status;
                if status.is_informational() && !(wants_upgrade && status == StatusCode::SWITCHING_PROTOCOLS) {
                    continue;
                }
                Poll::Ready(Ok(parsed))
            }
            Poll::Ready(Ok(None)) => {
                let error =
                    broken.unwrap_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed before a response"));
                Poll::Ready(Err(error.into()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match broken {
                Some(error) => Poll::Ready(Err(error.into())),
                None => Poll::Pending,
            },
        };
    }
}

fn flush(conn: &mut Conn, cx: &mut Context<'_>) -> Option<io::Error> {
    match conn.poll_flush(cx) {
        Poll::Ready(Err(error)) => Some(error),
        _ => None,
    }
}

/// Makes the response of its head: a body that is already there whole frees the connection at once.
fn receive(
    mut conn: Conn,
    sending: Sending,
    parsed: ParsedResponse,
    wants_upgrade: bool,
    method: &Method,
    pool: Option<Weak<Pool>>,
) -> Received {
    let ParsedResponse { head, framing, keep_alive } = parsed;
    let tunnel = wants_upgrade
        && (head.status == StatusCode::SWITCHING_PROTOCOLS || (method == Method::CONNECT && head.status.is_success()));
    if tunnel {
        return Received { head, body: Body::empty(), tunnel: Some(conn.into_io()) };
    }
    let sent = sending.is_done() && !conn.has_output();
    let here = match framing {
        Framing::None => Some(0),
        Framing::Length(n) if n <= conn.input().len() as u64 => Some(n as usize),
        _ => None,
    };
    if let (true, Some(n)) = (sent, here) {
        let body = Body::full(Bytes::copy_from_slice(&conn.input()[..n]));
        conn.consume(n);
        give_back(conn, keep_alive, pool.as_ref());
        return Received { head, body, tunnel: None };
    }
    let sending = (!sent).then_some(sending);
    let incoming = Incoming { conn: Some(conn), decoder: Decoder::new(framing), sending, keep_alive, pool };
    Received { head, body: Body::http1_response(incoming), tunnel: None }
}

fn give_back(conn: Conn, keep_alive: bool, pool: Option<&Weak<Pool>>) {
    if keep_alive
        && conn.input().is_empty()
        && let Some(pool) = pool.and_then(Weak::upgrade)
    {
        Rc::clone(&pool).put(Client { conn, reused: true });
    }
}

impl Incoming {
    /// The next part of the body; the request is sent on meanwhile.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let Some(conn) = &mut self.conn else { return Poll::Ready(None) };
        if let Some(sending) = &mut self.sending
            && let Poll::Ready(sent) = sending.poll(conn, cx, &mut ())
        {
            // A server that has answered may stop reading: its response still counts.
            self.keep_alive &= sent.is_ok();
            if sent.is_err() || conn.poll_flush(cx).is_ready() {
                self.sending = None;
            }
        }
        let frame = ready!(conn.poll_body(cx, &mut self.decoder));
        match &frame {
            Some(Ok(Frame::Data(_))) if !self.decoder.is_done() => {}
            Some(Err(_)) => self.conn = None,
            _ => self.release(),
        }
        Poll::Ready(frame)
    }

    /// The body is complete.
    fn release(&mut self) {
        let sent = self.sending.is_none();
        if let Some(conn) = self.conn.take()
            && sent
        {
            give_back(conn, self.keep_alive, self.pool.as_ref());
        }
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.conn.is_none() || self.decoder.is_done()
    }

    /// How many bytes will come, if that is known.
    pub fn exact_len(&self) -> Option<u64> {
        if self.conn.is_none() { Some(0) } else { self.decoder.remaining() }
    }
}
