//! What the cluster holds of one kind, as far as the watch has told, and as far as we have written ourselves.
//!
//! A controller that creates a pod and looks again before the watch has told of it would create a second one. So answers
//! to our own writes go into the store at once. Two rules keep that sound: the newer version of an object wins, whichever
//! way it came; and an object that was seen to go (by its uid, which is never used again) doesn't come back by a late answer.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::watch;

/// How many uids of objects that have gone are remembered, against answers that arrive after the watch has told.
const GONE_KEPT: usize = 4096;
/// How long an object that we wrote survives a listing that doesn't have it: the listing may be the older one.
const WRITTEN_GRACE: Duration = Duration::from_secs(10);

/// Where an object is found. The namespace of cluster-wide objects is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub(super) fn of<K: Resource>(object: &K) -> Key {
        Key::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All objects of one kind.
#[derive(Debug)]
pub(super) struct Store<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
}

#[derive(Debug)]
struct State<K> {
    objects: BTreeMap<Key, Held<K>>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
}

#[derive(Debug)]
struct Held<K> {
    object: Arc<K>,
    /// When we wrote it, until the watch has told of it, too.
    written: Option<Instant>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), gone: HashSet::new(), gone_order: VecDeque::new() };
        Store { state: RwLock::new(state), synced: watch::channel(false).0 }
    }
}

/// Versions grow over all objects of a cluster; one that is no number counts as the newest.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

impl<K: Resource> Store<K> {
    /// The object, if there is one.
    pub(super) fn find(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).map(|held| held.object.clone())
    }

    /// All objects of a namespace, by name.
    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let from = state.objects.range(Key::new(namespace, "")..);
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, held)| held.object.clone()).collect()
    }

    /// All objects, by namespace and name.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().map(|held| held.object.clone()).collect()
    }

    /// The watch tells of a new or changed object.
    pub(super) fn seen(&self, object: K) {
        self.state.write().put(object, None);
    }

    /// We were answered with this object.
    pub(super) fn wrote(&self, object: K) {
        self.state.write().put(object, Some(Instant::now()));
    }

    /// The object of this key and uid is no more.
    pub(super) fn gone(&self, key: &Key, uid: &str) {
        let mut state = self.state.write();
        if state.objects.get(key).is_some_and(|held| self::uid(&*held.object) == uid) {
            state.objects.remove(key);
        }
        state.remember_gone(uid);
    }

    /// A listing: these are all the objects there are. Returns what is no longer there.
    pub(super) fn listed(&self, objects: Vec<K>) -> Vec<Arc<K>> {
        let mut state = self.state.write();
        let newest = objects.iter().map(version).max().unwrap_or(0);
        let keys: HashSet<Key> = objects.iter().map(Key::of).collect();
        for object in objects {
            state.put(object, None);
        }
        let may_stay = |held: &Held<K>| {
            let fresh = held.written.is_some_and(|written| written.elapsed() < WRITTEN_GRACE);
            fresh && version(&*held.object) > newest
        };
        let lost: Vec<Key> = state
            .objects
            .iter()
            .filter(|(key, held)| !keys.contains(*key) && !may_stay(held))
            .map(|(key, _)| key.clone())
            .collect();
        let lost = lost.iter().filter_map(|key| state.objects.remove(key)).map(|held| held.object).collect();
        self.synced.send_replace(true);
        lost
    }

    /// Completes when there was a first listing.
    pub(super) async fn synced(&self) {
        // The sender is ours, so waiting can't fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

impl<K: Resource> State<K> {
    fn put(&mut self, object: K, written: Option<Instant>) {
        if self.gone.contains(uid(&object)) {
            return;
        }
        let key = Key::of(&object);
        match self.objects.get_mut(&key) {
            Some(held) if version(&*held.object) > version(&object) => {}
            Some(held) if version(&*held.object) == version(&object) => held.written = held.written.and(written),
            _ => {
                self.objects.insert(key, Held { object: Arc::new(object), written });
            }
        }
    }

    fn remember_gone(&mut self, uid: &str) {
        if uid.is_empty() || !self.gone.insert(uid.to_owned()) {
            return;
        }
        self.gone_order.push_back(uid.to_owned());
        if self.gone_order.len() > GONE_KEPT
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            uid: Some(uid.into()),
            resource_version: Some(version.to_string()),
            ..Default::default()
        };
        Pod { metadata, ..Default::default() }
    }

    fn versions(store: &Store<Pod>) -> Vec<(String, u64)> {
        store.in_namespace("ns").iter().map(|pod| (pod.name_any(), version(&**pod))).collect()
    }

    #[test]
    fn the_newer_version_wins_whichever_way_it_came() {
        let store = Store::default();
        store.wrote(pod("a", "1", 5));
        store.seen(pod("a", "1", 4));
        assert_eq!(versions(&store), [("a".into(), 5)]);
        store.seen(pod("a", "1", 6));
        store.wrote(pod("a", "1", 5));
        assert_eq!(versions(&store), [("a".into(), 6)]);
        store.seen(pod("a", "2", 9));
        assert_eq!(versions(&store), [("a".into(), 9)], "a namesake that came later");
    }

    #[test]
    fn what_has_gone_does_not_come_back_by_a_late_answer() {
        let store = Store::default();
        let key = Key::new("ns", "a");
        store.seen(pod("a", "1", 5));
        store.gone(&key, "1");
        store.wrote(pod("a", "1", 4));
        assert!(versions(&store).is_empty());
        store.seen(pod("a", "2", 7));
        store.gone(&key, "1");
        assert_eq!(versions(&store), [("a".into(), 7)], "only the one with that uid goes");
    }

    #[test]
    fn a_listing_drops_what_it_lacks_but_not_what_was_just_written() {
        let store = Store::default();
        store.seen(pod("old", "1", 3));
        store.wrote(pod("written-before", "2", 4));
        store.wrote(pod("written-after", "3", 9));
        let lost = store.listed(vec![pod("listed", "4", 8)]);
        let lost: Vec<_> = lost.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(lost, ["old", "written-before"]);
        assert_eq!(versions(&store), [("listed".into(), 8), ("written-after".into(), 9)]);
    }

    #[test]
    fn the_memory_of_what_has_gone_is_bounded() {
        let store = Store::<Pod>::default();
        for uid in 0..2 * GONE_KEPT {
            store.gone(&Key::new("ns", "a"), &uid.to_string());
        }
        assert_eq!(store.state.read().gone.len(), GONE_KEPT);
    }

    #[test]
    fn namespaces_are_apart() {
        let store = Store::default();
        store.seen(pod("a", "1", 1));
        assert!(store.in_namespace("n").is_empty() && store.in_namespace("nsx").is_empty());
        assert_eq!(store.in_namespace("ns").len(), 1);
    }
}
