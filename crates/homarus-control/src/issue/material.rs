//! Issuer and anchors as they are mounted, followed while they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use homarus_daemon::drain::Drain;
use homarus_daemon::watch_files::{ReadError, WatchedFiles};
use homarus_identity::anchors::BundleError;
use homarus_identity::issuer::{IssuerError, Validity};
use homarus_identity::{Issuer, TrustAnchors};
use parking_lot::RwLock;
use tracing::info;

use super::service::Log;

/// The scheme whose Secret was made by Linkerd's own chart.
const SCHEME_LINKERD: &str = "linkerd.io/tls";

/// Where issuer and anchors are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    certificate: PathBuf,
    key: PathBuf,
    anchors: PathBuf,
}

impl Sources {
    pub(super) fn new(issuer: &Path, scheme: &str, anchors: &Path) -> Self {
        let (certificate, key) = match scheme {
            SCHEME_LINKERD => ("crt.pem", "key.pem"),
            _ => ("tls.crt", "tls.key"),
        };
        Self { certificate: issuer.join(certificate), key: issuer.join(key), anchors: anchors.to_owned() }
    }
}

/// Why the mounted material can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum MaterialError {
    #[error("{0}; is the Secret or ConfigMap there?")]
    Read(#[from] ReadError),
    #[error("{0} is not text")]
    NotText(&'static str),
    #[error(transparent)]
    Anchors(#[from] BundleError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// The issuer of the moment; always one that was verified.
pub(super) type Current = Arc<RwLock<Arc<Issuer>>>;

/// What is mounted, and what of it is in use.
#[derive(Debug)]
pub(super) struct Material {
    files: WatchedFiles,
    validity: Validity,
    current: Current,
}

impl Material {
    /// Reads everything; at the start nothing may be wrong.
    pub(super) fn load(sources: Sources, validity: Validity, now: SystemTime) -> Result<Self, MaterialError> {
        let mut files = WatchedFiles::new([sources.certificate, sources.key, sources.anchors]);
        let issuer = read(&files.read()?, validity, now)?;
        Ok(Self { files, validity, current: Arc::new(RwLock::new(Arc::new(issuer))) })
    }

    pub(super) fn current(&self) -> Current {
        Arc::clone(&self.current)
    }

    /// Puts new material into use as it appears, unless it is bad: then the old stays.
    pub(super) async fn follow(mut self, log: Log, mut drain: Drain) {
        loop {
            let contents = tokio::select! {
                () = drain.signaled() => return,
                contents = self.files.changed() => contents,
            };
            match read(&contents, self.validity, SystemTime::now()) {
                Ok(issuer) => {
                    info!(subject = issuer.certificate().subject, "updated identity issuer");
                    *self.current.write() = Arc::new(issuer);
                    log.issuer_updated();
                }
                Err(error) => log.update_skipped(&error),
            }
        }
    }
}

fn read(contents: &[Vec<u8>], validity: Validity, now: SystemTime) -> Result<Issuer, MaterialError> {
    let names = ["the issuer certificate", "the issuer key", "the trust anchor file"];
    let text = |i: usize| {
        let bytes = contents.get(i).map(Vec::as_slice).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| MaterialError::NotText(names[i]))
    };
    let anchors = TrustAnchors::from_pem(text(2)?)?;
    Ok(Issuer::from_pem(text(0)?, text(1)?, &anchors, validity, now)?)
}
