//! Trust anchors: the bundle of roots that a mesh believes.

use std::sync::Arc;

use rustls_pki_types::TrustAnchor;

use crate::certificate::{Certificate, sha256_hex};
use crate::pem::{self, PemError};

/// Why a bundle can't be used; the fault of whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text itself.
    #[error("invalid trust anchors: {0}")]
    Pem(#[from] PemError),
    /// One certificate of it.
    #[error("invalid trust anchors: certificate {index} of {total}{subject}: {reason}")]
    Certificate {
        /// Its place in the text, from 1.
        index: usize,
        /// How many there are.
        total: usize,
        /// Its subject in parentheses, if it can be read.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The certificates that chains must end in. Never empty; cheap to clone.
///
/// An anchor that has expired still anchors: a proxy that refused it would cut off its peers before anyone is told.
/// The [`Issuer`](crate::Issuer) is stricter, and `check` warns early.
#[derive(Clone, Debug)]
pub struct TrustAnchors(Arc<Bundle>);

#[derive(Debug)]
struct Bundle {
    pem: String,
    certificates: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustAnchors {
    /// Reads a bundle. One bad certificate makes all of it bad, as whoever wrote it meant it to count.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        let (anchors, mut bad) = Self::read(text)?;
        match (bad.is_empty(), anchors) {
            (true, Some(anchors)) => Ok(anchors),
            _ => Err(bad.swap_remove(0)),
        }
    }

    /// Reads what can be read of a bundle: for proxies, which must not stop because someone added a bad certificate.
    ///
    /// Fails when nothing is left; otherwise tells what was left out.
    pub fn from_pem_lossy(text: &str) -> Result<(Self, Vec<BundleError>), BundleError> {
        match Self::read(text)? {
            (Some(anchors), bad) => Ok((anchors, bad)),
            (None, mut bad) => Err(bad.swap_remove(0)),
        }
    }

    /// Either some anchors or at least one error.
    fn read(text: &str) -> Result<(Option<Self>, Vec<BundleError>), BundleError> {
        let ders = pem::certificates(text)?;
        let total = ders.len();
        let (mut certificates, mut anchors, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for (i, der) in ders.into_iter().enumerate() {
            let fail = |subject: String, reason: String| BundleError::Certificate { index: i + 1, total, subject, reason };
            let certificate = match Certificate::parse(der) {
                Ok(certificate) => certificate,
                Err(error) => {
                    bad.push(fail(String::new(), error.to_string()));
                    continue;
                }
            };
            let anchor = webpki::anchor_from_trusted_cert(certificate.der()).map(|anchor| anchor.to_owned());
            match anchor {
                Ok(_) if !certificate.is_ca => {
                    bad.push(fail(format!(" ({})", certificate.subject), "it is not a CA certificate".into()));
                }
                Ok(anchor) => {
                    anchors.push(anchor);
                    certificates.push(certificate);
                }
                Err(error) => bad.push(fail(format!(" ({})", certificate.subject), error.to_string())),
            }
        }
        let read = (!anchors.is_empty()).then(|| Self(Arc::new(Bundle { pem: text.to_owned(), certificates, anchors })));
        Ok((read, bad))
    }

    /// The certificates.
    pub fn certificates(&self) -> &[Certificate] {
        &self.0.certificates
    }

    /// The certificates as verifiers want them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0.anchors
    }

    /// The certificates as rustls wants them.
    pub fn root_store(&self) -> rustls::RootCertStore {
        rustls::RootCertStore { roots: self.0.anchors.clone() }
    }

    /// The text they were read from, byte by byte.
    pub fn pem(&self) -> &str {
        &self.0.pem
    }

    /// The SHA-256 of the text: the value of the annotation `linkerd.io/trust-root-sha256`.
    pub fn sha256_hex(&self) -> String {
        sha256_hex(self.0.pem.as_bytes())
    }

    /// The same for every text that holds the same certificates, in whatever order.
    pub fn fingerprint(&self) -> String {
        let mut each: Vec<String> = self.0.certificates.iter().map(Certificate::fingerprint).collect();
        each.sort_unstable();
        each.dedup();
        sha256_hex(each.join(",").as_bytes())
    }

    /// Whether a certificate is among them.
    pub fn contains(&self, certificate: &Certificate) -> bool {
        self.0.certificates.iter().any(|own| own.der() == certificate.der())
    }

    /// The certificates that `anchor` may stand for: several if a root was renewed with the same key.
    pub(crate) fn behind<'a>(&'a self, anchor: &TrustAnchor<'_>) -> impl Iterator<Item = &'a Certificate> {
        let same = |a: &TrustAnchor<'_>| a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info;
        let found: Vec<_> = self.0.anchors.iter().zip(&self.0.certificates).filter(|(a, _)| same(a)).map(|(_, c)| c).collect();
        found.into_iter()
    }
}
