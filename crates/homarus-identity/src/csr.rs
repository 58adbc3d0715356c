//! Certificate signing requests: PKCS#10, DER, as `Certify` carries them.

use homarus_model::Identity;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY;
use x509_parser::prelude::FromDer;

use crate::key::{Key, KeyError};
use crate::x509;

/// The largest request that is read; an ordinary one has 400 bytes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why a request was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// A URI can't stand in a request of this mesh: an issuer of SPIFFE certificates makes its own keys.
    #[error("identity {0} is a URI; only DNS names can be requested")]
    NotDns(Identity),
    /// The key can't sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Why a request is refused; always the fault of whoever sent it, and sending it again won't help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not a request.
    #[error("the certificate signing request can't be read: {0}")]
    Unreadable(String),
    /// Its signature doesn't fit its key.
    #[error("the signature of the certificate signing request is invalid")]
    Signature,
    /// It asks for another name than the one it came with.
    #[error("the certificate signing request must name {expected} as its one DNS name: {reason}")]
    Names {
        /// The identity that was asked for.
        expected: String,
        /// How it differs.
        reason: String,
    },
    /// Workload keys are ECDSA.
    #[error("the key of the certificate signing request is not ECDSA")]
    NotEcdsa,
}

/// A request for `name`: common name and only DNS name are the identity.
pub fn make(name: &Identity, key: &Key) -> Result<Vec<u8>, MakeError> {
    let Some(dns) = name.dns_name() else {
        return Err(MakeError::NotDns(name.clone()));
    };
    Ok(x509::request(dns.as_str(), key)?)
}

/// A request whose signature holds. It borrows the bytes that it was read from.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) subject: &'a [u8],
    pub(crate) public: &'a [u8],
    common_names: Vec<String>,
    dns_names: Vec<String>,
    other_names: bool,
    ecdsa: bool,
}

impl<'a> Request<'a> {
    /// Reads a request and checks that its sender holds the key.
    pub fn parse(der: &'a [u8]) -> Result<Self, CsrError> {
        let unreadable = |reason: String| CsrError::Unreadable(reason);
        if der.len() > MAX_CSR_BYTES {
            return Err(unreadable(format!("it is longer than {MAX_CSR_BYTES} bytes")));
        }
        let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} bytes follow it", rest.len())));
        }
        csr.verify_signature().map_err(|_| CsrError::Signature)?;
        let info = &csr.certification_request_info;
        let subject = raw_within(der, info.subject.as_raw()).ok_or_else(|| unreadable("no subject".into()))?;
        let public = raw_within(der, info.subject_pki.raw).ok_or_else(|| unreadable("no public key".into()))?;
        let mut request = Request {
            subject,
            public,
            common_names: Vec::new(),
            dns_names: Vec::new(),
            other_names: false,
            ecdsa: info.subject_pki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY,
        };
        for name in info.subject.iter_common_name() {
            let text = name.as_str().map_err(|error| unreadable(format!("common name: {error}")))?;
            request.common_names.push(text.to_owned());
        }
        request.read_names(&csr);
        Ok(request)
    }

    fn read_names(&mut self, csr: &X509CertificationRequest<'_>) {
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
                    _ => self.other_names = true,
                }
            }
        }
    }

    /// Whether the request asks for exactly this identity: one DNS name, nothing else, and no other common name.
    pub fn check_names(&self, identity: &str) -> Result<(), CsrError> {
        let wrong = |reason: String| Err(CsrError::Names { expected: identity.to_owned(), reason });
        match self.dns_names.as_slice() {
            [name] if name == identity => {}
            [name] => return wrong(format!("it names {name:?}")),
            names => return wrong(format!("it has {} DNS names", names.len())),
        }
        if self.other_names {
            return wrong("it has email, IP, URI or other names too".into());
        }
        match self.common_names.iter().find(|name| !name.is_empty() && *name != identity) {
            Some(name) => wrong(format!("its common name is {name:?}")),
            None => Ok(()),
        }
    }

    /// Whether its key is one that workloads may have.
    pub fn check_key(&self) -> Result<(), CsrError> {
        if self.ecdsa { Ok(()) } else { Err(CsrError::NotEcdsa) }
    }
}

/// The part of `whole` that `part` is, so that it lives as long as `whole`.
fn raw_within<'a>(whole: &'a [u8], part: &[u8]) -> Option<&'a [u8]> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let found = whole.get(start..start.checked_add(part.len())?)?;
    (!found.is_empty()).then_some(found)
}
