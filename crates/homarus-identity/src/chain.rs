//! Who a peer is: the chain of its certificate and the name that it proves.
//!
//! The identity of a peer is the **first** DNS or URI name of its leaf. Chains are verified without regard to names
//! (an identity is not a host name: it has no wildcards, and underscores are allowed); a client then asks whether any
//! name of the leaf is the one it expects.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_model::Identity;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::EndEntityCert;
use webpki::aws_lc_rs as verify;

use crate::anchors::TrustAnchors;
use crate::certificate::{self, Certificate};

/// The most certificates that a peer may send beside its leaf.
pub const MAX_INTERMEDIATES: usize = 16;

/// What signatures may look like, anywhere in a chain: the set of Linkerd's proxies.
pub static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    verify::ECDSA_P256_SHA256,
    verify::ECDSA_P256_SHA384,
    verify::ECDSA_P384_SHA256,
    verify::ECDSA_P384_SHA384,
    verify::ECDSA_P521_SHA256,
    verify::ECDSA_P521_SHA384,
    verify::ECDSA_P521_SHA512,
    verify::ED25519,
    verify::RSA_PKCS1_2048_8192_SHA256,
    verify::RSA_PKCS1_2048_8192_SHA384,
    verify::RSA_PKCS1_2048_8192_SHA512,
];

/// What a leaf is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It proves who a client is.
    Client,
    /// It proves who a server is.
    Server,
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain doesn't hold: unknown issuer, expired, wrong usage, bad signature.
    #[error("certificate chain not trusted: {0}")]
    Untrusted(webpki::Error),
    /// More certificates than anyone needs.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    TooLong,
    /// The leaf can't be read.
    #[error(transparent)]
    Unreadable(#[from] certificate::InvalidCertificate),
    /// The leaf is someone else's.
    #[error("expected a certificate for {expected}, but it is for {found:?}")]
    OtherName {
        /// Who should have been there.
        expected: Identity,
        /// Who was.
        found: Vec<String>,
    },
}

/// Verifies that a leaf chains to the anchors now, whatever its names.
pub fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    role: Role,
    now: SystemTime,
) -> Result<(), ChainError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(ChainError::TooLong);
    }
    let usage = match role {
        Role::Client => webpki::KeyUsage::client_auth(),
        Role::Server => webpki::KeyUsage::server_auth(),
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(ChainError::Untrusted)?;
    leaf.verify_for_usage(SIGNATURES, anchors.anchors(), intermediates, unix_time(now), usage, None, None)
        .map(|_path| ())
        .map_err(ChainError::Untrusted)
}

/// Whether `above` signed a certificate, whatever the time.
pub fn is_signed_by(certificate: &Certificate, above: &Certificate) -> bool {
    let (Ok(own), Ok(signer)) = (certificate::read(certificate.der()), certificate::read(above.der())) else { return false };
    own.issuer().as_raw() == signer.subject().as_raw() && own.verify_signature(Some(signer.public_key())).is_ok()
}

/// The identity of whoever holds this leaf: its first DNS or URI name, if that is one. The chain must have been verified.
pub fn peer_identity(leaf: &CertificateDer<'_>) -> Option<Identity> {
    let cert = certificate::read(leaf).ok()?;
    let first = certificate::names(&cert).next()?;
    certificate::identity(first)
}

/// The last moment at which a leaf is valid.
pub fn expiry(leaf: &CertificateDer<'_>) -> Result<SystemTime, ChainError> {
    Ok(certificate::system_time(certificate::read(leaf)?.validity().not_after))
}

/// Whether any name of this leaf is the expected one. The chain must have been verified.
pub fn verify_name(leaf: &CertificateDer<'_>, expected: &Identity) -> Result<(), ChainError> {
    let cert = certificate::read(leaf)?;
    if certificate::names(&cert).any(|name| certificate::identity(name).as_ref() == Some(expected)) {
        return Ok(());
    }
    let found = certificate::names(&cert).map(str::to_owned).collect();
    Err(ChainError::OtherName { expected: expected.clone(), found })
}

pub(crate) fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
