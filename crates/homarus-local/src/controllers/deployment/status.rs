//! What a deployment's status says: counters, whether enough is available, whether a rollout comes forward.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cluster::time;
use super::super::pods::elapsed;
use super::plan::{Sets, Wishes};
use super::sets::Set;

/// Why the set of a new template isn't there.
pub(super) const CREATE_FAILED: &str = "ReplicaSetCreateError";

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

type Conditions = Vec<DeploymentCondition>;

fn find<'c>(conditions: &'c Conditions, type_: &str) -> Option<&'c DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn remove(conditions: &mut Conditions, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// Sets a condition, unless it says the same already; its transition is when its status changed.
fn set(conditions: &mut Conditions, mut condition: DeploymentCondition) {
    if let Some(current) = find(conditions, &condition.type_)
        && current.status == condition.status
    {
        if current.reason == condition.reason {
            return;
        }
        condition.last_transition_time = current.last_transition_time.clone();
    }
    remove(conditions, &condition.type_);
    conditions.push(condition);
}

fn condition(type_: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// A status in the making.
pub(super) struct Report<'a> {
    deployment: &'a Deployment,
    wishes: &'a Wishes,
    conditions: Conditions,
    now: Timestamp,
}

impl<'a> Report<'a> {
    pub(super) fn new(deployment: &'a Deployment, wishes: &'a Wishes, now: Timestamp) -> Report<'a> {
        let conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        Report { deployment, wishes, conditions, now }
    }

    fn note(&mut self, status: &str, reason: &str, message: String) {
        set(&mut self.conditions, condition(PROGRESSING, status, reason, message, self.now));
    }

    fn progress(&self) -> Option<&DeploymentCondition> {
        find(&self.conditions, PROGRESSING)
    }

    fn reason(&self) -> Option<&str> {
        self.progress()?.reason.as_deref()
    }

    /// A pause is no lack of progress.
    pub(super) fn note_pause(&mut self) {
        if self.wishes.deadline.is_none() || self.reason() == Some(TIMED_OUT) {
            return;
        }
        let noted = self.reason() == Some(PAUSED);
        if self.wishes.paused && !noted {
            self.note("Unknown", PAUSED, "Deployment is paused".into());
        } else if !self.wishes.paused && noted {
            self.note("Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
    }

    /// The template's set was there already.
    pub(super) fn note_found(&mut self, name: &str) {
        if self.wishes.deadline.is_some() && self.progress().is_none() {
            self.note("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
    }

    /// The template's set is created.
    pub(super) fn note_created(&mut self, name: &str) {
        if self.wishes.deadline.is_some() {
            self.note("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"));
        }
    }

    /// Whether the rollout was complete when the status was last written.
    pub(super) fn was_complete(&self) -> bool {
        self.deployment.status.as_ref().is_some_and(|status| is_complete(self.deployment, self.wishes, status))
    }

    /// The status, with what `sets` show; how a rollout comes forward is said only of one that `rolls`.
    pub(super) fn finish(mut self, sets: &Sets, rolls: bool) -> DeploymentStatus {
        let before = self.progress().cloned();
        let mut status = self.counted(sets);
        self.note_availability(sets);
        if rolls {
            if self.wishes.deadline.is_none() {
                remove(&mut self.conditions, PROGRESSING);
            } else {
                self.note_progress(&status, before, sets.new.as_ref());
            }
            self.note_failure(sets);
        }
        status.conditions = Some(self.conditions).filter(|conditions| !conditions.is_empty());
        status
    }

    fn counted(&self, sets: &Sets) -> DeploymentStatus {
        let nonzero = |number: i32| Some(number).filter(|number| *number != 0);
        let available = sets.available();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(sets.all().map(Set::actual).sum()),
            updated_replicas: nonzero(sets.new.as_ref().map_or(0, Set::actual)),
            ready_replicas: nonzero(sets.all().map(Set::ready).sum()),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero((sets.replicas() - available).max(0)),
            collision_count: self.deployment.status.as_ref().and_then(|status| status.collision_count),
            terminating_replicas: None,
            conditions: None,
        }
    }

    fn note_availability(&mut self, sets: &Sets) {
        let enough = sets.available() >= self.wishes.replicas - self.wishes.max_unavailable();
        let (status, reason, message) = match enough {
            true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        };
        set(&mut self.conditions, condition(AVAILABLE, status, reason, message.into(), self.now));
    }

    fn note_progress(&mut self, status: &DeploymentStatus, before: Option<DeploymentCondition>, new: Option<&Set>) {
        let is_over = status.replicas == status.updated_replicas && self.reason() == Some(COMPLETE);
        if is_over {
            return;
        }
        let subject = match new {
            Some(new) => format!("ReplicaSet {:?}", new.name()),
            None => format!("Deployment {:?}", self.deployment.name_any()),
        };
        if is_complete(self.deployment, self.wishes, status) {
            self.note("True", COMPLETE, format!("{subject} has successfully progressed."));
        } else if has_progressed(self.deployment, status) {
            let mut progressing =
                condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), self.now);
            // Its update time is that of the last progress, so it is written anew even if it says the same.
            if let Some(before) = before.filter(|before| before.status == "True") {
                progressing.last_transition_time = before.last_transition_time;
            }
            remove(&mut self.conditions, PROGRESSING);
            self.conditions.push(progressing);
        } else if self.has_timed_out() {
            self.note("False", TIMED_OUT, format!("{subject} has timed out progressing."));
        }
    }

    fn has_timed_out(&self) -> bool {
        let (Some(deadline), Some(progress)) = (self.wishes.deadline, self.progress()) else { return false };
        match progress.reason.as_deref() {
            Some(COMPLETE) => false,
            Some(TIMED_OUT) => true,
            _ => progress.last_update_time.as_ref().is_some_and(|updated| elapsed(updated.0, self.now) > deadline),
        }
    }

    /// What hinders a set hinders the deployment, the new set's hindrance before an old one's.
    fn note_failure(&mut self, sets: &Sets) {
        let of = |set: &Set| {
            let status = set.wanted.status.as_ref()?;
            status.conditions.iter().flatten().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
        };
        match sets.new.iter().chain(&sets.old).find_map(of) {
            Some(failure) => set(
                &mut self.conditions,
                DeploymentCondition {
                    type_: failure.type_,
                    status: failure.status,
                    reason: failure.reason,
                    message: failure.message,
                    last_update_time: failure.last_transition_time.clone(),
                    last_transition_time: failure.last_transition_time,
                },
            ),
            None => remove(&mut self.conditions, REPLICA_FAILURE),
        }
    }
}

