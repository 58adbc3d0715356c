//! Who follows: `io.homarus.identity.Trust/Watch`, and what its subscribers say they stand on.
//!
//! A subscriber is a pod, by its uid and by the identity that the proxy in front of us has verified: what it says of itself is
//! believed if that is of the service account that the pod has, so nobody speaks for another's. Only the proxy in front of us
//! itself shows no identity, over loopback. Whoever else shows none is told everything, but not counted.
//!
//! Anybody may ask, before anything was verified: what is remembered of each is bounded in length and in number, and forgotten. Nor
//! does one service account take the place of others: its pods are bounded as well. Whoever isn't remembered is told everything all
//! the same, and a rotation takes it for one that can't follow.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::{Stream, StreamExt};
use homarus_daemon::drain::Drain;
use homarus_wire::trust::{HEARTBEAT, MAX_REASON, Trust, TrustUpdate, Updates, WatchRequest};
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};
use tonic::{Request, Status};
use tracing::warn;

use super::material::Current;

/// What the proxy in front of us says about who asks.
const CLIENT_ID: &str = "l5d-client-id";
/// Subscribers that are remembered, those that just left included.
const MAX_FOLLOWERS: usize = 200_000;
/// The same of one identity: pods of one service account, such as those of a DaemonSet on all nodes of the largest clusters.
const MAX_OF_IDENTITY: usize = 10_000;
/// What is remembered of a subscriber: a uid has 36 bytes and a fingerprint 64; an identity is a DNS name.
const MAX_FIELD: usize = 64;
const MAX_IDENTITY: usize = 253;
/// How long one is remembered whose stream has ended: it opens another when what it stands on has changed.
const LINGER: Duration = Duration::from_secs(60);
/// How often the log tells of proxies of one identity that refuse: what they say is theirs to change.
const QUIET: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subscriber {
    /// The uid of its pod, as it says.
    pub(super) instance: String,
    /// Its identity, as it was verified; none: the proxy in front of us.
    pub(super) identity: Option<String>,
}

/// What a follower said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The fingerprint of its bundle.
    pub(super) bundle: String,
    /// The fingerprint of its leaf's signer.
    pub(super) issuer: String,
    /// Why it refuses the bundle that it was told last; empty: it doesn't.
    pub(super) refused: String,
    /// When it said so, in milliseconds since the epoch: it may have said something else to another replica.
    pub(super) at: u64,
}

#[derive(Debug)]
struct Follower {
    standing: Standing,
    streams: usize,
    left: Option<Instant>,
}

/// The subscribers of this replica. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    all: HashMap<Subscriber, Follower>,
    /// How many there are of each identity.
    of: HashMap<Option<String>, usize>,
    /// When the log told of a refusal of each identity.
    told: HashMap<Option<String>, Instant>,
    swept: Option<Instant>,
}

impl Remembered {
    /// Forgets who left and didn't come back.
    fn sweep(&mut self) {
        self.all.retain(|_, follower| follower.left.is_none_or(|left| left.elapsed() < LINGER));
        self.of.clear();
        for Subscriber { identity, .. } in self.all.keys() {
            match self.of.get_mut(identity) {
                Some(number) => *number += 1,
                None => drop(self.of.insert(identity.clone(), 1)),
            }
        }
        self.told.retain(|_, last| last.elapsed() < QUIET);
        self.swept = Some(Instant::now());
    }

    /// Whether the log is to tell that a subscriber refuses for this reason: if it is another than before, and not too often.
    fn is_news(&mut self, Subscriber { identity, .. }: &Subscriber, before: &str, refused: &str) -> bool {
        let now = Instant::now();
        let news = !refused.is_empty()
            && before != refused
            && self.told.get(identity).is_none_or(|last| now.duration_since(*last) >= QUIET);
        if news {
            self.told.insert(identity.clone(), now);
        }
        news
    }

    /// Whether another subscriber of this identity can be remembered.
    fn has_room(&self, identity: &Option<String>) -> bool {
        self.all.len() < MAX_FOLLOWERS && self.of.get(identity).is_none_or(|number| *number < MAX_OF_IDENTITY)
    }
}

