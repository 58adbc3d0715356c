//! Who owns whom, kept in step with the store change by change.
//!
//! Law: after any changes it is what one made anew from the store would be (`tests`). What a change may have consequences
//! for is said with it, so that nobody has to look at everything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::api::store::{Change, Object, Store};

/// An object with the bucket it is in.
pub(super) type Found = (Arc<str>, Arc<Object>);

/// Objects by uid, and the dependents of each, whether it exists or not.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// The last revision that is in it.
    seen: u64,
    objects: HashMap<String, Found>,
    dependents: HashMap<String, HashSet<String>>,
}

pub(super) fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// The uids of the owners.
pub(super) fn owners_of(object: &Value) -> impl Iterator<Item = &str> {
    owners(object).filter_map(|owner| owner["uid"].as_str())
}

impl Graph {
    /// Catches up with the store; returns the uids that something may follow for: of all that changed and their owners.
    pub(super) fn follow(&mut self, store: &Store) -> HashSet<String> {
        let Ok(changes) = store.all_since(self.seen) else { return self.begin_again(store) };
        let mut touched = HashSet::new();
        for (bucket, change) in changes {
            for object in change.before.iter().chain([&change.after]) {
                touched.insert(uid_of(&object.value).to_owned());
                touched.extend(owners_of(&object.value).map(str::to_owned));
            }
            self.apply(bucket, &change);
        }
        self.seen = store.revision();
        touched
    }

    /// Takes in everything; all of it may have consequences.
    pub(super) fn begin_again(&mut self, store: &Store) -> HashSet<String> {
        *self = Graph { seen: store.revision(), ..Graph::default() };
        for bucket in store.buckets() {
            for object in store.list(bucket, "") {
                self.add(bucket.clone(), object.clone());
            }
        }
        self.objects.keys().chain(self.dependents.keys()).cloned().collect()
    }

    fn apply(&mut self, bucket: Arc<str>, change: &Change) {
        if let Some(before) = &change.before {
            self.remove(&before.value);
        }
        if !change.deleted {
            self.add(bucket, change.after.clone());
        }
    }

    fn add(&mut self, bucket: Arc<str>, object: Arc<Object>) {
        let uid = uid_of(&object.value).to_owned();
        for owner in owners_of(&object.value) {
            self.dependents.entry(owner.to_owned()).or_default().insert(uid.clone());
        }
        self.objects.insert(uid, (bucket, object));
    }

    fn remove(&mut self, object: &Value) {
        let uid = uid_of(object);
        self.objects.remove(uid);
        for owner in owners_of(object) {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    pub(super) fn find(&self, uid: &str) -> Option<&Found> {
        self.objects.get(uid)
    }

    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    pub(super) fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Found> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.objects.get(dependent))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::store::Name;

    /// Everything a graph says, comparable.
    fn said(graph: &Graph) -> BTreeSet<(String, Option<u64>, BTreeSet<String>)> {
        let uids = graph.objects.keys().chain(graph.dependents.keys());
        uids.map(|uid| {
            let revision = graph.find(uid).map(|(_, object)| object.revision);
            let dependents = graph.dependents.get(uid).into_iter().flatten().cloned();
            (uid.clone(), revision, dependents.collect())
        })
        .collect()
    }

    fn object(name: u8, uid: u8, owners: &[u8]) -> Value {
        let owners: Vec<Value> = owners.iter().map(|owner| json!({"uid": format!("u{owner}")})).collect();
        json!({"metadata": {"name": format!("n{name}"), "uid": format!("u{uid}"), "ownerReferences": owners}})
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn following_is_beginning_again(steps in vec((0_u8..4, 0_u8..2, vec(0_u8..6, 0..3), any::<bool>(), any::<bool>()), 0..40)) {
            let mut store = Store::default();
            let mut graph = Graph::default();
            let mut lives = [0_u8; 4];
            for (name, bucket, owners, gone, look) in steps {
                let bucket: Arc<str> = format!("/b{bucket}").into();
                let stored = Name::new("", format!("n{name}"));
                // A name comes back with another uid, as in a cluster; in two buckets the same one never is.
                let offset = if &*bucket == "/b0" { 0 } else { 100 };
                if gone {
                    if store.remove(&bucket, &stored, None).is_some() {
                        lives[usize::from(name)] += 1;
                    }
                } else {
                    store.put(&bucket, object(name, name + 4 * (lives[usize::from(name)] % 8) + offset, &owners));
                }
                if look {
                    graph.follow(&store);
                }
            }
            graph.follow(&store);
            let mut anew = Graph::default();
            anew.begin_again(&store);
            prop_assert_eq!(said(&graph), said(&anew));
        }
    }

    #[test]
    fn a_change_touches_itself_and_its_owners() {
        let mut store = Store::default();
        let bucket: Arc<str> = "/pods".into();
        store.put(&bucket, object(1, 1, &[]));
        let mut graph = Graph::default();
        graph.follow(&store);
        store.put(&bucket, object(2, 2, &[1, 9]));
        let mut touched: Vec<_> = graph.follow(&store).into_iter().collect();
        touched.sort();
        assert_eq!(touched, ["u1", "u2", "u9"]);
        assert!(graph.follow(&store).is_empty());
    }
}
