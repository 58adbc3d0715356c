//! TLS toward the control plane: as toward any endpoint, but also before we have a certificate of our own, and on the admin
//! thread. No ALPN, no resumption: connections are few and long.

use super::{
    Material, Session, TlsStream,
    keyring::{self, OneCertificate},
    verify::ServerVerifier,
};
use crate::net::TcpStream;
use homarus_identity::TrustAnchors;
use homarus_model::endpoint::ServerTls;
use rustls::{
    ClientConfig,
    client::{Resumption, UnbufferedClientConnection},
};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Why there is no TLS with the control plane.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The configured name is not one that TLS can carry: the operator's fault.
    #[error("{0} can't be asked for in TLS: {1}")]
    ServerName(String, InvalidDnsNameError),
    /// TLS could not begin: ours.
    #[error("TLS can't begin: {0}")]
    Setup(#[from] rustls::Error),
    /// The server isn't who was expected, or the connection broke; it may pass.
    #[error("handshake failed: {0}; do the control plane and this proxy have the same trust anchors?")]
    Handshake(#[from] io::Error),
}

/// Begins TLS with a server of the control plane.
pub async fn connect(
    tcp: TcpStream,
    server: &ServerTls,
    anchors: TrustAnchors,
    material: Option<Material>,
) -> Result<ControlStream, TlsError> {
    let name = ServerName::try_from(server.server_name.as_str().to_owned())
        .map_err(|error| TlsError::ServerName(server.server_name.to_string(), error))?;
    let verifier = Arc::new(ServerVerifier { anchors, expect: server.id.clone() });
    let builder = ClientConfig::builder_with_provider(keyring::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match material {
        Some(material) => builder.with_client_cert_resolver(Arc::new(OneCertificate(material.credential.certified_key()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    let session = Session::Client(Box::new(UnbufferedClientConnection::new(Arc::new(config), name)?));
    let mut tls = TlsStream::new(tcp, session, None);
    poll_fn(|cx| tls.poll_handshake(cx)).await?;
    Ok(ControlStream(Box::new(tls)))
}

/// A TLS connection as the h2 library wants it, and one that may move between threads.
pub struct ControlStream(pub(super) Box<TlsStream>);

impl ControlStream {
    /// The certificates that the server showed, its leaf first.
    pub fn peer_chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.session().peer_chain().to_vec()
    }
}

impl AsyncRead for ControlStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.0.poll_read_into(cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ControlStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write_from(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(cx)
    }
}
