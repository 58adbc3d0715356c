//! Identities as certificates: keys, requests, credentials, trust anchors, issuing and verifying.
//!
//! Reading order: a [`Key`] signs a request for its name ([`csr`]); an [`Issuer`] turns the request into a leaf;
//! [`Credential::verified`] accepts a leaf only if it is ours and chains to the [`TrustAnchors`]; [`chain`] does the same
//! for the leaf of a peer. [`authority`] makes the roots and issuers of new meshes, [`files`] the files that a proxy
//! starts from; [`webhook`] makes what API servers verify webhooks by, [`renewal`] says when any of it is due.
//!
//! Invariants:
//! - no clock and no I/O except in [`files`]: every rule takes `now`, so that it can be tested at any time;
//! - whatever comes from outside (requests, chains, bundles) is bounded by a named constant before it is parsed;
//! - a certificate copies nothing from a request but its subject, its one DNS name and its public key. Other extensions a
//!   request asks for (a CA flag, say) are dropped.
//!
//! Certificates are written here, with `yasna`, rather than by a certificate library: an issuer's name must be repeated
//! byte for byte for chains to be found, and the libraries at hand re-encode it (names with two `DC`s come out short).

pub mod anchors;
pub mod authority;
pub mod certificate;
pub mod chain;
pub mod credential;
pub mod csr;
pub mod files;
pub mod issuer;
pub mod key;
pub mod pem;
pub mod renewal;
#[cfg(test)]
mod tests;
pub mod webhook;
mod x509;

pub use anchors::TrustAnchors;
pub use certificate::Certificate;
pub use credential::Credential;
pub use issuer::Issuer;
pub use key::Key;
