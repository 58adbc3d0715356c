//! Listeners: sockets in, with where their clients meant to go.

use crate::net::{self, TcpListener, TcpStream};
use homarus_daemon::drain::Drain;
use std::{net::SocketAddr, time::Duration};

/// A connection that a client opened.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub tcp: TcpStream,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client dialed.
    pub original_dst: SocketAddr,
}

/// How long to wait when the process has no file descriptor left for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts until the drain. `carry` must not wait.
pub async fn serve(listener: TcpListener, mut drain: Drain, mut carry: impl FnMut(TcpStream, SocketAddr)) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.signaled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, client)) => carry(tcp, net::unmapped(client)),
            Err(error) if net::is_exhaustion(&error) => {
                tracing::warn!(%error, "cannot accept: raise the limit of open files, or find out who holds connections");
                net::sleep(EXHAUSTED).await;
            }
            // The client went away before it was accepted.
            Err(error) => tracing::debug!(%error, "accept failed"),
        }
    }
}

impl Accepted {
    /// A socket with its original destination; none (with a word in the log) if the kernel doesn't know it.
    pub fn new(tcp: TcpStream, client: SocketAddr) -> Option<Self> {
        match net::original_dst(&tcp, client) {
            Ok(original_dst) => Some(Self { tcp, client, original_dst }),
            Err(error) => {
                tracing::warn!(%client, %error, "connection without an original destination: it did not come by redirection");
                None
            }
        }
    }
}
