//! Following the trust bundle of the identity controller (`homarus_wire::trust`).
//!
//! A bundle is taken only from the server that the bundle in use verifies (or from the own pod, over loopback), and only if our
//! own leaf stands on it as well: whoever took another would shut itself out. What is refused is told and counted, and the
//! bundle in use stays. One that is taken is used at once, and kept in the identity folder for the next start.
//!
//! The stream's request says what we stand on. When that changes, the stream is opened again, and so the controller knows who
//! has followed, or why not. A controller that doesn't know the service (Linkerd's) is asked again now and then: it may be replaced.

use super::{Certify, Counter, Family, Half, Kind, Labels, TrustAnchors, wall_clock};
use crate::{
    config::TrustAnchorsSource,
    discover::{ConnectError, Control},
    net,
};
use homarus_identity::{Credential, anchors::BundleError, chain::ChainError, files, pem::PemError};
use homarus_wire::trust::{HEARTBEAT, MAX_REASON, TrustClient, TrustUpdate, WatchRequest};
use std::time::{Duration, SystemTime};
use tonic::{Code, Status};

/// A stream that says nothing for so long is dead.
const SILENCE: Duration = HEARTBEAT.saturating_mul(5).checked_div(2).expect("two is not zero");
/// How long connecting and the first answer may take.
const OPENING: Duration = Duration::from_secs(30);
/// How soon a stream is opened again that we ended ourselves, so that what changes together is reported together.
const SETTLE: Duration = Duration::from_millis(100);
/// How soon a controller is asked again that doesn't know the service.
const UNKNOWN_SERVICE: Duration = Duration::from_secs(300);
/// Failures in a row that are told at warning level, one in so many.
const TOLD_FAILURES: u32 = 10;

static UPDATES: Family = Family {
    name: "homarus_identity_trust_updates",
    help: "Trust bundles that the identity controller told this proxy and that were not in use, by what became of them",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Why a bundle isn't taken: the fault of whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the bundle is empty")]
    Empty,
    #[error(transparent)]
    Unreadable(BundleError),
    #[error("the own certificate doesn't stand on it: {0}")]
    Uncovered(#[from] ChainError),
}

/// What was told and isn't used.
#[derive(Debug)]
pub(super) struct Refused {
    bundle: String,
    why: String,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("what this proxy stands on has changed")]
    Changed,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the identity controller ends the stream: {:?}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("no word within {0:?}")]
    Silent(Duration),
}

/// What a told bundle is to whoever has these anchors and this certificate; none: the same.
pub(super) fn judge(
    told: &str,
    anchors: &TrustAnchors,
    own: Option<&Credential>,
    now: SystemTime,
) -> Result<Option<TrustAnchors>, Refusal> {
    let told = match TrustAnchors::from_pem(told) {
        Ok(told) => told,
        Err(BundleError::Pem(PemError::Empty)) => return Err(Refusal::Empty),
        Err(error) => return Err(Refusal::Unreadable(error)),
    };
    if told.fingerprint() == anchors.fingerprint() {
        return Ok(None);
    }
    if let Some(own) = own {
        own.is_covered(&told, now)?;
    }
    Ok(Some(told))
}

impl Certify {
    /// Follows until the process ends, from the first certificate on.
    pub(super) async fn follow_trust(&self, issuer: &Control) {
        let mut failures = 0;
        loop {
            if self.material.subscribe().wait_for(Option::is_some).await.is_err() {
                return;
            }
            let ended = self.listen(issuer, &mut failures).await;
            let wait = match &ended {
                Ended::Changed => SETTLE,
                Ended::Status(status) if status.code() == Code::Unimplemented => {
                    tracing::debug!("the identity controller tells of no trust bundles; those of the environment stay");
                    UNKNOWN_SERVICE
                }
                error => {
                    if failures % TOLD_FAILURES == TOLD_FAILURES - 1 {
                        tracing::warn!(%error, "the trust bundle can't be followed; the one in use stays");
                    } else {
                        tracing::debug!(%error, "the trust bundle can't be followed for now");
                    }
                    let wait = issuer.backoff(failures);
                    failures = failures.saturating_add(1);
                    wait
                }
            };
            net::sleep(wait).await;
        }
    }

