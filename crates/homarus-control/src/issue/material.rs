//! Issuer and anchors as they are mounted, followed while they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use homarus_daemon::drain::Drain;
use homarus_daemon::watch_files::{ReadError, WatchedFiles};
use homarus_identity::anchors::BundleError;
use homarus_identity::issuer::{IssuerError, Validity};
use homarus_identity::{Issuer, TrustAnchors};
use homarus_wire::trust::TrustUpdate;
use tokio::sync::watch;
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

/// Why the material can't be used.
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

/// An issuer, and the roots to believe, on which it stands.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) issuer: Arc<Issuer>,
    pub(super) anchors: TrustAnchors,
}

impl InForce {
    /// Reads both, and verifies that they belong together.
    pub(super) fn read(certificate: &str, key: &str, anchors: &str, validity: Validity) -> Result<Self, MaterialError> {
        let anchors = TrustAnchors::from_pem(anchors)?;
        let issuer = Arc::new(Issuer::from_pem(certificate, key, &anchors, validity, SystemTime::now())?);
        Ok(Self { issuer, anchors })
    }

    /// What proxies are told.
    pub(super) fn update(&self) -> TrustUpdate {
        TrustUpdate { bundle: self.anchors.pem().to_owned(), issuer: self.issuer.certificate().fingerprint() }
    }
}

/// What is in force at the moment; always something that was verified.
pub(super) type Current = watch::Receiver<InForce>;

/// What is mounted, and what of it is in use.
#[derive(Debug)]
pub(super) struct Material {
    files: WatchedFiles,
    validity: Validity,
    current: watch::Sender<InForce>,
}

impl Material {
    /// Reads everything; at the start nothing may be wrong.
    pub(super) fn load(sources: Sources, validity: Validity) -> Result<Self, MaterialError> {
        let mut files = WatchedFiles::new([sources.certificate, sources.key, sources.anchors]);
        let current = watch::channel(read(&files.read()?, validity)?).0;
        Ok(Self { files, validity, current })
    }

    pub(super) fn current(&self) -> Current {
        self.current.subscribe()
    }

    /// Puts new material into use as it appears, unless it is bad: then the old stays.
    pub(super) async fn follow(mut self, log: Log, mut drain: Drain) {
        loop {
            let contents = tokio::select! {
                () = drain.signaled() => return,
                contents = self.files.changed() => contents,
            };
            match read(&contents, self.validity) {
                Ok(new) => {
                    info!(subject = new.issuer.certificate().subject, "updated identity issuer");
                    self.current.send_replace(new);
                    log.issuer_updated();
                }
                Err(error) => log.update_skipped(&error),
            }
        }
    }
}

fn read(contents: &[Vec<u8>], validity: Validity) -> Result<InForce, MaterialError> {
    let names = ["the issuer certificate", "the issuer key", "the trust anchor file"];
    let text = |i: usize| {
        let bytes = contents.get(i).map(Vec::as_slice).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| MaterialError::NotText(names[i]))
    };
    InForce::read(text(0)?, text(1)?, text(2)?, validity)
}
