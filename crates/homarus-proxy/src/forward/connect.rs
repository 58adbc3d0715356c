//! Connections to endpoints and applications.

use crate::{
    fault::Cause,
    io::{Io, TransportMetrics},
    net::{self, FirstWord, SocketOptions},
    secure::{self, EndpointTls, HandshakeError, Trust},
};
use homarus_model::Authority;
use homarus_wire::transport::{Header, Session};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// How to connect to one endpoint. Made once per endpoint.
pub struct Target {
    /// The endpoint's address.
    pub addr: SocketAddr,
    /// TLS with its proxy, or why there is none.
    pub tls: Option<Arc<EndpointTls>>,
    /// Connections go to this port of its proxy, and begin with a transport header.
    pub tagged_port: Option<u16>,
    /// A gateway's endpoint: what it is to be asked for.
    pub authority_override: Option<Authority>,
    /// Socket options.
    pub socket: SocketOptions,
    /// How long everything may take: TCP, TLS and the header.
    pub limit: Duration,
    /// What is counted.
    pub metrics: Rc<TransportMetrics>,
    /// What connections with its proxy stand on.
    pub trust: Rc<Trust>,
}

/// Why there is no connection. Nothing of a request was sent: it may be tried elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint does not take connections, or the network doesn't carry them.
    #[error("connect to {0}: {1}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// The endpoint took too long.
    #[error("connect to {0} timed out after {1:?}")]
    Timeout(SocketAddr, Duration),
    /// It is not who it should be, or does not speak TLS.
    #[error("TLS with {0}: {1}")]
    Tls(SocketAddr, #[source] HandshakeError),
    /// Connecting there would come back to this proxy.
    #[error("connect to {0} refused: it is this proxy itself")]
    Loop(SocketAddr),
    /// Nobody wants the endpoint any more.
    #[error("the endpoint has gone")]
    Canceled,
}

impl Target {
    /// Connects. `session` is what will be spoken, if the endpoint's proxy need not detect it.
    pub async fn connect(&self, session: Option<Session>) -> Result<Io, ConnectError> {
        if self.addr.ip().is_loopback() {
            return Err(ConnectError::Loop(self.addr));
        }
        let to = SocketAddr::new(self.addr.ip(), self.tagged_port.unwrap_or(self.addr.port()));
        match net::timeout(self.limit, self.establish(to, session)).await {
            Some(connected) => connected,
            None => Err(ConnectError::Timeout(to, self.limit)),
        }
    }

    async fn establish(&self, to: SocketAddr, session: Option<Session>) -> Result<Io, ConnectError> {
        let first = if self.tls.is_some() || session.is_some() { FirstWord::Ours } else { FirstWord::Open };
        let tcp = net::connect(to, &self.socket, self.limit, first).await.map_err(|error| ConnectError::Tcp(to, error))?;
        let Some(tls) = &self.tls else {
            let mut io = Io::from(tcp);
            io.count(self.metrics.clone());
            return Ok(io);
        };
        let (stream, peer) = Box::pin(secure::connect(tcp, tls, self.limit)).await.map_err(|error| ConnectError::Tls(to, error))?;
        let standing = self.trust.standing(&stream, &peer);
        let mut io = Io::meshed(stream, standing.as_ref());
        if peer.transport_header
            && let Some(header) = self.header(session)
        {
            let header = header.encode();
            // It stays in TLS' staging buffer, to go out in one record with what follows. If nothing follows, because the
            // client waits for its server, waiting for the server sends it.
            poll_fn(|cx| io.poll_write_from(cx, &[IoSlice::new(&header)])).await.map_err(|error| ConnectError::Tcp(to, error))?;
        }
        io.count(self.metrics.clone());
        Ok(io)
    }

    /// The header for this endpoint, if one is to be sent (proxy-wire §7.3).
    fn header(&self, session: Option<Session>) -> Option<Header> {
        match &self.authority_override {
            Some(authority) => Some(Header { port: authority.port, name: authority.dns_name().cloned(), session }),
            None => self.tagged_port.map(|_| Header { port: self.addr.port(), name: None, session }),
        }
    }
}

impl ConnectError {
    /// As the cause of a fault.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Tcp(_, error) if error.kind() == io::ErrorKind::TimedOut => Cause::ConnectTimeout(error.to_string()),
            Self::Tcp(_, error) => Cause::connect(io::Error::new(error.kind(), error.to_string())),
            Self::Timeout(_, limit) => Cause::ConnectTimeout(format!("connect timed out after {limit:?}")),
            Self::Tls(_, error) => Cause::connect(io::Error::other(error.to_string())),
            Self::Loop(_) => Cause::connect(io::Error::new(io::ErrorKind::ConnectionRefused, self.to_string())),
            Self::Canceled => Cause::connect(io::Error::other(self.to_string())),
        }
    }
}