/// Whether all pods wanted are of the new template and available, and no others are left.
fn is_complete(deployment: &Deployment, wishes: &Wishes, status: &DeploymentStatus) -> bool {
    let all = |number: Option<i32>| number.unwrap_or(0) == wishes.replicas;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether there are more new pods, fewer old ones, or more that are ready or available, than at the last look.
fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let before = deployment.status.as_ref().unwrap_or(&none);
    let grew = |of: fn(&DeploymentStatus) -> Option<i32>| of(status).unwrap_or(0) > of(before).unwrap_or(0);
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    grew(|status| status.updated_replicas)
        || old(status) < old(before)
        || grew(|status| status.ready_replicas)
        || grew(|status| status.available_replicas)
}

/// When a lack of progress would have to be noticed.
pub(super) fn look_again(deployment: &Deployment, wishes: &Wishes, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = wishes.deadline?;
    let progress = find(status.conditions.as_ref()?, PROGRESSING)?;
    if is_complete(deployment, wishes, status) || progress.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let since = elapsed(progress.last_update_time.as_ref()?.0, now);
    Some(deadline.saturating_sub(since) + Duration::from_secs(1))
}

/// Says that the set of a new template can't be created.
pub(super) fn creation_failed(deployment: &Deployment, status: &mut DeploymentStatus, message: String, now: Timestamp) {
    let deadline = deployment.spec.as_ref().and_then(|spec| Wishes::of(spec).deadline);
    if deadline.is_some() {
        let failed = condition(PROGRESSING, "False", CREATE_FAILED, message, now);
        set(status.conditions.get_or_insert_default(), failed);
    }
}
