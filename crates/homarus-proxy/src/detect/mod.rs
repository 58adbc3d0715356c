//! Reading the protocol off a connection's first bytes.
//!
//! [`tls`] and [`http`] are parsers without I/O. [`first`] waits for the first bytes without stalling protocols in which the
//! server speaks first: if the client is silent for [`SILENCE`], the other side is connected speculatively, and whoever
//! speaks first decides.

pub mod http;
pub mod metrics;
pub mod tls;

use crate::{
    buffers::Buffer,
    io::Io,
    net::{self, Instant},
};
use bytes::Bytes;
use http::Verdict;
use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

/// How long a client may be silent before the server gets the chance to speak first.
pub const SILENCE: Duration = Duration::from_millis(5);

/// What happened first on a connection.
pub enum First {
    /// The client spoke; these are its bytes. A connection to the server may be there already.
    Client(Buffer, Option<Io>),
    /// The server spoke, on this connection.
    Server(Io),
    /// Nobody spoke in time. A connection to the server may be there already.
    Silence(Option<Io>),
    /// The client ended without a word.
    Ended,
}

/// Waits for the first bytes, for at most `limit`. `speculate` connects to the server, if that may be done: it is asked at
/// most once, after [`SILENCE`] (at once if `server_first` is remembered), and given up when the client speaks first.
pub async fn first(
    client: &mut Io,
    limit: Duration,
    server_first: bool,
    speculate: impl AsyncFnOnce() -> Option<Io>,
) -> io::Result<First> {
    let deadline = net::now() + limit;
    let silence = if server_first { Duration::ZERO } else { SILENCE.min(limit) };
    if let Some(said) = net::timeout(silence, poll_fn(|cx| poll_first(client, cx))).await {
        return Ok(by_client(said?, None));
    }
    // What speculation waits for may never come, and the client may speak meanwhile.
    let mut speculation = Box::pin(speculate());
    let raced = until(deadline, async {
        tokio::select! {
            biased;
            said = poll_fn(|cx| poll_first(client, cx)) => Err(said),
            server = &mut speculation => Ok(server),
        }
    });
    let raced = raced.await;
    drop(speculation);
    match raced {
        None => Ok(First::Silence(None)),
        Some(Err(said)) => Ok(by_client(said?, None)),
        Some(Ok(Some(server))) => either(client, server, deadline).await,
        Some(Ok(None)) => match until(deadline, poll_fn(|cx| poll_first(client, cx))).await {
            Some(said) => Ok(by_client(said?, None)),
            None => Ok(First::Silence(None)),
        },
    }
}

/// Waits until either side speaks.
async fn either(client: &mut Io, mut server: Io, deadline: Instant) -> io::Result<First> {
    // A client that spoke meanwhile goes first: what it said may need more than bytes.
    let spoke = until(deadline, async {
        tokio::select! {
            biased;
            said = poll_fn(|cx| poll_first(client, cx)) => Spoke::Client(said),
            decides = poll_fn(|cx| poll_spoken(&mut server, cx)) => Spoke::Server { decides },
        }
    });
    let said = match spoke.await {
        Some(Spoke::Client(said)) => Some(said),
        Some(Spoke::Server { decides: true }) => return Ok(First::Server(server)),
        Some(Spoke::Server { decides: false }) => until(deadline, poll_fn(|cx| poll_first(client, cx))).await,
        None => None,
    };
    Ok(match said {
        Some(said) => by_client(said?, Some(server)),
        None => First::Silence(Some(server)),
    })
}

/// Who spoke, when either might.
enum Spoke {
    Client(io::Result<Buffer>),
    /// What an HTTP/2 server says at once decides nothing: its client has to speak, and may do so in TLS.
    Server {
        decides: bool,
    },
}

async fn until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    net::timeout(deadline.saturating_duration_since(net::now()), future).await
}

/// The first bytes; none if the client has ended. Readiness may be stale, so only a read tells, and no buffer is held while
/// there is nothing in it.
fn poll_first(client: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
    ready!(client.poll_readable(cx));
    let mut buffer = Buffer::take();
    let n = ready!(client.poll_read_into(cx, buffer.space()))?;
    buffer.filled(n);
    Poll::Ready(Ok(buffer))
}

/// Ready when the server has said something or has ended, with whether that decides. What it said is put back. A session
/// ticket of TLS, which makes the socket readable, is no word of the server.
fn poll_spoken(server: &mut Io, cx: &mut Context<'_>) -> Poll<bool> {
    let Ok(buffer) = ready!(poll_first(server, cx)) else { return Poll::Ready(true) };
    server.unread(Bytes::copy_from_slice(&buffer));
    Poll::Ready(!http::is_server_preface(&buffer))
}

fn by_client(said: Buffer, server: Option<Io>) -> First {
    if said.is_empty() { First::Ended } else { First::Client(said, server) }
}

/// Whether what decided came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// It did, or the client has ended.
    InTime,
    /// It didn't.
    TooLate,
}

/// Tells HTTP from other protocols, reading on for as long as that is unclear; what never becomes clear is not HTTP.
pub async fn settle(client: &mut Io, buffer: &mut Buffer, deadline: Instant) -> io::Result<(Verdict, Timing)> {
    loop {
        let verdict = http::verdict(buffer);
        if verdict != Verdict::Unclear {
            return Ok((verdict, Timing::InTime));
        }
        match until(deadline, more(client, buffer)).await {
            Some(read) => {
                if read? == 0 {
                    return Ok((Verdict::NotHttp, Timing::InTime));
                }
            }
            None => return Ok((Verdict::NotHttp, Timing::TooLate)),
        }
    }
}

/// Reads more of the first bytes; zero: the client has ended.
pub async fn more(client: &mut Io, buffer: &mut Buffer) -> io::Result<usize> {
    let n = poll_fn(|cx| client.poll_read_into(cx, buffer.space())).await?;
    buffer.filled(n);
    Ok(n)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use net::{TcpListener, TcpStream};
    use std::future::pending;
    use tokio::io::AsyncWriteExt;

    async fn pair() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Io::from(listener.accept().await.unwrap().0), client)
    }

    #[tokio::test]
    async fn a_client_is_heard_whatever_speculation_waits_for() {
        let (mut io, mut client) = pair().await;
        let speaks = async {
            net::sleep(SILENCE * 10).await;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        };
        let (first, ()) = tokio::join!(first(&mut io, Duration::from_secs(10), false, async || pending().await), speaks);
        let First::Client(said, None) = first.unwrap() else { panic!("the client has spoken") };
        assert!(said.starts_with(b"GET /"));
    }

    #[tokio::test]
    async fn silence_ends_in_time_whatever_speculation_waits_for() {
        let (mut io, _client) = pair().await;
        let first = first(&mut io, SILENCE * 4, false, async || pending().await);
        let first = net::timeout(Duration::from_secs(10), first).await.unwrap();
        assert!(matches!(first.unwrap(), First::Silence(None)));
    }
}
