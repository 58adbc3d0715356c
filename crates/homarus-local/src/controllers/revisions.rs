//! The templates that a workload has had, one ControllerRevision each, so that a rollout can be told and undone.
//!
//! A revision holds a strategic merge patch that puts its template back: that is what `kubectl rollout undo` applies. Going
//! back to a template gives its revision the next number; it stays one object.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{Cause, Cluster, Fault, Written};
use super::ownership::{self, Claim};
use super::store::Key;

/// How many namesakes of other templates are stepped around.
const MOST_COLLISIONS: i32 = 100;
/// The longest name of an owner within that of a revision.
const OWNER_NAME_MAX: usize = 223;

/// A short name for some bytes. It tells apart; what is equal is decided by comparing.
pub(super) fn short_hash(bytes: &[u8]) -> String {
    /// Letters that make no words, and digits that aren't mistaken for letters, as Kubernetes takes them.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a.
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// What of an owner its revisions are made of.
pub(super) struct Subject<'a> {
    pub(super) selector: &'a LabelSelector,
    pub(super) template: &'a PodTemplateSpec,
    /// The label of a revision that has its hash.
    pub(super) hash_label: &'static str,
    pub(super) collisions: i32,
}

/// An owner's revisions, the earliest first.
#[derive(Debug)]
pub(super) struct History {
    all: Vec<Arc<ControllerRevision>>,
    /// That of the template it has now.
    pub(super) update: Arc<ControllerRevision>,
    pub(super) collisions: i32,
}

/// What is to be done so that the present template has the last revision.
#[derive(Debug, PartialEq)]
enum Choice {
    /// It has.
    Last,
    /// This one is its, and gets this number.
    Renumber(usize, i64),
    /// It never had one; this is the number.
    Create(i64),
}

fn choose(all: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Choice {
    let next = all.last().map_or(1, |last| last.revision.saturating_add(1));
    match all.iter().rposition(|revision| template_of(revision).as_ref() == Some(template)) {
        Some(at) if at + 1 == all.len() => Choice::Last,
        Some(at) => Choice::Renumber(at, next),
        None => Choice::Create(next),
    }
}

/// The template that a revision puts back.
pub(super) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let RawExtension(data) = revision.data.as_ref()?;
    serde_json::from_value(data["spec"]["template"].clone()).ok()
}

/// The hash within a revision's name.
pub(super) fn hash_of(revision: &ControllerRevision) -> String {
    revision.name_any().rsplit('-').next().unwrap_or_default().to_owned()
}

/// The patch that puts a template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    json!({ "spec": { "template": template } })
}

