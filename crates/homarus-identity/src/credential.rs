//! What a workload shows to its peers: its leaf, the chain of its issuer, and its key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use homarus_model::Identity;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::anchors::TrustAnchors;
use crate::certificate::{Certificate, InvalidCertificate, sha256_hex};
use crate::chain::{self, ChainError, Role};
use crate::key::Key;

/// Why a leaf that we were given can't be ours. The issuer's fault, so asking again later may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// It can't be read.
    #[error("the issued leaf can't be read: {0}")]
    Unreadable(#[from] InvalidCertificate),
    /// It is for another key.
    #[error("the issued leaf is for another key than ours")]
    OtherKey,
    /// It doesn't chain to our anchors, or isn't in our name.
    #[error(
        "the issued leaf is refused: {0}; do the trust anchors of this workload and the issuer of the control plane belong together?"
    )]
    Chain(#[from] ChainError),
}

/// A leaf that was verified against our own anchors, name and key.
#[derive(Clone, Debug)]
pub struct Credential {
    identity: Identity,
    leaf: Certificate,
    certified: Arc<CertifiedKey>,
}

impl Credential {
    /// Accepts the answer of `Certify` only if peers would: it must chain to the anchors in both roles, carry our name,
    /// and be for our key.
    pub fn verified(
        identity: &Identity,
        key: &Key,
        leaf: Vec<u8>,
        intermediates: Vec<Vec<u8>>,
        anchors: &TrustAnchors,
        now: SystemTime,
    ) -> Result<Self, CredentialError> {
        let leaf = Certificate::parse(leaf.into())?;
        if leaf.public_raw != key.public().as_ref() {
            return Err(CredentialError::OtherKey);
        }
        let intermediates: Vec<CertificateDer<'static>> = intermediates.into_iter().map(Into::into).collect();
        for role in [Role::Server, Role::Client] {
            chain::verify_chain(leaf.der(), &intermediates, anchors, role, now)?;
        }
        chain::verify_name(leaf.der(), identity)?;
        let chain = std::iter::once(leaf.der().clone()).chain(intermediates).collect();
        let certified = Arc::new(CertifiedKey::new(chain, key.signing_key()));
        Ok(Self { identity: identity.clone(), leaf, certified })
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Whether peers with these anchors would believe it now.
    pub fn is_covered(&self, anchors: &TrustAnchors, now: SystemTime) -> Result<(), ChainError> {
        let (leaf, above) = self.certified.cert.split_first().ok_or(ChainError::TooLong)?;
        [Role::Server, Role::Client].into_iter().try_for_each(|role| chain::verify_chain(leaf, above, anchors, role, now))
    }

    /// The fingerprint of the certificate that signed the leaf; none if a root did so itself.
    pub fn issuer(&self) -> Option<String> {
        self.certified.cert.get(1).map(|issuer| sha256_hex(issuer))
    }

    /// Leaf, chain and key as rustls wants them.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// When it ends to be valid.
    pub fn expiry(&self) -> SystemTime {
        self.leaf.not_after
    }
}

/// How long to wait before asking for the next leaf: 70 % of what is left, within bounds; at once (`min`) without one.
pub fn refresh_in(expiry: Option<SystemTime>, now: SystemTime, min: Duration, max: Duration) -> Duration {
    let left = expiry.and_then(|at| at.duration_since(now).ok()).unwrap_or(Duration::ZERO);
    left.mul_f64(0.7).max(min).min(max.max(min))
}
