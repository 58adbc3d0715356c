//! The task that follows the store: dependents of deleted owners, foreground and orphaning deletion, namespaces that
//! go, definitions that go, old events.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{FOREGROUND, ORPHAN, Options, amend, condition, delete, furnish};
use crate::api::defaults::cluster::ROOT_CERTIFICATE;
use crate::api::store::shared::DEFINITIONS;
use crate::api::store::{Name, Object};
use crate::api::{Core, now};

/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// How often everything is looked at even if nothing changes: for events that grow old.
const IDLE: Duration = Duration::from_secs(60);
/// Events live for an hour, as in a real cluster.
const EVENT_SECONDS: i64 = 3600;
/// And there are never more than so many.
const MAX_EVENTS: usize = 10_000;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    /// Starts following a store.
    pub fn start(core: &Arc<Core>) -> Keeper {
        let mut bell = core.store.any();
        let weak = Arc::downgrade(core);
        Keeper(tokio::spawn(async move {
            loop {
                bell.mark_unchanged();
                let Some(()) = pass(&weak) else { return };
                let _ = tokio::time::timeout(IDLE, bell.changed()).await;
                tokio::time::sleep(GATHER).await;
            }
        }))
    }
}

fn pass(core: &Weak<Core>) -> Option<()> {
    let core = core.upgrade()?;
    // Each pass changes objects and so rings the bell again, until nothing is left to do.
    let all = World::of(&core);
    all.collect(&core);
    namespaces(&core);
    definitions(&core);
    events(&core);
    Some(())
}

/// Everything there is, by uid: small enough on one machine to look at whole.
struct World {
    objects: HashMap<String, (Arc<str>, Arc<Object>)>,
    /// Owner uid to dependents' uids.
    dependents: HashMap<String, Vec<String>>,
}

fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == finalizer))
}

fn going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

impl World {
    fn of(core: &Core) -> World {
        let mut world = World { objects: HashMap::new(), dependents: HashMap::new() };
        core.store.read(|store| {
            for bucket in store.buckets() {
                for object in store.list(bucket, "") {
                    let uid = uid_of(&object.value).to_owned();
                    for owner in owners(&object.value) {
                        let owner = owner["uid"].as_str().unwrap_or_default().to_owned();
                        world.dependents.entry(owner).or_default().push(uid.clone());
                    }
                    world.objects.insert(uid, (bucket.clone(), object.clone()));
                }
            }
        });
        world
    }

    fn of_owner(&self, uid: &str) -> impl Iterator<Item = &(Arc<str>, Arc<Object>)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.objects.get(d))
    }

    fn collect(&self, core: &Core) {
        for (owner, dependents) in &self.dependents {
            match self.objects.get(owner) {
                None => dependents.iter().filter_map(|d| self.objects.get(d)).for_each(|d| self.left_behind(core, d)),
                Some((_, object)) if going(&object.value) && has_finalizer(&object.value, FOREGROUND) => {
                    self.of_owner(owner).for_each(|d| self.before_owner(core, owner, d));
                }
                Some(_) => {}
            }
        }
        for (uid, (bucket, object)) in &self.objects {
            if going(&object.value) && has_finalizer(&object.value, ORPHAN) {
                self.of_owner(uid).for_each(|dependent| drop_owner(core, dependent, uid));
                drop_finalizer(core, bucket, object, ORPHAN);
            }
            if going(&object.value) && has_finalizer(&object.value, FOREGROUND) && !self.blocked(uid) {
                drop_finalizer(core, bucket, object, FOREGROUND);
            }
        }
    }

    /// Whether a dependent holds its owner's foreground deletion.
    fn blocked(&self, owner: &str) -> bool {
        self.of_owner(owner)
            .any(|(_, dependent)| owners(&dependent.value).any(|o| o["uid"] == owner && o["blockOwnerDeletion"] == true))
    }

    /// An owner is gone: a dependent that has another one stays and forgets the first.
    fn left_behind(&self, core: &Core, (bucket, object): &(Arc<str>, Arc<Object>)) {
        let (alive, gone): (Vec<_>, Vec<_>) =
            owners(&object.value).partition(|o| self.objects.contains_key(o["uid"].as_str().unwrap_or_default()));
        if alive.is_empty() {
            if !going(&object.value) {
                remove(core, bucket, object, propagation(&object.value));
            }
            return;
        }
        let gone: HashSet<String> = gone.iter().filter_map(|o| o["uid"].as_str().map(str::to_owned)).collect();
        for uid in gone {
            drop_owner(core, &(bucket.clone(), object.clone()), &uid);
        }
    }

    /// An owner waits for its dependents: they go first, foreground themselves.
    fn before_owner(&self, core: &Core, owner: &str, (bucket, object): &(Arc<str>, Arc<Object>)) {
        let others = owners(&object.value).any(|o| {
            o["uid"] != owner && self.objects.get(o["uid"].as_str().unwrap_or_default()).is_some_and(|(_, o)| !going(&o.value))
        });
        if others {
            drop_owner(core, &(bucket.clone(), object.clone()), owner);
        } else if !going(&object.value) {
            let below = self.dependents.contains_key(uid_of(&object.value));
            remove(core, bucket, object, if below { "Foreground" } else { "Background" });
        }
    }
}

