//! Keeps the views that somebody is subscribed to, and publishes their changes.

use super::told::{Snapshot, Told};
use crate::index::{
    Absence, Dirty, Index, Settings, Topic,
    views::{Key, endpoints::EndpointsKey, inbound::InboundKey, outbound::OutboundKey, profile::ProfileKey},
};
use homarus_model::facts::Change;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::watch;

/// How many different views of one kind may be asked for at once. A cluster of 100,000 pods with a few ports each
/// stays below it; a client that asks for ever new names doesn't fill the memory.
pub const MAX_VIEWS: usize = 1 << 19;

/// What a subscriber sees: the latest view, or why there is none.
pub(super) type Latest<V> = Result<Arc<Snapshot<V>>, Absence>;

/// The index, and the views of it that somebody is subscribed to.
///
/// One lock guards both: subscribing computes at most one view under it, and a batch of changes recomputes only views
/// that have a subscriber and depend on what changed.
pub struct Hub {
    state: Mutex<State>,
}

pub(super) struct State {
    index: Index,
    endpoints: Views<EndpointsKey>,
    profiles: Views<ProfileKey>,
    inbound: Views<InboundKey>,
    outbound: Views<OutboundKey>,
    closed: bool,
}

/// A kind of views that a hub keeps.
pub trait Kept: Key<View: Told> {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn views(state: &mut State) -> (&Index, &mut Views<Self>);
}

macro_rules! kept {
    ($($key:ty: $field:ident),*) => {
        $(impl Kept for $key {
            #[allow(private_interfaces)]
            fn views(state: &mut State) -> (&Index, &mut Views<Self>) {
                (&state.index, &mut state.$field)
            }
        })*
    };
}
kept!(EndpointsKey: endpoints, ProfileKey: profiles, InboundKey: inbound, OutboundKey: outbound);

pub(super) struct Views<K: Key<View: Told>> {
    published: HashMap<K, watch::Sender<Latest<K::View>>>,
    topics: HashMap<Topic, HashSet<K>>,
    versions: u64,
}

impl<K: Key<View: Told>> Default for Views<K> {
    fn default() -> Self {
        Self { published: HashMap::new(), topics: HashMap::new(), versions: 0 }
    }
}

impl<K: Key<View: Told>> Views<K> {
    fn subscribe(&mut self, index: &Index, key: &K) -> Result<watch::Receiver<Latest<K::View>>, Absence> {
        if let Some(sender) = self.published.get(key) {
            // A view that is gone now isn't there for those who come now.
            if let Err(absence) = &*sender.borrow() {
                return Err(absence.clone());
            }
            return Ok(sender.subscribe());
        }
        if self.published.len() >= MAX_VIEWS {
            return Err(Absence::Busy("too many different views are subscribed to; ask again later"));
        }
        let view = key.view(index)?;
        self.versions += 1;
        let (sender, receiver) = watch::channel(Ok(Arc::new(Snapshot::new(self.versions, view))));
        for topic in key.topics() {
            self.topics.entry(topic).or_default().insert(key.clone());
        }
        self.published.insert(key.clone(), sender);
        Ok(receiver)
    }

    fn publish(&mut self, index: &Index, dirty: &Dirty) {
        let keys: HashSet<K> = dirty.iter().filter_map(|topic| self.topics.get(topic)).flatten().cloned().collect();
        for key in keys {
            let Some(sender) = self.published.get(&key) else { continue };
            let view = key.view(index);
            let next = match (&*sender.borrow(), view) {
                (Ok(old), Ok(new)) if *old.view == new => continue,
                (Err(old), Err(new)) if *old == new => continue,
                (_, Ok(new)) => {
                    self.versions += 1;
                    Ok(Arc::new(Snapshot::new(self.versions, new)))
                }
                (_, Err(absence)) => Err(absence),
            };
            drop(sender.send_replace(next));
        }
    }

    /// Forgets a view whose last subscriber leaves.
    fn leave(&mut self, key: &K) {
        // The one that leaves still counts.
        if self.published.get(key).is_none_or(|sender| sender.receiver_count() > 1) {
            return;
        }
        self.published.remove(key);
        for topic in key.topics() {
            if let Some(keys) = self.topics.get_mut(&topic) {
                keys.remove(key);
                if keys.is_empty() {
                    self.topics.remove(&topic);
                }
            }
        }
    }

