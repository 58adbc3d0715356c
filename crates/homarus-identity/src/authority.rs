//! Roots and issuers of new meshes, and the self-signed certificates of webhooks.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;

use crate::certificate::{Certificate, InvalidCertificate};
use crate::key::{Key, KeyError};
use crate::x509::{self, Contents, Usage};

/// How far a new certificate reaches into the past, for clocks that are behind.
pub const BACKDATED: Duration = Duration::from_secs(60);

/// Why no certificate was made: a fault of ours or of the cryptographic library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What was written can't be read back.
    #[error("made a bad certificate: {0}")]
    Certificate(#[from] InvalidCertificate),
    /// The time is out of range.
    #[error("the validity ends beyond what a certificate can say")]
    Time,
}

/// Why what was kept can't be used; the fault of whoever changed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The text of the certificate.
    #[error(transparent)]
    Pem(#[from] crate::pem::PemError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// They don't belong together.
    #[error("certificate ({0}) and key don't belong together")]
    OtherKey(String),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key, PKCS#8.
    pub key: Key,
}

impl Pair {
    /// A certificate and its key as they were kept, PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, ReadError> {
        let first = crate::pem::certificates(certificate)?.swap_remove(0);
        let (certificate, key) = (Certificate::parse(first)?, Key::from_pem(key)?);
        if certificate.public_raw != key.public().as_ref() {
            return Err(ReadError::OtherKey(certificate.subject));
        }
        Ok(Self { certificate, key })
    }

    /// A new self-signed root, ECDSA P-256.
    pub fn root(name: &str, lifetime: Duration, now: SystemTime) -> Result<Self, MakeError> {
        let key = Key::generate()?;
        let subject = x509::common_name(name);
        let draft = Draft { subject: &subject, usage: Usage::Authority { path_length: None }, dns_names: &[], lifetime, now };
        let certificate = draft.sign(&key, &subject, None, &key)?;
        Ok(Self { certificate, key })
    }

    /// A new issuer under this one, which may sign leaves but no other issuers.
    pub fn issuer(&self, name: &str, lifetime: Duration, now: SystemTime) -> Result<Self, MakeError> {
        let key = Key::generate()?;
        let subject = x509::common_name(name);
        let draft = Draft { subject: &subject, usage: Usage::Authority { path_length: Some(0) }, dns_names: &[], lifetime, now };
        let above = &self.certificate;
        let certificate = draft.sign(&key, &above.subject_raw, above.subject_key_id.as_deref(), &self.key)?;
        Ok(Self { certificate, key })
    }

    /// A self-signed server certificate, as API servers verify those of webhooks: it is its own CA bundle.
    pub fn server(dns_names: &[&str], lifetime: Duration, now: SystemTime) -> Result<Self, MakeError> {
        let key = Key::generate()?;
        let subject = x509::common_name(dns_names.first().copied().unwrap_or_default());
        let draft = Draft { subject: &subject, usage: Usage::Leaf, dns_names, lifetime, now };
        let certificate = draft.sign(&key, &subject, None, &key)?;
        Ok(Self { certificate, key })
    }

    /// Another root as one that this root vouches for. Sent along with leaves under the other, it lets peers that know only
    /// this root believe them: for as long as the roots of a mesh change, nobody need be first to know the new one.
    pub fn cross_sign(&self, other: &Certificate, now: SystemTime) -> Result<Certificate, MakeError> {
        let contents = Contents {
            serial: serial()?,
            issuer: &self.certificate.subject_raw,
            not_before: now.checked_sub(BACKDATED).ok_or(MakeError::Time)?,
            not_after: self.certificate.not_after.min(other.not_after),
            subject: &other.subject_raw,
            public: &other.public_raw,
            usage: Usage::Authority { path_length: None },
            dns_names: &[],
            authority_key_id: self.certificate.subject_key_id.as_deref(),
            subject_key_id: other.subject_key_id.as_deref(),
        };
        Ok(Certificate::parse(x509::certificate(&contents, &self.key)?.into())?)
    }

    /// A server certificate under this root, for these names.
    pub fn server_under(&self, dns_names: &[&str], lifetime: Duration, now: SystemTime) -> Result<Self, MakeError> {
        let key = Key::generate()?;
        let subject = x509::common_name(dns_names.first().copied().unwrap_or_default());
        let draft = Draft { subject: &subject, usage: Usage::Leaf, dns_names, lifetime, now };
        let above = &self.certificate;
        let certificate = draft.sign(&key, &above.subject_raw, above.subject_key_id.as_deref(), &self.key)?;
        Ok(Self { certificate, key })
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> String {
        crate::pem::private_key(self.key.secret_der())
    }
}

struct Draft<'a> {
    subject: &'a [u8],
    usage: Usage,
    dns_names: &'a [&'a str],
    lifetime: Duration,
    now: SystemTime,
}

impl Draft<'_> {
    fn sign(&self, key: &Key, issuer: &[u8], authority_key_id: Option<&[u8]>, signer: &Key) -> Result<Certificate, MakeError> {
        let id = key_id(key);
        let contents = Contents {
            serial: serial()?,
            issuer,
            not_before: self.now.checked_sub(BACKDATED).ok_or(MakeError::Time)?,
            not_after: self.now.checked_add(self.lifetime).ok_or(MakeError::Time)?,
            subject: self.subject,
            public: key.public(),
            usage: self.usage,
            dns_names: self.dns_names,
            authority_key_id,
            subject_key_id: Some(&id),
        };
        Ok(Certificate::parse(x509::certificate(&contents, signer)?.into())?)
    }
}

/// RFC 7093 §2: the leftmost 160 bits of the SHA-256 of the public key.
fn key_id(key: &Key) -> Vec<u8> {
    digest::digest(&digest::SHA256, key.public()).as_ref().iter().take(20).copied().collect()
}

/// A random serial number: positive, and unlike a counter unique among the replicas of an issuer.
pub(crate) fn serial() -> Result<[u8; 16], KeyError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| KeyError::Generate)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}
