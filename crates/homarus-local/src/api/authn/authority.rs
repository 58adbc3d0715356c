//! The cluster's certificate authority and the key of its tokens, kept in the state folder (0600) or in memory.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::User;
use crate::api::store::journal::{private_file, private_folder};

/// Why keys or certificates can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file in the state folder.
    #[error("{file}: {source}; the state folder must be readable and writable by this user alone")]
    Io {
        /// Which.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is in a file isn't a key or certificate, or one can't be made.
    #[error("certificate authority: {0}; remove the state folder to start with a new one")]
    Certificate(#[from] rcgen::Error),
    /// PEM that isn't.
    #[error("certificate authority: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// TLS can't be configured.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Client verification can't be configured.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The token key is unusable.
    #[error("token key: {0}; remove the state folder to start with a new one")]
    TokenKey(String),
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    key: String,
    token_key: Vec<u8>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// PKCS 8.
    pub key: String,
}

const YEARS: i32 = 10;

impl Authority {
    /// A new one, in memory.
    pub fn generate() -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        validity(&mut params);
        let certificate = params.self_signed(&key)?.pem();
        let token_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der();
        Ok(Authority { certificate, key: key.serialize_pem(), token_key })
    }

    /// The one of a state folder; a new one if there is none.
    pub fn open(folder: &Path) -> Result<Authority, AuthorityError> {
        let at = |file: &Path, source| AuthorityError::Io { file: file.display().to_string(), source };
        private_folder(folder).map_err(|e| at(folder, e))?;
        let files = ["ca.crt", "ca.key", "token.key"].map(|name| folder.join(name));
        if !files[2].exists() {
            let fresh = Authority::generate()?;
            let contents = [fresh.certificate.as_bytes(), fresh.key.as_bytes(), &fresh.token_key];
            for (file, content) in files.iter().zip(contents) {
                private_file(file, content).map_err(|e| at(file, e))?;
            }
            return Ok(fresh);
        }
        let text = |file: &Path| std::fs::read_to_string(file).map_err(|e| at(file, e));
        Ok(Authority {
            certificate: text(&files[0])?,
            key: text(&files[1])?,
            token_key: std::fs::read(&files[2]).map_err(|e| at(&files[2], e))?,
        })
    }

    /// The authority's certificate, for those who verify us.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key that signs tokens (PKCS 8, DER).
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str, groups: &[&str]) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::default();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A certificate for our server under these names.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Pair, AuthorityError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params);
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// TLS for our listeners: clients may show a certificate of ours and need not.
    pub fn tls(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Arc<ServerConfig>, AuthorityError> {
        let pair = self.server(names, addresses)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build()?;
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?];
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn validity(params: &mut CertificateParams) {
    let year = i32::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + YEARS, 1, 1);
}

/// Whom a verified client certificate names: CN the user, O the groups.
pub fn subject(certificate: &[u8]) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(User::certified(name, groups))
}