impl Followers {
    /// Notes what a subscriber stands on, until the guard is dropped and a while longer.
    fn enter(&self, subscriber: Subscriber, standing: Standing) -> Option<Present> {
        let mut remembered = self.0.lock();
        if remembered.swept.is_none_or(|last| last.elapsed() >= LINGER) {
            remembered.sweep();
        }
        let before = remembered.all.get(&subscriber).map(|follower| follower.standing.refused.clone());
        let known = before.is_some();
        if !known && !remembered.has_room(&subscriber.identity) {
            return None;
        }
        if !known {
            *remembered.of.entry(subscriber.identity.clone()).or_default() += 1;
        }
        if remembered.is_news(&subscriber, &before.unwrap_or_default(), &standing.refused) {
            let Subscriber { instance, identity } = &subscriber;
            warn!(pod = instance, ?identity, why = standing.refused, "a proxy refuses the trust bundle");
        }
        let new = || Follower { standing: standing.clone(), streams: 0, left: None };
        let follower = remembered.all.entry(subscriber.clone()).or_insert_with(new);
        (follower.standing, follower.left) = (standing, None);
        follower.streams += 1;
        Some(Present { followers: self.clone(), subscriber })
    }

    /// What all of them stand on.
    pub(super) fn standings(&self) -> HashMap<Subscriber, Standing> {
        let mut remembered = self.0.lock();
        remembered.sweep();
        remembered.all.iter().map(|(subscriber, follower)| (subscriber.clone(), follower.standing.clone())).collect()
    }

    /// How many there are, and how many of them stand on this bundle.
    pub(super) fn count(&self, bundle: &str) -> (usize, usize) {
        let remembered = self.0.lock();
        let here = remembered.all.values().filter(|follower| follower.streams > 0);
        here.fold((0, 0), |(all, same), follower| (all + 1, same + usize::from(follower.standing.bundle == bundle)))
    }

    /// How many refuse what they were told.
    pub(super) fn refusing(&self) -> usize {
        let remembered = self.0.lock();
        remembered.all.values().filter(|follower| follower.streams > 0 && !follower.standing.refused.is_empty()).count()
    }
}

/// A subscriber whose stream is open.
struct Present {
    followers: Followers,
    subscriber: Subscriber,
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(follower) = self.followers.0.lock().all.get_mut(&self.subscriber) {
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
        let near = request.remote_addr().is_some_and(|addr| addr.ip().to_canonical().is_loopback());
        let WatchRequest { instance, bundle, issuer, refused, .. } = request.into_inner();
        for (field, text) in [("instance", &instance), ("bundle", &bundle), ("issuer", &issuer)] {
            within(field, text, MAX_FIELD)?;
            if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Status::invalid_argument(format!("{field} has other than printable ASCII characters")));
            }
        }
        within("refused", &refused, MAX_REASON)?;
        let refused = plain(&refused);
        let known = identity.as_ref().map_or(near, |identity| identity.len() <= MAX_IDENTITY);
        let present = match instance.is_empty() || !known {
            true => None,
            false => {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let standing = Standing { bundle, issuer, refused, at: at.try_into().unwrap_or_default() };
                self.followers.enter(Subscriber { instance, identity }, standing)
            }
        };
        let mut drain = self.drain.clone();
        let until = async move { drain.signaled().await };
        Ok(Box::pin(updates(self.current.clone(), present).take_until(until)))
    }
}

fn within(field: &str, text: &str, limit: usize) -> Result<(), Status> {
    if text.len() > limit {
        return Err(Status::invalid_argument(format!("{field} is longer than {limit} bytes")));
    }
    Ok(())
}