    fn close(&mut self) {
        self.published.clear();
        self.topics.clear();
    }
}

impl Hub {
    /// A hub of an empty cluster.
    pub fn new(settings: Settings) -> Arc<Self> {
        let state = State {
            index: Index::new(settings),
            endpoints: Views::default(),
            profiles: Views::default(),
            inbound: Views::default(),
            outbound: Views::default(),
            closed: false,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Takes in changes in their order, and publishes what comes out at the end.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.state.lock();
        let mut dirty = Dirty::new();
        for change in changes {
            state.index.apply(change, &mut dirty);
        }
        let State { index, endpoints, profiles, inbound, outbound, .. } = &mut *state;
        endpoints.publish(index, &dirty);
        profiles.publish(index, &dirty);
        inbound.publish(index, &dirty);
        outbound.publish(index, &dirty);
    }

    /// Reads the index.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.state.lock().index)
    }

    /// How many different views of a kind are subscribed to.
    pub fn views<K: Kept>(&self) -> usize {
        K::views(&mut self.state.lock()).1.published.len()
    }

    /// Which endpoints are asked for, and by how many.
    pub(super) fn asked_endpoints(&self) -> Vec<Asked> {
        let state = self.state.lock();
        let asked = state.endpoints.published.iter().map(|(key, sender)| Asked {
            key: key.clone(),
            subscribers: sender.receiver_count(),
            endpoints: sender.borrow().as_ref().ok().map(|snapshot| snapshot.view.endpoints.len()),
        });
        asked.collect()
    }

    /// The latest view, once.
    pub fn look<K: Kept>(&self, key: &K) -> Result<Arc<K::View>, Absence> {
        let mut state = self.state.lock();
        let (index, views) = K::views(&mut state);
        match views.published.get(key) {
            Some(sender) => sender.borrow().as_ref().map(|snapshot| snapshot.view.clone()).map_err(Absence::clone),
            None => key.view(index).map(Arc::new),
        }
    }

    /// The latest view, and every later one.
    pub fn subscribe<K: Kept>(self: &Arc<Self>, key: K) -> Result<Subscription<K>, Absence> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Absence::Busy("the controller is shutting down; ask again"));
        }
        let (index, views) = K::views(&mut state);
        let latest = views.subscribe(index, &key)?;
        Ok(Subscription { hub: self.clone(), key, latest })
    }

    /// Ends all subscriptions, and lets no more begin.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.endpoints.close();
        state.profiles.close();
        state.inbound.close();
        state.outbound.close();
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// Endpoints that somebody asked for.
pub(super) struct Asked {
    key: EndpointsKey,
    pub(super) subscribers: usize,
    /// How many there are; none if the Service is gone.
    pub(super) endpoints: Option<usize>,
}

impl Asked {
    pub(super) fn labels(&self) -> Vec<(&'static str, String)> {
        let EndpointsKey { service, port, hostname, place } = &self.key;
        vec![
            ("cluster", "local".to_owned()),
            ("namespace", service.namespace.to_string()),
            ("service", service.name.to_string()),
            ("port", port.to_string()),
            ("hostname", hostname.as_deref().unwrap_or_default().to_owned()),
            ("zone", place.zone.as_deref().unwrap_or_default().to_owned()),
            ("nodename", place.node.as_deref().unwrap_or_default().to_owned()),
        ]
    }
}

/// A subscription to one view; dropping it ends it.
pub struct Subscription<K: Kept> {
    hub: Arc<Hub>,
    key: K,
    pub(super) latest: watch::Receiver<Latest<K::View>>,
}

impl<K: Kept> Subscription<K> {
    /// The latest view, or why there is none.
    pub fn view(&self) -> Result<Arc<K::View>, Absence> {
        self.latest.borrow().as_ref().map(|snapshot| snapshot.view.clone()).map_err(Absence::clone)
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl<K: Kept> Drop for Subscription<K> {
    fn drop(&mut self) {
        K::views(&mut self.hub.state.lock()).1.leave(&self.key);
    }
}
