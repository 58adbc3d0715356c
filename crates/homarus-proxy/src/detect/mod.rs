//! Reading the protocol off a connection's first bytes.
//!
//! [`tls`] and [`http`] are parsers without I/O. [`first`] waits for the first bytes without stalling protocols in which the
//! server speaks first: if the client is silent for [`SILENCE`], the other side is connected speculatively, and whoever
//! speaks first decides.

pub mod http;
pub mod tls;

use crate::{
    buffers::Buffer,
    io::Io,
    net::{self, Instant},
};
use std::{future::poll_fn, io, time::Duration};

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
/// most once, after [`SILENCE`] (at once if `server_first` is remembered).
pub async fn first(
    client: &mut Io,
    limit: Duration,
    server_first: bool,
    speculate: impl AsyncFnOnce() -> Option<Io>,
) -> io::Result<First> {
    let deadline = net::now() + limit;
    let silence = if server_first { Duration::ZERO } else { SILENCE.min(limit) };
    let readable = net::timeout(silence, poll_fn(|cx| client.poll_readable(cx))).await;
    if readable.is_some() {
        return read(client, None).await;
    }
    let Some(mut server) = Box::pin(speculate()).await else {
        return match until(deadline, poll_fn(|cx| client.poll_readable(cx))).await {
            Some(()) => read(client, None).await,
            None => Ok(First::Silence(None)),
        };
    };
    // A client that spoke meanwhile goes first: what it said may need more than bytes.
    let spoke = until(deadline, async {
        tokio::select! {
            biased;
            () = poll_fn(|cx| client.poll_readable(cx)) => true,
            () = poll_fn(|cx| server.poll_readable(cx)) => false,
        }
    });
    match spoke.await {
        Some(true) => read(client, Some(server)).await,
        Some(false) => Ok(First::Server(server)),
        None => Ok(First::Silence(Some(server))),
    }
}

async fn until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    net::timeout(deadline.saturating_duration_since(net::now()), future).await
}

async fn read(client: &mut Io, server: Option<Io>) -> io::Result<First> {
    let mut buffer = Buffer::take();
    match more(client, &mut buffer).await? {
        0 => Ok(First::Ended),
        _ => Ok(First::Client(buffer, server)),
    }
}

/// Reads more of the first bytes; zero: the client has ended.
pub async fn more(client: &mut Io, buffer: &mut Buffer) -> io::Result<usize> {
    let n = poll_fn(|cx| client.poll_read_into(cx, buffer.space())).await?;
    buffer.filled(n);
    Ok(n)
}