/// A reason as it may be shown to people: one line that no terminal takes for a command, and that can't look like a line of ours.
fn plain(reason: &str) -> String {
    reason.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
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
        Standing { bundle: bundle.into(), issuer: "i".into(), refused: String::new(), at: 0 }
    }

    fn pod(instance: &str) -> Subscriber {
        Subscriber { instance: instance.into(), identity: Some("web".into()) }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_back_in_time_was_never_away() {
        let followers = Followers::default();
        let old = followers.enter(pod("a"), standing("old")).unwrap();
        let other = followers.enter(pod("b"), standing("new")).unwrap();
        assert_eq!(followers.count("new"), (2, 1));
        // It opens the next stream before the one before has ended, or after.
        let new = followers.enter(pod("a"), standing("new")).unwrap();
        drop(old);
        assert_eq!(followers.count("new"), (2, 2));
        drop((new, other));
        assert_eq!((followers.count("new"), followers.standings().len()), ((0, 0), 2));
        tokio::time::advance(LINGER / 2).await;
        let back = followers.enter(pod("a"), standing("new")).unwrap();
        tokio::time::advance(LINGER / 2).await;
        assert_eq!(followers.standings().into_keys().collect::<Vec<_>>(), [pod("a")]);
        drop(back);
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_is_forgotten_though_nobody_asks_for_standings() {
        let followers = Followers::default();
        let stays = followers.enter(pod("stays"), standing("b")).unwrap();
        for i in 0..100 {
            drop(followers.enter(pod(&i.to_string()), standing("b")));
            tokio::time::advance(LINGER / 4).await;
        }
        assert!(followers.0.lock().all.len() < 12, "{}", followers.0.lock().all.len());
        assert!(followers.standings().contains_key(&pod("stays")));
        drop(stays);
    }

    #[tokio::test(start_paused = true)]
    async fn one_identity_does_not_take_the_place_of_others() {
        let followers = Followers::default();
        let enter = |instance: usize| followers.enter(pod(&instance.to_string()), standing("b"));
        let all: Vec<_> = (0..MAX_OF_IDENTITY).map(enter).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(enter(MAX_OF_IDENTITY).is_none(), "one too many");
        assert!(enter(7).is_some(), "whoever is known may say something else");
        let other = Subscriber { identity: Some("api".into()), ..pod("x") };
        assert!(followers.enter(other, standing("b")).is_some(), "others have their own room");
        drop(all);
        assert!(enter(MAX_OF_IDENTITY).is_none(), "who just left is remembered for a while");
        tokio::time::advance(LINGER).await;
        assert!(enter(MAX_OF_IDENTITY).is_some(), "and leaves room then");
        assert_eq!(followers.0.lock().of, HashMap::from([(pod("x").identity, 1)]));
    }

    #[tokio::test]
    async fn who_refuses_is_counted_until_it_does_not() {
        let followers = Followers::default();
        let refusing = Standing { refused: "the bundle is empty".into(), ..standing("old") };
        let first = followers.enter(pod("a"), refusing.clone());
        assert_eq!((followers.refusing(), &followers.standings()[&pod("a")]), (1, &refusing));
        let next = followers.enter(pod("a"), standing("new"));
        drop(first);
        assert_eq!(followers.refusing(), 0);
        drop(next);
    }

    #[test]
    fn reasons_are_one_line_of_plain_text() {
        assert_eq!(plain("root CN=a, until 2030: it's \"old\""), "root CN=a, until 2030: it's \"old\"");
        assert_eq!(plain("\x1b[2Jgone\r\n√ all is well\u{202e}\u{9b}31m"), "?[2Jgone??? all is well??31m");
    }

    #[tokio::test]
    async fn what_is_said_is_checked_before_it_is_kept() {
        let root = homarus_identity::authority::Pair::root("root", Duration::from_secs(3600), SystemTime::now()).unwrap();
        let pem = root.certificate.to_pem();
        let validity = homarus_identity::issuer::Validity::default();
        let in_force = super::super::material::InForce::read(&pem, &root.key_pem(), &pem, validity).unwrap();
        let (_held, current) = tokio::sync::watch::channel(in_force);
        let followers = Followers::default();
        let (_signal, drain) = homarus_daemon::drain::channel();
        let teller = Teller::new(current, followers.clone(), drain);
        let ask = |instance: &str, bundle: &str, refused: &str| {
            let (instance, bundle, refused) = (instance.to_owned(), bundle.to_owned(), refused.to_owned());
            let mut request = Request::new(WatchRequest { instance, bundle, refused, ..WatchRequest::default() });
            request.metadata_mut().insert(CLIENT_ID, "web".parse().unwrap());
            teller.watch(request)
        };
        assert!(ask("a\nb", "b", "").is_err() && ask("a", "\x1b[2J", "").is_err() && ask("a", "b", &"x".repeat(257)).is_err());
        assert!(followers.standings().is_empty());
        let _stream = ask("a", "b", "no\n√ yes").unwrap();
        assert_eq!(followers.standings()[&pod("a")].refused, "no?? yes");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_changes_its_mind_does_not_flood_the_log() {
        let mut remembered = Remembered::default();
        assert!(remembered.is_news(&pod("a"), "", "one"));
        assert!(!remembered.is_news(&pod("a"), "one", "two"), "too soon");
        assert!(!remembered.is_news(&pod("made up"), "", "two"), "nor by another name");
        assert!(remembered.is_news(&Subscriber { identity: Some("api".into()), ..pod("a") }, "", "one"), "others are heard");
        tokio::time::advance(QUIET).await;
        assert!(!remembered.is_news(&pod("a"), "two", "two") && !remembered.is_news(&pod("a"), "two", ""));
        assert!(remembered.is_news(&pod("a"), "two", "one"));
    }

    #[tokio::test]
    async fn nobody_speaks_for_another() {
        let followers = Followers::default();
        let web = followers.enter(pod("a"), standing("old"));
        let other = Subscriber { identity: Some("api".into()), ..pod("a") };
        let api = followers.enter(other.clone(), standing("new"));
        let all = followers.standings();
        assert_eq!((&*all[&pod("a")].bundle, &*all[&other].bundle), ("old", "new"));
        drop((web, api));
    }
}
