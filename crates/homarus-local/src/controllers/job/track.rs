//! The two steps of counting, and the conditions that go with them.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cluster::time;
use super::super::pods;
use super::is_held;
use super::plan::{Outcome, Plan, has_failed};

/// The most uids in a status; the rest is counted at the next look.
const MOST_UNCOUNTED: usize = 500;

/// The first step: what the status says before any pod is let go.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) status: JobStatus,
    /// The pods that are to be let go once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    /// The uids of pods that are held even then.
    pub(super) still_held: Vec<String>,
}

/// Notes the pods that have ended.
pub(super) fn note(job: &Job, pods: &[Arc<Pod>], plan: &Plan, created: usize, now: Timestamp) -> Tracked {
    let no_spec = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&no_spec);
    let mut status = job.status.clone().unwrap_or_default();
    let held: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| is_held(pod) && !plan.discard.iter().any(|gone| gone.uid() == pod.uid())).collect();
    let held_uids: Vec<String> = held.iter().filter_map(|pod| pod.uid()).collect();
    settle_counts(&mut status, &held_uids);

    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let mut release = Vec::new();
    let over = plan.outcome.is_some() || job.metadata.deletion_timestamp.is_some();
    let has_failed_with_job = plan.outcome.as_ref().is_some_and(|outcome| !outcome.success);
    for pod in held {
        let succeeded = pods::phase(pod) == "Succeeded";
        let failed = has_failed(pod, spec);
        if !(over || succeeded || failed) {
            continue;
        }
        let uid = pod.uid().unwrap_or_default();
        if succeeded {
            add(&mut uncounted.succeeded, uid);
        } else if failed || has_failed_with_job {
            add(&mut uncounted.failed, uid);
        }
        release.push(pod.clone());
        if release.len() >= MOST_UNCOUNTED {
            break;
        }
    }
    status.uncounted_terminated_pods = Some(uncounted);
    status.active = nonzero(plan.active.saturating_add(i32::try_from(created).unwrap_or(i32::MAX)));
    status.ready = Some(plan.ready);
    status.terminating = Some(plan.terminating);
    note_times(&mut status, spec, plan, now);
    if let Some(outcome) = &plan.outcome {
        let type_ = if outcome.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        ensure(&mut status, type_, "True", &outcome.reason, &outcome.message, now);
    }
    let released: Vec<_> = release.iter().filter_map(|pod| pod.uid()).collect();
    let still_held = held_uids.into_iter().filter(|uid| !released.contains(uid)).collect();
    Tracked { status, release, still_held }
}

/// When the Job started, and whether it is suspended.
fn note_times(status: &mut JobStatus, spec: &JobSpec, plan: &Plan, now: Timestamp) {
    let suspended = spec.suspend.unwrap_or(false);
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(time(now));
    }
    let Some(now_suspended) = plan.suspended else { return };
    let (value, reason, message) = match now_suspended {
        true => ("True", "JobSuspended", "Job suspended"),
        false => ("False", "JobResumed", "Job resumed"),
    };
    // Active anew: the deadline begins anew, too.
    if ensure(status, "Suspended", value, reason, message, now) && !now_suspended {
        status.start_time = Some(time(now));
    }
}

fn add(uids: &mut Option<Vec<String>>, uid: String) {
    let uids = uids.get_or_insert_default();
    if !uids.contains(&uid) {
        uids.push(uid);
    }
}

fn nonzero(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}

/// The second step: counts the pods that were let go, and ends the Job if nothing is left to wait for.
pub(super) fn settle(
    mut status: JobStatus,
    held: &[String],
    outcome: Option<&Outcome>,
    terminating: i32,
    now: Timestamp,
) -> JobStatus {
    settle_counts(&mut status, held);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let waits = uncounted.succeeded.is_some_and(|uids| !uids.is_empty()) || uncounted.failed.is_some_and(|uids| !uids.is_empty());
    let Some(outcome) = outcome.filter(|_| !waits && terminating == 0 && held.is_empty()) else { return status };
    let type_ = if outcome.success { "Complete" } else { "Failed" };
    ensure(&mut status, type_, "True", &outcome.reason, &outcome.message, now);
    if outcome.success {
        status.completion_time = Some(time(now));
    }
    status
}

/// Moves the uids of pods that are no longer held from the lists to the counters.
fn settle_counts(status: &mut JobStatus, held: &[String]) {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let settle = |uids: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let mut list = uids.take().unwrap_or_default();
        let before = list.len();
        list.retain(|uid| held.contains(uid));
        let gone = i32::try_from(before - list.len()).unwrap_or(i32::MAX);
        *counter = nonzero(counter.unwrap_or(0).saturating_add(gone));
        *uids = Some(list).filter(|list| !list.is_empty());
    };
    settle(&mut uncounted.succeeded, &mut status.succeeded);
    settle(&mut uncounted.failed, &mut status.failed);
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded: uncounted.succeeded, failed: uncounted.failed });
}

/// Sets a condition, and says whether that changed anything. From nothing to false is no change.
fn ensure(status: &mut JobStatus, type_: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let wanted = JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    };
    let changed = match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(current) => {
            let same = current.status == wanted.status && current.reason == wanted.reason && current.message == wanted.message;
            if !same {
                *current = wanted;
            }
            !same
        }
        None if value == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    };
    if conditions.is_empty() {
        status.conditions = None;
    }
    changed
}
