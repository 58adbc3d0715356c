//! The bytes of one connection: TCP or TLS of the mesh, with what was read ahead, counted.

use crate::{
    net::TcpStream,
    observe::{Counter, Gauge},
    secure::{Seat, Standing, TlsStream},
};
use bytes::{Buf, Bytes};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One connection, both directions.
pub struct Io {
    /// Read from the transport before it was known who should get it.
    prefix: Bytes,
    /// What a connection with a meshed peer stands on. It goes before the socket does.
    seat: Option<Seat>,
    transport: Transport,
    meter: Option<Meter>,
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

/// What is counted for one kind of connection: one per label set, shared by its connections.
pub struct TransportMetrics {
    /// Connections that were opened.
    pub opened: Counter,
    /// Connections that are open.
    pub open: Gauge,
    /// Bytes read.
    pub read: Counter,
    /// Bytes written.
    pub written: Counter,
    /// Connections that ended without an error.
    pub closed: Counter,
    /// Makes the counter of connections that ended with an error, by its name.
    pub failed: Box<dyn Fn(&str) -> Counter>,
    /// Bytes read and written, by how far away an endpoint is.
    pub cost: Option<(Counter, Counter)>,
}

impl TransportMetrics {
    fn read(&self, bytes: usize) {
        self.read.add(bytes as u64);
        if let Some((received, _)) = &self.cost {
            received.add(bytes as u64);
        }
    }

    fn wrote(&self, bytes: usize) {
        self.written.add(bytes as u64);
        if let Some((_, sent)) = &self.cost {
            sent.add(bytes as u64);
        }
    }
}

/// Counts one connection; counts its end when dropped.
struct Meter {
    metrics: Rc<TransportMetrics>,
    failure: Option<io::Error>,
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.metrics.open.dec();
        match &self.failure {
            None => self.metrics.closed.inc(),
            Some(error) => (self.metrics.failed)(errno_name(error)).inc(),
        }
    }
}

/// The symbolic name of an error, as in the label `errno`.
fn errno_name(error: &io::Error) -> &'static str {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => "ECONNREFUSED",
        K::ConnectionReset => "ECONNRESET",
        K::ConnectionAborted => "ECONNABORTED",
        K::BrokenPipe => "EPIPE",
        K::NotConnected => "ENOTCONN",
        K::TimedOut => "ETIMEDOUT",
        K::HostUnreachable => "EHOSTUNREACH",
        K::NetworkUnreachable => "ENETUNREACH",
        K::UnexpectedEof => "EOF",
        K::InvalidData => "EPROTO",
        _ => "EIO",
    }
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self { prefix: Bytes::new(), seat: None, transport: Transport::Tcp(tcp), meter: None }
    }
}

impl From<TlsStream> for Io {
    fn from(tls: TlsStream) -> Self {
        Self { prefix: Bytes::new(), seat: None, transport: Transport::Tls(Box::new(tls)), meter: None }
    }
}

impl Io {
    /// A connection with a meshed peer, which must not outlive what it stands on.
    pub fn meshed(tls: TlsStream, standing: Option<&Rc<Standing>>) -> Self {
        Self { seat: standing.map(Standing::seat), ..Self::from(tls) }
    }

    /// What the connection stands on; none: nothing that could be lost.
    pub fn standing(&self) -> Option<&Rc<Standing>> {
        self.seat.as_ref().map(Seat::standing)
    }

    /// Whether the connection has to end because its peer is no longer believed. Whoever polls it is woken then.
    pub fn is_lost(&self) -> bool {
        self.standing().is_some_and(|standing| standing.is_lost())
    }

    /// Fails once the connection's peer has not been believed for too long.
    fn hold(&mut self, cx: &Context<'_>) -> io::Result<()> {
        if self.seat.as_ref().is_none_or(|seat| seat.holds(cx)) {
            return Ok(());
        }
        let gone = Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate is no longer believed"));
        self.note(&gone);
        gone
    }

