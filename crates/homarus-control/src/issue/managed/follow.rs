//! What every replica does: serve what the objects say now, and while roots change say whom it serves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use futures::StreamExt;
use homarus_daemon::drain::Drain;
use homarus_identity::issuer::Validity;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::fleet::{self, Seen};
use super::store::{BUNDLE, ISSUER, Store, text};
use crate::issue::followers::Followers;
use crate::issue::material::{Current, InForce};
use crate::issue::service::Log;

/// How often whom we serve is looked at while roots change.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is written down at least, so that it counts.
const RENEW: Duration = Duration::from_secs(20);

/// Waits for what is in force first, and follows it from then on.
pub(super) async fn first(store: &Store, validity: Validity, log: Log, mut drain: Drain) -> anyhow::Result<Current> {
    let (publish, mut published) = watch::channel(None);
    tokio::spawn(follow(store.clone(), validity, log, publish, drain.clone()));
    let first = tokio::select! {
        () = drain.signaled() => bail!("asked to end before there was an issuer"),
        first = published.wait_for(Option::is_some) => first.ok().and_then(|first| (*first).clone()),
    };
    let Some(first) = first else { bail!("the objects of root and issuer are no longer followed") };
    let (current, receiver) = watch::channel(first);
    tokio::spawn(async move {
        while published.changed().await.is_ok() {
            if let Some(new) = published.borrow_and_update().clone() {
                current.send_replace(new);
            }
        }
    });
    Ok(receiver)
}

/// Publishes issuer and bundle whenever both are there and belong together. What was before stays until then.
async fn follow(store: Store, validity: Validity, log: Log, publish: watch::Sender<Option<InForce>>, mut drain: Drain) {
    let mut secrets = watcher::watch_object(store.secrets.clone(), ISSUER).default_backoff().boxed();
    let mut maps = watcher::watch_object(store.maps.clone(), BUNDLE).default_backoff().boxed();
    let (mut secret, mut map): (Option<Secret>, Option<ConfigMap>) = (None, None);
    loop {
        tokio::select! {
            () = drain.signaled() => return,
            next = secrets.next() => match next {
                Some(Ok(next)) => secret = next,
                Some(Err(error)) => { debug!(%error, "Secret {ISSUER} can't be watched for now"); continue }
                None => return,
            },
            next = maps.next() => match next {
                Some(Ok(next)) => map = next,
                Some(Err(error)) => { debug!(%error, "ConfigMap {BUNDLE} can't be watched for now"); continue }
                None => return,
            },
        }
        let (Some(secret), Some(bundle)) = (&secret, map.as_ref().and_then(|map| map.data.as_ref()?.get("ca-bundle.crt"))) else {
            continue;
        };
        match InForce::read(&text(secret, "crt.pem"), &text(secret, "key.pem"), bundle, validity) {
            Ok(new) => put(&publish, new, &log),
            // Between two steps, one of both may be ahead: the next change completes it.
            Err(error) if publish.borrow().is_some() => warn!(%error, "issuer and roots don't belong together; those before stay"),
            Err(error) => debug!(%error, "issuer and roots aren't complete yet"),
        }
    }
}

fn put(publish: &watch::Sender<Option<InForce>>, new: InForce, log: &Log) {
    let (issuer, bundle) = (new.issuer.certificate().fingerprint(), new.anchors.fingerprint());
    let before = publish.borrow().as_ref().map(|old| (old.issuer.certificate().fingerprint(), old.anchors.fingerprint()));
    info!(issuer, bundle, roots = new.anchors.certificates().len(), "identity issuer and roots");
    publish.send_replace(Some(new));
    if before.is_some_and(|(old, _)| old != issuer) {
        log.issuer_updated();
    }
}

/// Writes down whom this replica serves, for as long as there is more than one root to believe. It stays when this replica ends,
/// as its subscribers come back elsewhere before it is stale; the leader takes it away then.
pub(super) async fn tell(store: Store, current: Current, followers: Followers, mut drain: Drain) {
    let replica = std::env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
    let (mut written, mut failing): (Option<Seen>, bool) = (None, false);
    let mut full = false;
    loop {
        tokio::select! {
            () = drain.signaled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let changing = current.borrow().anchors.certificates().len() > 1;
        let seen = changing.then(|| Seen::new(&fleet::said(followers.standings()), now));
        full = warn_of_unnamed(seen.as_ref().map_or(0, |seen| seen.unnamed), full);
        let due = match (&seen, &written) {
            (None, None) => false,
            (Some(new), Some(old)) => !new.same(old) || new.at > old.at + RENEW.as_secs(),
            _ => true,
        };
        if !due {
            continue;
        }
        let text = seen.as_ref().and_then(|seen| serde_json::to_string(seen).ok());
        match store.write_seen(&replica, text.as_deref()).await {
            Ok(()) => (written, failing) = (seen, false),
            // Its proxies aren't known to the leader: the old root is kept.
            Err(error) if !std::mem::replace(&mut failing, true) => {
                warn!(%error, "whom this replica serves can't be written down; it is tried again, and a rotation waits for it");
            }
            Err(error) => debug!(%error, "whom this replica serves still can't be written down"),
        }
    }
}

/// Says once that there are followers whom nobody hears of.
fn warn_of_unnamed(unnamed: usize, told: bool) -> bool {
    if unnamed > 0 && !told {
        warn!(unnamed, "more followers than can be written down; a rotation takes those for proxies that can't follow");
    }
    unnamed > 0
}
