//! One admission: facts together, decision, and what is told about it.

use std::collections::BTreeMap;

use homarus_daemon::metrics::Metrics;
use homarus_kube::annotations;
use homarus_kube::injection::decision::Origin;
use homarus_kube::injection::workload::Workload;
use homarus_kube::injection::{InjectError, Mesh, Outcome, Owner, Request, inject};
use serde_json::Value;
use tracing::{info, warn};

use super::cluster::{Cluster, ClusterError, topmost};
use super::config::{Config, ConfigError};
use super::metrics::{About, Admissions};
use crate::events::{Happening, Recorder, Severity, Subject};
use crate::webhook::Answer;
use crate::webhook::review::{BadReview, OwnerReference, Question, Review, Verdict};

/// Why an object was denied.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("failed to render the proxy: {0}")]
    Inject(#[from] InjectError),
}

/// Kinds that can own pods and that events are written on.
const OWNERS: [(&str, &str, &str); 8] = [
    ("deployment", "Deployment", "apps/v1"),
    ("replicaset", "ReplicaSet", "apps/v1"),
    ("statefulset", "StatefulSet", "apps/v1"),
    ("daemonset", "DaemonSet", "apps/v1"),
    ("job", "Job", "batch/v1"),
    ("cronjob", "CronJob", "batch/v1"),
    ("replicationcontroller", "ReplicationController", "v1"),
    ("pod", "Pod", "v1"),
];

/// Something of this kind (lower-case), as events name it; none if no events are written on such.
pub(super) fn subject(kind: &str, namespace: &str, name: &str, uid: Option<String>) -> Option<Subject> {
    let (_, kind, api_version) = OWNERS.into_iter().find(|(lower, ..)| *lower == kind)?;
    Some(Subject { api_version, kind, namespace: namespace.to_owned(), name: name.to_owned(), uid })
}

/// Answers admission reviews.
pub(super) struct Webhook<C> {
    control_plane_ns: String,
    config: Config,
    cluster: C,
    recorder: Recorder,
    admissions: Admissions,
}

impl<C: Cluster> Answer for Webhook<C> {
    async fn answer(&self, body: &[u8]) -> Result<Value, BadReview> {
        self.answer_body(body).await
    }
}

impl<C: Cluster> Webhook<C> {
    pub(super) fn new(control_plane_ns: String, config: Config, cluster: C, recorder: Recorder, metrics: &Metrics) -> Self {
        Self { control_plane_ns, config, cluster, recorder, admissions: Admissions::new(metrics) }
    }

    async fn answer_body(&self, body: &[u8]) -> Result<Value, BadReview> {
        let review = Review::parse(body)?;
        let question = &review.request;
        let ("", kind @ ("Pod" | "Service")) = question.kind() else {
            return Ok(review.answer(&Verdict::Allowed(Default::default())));
        };
        let verdict = match self.admit(question, kind).await {
            Ok(outcome) => Verdict::Allowed(outcome.patch),
            Err(error) => {
                let name = question.name();
                warn!(%error, kind, namespace = question.namespace, name, "denied");
                Verdict::Denied(error.to_string())
            }
        };
        Ok(review.answer(&verdict))
    }

    async fn admit(&self, question: &Question, kind: &str) -> Result<Outcome, Denied> {
        let values = self.config.values()?;
        let namespace_annotations = self.cluster.namespace_annotations(&question.namespace).await?;
        let (owner, uid) = self.owner(question, kind).await?;
        let created_by = format!("linkerd/proxy-injector {}", values.linkerd_version);
        let mesh = Mesh { control_plane_ns: &self.control_plane_ns, values: &values, created_by: &created_by };
        let request = Request {
            workload: Workload::new(kind, &question.object),
            namespace: &question.namespace,
            namespace_annotations: &namespace_annotations,
            owner: &owner,
            origin: Origin::Webhook,
        };
        let outcome = inject(&mesh, &request)?;
        for invalid in &outcome.invalid {
            warn!(%invalid, namespace = question.namespace, owner = owner.name, "annotation ignored");
        }
        self.tell(question, kind, &owner, uid, &namespace_annotations, &outcome);
        Ok(outcome)
    }

    /// What the object belongs to in the end, and the uid of that.
    async fn owner(&self, question: &Question, kind: &str) -> Result<(Owner, Option<String>), ClusterError> {
        let as_owner = |kind: &str, name: &str| Owner { kind: kind.to_ascii_lowercase(), name: name.to_owned() };
        let [direct] = &question.owners()[..] else {
            return Ok((as_owner(kind, question.name()), None));
        };
        let OwnerReference { kind, name, uid } = topmost(&self.cluster, &question.namespace, direct).await?;
        Ok((as_owner(&kind, &name), Some(uid).filter(|uid| !uid.is_empty())))
    }

    /// Counts, logs and records what became of an object.
    fn tell(
        &self,
        question: &Question,
        kind: &str,
        owner: &Owner,
        uid: Option<String>,
        namespace_annotations: &BTreeMap<String, String>,
        outcome: &Outcome,
    ) {
        let mut seen: BTreeMap<_, _> = namespace_annotations.clone();
        seen.extend(question.object_annotations());
        seen.retain(|name, _| annotations::find(name).is_some());
        let about = About { owner_kind: &owner.kind, namespace: &question.namespace, annotations: &seen };
        self.admissions.requested(about, outcome);
        let is_service = kind == "Service";
        if !(is_service && outcome.patch.is_empty()) {
            self.admissions.responded(about, outcome);
        }
        let (reason, message) = if outcome.is_injected() {
            info!(namespace = question.namespace, owner_kind = owner.kind, owner = owner.name, "injected");
            ("Injected", "Linkerd sidecar proxy injected".to_owned())
        } else {
            let reasons: Vec<_> = outcome.decision.skips.iter().map(|skip| skip.explain()).collect();
            ("InjectionSkipped", format!("Linkerd sidecar proxy injection skipped: {}", reasons.join(", ")))
        };
        if is_service || question.dry_run == Some(true) || owner.name.is_empty() {
            return;
        }
        let Some(subject) = subject(&owner.kind, &question.namespace, &owner.name, uid) else { return };
        self.recorder.record(Happening { subject, severity: Severity::Normal, reason, message });
    }
}
