//! Getting a certificate, and the next one in time (proxy-wire §5).
//!
//! The key is made here if nobody made it, and never leaves. The token is read anew for each request. A leaf is used only
//! if our own peers would believe it: it must chain to our anchors, carry our name, and fit our key.
//!
//! Trust anchors may come from a file, which is looked at again and again: a bundle that changes is used at once, and a
//! leaf asked for that goes with it; one that can't be read is told and not used. Otherwise they come from the environment,
//! and from then on from the identity controller (`trust`), if it tells of them.

mod trust;

#[cfg(test)]
mod tests;

use self::trust::Refused;
use super::Material;
use crate::{
    config::{Identity, TrustAnchorsSource},
    discover::{ConnectError, Control},
    net,
    observe::{
        Counter, Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use homarus_identity::{
    Credential, TrustAnchors, anchors::BundleError, credential, credential::CredentialError, files, files::FileError, pem,
};
use homarus_wire::api::identity::{CertifyRequest, CertifyResponse, identity_client::IdentityClient};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, watch};

/// How often a file of trust anchors is looked at.
const ANCHORS_POLL: Duration = Duration::from_secs(5);
/// Those whose leaf was signed by another than who signs now come for the next within this time.
const RENEWAL_SPREAD: Duration = Duration::from_secs(5);
/// A request for a certificate is given up after this long, connecting included.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest token that is read; an ordinary one has a kilobyte.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// While there is no certificate, an operator is reminded of it this often.
const REMINDER: Duration = Duration::from_secs(15);

static REFRESHES: Family = Family {
    name: "control_identity_cert_refreshes",
    help: "The total number of times this proxy's mTLS identity certificate has been refreshed",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Why the proxy can't have an identity at all: the fault of its manifest.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The files of the key.
    #[error(transparent)]
    Files(#[from] FileError),
    /// No trust anchor can be used.
    #[error(transparent)]
    Anchors(#[from] BundleError),
    /// The file of trust anchors can't be read.
    #[error("failed to read the trust anchors {0}: {1}")]
    AnchorsFile(PathBuf, io::Error),
}

/// Why there is no new certificate. It is tried again.
#[derive(Debug, thiserror::Error)]
enum CertifyError {
    #[error("failed to read the token {0}: {1}")]
    Token(PathBuf, io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the identity controller refuses: {:?}: {}", .0.code(), .0.message())]
    Refused(tonic::Status),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("no certificate within {0:?}")]
    Timeout(Duration),
}

/// What whoever needs an identity listens to.
#[derive(Debug, Clone)]
pub struct Certified {
    /// Whom we believe.
    pub anchors: watch::Receiver<TrustAnchors>,
    /// Who we are and whom we believe; none before the first certificate.
    pub material: watch::Receiver<Option<Material>>,
    /// When certificates came and end.
    pub times: Arc<Times>,
}

/// When the last certificate came, and when it ends, for the metrics.
#[derive(Debug, Default)]
pub struct Times {
    expiration: AtomicU64,
    refresh: AtomicU64,
}

impl Times {
    /// Seconds since the epoch of the last certificate's end and coming; 0 before the first.
    pub fn seconds(&self) -> (f64, f64) {
        let of = |cell: &AtomicU64| f64::from_bits(cell.load(Relaxed));
        (of(&self.expiration), of(&self.refresh))
    }

    fn set(&self, expiration: SystemTime, now: SystemTime) {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().to_bits();
        self.expiration.store(seconds(expiration), Relaxed);
        self.refresh.store(seconds(now), Relaxed);
    }
}

/// Gets certificates, for as long as it runs.
#[derive(Debug)]
pub struct Certify {
    config: Identity,
    files: files::Files,
    /// The anchors of the environment.
    environment: TrustAnchors,
    anchors: watch::Sender<TrustAnchors>,
    material: watch::Sender<Option<Material>>,
    /// Who signs leaves now, as the controller says; empty: not known.
    wanted: watch::Sender<String>,
    /// A leaf is wanted at once.
    renew: Notify,
    /// The bundle that was refused last, unless one was taken since; the controller is told.
    refused: watch::Sender<Option<Refused>>,
    /// Bundles that were taken. There from the first word on, and for as long as this runs: it tells that this proxy follows.
    taken: OnceLock<Counter>,
    times: Arc<Times>,
    registry: Registry,
}

impl Certify {
    /// Reads the key, or makes it, and the trust anchors.
    pub fn prepare(config: Identity, registry: Registry) -> Result<(Self, Certified), StartError> {
        let text = match &config.trust_anchors {
            TrustAnchorsSource::Text(text) => text.to_string(),
            TrustAnchorsSource::File(path) => {
                read_bounded(path, pem::MAX_PEM_BYTES as u64).map_err(|e| StartError::AnchorsFile(path.clone(), e))?
            }
        };
        let (environment, left_out) = TrustAnchors::from_pem_lossy(&text)?;
        for error in left_out {
            tracing::warn!(%error, "a trust anchor is not used");
        }
        let files = files::ensure(&config.dir, &config.name)?;
        let kept = match config.trust_anchors {
            TrustAnchorsSource::Text(_) => files::kept_anchors(&config.dir, &environment).unwrap_or_else(|error| {
                tracing::warn!(%error, "trust anchors that were kept can't be read; the environment's are used");
                None
            }),
            TrustAnchorsSource::File(_) => None,
        };
        if let Some(kept) = &kept {
            tracing::info!(sha256 = %kept.fingerprint(), "trust anchors that were kept take the place of the environment's");
        }
        let (anchors, anchors_rx) = watch::channel(kept.unwrap_or_else(|| environment.clone()));
        let (material, material_rx) = watch::channel(None);
        let times = Arc::new(Times::default());
        let certified = Certified { anchors: anchors_rx, material: material_rx, times: times.clone() };
        let (wanted, renew, refused) = (watch::channel(String::new()).0, Notify::new(), watch::channel(None).0);
        let taken = OnceLock::new();
        Ok((Self { config, files, environment, anchors, material, wanted, renew, refused, taken, times, registry }, certified))
    }

    /// Asks `issuer` for certificates until the process ends.
    pub async fn run(self, issuer: Control) {
        tokio::join!(self.refresh(&issuer), self.watch_anchors(), self.follow_trust(&issuer), self.remind());
    }

    async fn refresh(&self, issuer: &Control) {
        loop {
            self.once(issuer).await;
            self.until_due().await;
        }
    }

    /// Waits until the next certificate is to be asked for.
    async fn until_due(&self) {
        let asked = net::now();
        let expiry = self.material.borrow().as_ref().map(|m| m.credential.expiry());
        let (min, max) = (self.config.min_refresh, self.config.max_refresh);
        let due = asked + credential::refresh_in(expiry, wall_clock(), min, max);
        let mut wanted = self.wanted.subscribe();
        loop {
            let at = match self.is_signed_by_another(&wanted.borrow_and_update()) {
                // Not all at once, and not again and again while the controllers don't agree.
                true => (asked + min).max(net::now() + RENEWAL_SPREAD.mul_f64(rand::random())).min(due),
                false => due,
            };
            tokio::select! {
                () = net::sleep(at.saturating_duration_since(net::now())) => return,
                () = self.renew.notified() => return,
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether our leaf is of an issuer that isn't the one of now.
    fn is_signed_by_another(&self, wanted: &str) -> bool {
        let own = self.material.borrow().as_ref().and_then(|m| m.credential.issuer());
        !wanted.is_empty() && own.is_some_and(|own| own != wanted)
    }

    async fn once(&self, issuer: &Control) {
        let certified = net::timeout(CERTIFY_TIMEOUT, self.certify(issuer)).await;
        let result = match certified.unwrap_or(Err(CertifyError::Timeout(CERTIFY_TIMEOUT))) {
            Ok(Material { credential, anchors }) => {
                let first = self.material.borrow().is_none();
                self.times.set(credential.expiry(), wall_clock());
                let id = credential.identity().clone();
                self.material.send_replace(Some(Material { credential, anchors }));
                if first {
                    tracing::info!(%id, "Certified identity");
                } else {
                    tracing::debug!(%id, "certificate renewed");
                }
                "ok"
            }
            Err(error) => {
                tracing::error!(%error, "Failed to obtain identity");
                "error"
            }
        };
        self.registry.counter(&REFRESHES, Labels::new().with("result", result)).inc();
    }

    /// One request, on a connection of its own.
    async fn certify(&self, issuer: &Control) -> Result<Material, CertifyError> {
        let path = &self.config.token_file;
        let token = read_bounded(path, MAX_TOKEN_BYTES).map_err(|e| CertifyError::Token(path.clone(), e))?;
        let request = CertifyRequest {
            token: token.into_bytes(),
            identity: self.config.server_name.to_string(),
            certificate_signing_request: self.files.csr.clone(),
        };
        let mut failures = 0;
        let channel = loop {
            match issuer.connect().await {
                Ok(channel) => break channel,
                // It may be starting just now, as we are. The time limit is around this.
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "failed to connect to the identity controller; it is tried again");
                    }
                    net::sleep(issuer.backoff(failures)).await;
                    failures += 1;
                }
            }
        };
        let response = IdentityClient::new(channel).certify(request).await.map_err(CertifyError::Refused)?;
        let CertifyResponse { leaf_certificate, intermediate_certificates, .. } = response.into_inner();
        let key = &self.files.key;
        let (now, name) = (wall_clock(), &self.config.name);
        // Those of now: they may have changed while we waited.
        let anchors = self.anchors.borrow().clone();
        let credential = Credential::verified(name, key, leaf_certificate, intermediate_certificates, &anchors, now)?;
        Ok(Material { credential, anchors })
    }

    /// Looks at the file of trust anchors, if they come from one.
    async fn watch_anchors(&self) {
        let TrustAnchorsSource::File(path) = &self.config.trust_anchors else { return };
        let mut refused = None;
        loop {
            net::sleep(ANCHORS_POLL).await;
            let text = match read_bounded(path, pem::MAX_PEM_BYTES as u64) {
                Ok(text) => text,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "failed to read the trust anchors; those before stay in use");
                    continue;
                }
            };
            if text == self.anchors.borrow().pem() || refused.as_ref() == Some(&text) {
                continue;
            }
            refused = match TrustAnchors::from_pem(&text) {
                Ok(anchors) => {
                    self.adopt(anchors);
                    // A leaf of a new issuer may be needed, and the old one's peers may not believe us any longer.
                    self.renew.notify_one();
                    None
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "new trust anchors can't be used; those before stay in use");
                    Some(text)
                }
            };
        }
    }

    /// Uses a new bundle, at once and everywhere: our own leaf goes on until the next has come.
    fn adopt(&self, anchors: TrustAnchors) {
        tracing::info!(sha256 = %anchors.fingerprint(), count = anchors.certificates().len(), "trust anchors changed");
        self.material.send_if_modified(|material| {
            if let Some(material) = material {
                material.anchors = anchors.clone();
            }
            material.is_some()
        });
        self.anchors.send_replace(anchors);
    }

    async fn remind(&self) {
        let mut material = self.material.subscribe();
        while net::timeout(REMINDER, material.wait_for(Option::is_some)).await.is_none() {
            tracing::warn!("Waiting for identity to be initialized...");
        }
    }
}

/// By what certificates begin and end.
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Reads a text file that isn't larger than it may be.
fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    match text.len() as u64 {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty")),
        n if n > limit => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes"))),
        _ => Ok(text),
    }
}
