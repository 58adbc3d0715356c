//! All objects, in memory, with a bounded window of past changes. Pure and synchronous: no clock, no files, no tasks.
//!
//! Invariants: the revision grows by one with every change, over restarts too; an object's `resourceVersion` is the
//! revision of its last change; a bucket's `recent` holds every change after `forgotten`, in order.

pub mod journal;
pub mod selector;
pub mod shared;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

/// How many past changes each bucket remembers for watches that resume.
pub const WINDOW: usize = 4096;

/// Where an object is within its bucket; namespace is empty for cluster-wide kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Namespace or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Name {
    /// A name in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Name { namespace: namespace.into(), name: name.into() }
    }

    /// The name an object has.
    pub fn of(object: &Value) -> Self {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        Name::new(text("namespace"), text("name"))
    }
}

/// One stored version of an object.
#[derive(Debug)]
pub struct Object {
    /// The whole of it, `metadata.resourceVersion` included.
    pub value: Value,
    /// The revision that wrote it.
    pub revision: u64,
}

/// One change: from `before` (absent: created) to `after` (absent: deleted).
#[derive(Debug, Clone)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// What was there.
    pub before: Option<Arc<Object>>,
    /// What is there now; for a deletion the last state with the deletion's resourceVersion.
    pub after: Arc<Object>,
    /// Whether it is gone.
    pub deleted: bool,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<Name, Arc<Object>>,
    recent: VecDeque<Change>,
    /// The last revision whose change may be unknown.
    forgotten: u64,
}

/// The window doesn't reach back to the revision asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest revision that a watch may start from.
    pub oldest: u64,
}

/// All objects of all kinds.
#[derive(Debug, Default)]
pub struct Store {
    revision: u64,
    /// Where remembering began.
    origin: u64,
    buckets: HashMap<Arc<str>, Bucket>,
}

impl Store {
    /// An empty store that goes on counting from a revision.
    pub fn starting_at(revision: u64) -> Self {
        Store { revision, origin: revision, buckets: HashMap::new() }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn find(&self, bucket: &str, name: &Name) -> Option<Arc<Object>> {
        self.buckets.get(bucket)?.objects.get(name).cloned()
    }

    /// All objects of a bucket in one namespace, or in all when it is empty, in order of name.
    pub fn list<'a>(&'a self, bucket: &str, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let objects = self.buckets.get(bucket).map(|b| &b.objects);
        let from = Name::new(namespace, "");
        objects
            .into_iter()
            .flat_map(move |o| o.range(from.clone()..))
            .take_while(move |(name, _)| namespace.is_empty() || name.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The names of all buckets with anything in them.
    pub fn buckets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.buckets.iter().filter(|(_, b)| !b.objects.is_empty()).map(|(name, _)| name)
    }

    /// Writes an object and stamps its new resourceVersion into it.
    pub fn put(&mut self, bucket: &Arc<str>, mut value: Value) -> Change {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let name = Name::of(&value);
        let after = Arc::new(Object { value, revision: self.revision });
        let entry = self.bucket(bucket);
        let before = entry.objects.insert(name, after.clone());
        let change = Change { revision: after.revision, before, after, deleted: false };
        entry.remember(change.clone());
        change
    }

    /// Removes an object; the change carries `last`, or what was stored, with the deletion's resourceVersion.
    pub fn remove(&mut self, bucket: &Arc<str>, name: &Name, last: Option<Value>) -> Option<Change> {
        let before = self.buckets.get_mut(bucket)?.objects.remove(name)?;
        self.revision += 1;
        let mut value = last.unwrap_or_else(|| before.value.clone());
        value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let after = Arc::new(Object { value, revision: self.revision });
        let change = Change { revision: self.revision, before: Some(before), after, deleted: true };
        self.bucket(bucket).remember(change.clone());
        Some(change)
    }

    /// Every change of a bucket after a revision.
    pub fn since(&self, bucket: &str, revision: u64) -> Result<Vec<Change>, Forgotten> {
        let oldest = self.buckets.get(bucket).map_or(self.origin, |b| b.forgotten);
        if revision < oldest {
            return Err(Forgotten { oldest });
        }
        let recent = self.buckets.get(bucket).map(|b| &b.recent);
        let Some(recent) = recent else { return Ok(Vec::new()) };
        let from = recent.partition_point(|c| c.revision <= revision);
        Ok(recent.range(from..).cloned().collect())
    }

    /// Every change of any bucket after a revision, in order.
    pub fn all_since(&self, revision: u64) -> Result<Vec<(Arc<str>, Change)>, Forgotten> {
        let mut all = Vec::new();
        for name in self.buckets.keys() {
            all.extend(self.since(name, revision)?.into_iter().map(|change| (name.clone(), change)));
        }
        all.sort_by_key(|(_, change)| change.revision);
        Ok(all)
    }

    /// How many objects a bucket has.
    pub fn count(&self, bucket: &str) -> usize {
        self.buckets.get(bucket).map_or(0, |b| b.objects.len())
    }

    /// Forgets past changes: whoever comes now has seen none of them.
    pub fn forget(&mut self) {
        self.origin = self.revision;
        for bucket in self.buckets.values_mut() {
            bucket.recent.clear();
            bucket.forgotten = self.revision;
        }
    }

    fn bucket(&mut self, name: &Arc<str>) -> &mut Bucket {
        let origin = self.origin;
        self.buckets.entry(name.clone()).or_insert_with(|| Bucket { forgotten: origin, ..Bucket::default() })
    }

    /// Puts back an object as a snapshot or log has it.
    fn restore(&mut self, bucket: &Arc<str>, value: Value) {
        let revision = value["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0);
        let name = Name::of(&value);
        self.bucket(bucket).objects.insert(name, Arc::new(Object { value, revision }));
    }
}

impl Bucket {
    fn remember(&mut self, change: Change) {
        self.recent.push_back(change);
        if self.recent.len() > WINDOW
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten = oldest.revision;
        }
    }
}

#[cfg(test)]
mod tests;