    /// Gives bytes back that were read ahead: they are read again first.
    pub fn unread(&mut self, bytes: Bytes) {
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else if !bytes.is_empty() {
            self.prefix = [&bytes[..], &self.prefix[..]].concat().into();
        }
    }

    /// Whether something was read ahead.
    pub fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Starts counting, as one more connection of its kind. What was read ahead counts as read now.
    pub fn count(&mut self, metrics: Rc<TransportMetrics>) {
        metrics.opened.inc();
        metrics.open.inc();
        metrics.read(self.prefix.len());
        self.meter = Some(Meter { metrics, failure: None });
    }

    /// The plain TCP connection, if that is all it is; counting ends.
    pub fn into_tcp(self) -> Result<(TcpStream, Bytes), Self> {
        match self {
            Self { transport: Transport::Tcp(tcp), prefix, .. } => Ok((tcp, prefix)),
            other => Err(other),
        }
    }

    /// Whether reading would give something, without holding a buffer meanwhile. An end or an error counts as something.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.prefix.is_empty() {
            return Poll::Ready(());
        }
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.poll_read_ready(cx).map(drop),
            // What is gone gives an error.
            Transport::Tls(_) if self.seat.as_ref().is_some_and(|seat| !seat.holds(cx)) => Poll::Ready(()),
            Transport::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Whether bytes (or an end) are there that nobody asked for: an idle connection with any is no longer usable.
    pub fn is_readable_now(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if self.poll_readable(&mut cx).is_pending() {
            return false;
        }
        // Readiness may be stale: only a read tells.
        let mut byte = [0];
        match self.poll_read_into(&mut cx, &mut byte) {
            Poll::Pending => false,
            Poll::Ready(Ok(1..)) | Poll::Ready(_) => true,
        }
    }

    /// Reads what is there, at most as much as fits; zero is the end.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, dst: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.prefix.is_empty() {
            let n = dst.len().min(self.prefix.len());
            self.prefix.copy_to_slice(&mut dst[..n]);
            if self.prefix.is_empty() {
                // It would keep its memory for as long as the connection lives.
                self.prefix = Bytes::new();
            }
            // It was counted when it was read first.
            return Poll::Ready(Ok(n));
        }
        self.hold(cx)?;
        let result = match &mut self.transport {
            Transport::Tcp(tcp) => {
                let mut buf = ReadBuf::new(dst);
                ready!(Pin::new(tcp).poll_read(cx, &mut buf)).map(|()| buf.filled().len())
            }
            Transport::Tls(tls) => ready!(tls.poll_read_into(cx, dst)),
        };
        Poll::Ready(self.read(result))
    }

    /// Writes some bytes of some buffers; TLS may hold them back until [`Io::poll_flush_out`].
    pub fn poll_write_from(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.hold(cx)?;
        let result = match &mut self.transport {
            Transport::Tcp(tcp) => ready!(Pin::new(tcp).poll_write_vectored(cx, bufs)),
            Transport::Tls(tls) => ready!(tls.poll_write_from(cx, bufs)),
        };
        Poll::Ready(self.wrote(result))
    }

    /// Sends what is held back.
    pub fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hold(cx)?;
        let result = match &mut self.transport {
            Transport::Tcp(_) => Ok(()),
            Transport::Tls(tls) => ready!(tls.poll_flush(cx)),
        };
        self.note(&result);
        Poll::Ready(result)
    }

    /// Ends the writing direction, after what was written.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hold(cx)?;
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => tls.poll_finish(cx),
        }
    }

    fn read(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        if let (Some(meter), Ok(n)) = (&self.meter, &result) {
            meter.metrics.read(*n);
        }
        self.note(&result);
        result
    }

    fn wrote(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        if let (Some(meter), Ok(n)) = (&self.meter, &result) {
            meter.metrics.wrote(*n);
        }
        self.note(&result);
        result
    }

    fn note<T>(&mut self, result: &io::Result<T>) {
        if let (Some(meter), Err(error)) = (&mut self.meter, result) {
            meter.failure = Some(io::Error::from(error.kind()));
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.poll_read_into(cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_out(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx)
    }
}
