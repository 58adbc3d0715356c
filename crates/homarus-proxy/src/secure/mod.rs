//! Mesh TLS, both ways.
//!
//! A server ends TLS only for its own name, and believes a client only if its chain ends in our anchors; a client
//! insists on the identity that discovery told it. TLS 1.3 alone, X25519MLKEM768 first (proxy-wire §5).
//!
//! **Resumption never weakens identity** (design §4): rustls brings a peer's certificate back from a ticket without
//! verifying it again, so tickets are kept per endpoint address, are taken only from peers that negotiated our own ALPN,
//! die with every change of our leaf or anchors and at least hourly, and after a resumed handshake the stored leaf's name
//! and validity are checked once more. No early data.
//!
//! Absent on purpose: TLS 1.2, ALPN for HTTP versions (proxies tell each other by the transport header).

mod handshake;
mod keyring;
mod standing;
mod stream;
mod verify;

pub mod certify;
pub mod control;

pub use handshake::{HandshakeError, Peer, accept, connect};
pub use keyring::{EndpointTls, Keyring, Keys, Material, provider};
pub use standing::{Seat, Standing, Trust, distrusted};
pub use stream::{Session, TlsStream};
