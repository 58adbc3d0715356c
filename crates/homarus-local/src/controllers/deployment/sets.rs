//! The ReplicaSets of a Deployment: which has its template, which revision each is, how many pods each is to have.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::{ownership, revisions};

/// The number of a template in the history of its deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers it had before, of a template that was gone back to.
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many replicas the deployment wanted when the set was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// How many it could have had, the surge included.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// The longest history kept in [`REVISION_HISTORY`].
const HISTORY_CHARS: usize = 2000;
/// Annotations that are not the user's, and stay where they are.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// A set as it is, and as it is to be.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// None for one that is to be created.
    current: Option<Arc<ReplicaSet>>,
    /// The object to be created, or the changed one.
    pub(super) wanted: ReplicaSet,
}

/// A change to a set that exists.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) patch: Value,
    /// How many replicas it had and gets, if that changes.
    pub(super) scaled: Option<(i32, i32)>,
}

impl Set {
    pub(super) fn existing(set: Arc<ReplicaSet>) -> Set {
        Set { wanted: ReplicaSet::clone(&set), current: Some(set) }
    }

    /// The set for the template of `deployment`, yet to be created, without pods so far.
    pub(super) fn new(deployment: &Deployment, spec: &DeploymentSpec) -> Set {
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let wanted = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", deployment.name_any())),
                namespace: deployment.namespace(),
                labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
                owner_references: Some(vec![ownership::reference(deployment)]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        Set { current: None, wanted }
    }

    pub(super) fn name(&self) -> String {
        self.wanted.name_any()
    }

    pub(super) fn uid(&self) -> Option<String> {
        self.wanted.uid()
    }

    pub(super) fn current(&self) -> Option<&Arc<ReplicaSet>> {
        self.current.as_ref()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.wanted.metadata.deletion_timestamp.is_some()
    }

    /// How many pods it is to have.
    pub(super) fn replicas(&self) -> i32 {
        self.wanted.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub(super) fn scale(&mut self, replicas: i32) {
        self.wanted.spec.get_or_insert_default().replicas = Some(replicas.max(0));
    }

    /// How many pods it has.
    pub(super) fn actual(&self) -> i32 {
        self.wanted.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub(super) fn ready(&self) -> i32 {
        self.wanted.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub(super) fn available(&self) -> i32 {
        self.wanted.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Whether the set's own controller has seen its last change.
    pub(super) fn is_observed(&self) -> bool {
        let observed = self.wanted.status.as_ref().and_then(|status| status.observed_generation);
        observed >= self.wanted.metadata.generation
    }

    pub(super) fn created(&self) -> impl Ord + use<> {
        (self.wanted.metadata.creation_timestamp.clone(), self.name())
    }

    /// Its revision; zero if it has none, or none that is a number.
    pub(super) fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    pub(super) fn number(&self, annotation: &str) -> Option<i64> {
        self.wanted.annotations().get(annotation)?.parse().ok()
    }

    fn annotate(&mut self, key: &str, value: String) {
        self.wanted.annotations_mut().insert(key.to_owned(), value);
    }

    /// Notes on the set what the deployment wants, and could have.
    pub(super) fn note_size(&mut self, desired: i32, most: i32) {
        self.annotate(DESIRED_REPLICAS, desired.to_string());
        self.annotate(MAX_REPLICAS, most.to_string());
    }

    /// Makes it the set of `revision`, if its own isn't later, with the deployment's annotations.
    pub(super) fn make_current(&mut self, deployment: &Deployment, spec: &DeploymentSpec, revision: i64) {
        for (key, value) in deployment.annotations() {
            if !OWN_ANNOTATIONS.contains(&key.as_str()) {
                self.annotate(key, value.clone());
            }
        }
        if self.current.is_some() && self.wanted.spec.as_ref().and_then(|set| set.min_ready_seconds) != spec.min_ready_seconds {
            self.wanted.spec.get_or_insert_default().min_ready_seconds = spec.min_ready_seconds;
        }
        let before = self.wanted.annotations().get(REVISION).cloned();
        if self.revision() >= revision {
            return;
        }
        self.annotate(REVISION, revision.to_string());
        // Gone back to: its earlier numbers are part of the history.
        if let Some(before) = before {
            let history = self.wanted.annotations().get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
            let history = longer_history(history, &before);
            self.annotate(REVISION_HISTORY, history);
        }
    }

    /// The change from what is to what is wanted, if the set exists and differs.
    pub(super) fn edit(&self) -> Option<Edit> {
        let set = self.current.clone()?;
        let annotations: BTreeMap<_, _> =
            self.wanted.annotations().iter().filter(|(key, value)| set.annotations().get(*key) != Some(value)).collect();
        let mut patch = json!({});
        if !annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(annotations);
        }
        let before = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let scaled = Some((before, self.replicas())).filter(|(before, after)| before != after);
        if let Some((_, after)) = scaled {
            patch["spec"]["replicas"] = json!(after);
        }
        let min_ready = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if min_ready(&set) != min_ready(&self.wanted) {
            patch["spec"]["minReadySeconds"] = json!(min_ready(&self.wanted));
        }
        (patch != json!({})).then_some(Edit { set, patch, scaled })
    }
}

/// `history` and one more, without the earliest where it gets too long.
fn longer_history(history: &str, revision: &str) -> String {
    let mut revisions: Vec<&str> = history.split(',').filter(|each| !each.is_empty()).collect();
    revisions.push(revision);
    while revisions.len() > 1 && revisions.iter().map(|each| each.len() + 1).sum::<usize>() > HISTORY_CHARS {
        revisions.remove(0);
    }
    revisions.join(",")
}

/// Whether the set was made of the template that the deployment has now.
pub(super) fn has_template_of(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let ours = deployment.spec.as_ref().map(|spec| plain(&spec.template));
    let its = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(plain);
    ours == its
}

/// A template without the label that we add, and without the difference between nothing and an empty map.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.take().unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    template.metadata = Some(meta);
    template
}

/// A short name for a template. It tells apart; what is equal is decided by comparing templates.
fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(&plain(template)).unwrap_or_default();
    bytes.extend(collisions.unwrap_or(0).to_le_bytes());
    revisions::short_hash(&bytes)
}
