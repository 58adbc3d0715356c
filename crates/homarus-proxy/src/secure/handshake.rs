//! Beginning TLS, as server and as client.

use super::{EndpointTls, Session, TlsStream};
use crate::{
    buffers::Buffer,
    net::{self, TcpStream},
};
use homarus_identity::chain::{self, ChainError};
use homarus_model::Identity;
use homarus_wire::transport;
use rustls::{ServerConfig, client::UnbufferedClientConnection, server::UnbufferedServerConnection};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io,
    ops::Deref,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

/// Who is at the other end of a TLS connection, and what was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The identity that the peer proved; a client may have shown none.
    pub identity: Option<Identity>,
    /// When the peer's leaf ends; the connection must not outlive it.
    pub expires: Option<SystemTime>,
    /// Both sides know that a transport header follows.
    pub transport_header: bool,
    /// The session was resumed.
    pub resumed: bool,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We have no certificate yet. It passes: retry.
    #[error("this proxy has no certificate yet; is the identity controller reachable?")]
    NoCertificate,
    /// The name to ask for is not one that TLS can carry.
    #[error("{0} can't be asked for in TLS: {1}")]
    ServerName(String, InvalidDnsNameError),
    /// TLS could not begin.
    #[error("TLS can't begin: {0}")]
    Setup(#[from] rustls::Error),
    /// The handshake failed; the peer is not who was expected, or not a proxy of this mesh, or the connection broke.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// It took too long.
    #[error("TLS handshake timed out after {0:?}")]
    Timeout(Duration),
    /// A resumed session belongs to somebody else, or its leaf has ended.
    #[error("resumed TLS session refused: {0}")]
    Resumed(String),
}

/// Ends TLS of a client whose first bytes are already there.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    read: Buffer,
    limit: Duration,
) -> Result<(TlsStream, Peer), HandshakeError> {
    let session = Session::Server(Box::new(UnbufferedServerConnection::new(config)?));
    let mut tls = TlsStream::new(tcp, session, Some(read));
    complete(&mut tls, limit).await?;
    let peer = peer(tls.session(), None)?;
    Ok((tls, peer))
}

/// Begins TLS with an endpoint.
pub async fn connect(tcp: TcpStream, endpoint: &EndpointTls, limit: Duration) -> Result<(TlsStream, Peer), HandshakeError> {
    let (config, tickets) = endpoint.config().ok_or(HandshakeError::NoCertificate)?;
    let expect = endpoint.expect();
    let name = ServerName::try_from(expect.server_name.as_str().to_owned())
        .map_err(|error| HandshakeError::ServerName(expect.server_name.to_string(), error))?;
    let session = Session::Client(Box::new(UnbufferedClientConnection::new(config, name)?));
    let mut tls = TlsStream::new(tcp, session, None);
    complete(&mut tls, limit).await?;
    let peer = peer(tls.session(), Some(&expect.id))?;
    if negotiated(tls.session()) == Some(transport::ALPN_RESUMING) {
        tickets.trusted.store(true, Relaxed);
    }
    Ok((tls, peer))
}

async fn complete(tls: &mut TlsStream, limit: Duration) -> Result<(), HandshakeError> {
    net::timeout(limit, poll_fn(|cx| tls.poll_handshake(cx))).await.ok_or(HandshakeError::Timeout(limit))??;
    Ok(())
}

fn negotiated(session: &Session) -> Option<&[u8]> {
    match session {
        Session::Client(conn) => conn.deref().deref().alpn_protocol(),
        Session::Server(conn) => conn.deref().deref().alpn_protocol(),
    }
}

fn peer(session: &Session, expect: Option<&Identity>) -> Result<Peer, HandshakeError> {
    let (certificates, kind) = match session {
        Session::Client(conn) => (conn.peer_certificates(), conn.handshake_kind()),
        Session::Server(conn) => (conn.peer_certificates(), conn.handshake_kind()),
    };
    let leaf = certificates.and_then(<[_]>::first);
    let resumed = kind == Some(rustls::HandshakeKind::Resumed);
    let Leaf { identity, expires } = leaf.map(read_leaf).unwrap_or_default();
    if resumed {
        recheck(leaf, &identity, expires, expect).map_err(HandshakeError::Resumed)?;
    }
    Ok(Peer { identity, expires, transport_header: negotiated(session).is_some(), resumed })
}

/// What we need of a peer's leaf.
#[derive(Clone, Default)]
struct Leaf {
    identity: Option<Identity>,
    expires: Option<SystemTime>,
}

/// Leaves that were read lately; peers come back with the same one for a day.
const REMEMBERED: usize = 64;

thread_local! {
    static LEAVES: RefCell<VecDeque<(CertificateDer<'static>, Leaf)>> = const { RefCell::new(VecDeque::new()) };
}

/// Reads a leaf, or remembers it. Both its trust and its time are judged elsewhere.
fn read_leaf(leaf: &CertificateDer<'static>) -> Leaf {
    LEAVES.with_borrow_mut(|known| {
        if let Some((_, read)) = known.iter().find(|(der, _)| der == leaf) {
            return read.clone();
        }
        let read = Leaf { identity: chain::peer_identity(leaf), expires: chain::expiry(leaf).ok() };
        known.truncate(REMEMBERED - 1);
        known.push_front((leaf.clone(), read.clone()));
        read
    })
}

/// What a ticket brought back was verified once; its name and its time are verified again.
fn recheck(
    leaf: Option<&CertificateDer<'_>>,
    identity: &Option<Identity>,
    expires: Option<SystemTime>,
    expect: Option<&Identity>,
) -> Result<(), String> {
    if expires.is_some_and(|at| at < SystemTime::now()) {
        return Err("the peer's certificate has expired since".into());
    }
    match (leaf, expect) {
        // Any of its names may be the expected one; mostly it is the first.
        (Some(_), Some(_)) if identity.as_ref() == expect => Ok(()),
        (Some(leaf), Some(expect)) => chain::verify_name(leaf, expect).map_err(|e: ChainError| e.to_string()),
        (None, Some(_)) => Err("it carries no certificate".into()),
        _ => Ok(()),
    }
}
