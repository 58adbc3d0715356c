//! Connections: accepted, pinged, drained; each with all its streams in one task.

#[cfg(test)]
mod tests;

use super::{
    Service,
    exchange::{Exchange, exchange},
};
use crate::serve::metrics::Calls;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use h2::{Ping, PingPong, Reason, RecvStream, server::Builder, server::SendResponse};
use homarus_daemon::drain::Drain;
use http::Request;
use std::{
    future,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::coop,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

/// Connections at once. Meshed proxies share a few, through the controller's own proxy.
const MAX_CONNECTIONS: usize = 20_000;
/// Streams of one connection: all of a big mesh may come through one.
const MAX_STREAMS: u32 = 1_000_000;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Clients call once or twice per connection: remembering their headers costs a connection more than it saves.
const HEADER_TABLE_BYTES: u32 = 0;
/// How many bytes of messages may wait in a stream before it counts as slow, and is asked for no more.
const MAX_UNSENT_BYTES: usize = 16 * 1024;
/// How long a client may take over its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that doesn't answer pings is gone, and so are its subscriptions.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a connection reads from and writes to.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

type Connection<S> = h2::server::Connection<S, Bytes>;

/// Serves a listener until the program drains.
pub async fn serve(listener: TcpListener, service: Arc<dyn Service>, calls: Calls, mut drain: Drain) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "gRPC server listening");
    }
    let calls = Arc::new(calls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = drain.signaled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Changes are small and somebody waits for them.
                let _ = stream.set_nodelay(true);
                let server = Server { service: service.clone(), calls: calls.clone(), drain: drain.clone(), peer, _slot: slot };
                // In a task of its own, whose memory goes when the connection is up.
                tokio::spawn(server.welcome(stream));
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection; raise the limit of open files if this goes on");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn greet<S: Stream>(stream: S) -> Result<Connection<S>, h2::Error> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .header_table_size(HEADER_TABLE_BYTES)
        .max_send_buffer_size(MAX_UNSENT_BYTES);
    match timeout(PREFACE_TIMEOUT, builder.handshake(stream)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(Reason::SETTINGS_TIMEOUT.into()),
    }
}

/// What serves one connection.
struct Server {
    service: Arc<dyn Service>,
    calls: Arc<Calls>,
    drain: Drain,
    peer: SocketAddr,
    /// Given back when the connection ends.
    _slot: OwnedSemaphorePermit,
}

impl Server {
    /// Begins a connection, unless the program ends before the client has said what it wants.
    async fn welcome<S: Stream>(mut self, stream: S) {
        let greeted = tokio::select! {
            greeted = greet(stream) => greeted,
            () = self.drain.signaled() => return,
        };
        match greeted {
            Ok(connection) => drop(tokio::spawn(self.carry(connection))),
            Err(error) => debug!(peer = %self.peer, %error, "connection failed"),
        }
    }

    /// Carries a connection to its end. (The arguments of an `async fn` would take their space twice.)
    fn carry<S: Stream>(mut self, mut connection: Connection<S>) -> impl Future<Output = ()> + Send {
        let peer = self.peer;
        async move {
            let mut lost = pin!(unanswered(connection.ping_pong()));
            let mut draining = false;
            let mut exchanges = Exchanges::default();
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = self.drain.signaled(), if !draining => {
                        draining = true;
                        connection.graceful_shutdown();
                        continue;
                    }
                    accepted = future::poll_fn(|cx| exchanges.poll_with(&mut connection, cx)) => accepted,
                    // Last: an answer that has come is read by then.
                    () = &mut lost => {
                        debug!(%peer, "the client answers no ping");
                        return;
                    }
                };
                match accepted {
                    Some(Ok((request, respond))) => exchanges.all.push(exchange(request, respond, &self.service, &self.calls)),
                    Some(Err(error)) => {
                        debug!(%peer, %error, "connection failed");
                        return;
                    }
                    None => return,
                }
            }
        }
    }
}

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

/// What goes on in a connection.
///
/// Exchanges go before their connection, so that what they send leaves in the same turn of the task. If a turn's budget
/// (tokio's, of operations that a task may do before it lets others) isn't enough for both, the next turn is the other's:
/// neither many subscribers of one change keep the connection from sending and reading, nor a client's flood the subscribers.
#[derive(Default)]
struct Exchanges {
    all: FuturesUnordered<Exchange>,
    connection_goes_first: bool,
}

impl Exchanges {
    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.all.poll_next_unpin(cx) {}
    }

    /// One turn of all; ready when a request has come or the connection is at its end.
    fn poll_with<S: Stream>(&mut self, connection: &mut Connection<S>, cx: &mut Context<'_>) -> Poll<Accepted> {
        let connection_went_first = self.connection_goes_first;
        if !connection_went_first {
            self.poll(cx);
        }
        let accepted = connection.poll_accept(cx);
        if connection_went_first {
            self.poll(cx);
        }
        self.connection_goes_first = !connection_went_first && !coop::has_budget_remaining();
        accepted
    }
}

/// Ends when the client leaves a ping unanswered.
async fn unanswered(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return future::pending().await };
    let mut due = pin!(sleep(PING_INTERVAL));
    let mut asked = false;
    loop {
        tokio::select! {
            // First: after a pause of the whole process an answer that came in time is as ready as the clock.
            biased;
            answered = future::poll_fn(|cx| pings.poll_pong(cx)), if asked => {
                if answered.is_err() {
                    return;
                }
                asked = false;
                due.as_mut().reset(Instant::now() + PING_INTERVAL);
            }
            () = &mut due => {
                if asked || pings.send_ping(Ping::opaque()).is_err() {
                    return;
                }
                asked = true;
                due.as_mut().reset(Instant::now() + PING_TIMEOUT);
            }
        }
    }
}