fn make<K: Written>(owner: &K, subject: &Subject<'_>, number: i64, collisions: i32) -> ControllerRevision {
    let data = data(subject.template);
    let mut bytes = data.to_string().into_bytes();
    bytes.extend(collisions.to_string().into_bytes());
    let hash = short_hash(&bytes);
    let prefix: String = owner.name_any().chars().take(OWNER_NAME_MAX).collect();
    let labels = subject.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut labels = labels.unwrap_or_default();
    labels.insert(subject.hash_label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: Some(owner.annotations().clone()).filter(|all| !all.is_empty()),
            owner_references: Some(vec![ownership::reference(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Finds, renumbers or makes the revision of the present template.
pub(super) async fn settle<K: Written>(cluster: &Cluster, owner: &K, subject: Subject<'_>) -> Result<History, Fault> {
    let mut all = claimed(cluster, owner, subject.selector).await?;
    all.sort_by_key(|revision| (revision.revision, revision.metadata.creation_timestamp.clone(), revision.name_any()));
    let mut collisions = subject.collisions;
    match choose(&all, subject.template) {
        Choice::Last => {}
        Choice::Renumber(at, number) => {
            let old = all.remove(at);
            all.push(Arc::new(cluster.change(&*old, json!({ "revision": number })).await?));
        }
        Choice::Create(number) => all.push(create(cluster, owner, &subject, number, &mut collisions).await?),
    }
    let update = all[all.len() - 1].clone();
    Ok(History { all, update, collisions })
}

async fn create<K: Written>(
    cluster: &Cluster,
    owner: &K,
    subject: &Subject<'_>,
    number: i64,
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>, Fault> {
    loop {
        let revision = make(owner, subject, number, *collisions);
        let fault = match cluster.create(&revision).await {
            Ok(created) => return Ok(Arc::new(created)),
            Err(fault) => fault,
        };
        let taken = cluster.revisions.find(&Key::of(&revision));
        let is_another = taken.is_some_and(|taken| template_of(&taken).as_ref() != Some(subject.template));
        if fault.cause() != Cause::Taken || !is_another || *collisions >= MOST_COLLISIONS {
            return Err(fault);
        }
        *collisions += 1;
    }
}

async fn claimed<K: Written>(
    cluster: &Cluster,
    owner: &K,
    selector: &LabelSelector,
) -> Result<Vec<Arc<ControllerRevision>>, Fault> {
    let mut own = Vec::new();
    for revision in cluster.revisions.in_namespace(&owner.namespace().unwrap_or_default()) {
        match ownership::claim(owner.meta(), selector, revision.meta()) {
            Claim::Ours => own.push(revision),
            Claim::Adopt => {
                let adopted = ownership::adoption(ownership::reference(owner), revision.meta());
                own.push(Arc::new(cluster.change(&*revision, adopted).await?));
            }
            // Its labels may have been changed by hand; it is our history all the same.
            Claim::Release => own.push(revision),
            Claim::Ignore => {}
        }
    }
    Ok(own)
}

impl History {
    /// The revision of this name; that of the present template if there is none.
    pub(super) fn named(&self, name: Option<&str>) -> Arc<ControllerRevision> {
        let found = self.all.iter().find(|revision| Some(revision.name_any().as_str()) == name);
        found.unwrap_or(&self.update).clone()
    }

    /// Which are in nobody's use, and more than are to be kept: the earliest.
    fn surplus(&self, is_used: impl Fn(&ControllerRevision) -> bool, kept: usize) -> &[Arc<ControllerRevision>] {
        let unused = self.all.iter().filter(|revision| !is_used(revision)).count();
        // The used ones are the latest, but for a rollout that was cut short; then fewer go, and the rest the next time.
        let first_used = self.all.iter().position(|revision| is_used(revision)).unwrap_or(self.all.len());
        &self.all[..unused.saturating_sub(kept).min(first_used)]
    }

    /// Deletes what nobody will go back to.
    pub(super) async fn trim(
        &self,
        cluster: &Cluster,
        is_used: impl Fn(&ControllerRevision) -> bool,
        limit: Option<i32>,
    ) -> Result<(), Fault> {
        /// How many are kept where the owner doesn't say.
        const USUALLY_KEPT: i32 = 10;
        let kept = usize::try_from(limit.unwrap_or(USUALLY_KEPT)).unwrap_or(0);
        for revision in self.surplus(|revision| revision.name_any() == self.update.name_any() || is_used(revision), kept) {
            cluster.delete(&**revision, DeleteParams::default()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "app", "image": image }] } })).unwrap()
    }

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        let metadata = ObjectMeta { name: Some(format!("web-{image}")), ..Default::default() };
        Arc::new(ControllerRevision { metadata, data: Some(RawExtension(data(&template(image)))), revision: number })
    }

    #[test]
    fn a_template_has_one_revision_however_often_it_comes_back() {
        let all = [revision(1, "v1"), revision(2, "v2")];
        assert_eq!(choose(&[], &template("v1")), Choice::Create(1));
        assert_eq!(choose(&all, &template("v2")), Choice::Last);
        assert_eq!(choose(&all, &template("v1")), Choice::Renumber(0, 3));
        assert_eq!(choose(&all, &template("v3")), Choice::Create(3));
    }

    #[test]
    fn the_patch_puts_the_whole_template_back() {
        assert_eq!(data(&template("v1"))["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_of(&revision(1, "v1")), Some(template("v1")));
    }

    #[test]
    fn the_earliest_that_nobody_uses_go() {
        let all: Vec<_> = (1..=5).map(|number| revision(number, &format!("v{number}"))).collect();
        let history = History { update: all[4].clone(), all, collisions: 0 };
        let gone = |used: &[i64], kept: usize| {
            let surplus = history.surplus(|revision| used.contains(&revision.revision), kept);
            surplus.iter().map(|revision| revision.revision).collect::<Vec<_>>()
        };
        assert_eq!(gone(&[5], 10), [0; 0]);
        assert_eq!(gone(&[5], 2), [1, 2]);
        assert_eq!(gone(&[2, 5], 0), [1]);
        assert_eq!(history.named(Some("web-v2")).revision, 2);
        assert_eq!(history.named(Some("gone")).revision, 5);
    }
}
