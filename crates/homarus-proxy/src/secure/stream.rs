//! TLS over a socket, on rustls' unbuffered API: buffers are the worker's, and only where bytes are.
//!
//! Invariants: at most one ciphertext buffer waits in each direction; no more is read from the socket while decrypted
//! bytes wait; small writes are gathered into one record until a flush or until the record is full (RFC 8446 §5.1).
//!
//! A server's session ticket isn't sent by itself, but with the first bytes that it has to say: a packet less, and the
//! client isn't woken for it. The end of a session and that of its socket are one packet too.

use crate::{
    buffers::Buffer,
    net::{self, TcpStream},
};
use rustls::{
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus},
};
use std::{
    io::{self, IoSlice},
    ops::DerefMut,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest plaintext of one record.
const RECORD: usize = 16 * 1024;
/// What encryption adds to a record: header, content type, tag.
const OVERHEAD: usize = 22;

/// A TLS connection, or the handshake that leads to one.
pub struct TlsStream {
    tcp: TcpStream,
    session: Session,
    /// Ciphertext that was read and not processed.
    incoming: Option<Buffer>,
    /// Plaintext that was decrypted and not taken, from `plain_at`.
    plain: Vec<u8>,
    plain_at: usize,
    /// Plaintext that waits for more of its record.
    staged: Option<Buffer>,
    /// Ciphertext that waits for the socket.
    outgoing: Option<Buffer>,
    /// A session ticket that waits for something to go out with; the first bytes of what goes out next.
    ticket: Box<[u8]>,
    /// The socket has no more to read.
    eof: bool,
    /// The peer said that it has no more to say.
    peer_closed: bool,
    /// The session has failed. It is not asked again: it would fail again with another alert, or panic.
    failed: bool,
}

/// One side of a TLS session.
pub enum Session {
    /// We connected.
    Client(Box<UnbufferedClientConnection>),
    /// We accepted.
    Server(Box<UnbufferedServerConnection>),
}

/// What processing has come to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Some plaintext was delivered.
    Plain(usize),
    /// More ciphertext is needed; whether application data may be written.
    Blocked { established: bool },
    /// The peer has ended its side.
    PeerClosed,
    /// What was asked to be written stands in the outgoing buffer.
    Written,
    /// There is no room for it: drain first.
    NoRoom,
}

/// What processing is for.
#[derive(Clone, Copy)]
enum Want<'a> {
    /// Plaintext, or to get on with the handshake.
    Read,
    /// To encrypt this. What can be read meanwhile is kept.
    Write(&'a [u8]),
    /// To say that nothing more will be written.
    Close,
    /// What a failure left to be said; nothing is read.
    Alert,
}

impl TlsStream {
    /// A connection that has not said anything yet; `incoming` was read from the socket before.
    pub fn new(tcp: TcpStream, session: Session, incoming: Option<Buffer>) -> Self {
        Self {
            tcp,
            session,
            incoming,
            plain: Vec::new(),
            plain_at: 0,
            staged: None,
            outgoing: None,
            ticket: Box::default(),
            eof: false,
            peer_closed: false,
            failed: false,
        }
    }

