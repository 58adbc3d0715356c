//! What a certificate says, read once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_model::Identity;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use crate::pem;

/// The largest certificate that is read.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

/// A certificate that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {0}")]
pub struct InvalidCertificate(String);

/// A certificate and what the mesh asks of it.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    /// Who it is about, for people.
    pub subject: String,
    /// Who signed it, for people.
    pub issuer: String,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// Whether it may sign others. (A certificate of version 1 can't say that it may not.)
    pub is_ca: bool,
    /// Its DNS and URI names in order.
    pub names: Vec<String>,
    pub(crate) subject_raw: Vec<u8>,
    pub(crate) public_raw: Vec<u8>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads a certificate, DER.
    pub fn parse(der: CertificateDer<'static>) -> Result<Self, InvalidCertificate> {
        let cert = read(&der)?;
        let mut subject_key_id = None;
        for extension in cert.extensions() {
            if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                subject_key_id = Some(id.0.to_vec());
            }
        }
        Ok(Self {
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
            is_ca: cert.is_ca() || cert.version() == X509Version::V1,
            names: names(&cert).map(str::to_owned).collect(),
            subject_raw: cert.subject().as_raw().to_vec(),
            public_raw: cert.public_key().raw.to_vec(),
            subject_key_id,
            der,
        })
    }

    /// The bytes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as PEM.
    pub fn to_pem(&self) -> String {
        pem::certificate(&self.der)
    }

    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.der)
    }

    /// Whether it is valid at a moment, as far as time goes.
    pub fn is_current(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The SHA-256 of some bytes, in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, InvalidCertificate> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(InvalidCertificate(format!("it is longer than {MAX_CERTIFICATE_BYTES} bytes")));
    }
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok((rest, _)) => Err(InvalidCertificate(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(InvalidCertificate(error.to_string())),
    }
}

/// The DNS and URI names of a certificate, in order.
pub(crate) fn names<'a>(cert: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let sans = cert.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(sans) => Some(&sans.general_names),
        _ => None,
    });
    sans.flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some(*name),
        _ => None,
    })
}

/// The identity that a name stands for. The kinds don't mix: a DNS name `spiffe://…` can't be written, nor a URI without
/// its scheme.
pub(crate) fn identity(name: &str) -> Option<Identity> {
    name.parse().ok()
}

pub(crate) fn system_time(at: ASN1Time) -> SystemTime {
    let seconds = at.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    at.unwrap_or(UNIX_EPOCH)
}
