//! Who follows: `io.homarus.identity.Trust/Watch`, and what its subscribers say they stand on.
//!
//! A subscriber is a pod, by its uid. What it says of itself is believed if the proxy in front of us has verified that it is
//! of the service account that it would have to be; otherwise it is told everything, but not counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::{Stream, StreamExt};
use homarus_daemon::drain::Drain;
use homarus_wire::trust::{HEARTBEAT, Trust, TrustUpdate, Updates, WatchRequest};
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};
use tonic::{Request, Status};

use super::material::Current;

/// What the proxy in front of us says about who asks.
const CLIENT_ID: &str = "l5d-client-id";
/// Subscribers that are remembered, those that just left included.
const MAX_FOLLOWERS: usize = 200_000;
/// How long one is remembered whose stream has ended: it opens another when what it stands on has changed.
const LINGER: Duration = Duration::from_secs(60);

/// What a follower said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The fingerprint of its bundle.
    pub(super) bundle: String,
    /// The fingerprint of its leaf's signer.
    pub(super) issuer: String,
    /// Its identity, as it was verified; none: it showed none.
    pub(super) identity: Option<String>,
    /// When it said so, in milliseconds since the epoch: it may have said something else to another replica.
    pub(super) at: u64,
}

#[derive(Debug)]
struct Follower {
    standing: Standing,
    streams: usize,
    left: Option<Instant>,
}

/// The subscribers of this replica, by the uid of their pod. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers(Arc<Mutex<HashMap<String, Follower>>>);

impl Followers {
    /// Notes what a subscriber stands on, until the guard is dropped and a while longer.
    fn enter(&self, instance: &str, standing: Standing) -> Option<Present> {
        let mut all = self.0.lock();
        if all.len() >= MAX_FOLLOWERS && !all.contains_key(instance) {
            return None;
        }
        let follower =
            all.entry(instance.to_owned()).or_insert_with(|| Follower { standing: standing.clone(), streams: 0, left: None });
        (follower.standing, follower.left) = (standing, None);
        follower.streams += 1;
        Some(Present { followers: self.clone(), instance: instance.to_owned() })
    }

    /// What all of them stand on, by the uid of their pod.
    pub(super) fn standings(&self) -> HashMap<String, Standing> {
        let mut all = self.0.lock();
        all.retain(|_, follower| follower.left.is_none_or(|left| left.elapsed() < LINGER));
        all.iter().map(|(instance, follower)| (instance.clone(), follower.standing.clone())).collect()
    }

    /// How many there are, and how many of them stand on this bundle.
    pub(super) fn count(&self, bundle: &str) -> (usize, usize) {
        let all = self.0.lock();
        let here = all.values().filter(|follower| follower.streams > 0);
        here.fold((0, 0), |(all, same), follower| (all + 1, same + usize::from(follower.standing.bundle == bundle)))
    }
}

/// A subscriber whose stream is open.
struct Present {
    followers: Followers,
    instance: String,
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(follower) = self.followers.0.lock().get_mut(&self.instance) {
            follower.streams -= 1;
            if follower.streams == 0 {
                follower.left = Some(Instant::now());
            }
        }
    }
}

/// Tells subscribers what is in force.
pub(super) struct Teller {
    current: Current,
    followers: Followers,
    drain: Drain,
}

impl Teller {
    pub(super) fn new(current: Current, followers: Followers, drain: Drain) -> Self {
        Self { current, followers, drain }
    }
}

impl Trust for Teller {
    fn watch(&self, request: Request<WatchRequest>) -> Result<Updates, Status> {
        let identity = request.metadata().get(CLIENT_ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let WatchRequest { instance, bundle, issuer, .. } = request.into_inner();
        let present = match instance.as_str() {
            "" => None,
            instance => {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let standing = Standing { bundle, issuer, identity, at: at.try_into().unwrap_or_default() };
                self.followers.enter(instance, standing)
            }
        };
        let mut drain = self.drain.clone();
        let until = async move { drain.signaled().await };
        Ok(Box::pin(updates(self.current.clone(), present).take_until(until)))
    }
}

/// What is in force now, whenever that changes, and every [`HEARTBEAT`].
fn updates(current: Current, present: Option<Present>) -> impl Stream<Item = Result<TrustUpdate, Status>> + Send {
    futures::stream::unfold((current, present, false), |(mut current, present, told)| async move {
        if told && let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, current.changed()).await {
            return None;
        }
        let update = current.borrow_and_update().update();
        Some((Ok(update), (current, present, true)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn standing(bundle: &str) -> Standing {
        Standing { bundle: bundle.into(), issuer: "i".into(), identity: None, at: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_back_in_time_was_never_away() {
        let followers = Followers::default();
        let old = followers.enter("a", standing("old")).unwrap();
        let other = followers.enter("b", standing("new")).unwrap();
        assert_eq!(followers.count("new"), (2, 1));
        // It opens the next stream before the one before has ended, or after.
        let new = followers.enter("a", standing("new")).unwrap();
        drop(old);
        assert_eq!(followers.count("new"), (2, 2));
        drop((new, other));
        assert_eq!((followers.count("new"), followers.standings().len()), ((0, 0), 2));
        tokio::time::advance(LINGER / 2).await;
        let back = followers.enter("a", standing("new")).unwrap();
        tokio::time::advance(LINGER / 2).await;
        assert_eq!(followers.standings().into_keys().collect::<Vec<_>>(), ["a"]);
        drop(back);
    }
}
