//! PEM text: certificates in, certificates and keys out.

use base64::Engine;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The largest PEM text that is read: far above any bundle, far below what hurts.
pub const MAX_PEM_BYTES: usize = 1024 * 1024;
/// The most certificates that are read from one text.
pub const MAX_CERTIFICATES: usize = 128;

const LINE: usize = 64;

/// Why a PEM text holds no certificates that can be used. All are mistakes of whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Too long.
    #[error("PEM text of {0} bytes is longer than {MAX_PEM_BYTES}")]
    TooLong(usize),
    /// Too many sections.
    #[error("PEM text holds more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    /// No certificate at all.
    #[error("no certificate found; expected a section that begins with -----BEGIN CERTIFICATE-----")]
    Empty,
    /// A section that isn't valid PEM.
    #[error("certificate {index} is not valid PEM: {reason}")]
    Section {
        /// Its place in the text, from 1.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The certificates of a PEM text in order; other sections are skipped.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if text.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLong(text.len()));
    }
    let mut found = Vec::new();
    for section in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let index = found.len() + 1;
        if index > MAX_CERTIFICATES {
            return Err(PemError::TooMany);
        }
        found.push(section.map_err(|error| PemError::Section { index, reason: format!("{error:?}") })?);
    }
    if found.is_empty() { Err(PemError::Empty) } else { Ok(found) }
}

/// A certificate as PEM.
pub fn certificate(der: &[u8]) -> String {
    section("CERTIFICATE", der)
}

/// A PKCS#8 key as PEM.
pub fn private_key(pkcs8: &[u8]) -> String {
    section("PRIVATE KEY", pkcs8)
}

fn section(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / LINE + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
