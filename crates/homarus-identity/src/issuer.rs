//! The issuer: signs the leaves of workloads.
//!
//! Rules of a leaf: subject and key of the request, its one DNS name, digital signature and key encipherment, server and
//! client authentication, ECDSA workload keys only; valid from `skew` ago until `lifetime + skew` from now, but never
//! longer than anything it depends on (the issuer, its chain, its anchor).
//!
//! Serial numbers are random: a counter, as elsewhere, repeats itself at every restart and in every replica.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::anchors::TrustAnchors;
use crate::authority::serial;
use crate::certificate::{Certificate, InvalidCertificate};
use crate::chain::{MAX_INTERMEDIATES, SIGNATURES, unix_time};
use crate::csr::{CsrError, Request};
use crate::key::{Key, KeyError};
use crate::pem::{self, PemError};
use crate::x509::{self, Contents, Usage};

/// How long leaves live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From now on.
    pub lifetime: Duration,
    /// How far clocks may be apart, added at both ends.
    pub skew: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(24 * 60 * 60), skew: Duration::from_secs(20) }
    }
}

/// Why issuer material can't be used; the fault of whoever supplied it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Its certificates can't be read.
    #[error("invalid issuer certificate: {0}")]
    Pem(#[from] PemError),
    /// One of them is not a certificate.
    #[error("invalid issuer certificate: {0}")]
    Certificate(#[from] InvalidCertificate),
    /// Its key can't be read.
    #[error("invalid issuer key: {0}")]
    Key(#[from] KeyError),
    /// Certificate and key don't belong together.
    #[error("issuer certificate ({subject}) and key don't belong together; the issuer itself must come first in its file")]
    OtherKey {
        /// The subject of the certificate.
        subject: String,
    },
    /// It may not sign.
    #[error("issuer certificate ({subject}) is not a CA certificate")]
    NotCa {
        /// The subject of the certificate.
        subject: String,
    },
    /// Too many certificates.
    #[error("issuer certificate file holds more than {MAX_INTERMEDIATES} certificates")]
    TooLong,
    /// It doesn't chain to the anchors.
    #[error("issuer certificate ({subject}) doesn't chain to the trust anchors: {reason}")]
    Untrusted {
        /// The subject of the certificate.
        subject: String,
        /// Why not.
        reason: String,
    },
    /// It, or something above it, isn't valid now.
    #[error("issuer certificate chain is not valid now: {subject} is {how}; renew it (and what is above it)")]
    NotCurrent {
        /// Whose fault.
        subject: String,
        /// Expired, or not valid yet.
        how: &'static str,
    },
}

/// Why a leaf was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request's fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The issuer's fault.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// A signing certificate with its key, verified against the anchors.
#[derive(Clone, Debug)]
pub struct Issuer {
    chain: Vec<Certificate>,
    key: Key,
    validity: Validity,
    /// Everything that a leaf depends on: the path to the anchor as it was found, and the anchor.
    path: Vec<Span>,
}

#[derive(Clone, Debug)]
struct Span {
    subject: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Span {
    fn of(certificate: &Certificate) -> Self {
        Self { subject: certificate.subject.clone(), not_before: certificate.not_before, not_after: certificate.not_after }
    }
}

impl Issuer {
    /// Reads an issuer: its certificate first, then those above it (the anchor may be left out).
    pub fn from_pem(
        certificates: &str,
        key: &str,
        anchors: &TrustAnchors,
        validity: Validity,
        now: SystemTime,
    ) -> Result<Self, IssuerError> {
        let ders = pem::certificates(certificates)?;
        if ders.len() > MAX_INTERMEDIATES {
            return Err(IssuerError::TooLong);
        }
        let chain = ders.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
        let mut issuer = Self { chain, key: Key::from_pem(key)?, validity, path: Vec::new() };
        let own = issuer.certificate();
        if own.public_raw != issuer.key.public().as_ref() {
            return Err(IssuerError::OtherKey { subject: own.subject.clone() });
        }
        if !own.is_ca {
            return Err(IssuerError::NotCa { subject: own.subject.clone() });
        }
        issuer.path = issuer.verify_path(anchors, now)?;
        issuer.verify_current(now)?;
        Ok(issuer)
    }

    /// The issuer's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// What is sent along with each leaf: the issuer and what is above it, leaf to root.
    pub fn intermediates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.chain.iter().map(Certificate::der)
    }

    /// When the first of the certificates that leaves depend on expires.
    pub fn expiry(&self) -> SystemTime {
        self.path.iter().map(|span| span.not_after).min().unwrap_or(self.certificate().not_after)
    }

    /// Fails once anything that leaves depend on has expired. To be asked before each leaf.
    pub fn verify_current(&self, now: SystemTime) -> Result<(), IssuerError> {
        let fail = |span: &Span, how| Err(IssuerError::NotCurrent { subject: span.subject.clone(), how });
        for span in &self.path {
            if now < span.not_before {
                return fail(span, "not valid yet");
            }
            if now > span.not_after {
                return fail(span, "expired");
            }
        }
        Ok(())
    }

    /// Issues a leaf, DER, to the holder of a request for `identity`.
    pub fn issue(&self, request: &Request<'_>, identity: &str, now: SystemTime) -> Result<Certificate, IssueError> {
        self.verify_current(now)?;
        request.check_names(identity)?;
        request.check_key()?;
        Ok(self.sign_leaf(request.subject, request.public, identity, now)?)
    }

    fn sign_leaf(&self, subject: &[u8], public: &[u8], name: &str, now: SystemTime) -> Result<Certificate, IssuerError> {
        let Validity { lifetime, skew } = self.validity;
        let own = self.certificate();
        let wanted = now.checked_add(lifetime).and_then(|at| at.checked_add(skew)).unwrap_or(self.expiry());
        let contents = Contents {
            serial: serial()?,
            issuer: &own.subject_raw,
            not_before: now.checked_sub(skew).unwrap_or(now),
            not_after: wanted.min(self.expiry()),
            subject,
            public,
            usage: Usage::Leaf,
            dns_names: &[name],
            authority_key_id: own.subject_key_id.as_deref(),
            subject_key_id: None,
        };
        let der = x509::certificate(&contents, &self.key)?;
        Ok(Certificate::parse(der.into())?)
    }

    /// Signs a leaf for nobody and verifies it as a proxy would; answers what the leaf depends on.
    ///
    /// The anchors are fixed, so that from here on only time can make the path invalid.
    fn verify_path(&self, anchors: &TrustAnchors, now: SystemTime) -> Result<Vec<Span>, IssuerError> {
        let untrusted = |reason: String| IssuerError::Untrusted { subject: self.certificate().subject.clone(), reason };
        // A moment at which the issuer itself is valid, so that an expired one is told apart from an unknown one.
        let own = self.certificate();
        let at = now.clamp(own.not_before, own.not_after.max(own.not_before));
        let probe = self.sign_leaf(&x509::common_name("probe"), self.key.public(), "probe.invalid", at)?;
        let leaf = EndEntityCert::try_from(probe.der()).map_err(|error| untrusted(error.to_string()))?;
        let intermediates: Vec<_> = self.intermediates().cloned().collect();
        let usage = webpki::KeyUsage::client_auth();
        let path = leaf
            .verify_for_usage(SIGNATURES, anchors.anchors(), &intermediates, unix_time(at), usage, None, None)
            .map_err(|error| untrusted(error.to_string()))?;
        let mut spans = Vec::new();
        for between in path.intermediate_certificates() {
            let der = CertificateDer::from(between.der().to_vec());
            spans.push(Span::of(&Certificate::parse(der)?));
        }
        // Of a root that was renewed with the same key, the one that lasts longest counts.
        let root = anchors.behind(path.anchor()).max_by_key(|root| root.not_after);
        spans.extend(root.map(Span::of));
        Ok(spans)
    }
}