    /// One stream, on a connection of its own.
    async fn listen(&self, issuer: &Control, failures: &mut u32) -> Ended {
        let (mut anchors, mut material, mut refused) =
            (self.anchors.subscribe(), self.material.subscribe(), self.refused.subscribe());
        let opening = async {
            let channel = issuer.connect().await?;
            Ok(TrustClient::new(channel).watch(self.standing()).await?.into_inner())
        };
        let mut stream = match net::timeout(OPENING, opening).await {
            Some(Ok(stream)) => stream,
            Some(Err(ended)) => return ended,
            None => return Ended::Silent(OPENING),
        };
        loop {
            let heard = tokio::select! {
                _ = anchors.changed() => return Ended::Changed,
                _ = material.changed() => return Ended::Changed,
                _ = refused.changed() => return Ended::Changed,
                heard = net::timeout(SILENCE, stream.message()) => heard,
            };
            match heard {
                Some(Ok(Some(update))) => {
                    *failures = 0;
                    self.hear(update);
                }
                Some(Ok(None)) => return Ended::Status(Status::unavailable("it is over")),
                Some(Err(status)) => return Ended::Status(status),
                None => return Ended::Silent(SILENCE),
            }
        }
    }

    /// What we stand on, as the controller counts it.
    pub(super) fn standing(&self) -> WatchRequest {
        WatchRequest {
            workload: self.config.workload.clone(),
            instance: self.config.instance.clone(),
            bundle: self.anchors.borrow().fingerprint(),
            issuer: self.material.borrow().as_ref().and_then(|m| m.credential.issuer()).unwrap_or_default(),
            refused: self.refused.borrow().as_ref().map(|refused| refused.why.clone()).unwrap_or_default(),
        }
    }

    /// Does what the controller says.
    pub(super) fn hear(&self, update: TrustUpdate) {
        let TrustUpdate { bundle, issuer } = update;
        let taken = self.taken.get_or_init(|| self.updates("adopted"));
        // The mark first: it may be heard only once if the bundle ends this stream.
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, issuer.clone()) != issuer);
        // A file of anchors is the operator's word, and followed by itself.
        if matches!(self.config.trust_anchors, TrustAnchorsSource::File(_)) {
            return;
        }
        let own = self.material.borrow().as_ref().map(|m| m.credential.clone());
        let judged = judge(&bundle, &self.anchors.borrow(), own.as_ref(), wall_clock());
        match judged {
            Ok(None) => self.accept(),
            Ok(Some(anchors)) => {
                self.accept();
                taken.inc();
                self.keep(&anchors);
                self.adopt(anchors);
            }
            Err(refusal) => self.refuse(bundle, &refusal),
        }
    }

    fn accept(&self) {
        self.refused.send_if_modified(|refused| refused.take().is_some());
    }

    /// Said once, however often it is told.
    fn refuse(&self, bundle: String, refusal: &Refusal) {
        if self.refused.borrow().as_ref().is_some_and(|refused| refused.bundle == bundle) {
            return;
        }
        self.updates("refused").inc();
        tracing::error!(%refusal, "the trust bundle of the identity controller is refused; the one before stays in use");
        let mut why = refusal.to_string();
        why.truncate(why.floor_char_boundary(MAX_REASON));
        self.refused.send_replace(Some(Refused { bundle, why }));
    }

    fn updates(&self, result: &'static str) -> Counter {
        self.registry.counter(&UPDATES, Labels::new().with("result", result))
    }

    /// A restarted container has the same environment as this one, which is older than what was told.
    fn keep(&self, anchors: &TrustAnchors) {
        if let Err(error) = files::keep_anchors(&self.config.dir, anchors, &self.environment) {
            tracing::warn!(%error, "the trust bundle isn't kept; a restarted proxy has to hear it again");
        }
    }
}