/// How a dependent itself is to be deleted: as its finalizers say.
fn propagation(object: &Value) -> &'static str {
    if has_finalizer(object, ORPHAN) {
        "Orphan"
    } else if has_finalizer(object, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    }
}

fn remove(core: &Core, bucket: &Arc<str>, object: &Object, propagation: &str) {
    let kinds = core.store.kinds();
    let Some(kind) = kinds.stored().find(|k| k.bucket == *bucket) else { return };
    let uid = Some(uid_of(&object.value).to_owned());
    let options = Options { propagation: Some(propagation.into()), uid, ..Options::default() };
    if let Err(refusal) = delete(core, kind, &Name::of(&object.value), &options) {
        tracing::debug!(%refusal, "collection will look again");
    }
}

fn drop_owner(core: &Core, (bucket, object): &(Arc<str>, Arc<Object>), owner: &str) {
    amend(core, bucket, &Name::of(&object.value), uid_of(&object.value), |object| {
        let mut left = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        left.retain(|o| o["uid"] != owner);
        match left.is_empty() {
            true => {
                object["metadata"].as_object_mut().map(|m| m.remove("ownerReferences"));
            }
            false => object["metadata"]["ownerReferences"] = left.into(),
        }
    });
}

fn drop_finalizer(core: &Core, bucket: &Arc<str>, object: &Object, finalizer: &str) {
    amend(core, bucket, &Name::of(&object.value), uid_of(&object.value), |object| {
        let mut left = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        left.retain(|f| f != finalizer);
        match left.is_empty() {
            true => {
                object["metadata"].as_object_mut().map(|m| m.remove("finalizers"));
            }
            false => object["metadata"]["finalizers"] = left.into(),
        }
    });
}

/// Namespaces that are there are furnished; those that go are emptied, then finished.
fn namespaces(core: &Core) {
    let bucket: Arc<str> = "/namespaces".into();
    for namespace in core.store.list(&bucket, "") {
        let name = Name::of(&namespace.value);
        if !going(&namespace.value) {
            let in_it = |name_in: &str| Name::new(&name.name, name_in);
            let complete = core.store.find("/serviceaccounts", &in_it("default")).is_some()
                && core.store.find("/configmaps", &in_it(ROOT_CERTIFICATE)).is_some();
            if !complete {
                furnish(core, &name.name);
            }
            continue;
        }
        let left = empty(core, &name.name);
        let uid = uid_of(&namespace.value);
        if left == 0 {
            amend(core, &bucket, &name, uid, |object| {
                object["spec"].as_object_mut().map(|s| s.remove("finalizers"));
            });
        } else if namespace.value["status"]["conditions"].is_null() {
            let message = format!("Some resources are remaining: {left} objects");
            amend(core, &bucket, &name, uid, |object| {
                object["status"]["conditions"] =
                    serde_json::json!([condition("NamespaceContentRemaining", true, "SomeResourcesRemain", &message)]);
            });
        }
    }
}

/// Deletes everything in a namespace; how much is left.
fn empty(core: &Core, namespace: &str) -> usize {
    let mut left = 0;
    for kind in core.store.kinds().stored().filter(|k| k.namespaced) {
        for object in core.store.list(&kind.bucket, namespace) {
            if !going(&object.value) {
                remove(core, &kind.bucket, &object, "Background");
            }
            left += usize::from(core.store.find(&kind.bucket, &Name::of(&object.value)).is_some());
        }
    }
    left
}

/// Objects whose definition goes, go with it.
fn definitions(core: &Core) {
    let defined: HashSet<String> = core
        .store
        .list(DEFINITIONS, "")
        .iter()
        .filter(|d| !going(&d.value))
        .map(|d| {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text(&d.value["spec"]["group"]), text(&d.value["spec"]["names"]["plural"]))
        })
        .collect();
    let builtin: HashSet<Arc<str>> = core.store.kinds().stored().filter(|k| k.custom.is_none()).map(|k| k.bucket.clone()).collect();
    let orphaned: Vec<Arc<str>> =
        core.store.read(|store| store.buckets().filter(|b| !builtin.contains(*b) && !defined.contains(&***b)).cloned().collect());
    for bucket in orphaned {
        for object in core.store.list(&bucket, "") {
            let _ = core
                .store
                .write::<()>(&bucket, &Name::of(&object.value), |_, _| Ok(crate::api::store::shared::Write::Remove(None)));
        }
    }
}

/// Old events go.
fn events(core: &Core) {
    let bucket: Arc<str> = "/events".into();
    let mut all = core.store.list(&bucket, "");
    all.sort_by_key(|e| std::cmp::Reverse(e.revision));
    let limit = now().as_second() - EVENT_SECONDS;
    for (i, event) in all.iter().enumerate() {
        let born = event.value["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let last = event.value["lastTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let old = last.max(born).is_some_and(|t| t.as_second() < limit);
        if old || i >= MAX_EVENTS {
            remove(core, &bucket, event, "Background");
        }
    }
}
