//! The serving certificate of the moment: from files that are followed while they change, or given by whoever makes it
//! ([`managed`](super::managed)).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use homarus_daemon::drain::Drain;
use homarus_daemon::watch_files::{WatchedFiles, read};
use homarus_identity::{Key, pem};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

/// The files of a serving certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    /// As a Secret of type `kubernetes.io/tls` is mounted.
    pub(crate) fn of_folder(folder: &Path) -> Self {
        Self { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
    }
}

/// The certificate of the moment; always one that fits its key. None until there is one: then no handshake succeeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServingCertificate(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl ServingCertificate {
    /// Reads certificate and key; at the start they must be good.
    pub(crate) fn load(files: &Files) -> anyhow::Result<Self> {
        let (crt, key) = (read(&files.certificate)?, read(&files.key)?);
        let what = || format!("the certificate in {} can't be used", files.certificate.display());
        let certified = certified(&crt, &key).with_context(what)?;
        Ok(Self(Arc::new(RwLock::new(Some(Arc::new(certified))))))
    }

    /// Puts new certificates into use as they appear, unless they are bad: then the old one stays.
    pub(crate) async fn follow(self, files: Files, mut drain: Drain) {
        let mut watched = WatchedFiles::new([files.certificate, files.key]);
        // What is there now counts as seen only if it is what is in use.
        if let Ok(contents) = watched.read() {
            self.replace(&contents);
        }
        loop {
            tokio::select! {
                () = drain.signaled() => return,
                contents = watched.changed() => self.replace(&contents),
            }
        }
    }

    fn replace(&self, contents: &[Vec<u8>]) {
        let [crt, key] = contents else { return };
        if let Err(error) = self.put(crt, key) {
            warn!(%error, "skipping a bad serving certificate: the old one stays");
        }
    }

    /// Puts a certificate into use, unless it is bad or already there.
    pub(super) fn put(&self, crt: &[u8], key: &[u8]) -> anyhow::Result<()> {
        let new = certified(crt, key)?;
        let mut current = self.0.write();
        if current.as_ref().is_none_or(|current| current.cert != new.cert) {
            *current = Some(Arc::new(new));
            info!("updated serving certificate");
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.read().is_none()
    }

    pub(super) fn config(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

pub(super) fn certified(crt: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
    let chain = pem::certificates(std::str::from_utf8(crt).context("tls.crt is not text")?)?;
    let key = Key::from_pem(std::str::from_utf8(key).context("tls.key is not text")?)?;
    let certified = CertifiedKey::new(chain, key.signing_key());
    certified.keys_match().context("tls.crt and tls.key don't belong together")?;
    Ok(certified)
}
