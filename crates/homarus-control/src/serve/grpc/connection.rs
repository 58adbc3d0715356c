//! Connections: accepted, pinged, drained; each with all its streams in one task.

use super::{Service, exchange::exchange};
use crate::serve::metrics::Calls;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use h2::{Ping, PingPong, Reason, server::Builder};
use homarus_daemon::drain::Drain;
use std::{future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
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

type Connection = h2::server::Connection<TcpStream, Bytes>;

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
                let server = Server { service: service.clone(), calls: calls.clone(), drain: drain.clone(), peer, _slot: slot };
                // In a task of its own, whose memory goes when the connection is up.
                tokio::spawn(async move {
                    match greet(stream).await {
                        Ok(connection) => drop(tokio::spawn(server.carry(connection))),
                        Err(error) => debug!(%peer, %error, "connection failed"),
                    }
                });
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection; raise the limit of open files if this goes on");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn greet(stream: TcpStream) -> Result<Connection, h2::Error> {
    // Changes are small and somebody waits for them.
    let _ = stream.set_nodelay(true);
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
    /// Carries a connection to its end. (The arguments of an `async fn` would take their space twice.)
    fn carry(mut self, mut connection: Connection) -> impl Future<Output = ()> + Send {
        let peer = self.peer;
        async move {
            let mut lost = pin!(unanswered(connection.ping_pong()));
            let mut draining = false;
            let mut exchanges = FuturesUnordered::new();
            loop {
                let accepted = tokio::select! {
                    // Streams first: what they send leaves in the same turn.
                    biased;
                    Some(()) = exchanges.next() => continue,
                    accepted = connection.accept() => accepted,
                    () = &mut lost => {
                        debug!(%peer, "the client answers no ping");
                        return;
                    }
                    () = self.drain.signaled(), if !draining => {
                        draining = true;
                        connection.graceful_shutdown();
                        continue;
                    }
                };
                match accepted {
                    Some(Ok((request, respond))) => exchanges.push(exchange(request, respond, &self.service, &self.calls)),
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

/// Ends when the client leaves a ping unanswered.
async fn unanswered(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return future::pending().await };
    let mut due = pin!(sleep(PING_INTERVAL));
    let mut asked = false;
    loop {
        tokio::select! {
            () = &mut due => {
                if asked || pings.send_ping(Ping::opaque()).is_err() {
                    return;
                }
                asked = true;
                due.as_mut().reset(Instant::now() + PING_TIMEOUT);
            }
            answered = future::poll_fn(|cx| pings.poll_pong(cx)), if asked => {
                if answered.is_err() {
                    return;
                }
                asked = false;
                due.as_mut().reset(Instant::now() + PING_INTERVAL);
            }
        }
    }
}
