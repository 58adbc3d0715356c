//! The task that follows the store: dependents of deleted owners, foreground and orphaning deletion, namespaces that
//! go, definitions that go, old events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::graph::{Found, Graph, owners, owners_of, uid_of};
use super::{FOREGROUND, ORPHAN, Options, amend, condition, delete, furnish};
use crate::api::defaults::cluster::ROOT_CERTIFICATE;
use crate::api::store::shared::DEFINITIONS;
use crate::api::store::{Name, Object};
use crate::api::{Core, now};

/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// How often everything is looked at: for events that grow old, and what couldn't be done at its time.
const REVIEW: Duration = Duration::from_secs(60);
/// Events live for an hour, as in a real cluster.
const EVENT_SECONDS: i64 = 3600;
/// And there are never more than so many.
const MAX_EVENTS: usize = 10_000;
const EVENTS: &str = "/events";

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
        let mut graph = Graph::default();
        Keeper(tokio::spawn(async move {
            let mut next_review = Instant::now() + REVIEW;
            loop {
                bell.mark_unchanged();
                let Some(core) = weak.upgrade() else { return };
                pass(&core, &mut graph);
                if next_review <= Instant::now() {
                    review(&core, &mut graph);
                    next_review = Instant::now() + REVIEW;
                }
                drop(core);
                let _ = tokio::time::timeout_at(next_review, bell.changed()).await;
                tokio::time::sleep(GATHER).await;
            }
        }))
    }
}

/// What follows from the changes since the last pass. Each pass changes objects and so rings the bell again, until
/// nothing is left to do.
fn pass(core: &Core, graph: &mut Graph) {
    let touched = core.store.read(|store| graph.follow(store));
    settle(core, graph, &touched);
    namespaces(core);
    definitions(core);
    if core.store.read(|store| store.count(EVENTS)) > MAX_EVENTS {
        events(core);
    }
}

/// A look at everything.
fn review(core: &Core, graph: &mut Graph) {
    let all = core.store.read(|store| graph.begin_again(store));
    settle(core, graph, &all);
    events(core);
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == finalizer))
}

fn going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn waits_for_dependents(object: &Value) -> bool {
    going(object) && has_finalizer(object, FOREGROUND)
}

/// Does what follows for these uids.
fn settle(core: &Core, graph: &Graph, touched: &HashSet<String>) {
    for uid in touched {
        match graph.find(uid) {
            None => graph.dependents_of(uid).for_each(|dependent| left_behind(core, graph, dependent)),
            Some(found) => {
                as_dependent(core, graph, found);
                as_owner(core, graph, found);
            }
        }
    }
}

fn as_dependent(core: &Core, graph: &Graph, found: &Found) {
    let object = &found.1.value;
    if owners_of(object).any(|owner| graph.find(owner).is_none()) {
        left_behind(core, graph, found);
    }
    for owner in owners_of(object) {
        if graph.find(owner).is_some_and(|(_, owner)| waits_for_dependents(&owner.value)) {
            before_owner(core, graph, owner, found);
        }
    }
}

fn as_owner(core: &Core, graph: &Graph, (bucket, object): &Found) {
    let uid = uid_of(&object.value);
    if waits_for_dependents(&object.value) {
        graph.dependents_of(uid).for_each(|dependent| before_owner(core, graph, uid, dependent));
    }
    if going(&object.value) && has_finalizer(&object.value, ORPHAN) {
        graph.dependents_of(uid).for_each(|dependent| drop_owner(core, dependent, uid));
        drop_finalizer(core, bucket, object, ORPHAN);
    }
    if waits_for_dependents(&object.value) && !blocked(graph, uid) {
        drop_finalizer(core, bucket, object, FOREGROUND);
    }
}

/// Whether a dependent holds its owner's foreground deletion.
fn blocked(graph: &Graph, owner: &str) -> bool {
    let blocks = |o: &Value| o["uid"] == owner && o["blockOwnerDeletion"] == true;
    graph.dependents_of(owner).any(|(_, dependent)| owners(&dependent.value).any(blocks))
}

/// An owner is gone: a dependent that has another one stays and forgets the first.
fn left_behind(core: &Core, graph: &Graph, found: &Found) {
    let (bucket, object) = found;
    let (alive, gone): (Vec<_>, Vec<_>) = owners_of(&object.value).partition(|owner| graph.find(owner).is_some());
    if alive.is_empty() {
        if !going(&object.value) {
            remove(core, bucket, object, propagation(&object.value));
        }
        return;
    }
    for owner in gone {
        drop_owner(core, found, owner);
    }
}

/// An owner waits for its dependents: they go first, foreground themselves.
fn before_owner(core: &Core, graph: &Graph, owner: &str, found: &Found) {
    let (bucket, object) = found;
    let stays = |other: &str| graph.find(other).is_some_and(|(_, other)| !going(&other.value));
    if owners_of(&object.value).any(|other| other != owner && stays(other)) {
        drop_owner(core, found, owner);
    } else if !going(&object.value) {
        let below = graph.has_dependents(uid_of(&object.value));
        remove(core, bucket, object, if below { "Foreground" } else { "Background" });
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

fn drop_owner(core: &Core, (bucket, object): &Found, owner: &str) {
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
    let bucket: Arc<str> = EVENTS.into();
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
