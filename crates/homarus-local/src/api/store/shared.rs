//! The store as requests share it: one lock, a bell per bucket, the journal behind it, and what follows from changes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use super::journal::Journal;
use super::{Change, Name, Object, Store};
use crate::api::schema::kinds::Kinds;

/// The bucket of CustomResourceDefinitions, whose changes change what is served.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The shared store.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Inner>,
    kinds: RwLock<Arc<Kinds>>,
    /// Rings with every change of any kind, for what follows from changes.
    any: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    journal: Option<Journal>,
    bells: HashMap<Arc<str>, watch::Sender<u64>>,
}

/// What to write, decided under the lock from what is there.
#[derive(Debug)]
pub enum Write {
    /// Store this.
    Put(Value),
    /// Remove; watchers see this last state, if given.
    Remove(Option<Value>),
    /// Nothing changed.
    Keep,
}

impl Shared {
    /// A store with its journal, or without one.
    pub fn new(store: Store, journal: Option<Journal>) -> Self {
        let kinds = served(&store);
        let inner = Inner { store, journal, bells: HashMap::new() };
        Shared { inner: Mutex::new(inner), kinds: RwLock::new(Arc::new(kinds)), any: watch::channel(0).0 }
    }

    /// The kinds served now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.read().clone()
    }

    /// Looks at the store under its lock.
    pub fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.inner.lock().store)
    }

    /// One object.
    pub fn find(&self, bucket: &str, name: &Name) -> Option<Arc<Object>> {
        self.read(|store| store.find(bucket, name))
    }

    /// All objects of a bucket in a namespace (empty: all).
    pub fn list(&self, bucket: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.read(|store| store.list(bucket, namespace).cloned().collect())
    }

    /// Decides and writes in one step, so that nothing comes between.
    pub fn write<E>(
        &self,
        bucket: &Arc<str>,
        name: &Name,
        decide: impl FnOnce(&Store, Option<&Arc<Object>>) -> Result<Write, E>,
    ) -> Result<Option<Change>, E> {
        let mut inner = self.inner.lock();
        let current = inner.store.find(bucket, name);
        let change = match decide(&inner.store, current.as_ref())? {
            Write::Keep => None,
            Write::Put(value) => Some(inner.store.put(bucket, value)),
            Write::Remove(last) => inner.store.remove(bucket, name, last),
        };
        if let Some(change) = &change {
            inner.publish(bucket, change);
            if &**bucket == DEFINITIONS {
                *self.kinds.write() = Arc::new(served(&inner.store));
            }
            self.any.send_replace(change.revision);
        }
        Ok(change)
    }

    /// Begins remembering changes only now.
    pub fn forget(&self) {
        self.inner.lock().store.forget();
    }

    /// A bell that rings with every change of a bucket.
    pub fn bell(&self, bucket: &Arc<str>) -> watch::Receiver<u64> {
        let mut inner = self.inner.lock();
        inner.bells.entry(bucket.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// A bell that rings with every change.
    pub fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }
}

impl Inner {
    fn publish(&mut self, bucket: &Arc<str>, change: &Change) {
        let Inner { store, journal, bells } = self;
        if let Some(journal) = journal
            && let Err(error) = journal.record(bucket, change, store)
        {
            tracing::error!(%error, "can't write to the state folder; changes live in memory only");
        }
        if let Some(bell) = bells.get(bucket) {
            bell.send_replace(change.revision);
        }
    }
}

fn served(store: &Store) -> Kinds {
    Kinds::with_custom(store.list(DEFINITIONS, "").map(|o| &o.value).filter(|crd| established(crd)))
}

fn established(definition: &Value) -> bool {
    definition["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
}