    /// The session, for what was negotiated.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Completes the handshake. A client's last flight may go out with its first data.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.process(Want::Read, &mut []) {
                Ok(Step::Blocked { established: true }) | Ok(Step::Plain(_)) => {
                    if matches!(self.session, Session::Server(_)) {
                        // All else of the handshake has been sent before the client's last flight came.
                        self.ticket = self.outgoing.take().map_or_else(Box::default, |out| out[..].into());
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(Step::PeerClosed) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => {
                    self.send_alert(cx);
                    return Poll::Ready(Err(error));
                }
            }
            ready!(self.poll_drain(cx))?;
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection ended in the TLS handshake")));
            }
        }
    }

    /// Whether reading would give something.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.plain_at < self.plain.len() || self.incoming.is_some() || self.eof || self.peer_closed {
            return Poll::Ready(());
        }
        // Whoever waits for an answer has said what there is to say.
        if self.outgoing.is_some() || self.staged.is_some() {
            let _ = self.poll_flush(cx);
        }
        self.tcp.poll_read_ready(cx).map(drop)
    }

    /// Reads what is decrypted, as much as fits and is there; zero is the end.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, dst: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.plain_at < self.plain.len() {
            return Poll::Ready(Ok(self.take_plain(dst)));
        }
        // What the handshake left to be sent must go, or a peer that speaks first waits for it for ever.
        if self.outgoing.is_some() {
            let _ = self.poll_drain(cx)?;
        }
        let mut read = 0;
        loop {
            let step = if self.incoming.is_some() || self.peer_closed {
                self.process(Want::Read, &mut dst[read..])
            } else {
                Ok(Step::Blocked { established: true })
            };
            match step {
                Ok(Step::Plain(n)) => {
                    read += n;
                    if read == dst.len() || self.plain_at < self.plain.len() {
                        return Poll::Ready(Ok(read));
                    }
                }
                Ok(_) if read > 0 => return Poll::Ready(Ok(read)),
                Ok(Step::PeerClosed) => return Poll::Ready(Ok(0)),
                Ok(_) => {
                    if self.peer_closed {
                        return Poll::Ready(Ok(0));
                    }
                    if self.eof || ready!(self.poll_fill(cx))? == 0 {
                        // No close_notify: somebody may have cut the connection short (RFC 8446 §6.1).
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => {
                    self.send_alert(cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Takes plaintext to be sent.
    pub fn poll_write_from(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for buf in bufs {
            let mut rest: &[u8] = buf;
            while !rest.is_empty() {
                match self.stage(rest) {
                    Ok(0) => match self.poll_drain(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                        Poll::Pending => return Poll::Pending,
                    },
                    Ok(n) => {
                        written += n;
                        rest = &rest[n..];
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Ready(Ok(written))
    }

    /// Sends everything that was taken.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.staged.is_some() {
            if !self.seal()? {
                ready!(self.poll_drain(cx))?;
            }
        }
        self.poll_drain(cx)
    }

    /// Says that nothing more will come, and ends the socket's writing direction.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        // A session that never came about has nothing to close.
        let _ = self.process(Want::Close, &mut []);
        if let Some(out) = &mut self.outgoing {
            out.consume(net::write_last(&self.tcp, out));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Puts plaintext into the current record, or encrypts it right away if it fills records. Zero: no room, drain first.
    fn stage(&mut self, plain: &[u8]) -> io::Result<usize> {
        if self.staged.is_none() && plain.len() >= RECORD {
            let room = self.outgoing.as_ref().map_or(crate::buffers::SIZE, Buffer::room);
            let records = (room / (RECORD + OVERHEAD)).min(plain.len() / RECORD);
            return self.encrypt(&plain[..records * RECORD]);
        }
        let staged = self.staged.get_or_insert_with(Buffer::take);
        let space = RECORD - staged.len();
        let n = staged.append(&plain[..plain.len().min(space)]);
        if staged.len() == RECORD {
            self.seal()?;
        }
        Ok(n)
    }

    /// Encrypts the current record; false: no room, drain first.
    fn seal(&mut self) -> io::Result<bool> {
        let Some(staged) = self.staged.take() else { return Ok(true) };
        if self.encrypt(&staged)? == 0 {
            self.staged = Some(staged);
            return Ok(false);
        }
        Ok(true)
    }

    /// Encrypts all of `plain` into the outgoing buffer, or nothing.
    fn encrypt(&mut self, plain: &[u8]) -> io::Result<usize> {
        if plain.is_empty() {
            return Ok(0);
        }
        if let Some(out) = &mut self.outgoing
            && out.room() < plain.len() + plain.len().div_ceil(RECORD) * OVERHEAD
        {
            out.compact();
        }
        match self.process(Want::Write(plain), &mut [])? {
            Step::Written => Ok(plain.len()),
            Step::NoRoom => Ok(0),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn take_plain(&mut self, dst: &mut [u8]) -> usize {
        let rest = &self.plain[self.plain_at..];
        let n = rest.len().min(dst.len());
        dst[..n].copy_from_slice(&rest[..n]);
        self.plain_at += n;
        if self.plain_at == self.plain.len() {
            (self.plain, self.plain_at) = (Vec::new(), 0);
        }
        n
    }

    /// Processes what was read, up to the first plaintext, which goes to `dst`, and what doesn't fit is kept.
    fn process(&mut self, want: Want<'_>, dst: &mut [u8]) -> io::Result<Step> {
        if self.failed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS has failed before"));
        }
        let Self { session, incoming, plain, outgoing, ticket, peer_closed, .. } = self;
        let mut sink = Sink { dst, plain, outgoing, ticket, peer_closed };
        let step = match session {
            Session::Client(conn) => drive(conn.deref_mut().deref_mut(), incoming, want, &mut sink),
            Session::Server(conn) => drive(conn.deref_mut().deref_mut(), incoming, want, &mut sink),
        };
        step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Reads once from the socket; a buffer is held only if something came.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.incoming.is_none() {
            // Wait without a buffer.
            ready!(self.tcp.poll_read_ready(cx))?;
        }
        let mut buffer = self.incoming.take().unwrap_or_else(Buffer::take);
        if buffer.room() == 0 {
            buffer.compact();
        }
        let mut space = ReadBuf::new(buffer.space());
        let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut space);
        let n = space.filled().len();
        buffer.filled(n);
        if !buffer.is_empty() {
            self.incoming = Some(buffer);
        }
        ready!(polled)?;
        self.eof = n == 0;
        Poll::Ready(Ok(n))
    }

    /// Writes the outgoing buffer to the socket until it is empty.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(out) = &mut self.outgoing {
            if out.is_empty() {
                self.outgoing = None;
                break;
            }
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    /// After a failure: tells the peer, if the socket takes it at once. The session keeps places in what it was given, so it
    /// is given the same once more, but stops before it reads.
    fn send_alert(&mut self, cx: &mut Context<'_>) {
        let _ = self.process(Want::Alert, &mut []);
        (self.failed, self.incoming) = (true, None);
        let _ = self.poll_drain(cx);
    }
}

/// Where processing puts things.
struct Sink<'a> {
    dst: &'a mut [u8],
    plain: &'a mut Vec<u8>,
    outgoing: &'a mut Option<Buffer>,
    ticket: &'a mut Box<[u8]>,
    peer_closed: &'a mut bool,
}

impl Sink<'_> {
    /// Delivers plaintext; returns how much went to `dst`.
    fn deliver(&mut self, payload: &[u8]) -> usize {
        let n = payload.len().min(self.dst.len());
        self.dst[..n].copy_from_slice(&payload[..n]);
        self.plain.extend_from_slice(&payload[n..]);
        n
    }

    /// Where ciphertext is written to. Records are numbered, so a ticket that waits goes first.
    fn out(&mut self) -> &mut Buffer {
        let out = self.outgoing.get_or_insert_with(Buffer::take);
        if !self.ticket.is_empty() {
            out.append(&std::mem::take(self.ticket));
        }
        out
    }

    /// Makes room for a message and lets `encode` write it.
    fn send(&mut self, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) -> Result<(), rustls::Error> {
        let out = self.out();
        let n = match encode(out.space()) {
            Err(EncodeError::InsufficientSize(_)) => {
                out.compact();
                encode(out.space())
            }
            other => other,
        };
        let n = n.map_err(|error| rustls::Error::General(error.to_string()))?;
        out.filled(n);
        Ok(())
    }
}

/// The two kinds of sessions process records alike, but share no trait.
trait Process<D> {
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>;
}

impl Process<rustls::client::ClientConnectionData> for UnbufferedConnectionCommon<rustls::client::ClientConnectionData> {
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, rustls::client::ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Process<rustls::server::ServerConnectionData> for UnbufferedConnectionCommon<rustls::server::ServerConnectionData> {
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, rustls::server::ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

/// Processes records until what is wanted is done or more input is needed.
fn drive<D>(
    conn: &mut impl Process<D>,
    incoming: &mut Option<Buffer>,
    want: Want<'_>,
    sink: &mut Sink<'_>,
) -> Result<Step, rustls::Error> {
    loop {
        let UnbufferedStatus { discard, state } = conn.process(incoming.as_deref_mut().unwrap_or_default());
        let step = state.and_then(|state| take_state(state, want, sink));
        if let Some(buffer) = incoming {
            buffer.consume(discard);
            if buffer.is_empty() {
                *incoming = None;
            }
        }
        if let Some(step) = step? {
            return Ok(step);
        }
    }
}

/// Does what a state asks for; none: process on.
fn take_state<D>(state: ConnectionState<'_, '_, D>, want: Want<'_>, sink: &mut Sink<'_>) -> Result<Option<Step>, rustls::Error> {
    Ok(match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut n = 0;
            while let Some(record) = traffic.next_record() {
                n += sink.deliver(record?.payload);
            }
            matches!(want, Want::Read).then_some(Step::Plain(n))
        }
        ConnectionState::EncodeTlsData(mut data) => {
            sink.send(|space| data.encode(space))?;
            matches!(want, Want::Alert).then_some(Step::Written)
        }
        ConnectionState::TransmitTlsData(data) => {
            // It stands in the outgoing buffer, in order.
            data.done();
            None
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let encrypted = match want {
                Want::Read | Want::Alert => return Ok(Some(Step::Blocked { established: true })),
                Want::Write(plain) => traffic.encrypt(plain, sink.out().space()),
                Want::Close => traffic.queue_close_notify(sink.out().space()),
            };
            Some(match encrypted {
                Ok(n) => {
                    sink.out().filled(n);
                    Step::Written
                }
                Err(EncryptError::InsufficientSize(_)) => Step::NoRoom,
                Err(error) => return Err(rustls::Error::General(error.to_string())),
            })
        }
        ConnectionState::PeerClosed => {
            *sink.peer_closed = true;
            matches!(want, Want::Read).then_some(Step::PeerClosed)
        }
        ConnectionState::Closed => Some(Step::PeerClosed),
        ConnectionState::BlockedHandshake => Some(Step::Blocked { established: false }),
        other => return Err(rustls::Error::General(format!("unexpected TLS state {other:?}"))),
    })
}
