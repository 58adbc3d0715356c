//! Whether a Job is over, and which pods it lacks or has too many.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::pods;
use super::is_held;

/// The first pause before a failed pod is replaced; each further failure in a row doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause before a failed pod is replaced.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Pods created or deleted at one look.
const MOST_AT_ONCE: usize = 500;
/// How many failures a Job bears that doesn't say.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Outcome {
    fn failure(reason: &str, message: &str) -> Outcome {
        Outcome { success: false, reason: reason.into(), message: message.into() }
    }

    fn completed() -> Outcome {
        let message = "Reached expected number of succeeded pods";
        Outcome { success: true, reason: "CompletionsReached".into(), message: message.into() }
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to be deleted, which then count as failed.
    pub(super) end: Vec<Arc<Pod>>,
    /// Pods to be deleted, which don't count.
    pub(super) discard: Vec<Arc<Pod>>,
    pub(super) create: usize,
    /// How the Job ends, once its pods have.
    pub(super) outcome: Option<Outcome>,
    /// Active pods that stay.
    pub(super) active: i32,
    /// Those of them that are ready.
    pub(super) ready: i32,
    /// Pods that are to end and haven't.
    pub(super) terminating: i32,
    /// Whether the status shall say that the Job is suspended, or no longer so.
    pub(super) suspended: Option<bool>,
    pub(super) look_again: Option<Duration>,
}

/// The condition that a Job ended with.
pub(super) fn result(job: &Job) -> Option<JobCondition> {
    condition(job, &["Complete", "Failed"]).cloned()
}

fn condition<'j>(job: &'j Job, types: &[&str]) -> Option<&'j JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| types.contains(&condition.type_.as_str()) && condition.status == "True")
}

/// What a Job asks for that we can't do.
pub(super) fn unsupported(job: &Job) -> Option<&'static str> {
    let spec = job.spec.as_ref()?;
    if spec.completion_mode.as_deref().is_some_and(|mode| mode != "NonIndexed") {
        Some("spec.completionMode Indexed")
    } else if spec.pod_failure_policy.is_some() {
        Some("spec.podFailurePolicy")
    } else if spec.success_policy.is_some() {
        Some("spec.successPolicy")
    } else {
        None
    }
}

/// When a finished Job is to be deleted, if it is.
pub(super) fn expires_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let keep = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = result(job)?.last_transition_time?.0;
    let keep = Duration::from_secs(keep.max(0).unsigned_abs().into());
    Some(keep.saturating_sub(pods::elapsed(finished, now)))
}

/// Whether a pod counts as failed: one that is deleted does before it has ended, unless its replacement is to wait.
pub(super) fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !waits_for_the_end(spec),
    }
}

fn waits_for_the_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// How many pods have succeeded and failed, counted and not yet counted.
fn totals(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>]) -> (i32, i32) {
    let status = job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
    let (noted_ok, noted_bad) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
    let fresh = |noted: &[String], is: &dyn Fn(&Pod) -> bool| {
        let counts = |pod: &&Arc<Pod>| is_held(pod) && is(pod) && !pod.uid().is_some_and(|uid| noted.contains(&uid));
        count(pods.iter().filter(counts).count())
    };
    let succeeded = fresh(&noted_ok, &|pod| pods::phase(pod) == "Succeeded");
    let failed = fresh(&noted_bad, &|pod| has_failed(pod, spec));
    (
        status.succeeded.unwrap_or(0) + count(noted_ok.len()) + succeeded,
        status.failed.unwrap_or(0) + count(noted_bad.len()) + failed,
    )
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Decides about a Job that isn't over, whose pods are `pods`.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    let (succeeded, failed) = totals(job, spec, pods);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let is_terminating = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some() && !pods::has_ended(pod);
    let mut plan = Plan { terminating: count(pods.iter().filter(is_terminating).count()), ..Plan::default() };
    let deadline = deadline_in(job, spec, now);
    plan.outcome = outcome(job, spec, pods, failed, deadline);
    if plan.outcome.is_some() {
        plan.end = active.clone();
    } else {
        plan.look_again = deadline;
        if job.metadata.deletion_timestamp.is_none() {
            manage(&mut plan, spec, active.clone(), pods, succeeded, now);
            plan.suspended = Some(is_suspended(spec));
        }
    }
    let stays = |pod: &&Arc<Pod>| !plan.end.iter().chain(&plan.discard).any(|gone| gone.uid() == pod.uid());
    let left: Vec<_> = active.iter().filter(stays).collect();
    plan.active = count(left.len());
    plan.ready = count(left.iter().filter(|pod| pods::is_ready(pod)).count());
    plan.terminating += count(active.len() - left.len());
    let enough = match completions(spec) {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0,
    };
    if plan.outcome.is_none() && enough && plan.active == 0 && plan.create == 0 {
        plan.outcome = Some(Outcome::completed());
        plan.suspended = None;
    }
    plan
}

/// How many pods are to succeed. None if the first that does says that there is no more to do.
fn completions(spec: &JobSpec) -> Option<i32> {
    match (spec.completions, spec.parallelism) {
        (None, None) => Some(1),
        (completions, _) => completions,
    }
}

fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend.unwrap_or(false)
}

/// How long the Job may still be active: zero if it was for too long.
fn deadline_in(job: &Job, spec: &JobSpec, now: Timestamp) -> Option<Duration> {
    let limit = spec.active_deadline_seconds.filter(|_| !is_suspended(spec))?;
    let limit = Duration::from_secs(limit.max(0).unsigned_abs());
    let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
    Some(started.map_or(limit, |started| limit.saturating_sub(pods::elapsed(started.0, now))))
}

fn outcome(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], failed: i32, deadline: Option<Duration>) -> Option<Outcome> {
    // What was decided stays decided.
    if let Some(decided) = condition(job, &["SuccessCriteriaMet", "FailureTarget"]) {
        return Some(Outcome {
            success: decided.type_ == "SuccessCriteriaMet",
            reason: decided.reason.clone().unwrap_or_default(),
            message: decided.message.clone().unwrap_or_default(),
        });
    }
    let limit = spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
    if failed > limit || has_restarted_too_often(spec, pods, limit) {
        Some(Outcome::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if deadline == Some(Duration::ZERO) {
        Some(Outcome::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
    } else {
        None
    }
}

/// Whether containers that are restarted in place, sidecars apart, failed more often than a Job bears.
fn has_restarted_too_often(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    if spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let restarts: i32 = running.map(|pod| restarts(pod)).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn restarts(pod: &Pod) -> i32 {
    let is_sidecar = |name: &str| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.into_iter().any(|container| container.name == name && pods::is_sidecar(container))
    };
    let statuses = pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten().filter(|each| !is_sidecar(&each.name));
        status.container_statuses.iter().flatten().chain(init)
    });
    statuses.map(|status| status.restart_count).sum()
}

/// Brings the number of active pods to what it should be.
fn manage(plan: &mut Plan, spec: &JobSpec, mut active: Vec<Arc<Pod>>, pods: &[Arc<Pod>], succeeded: i32, now: Timestamp) {
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let there = count(active.len());
    let wanted = match completions(spec) {
        _ if is_suspended(spec) => 0,
        Some(completions) => (completions - succeeded).min(parallelism).max(0),
        // One has said that there is no more to do: the others may finish.
        None if succeeded > 0 => there,
        None => parallelism,
    };
    let too_many = usize::try_from(there - wanted).unwrap_or(0).min(MOST_AT_ONCE);
    if too_many > 0 {
        pods::sort_by_loss(&mut active, &[], now);
        active.truncate(too_many);
        plan.discard = active;
        return;
    }
    let held_back = if waits_for_the_end(spec) { plan.terminating } else { 0 };
    let missing = usize::try_from(wanted - there - held_back).unwrap_or(0);
    if missing == 0 {
        return;
    }
    match pause(spec, pods, now) {
        Some(pause) => plan.look_again = Some(plan.look_again.map_or(pause, |other| other.min(pause))),
        None => plan.create = missing.min(MOST_AT_ONCE),
    }
}

/// How long to wait before a failed pod is replaced, by the failures since the last success.
fn pause(spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let succeeded = pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| ended_at(pod)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|pod| has_failed(pod, spec))
        .filter_map(|pod| ended_at(pod))
        .filter(|at| Some(*at) > succeeded)
        .collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX);
    let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
    Some(pause.saturating_sub(pods::elapsed(*last, now))).filter(|left| !left.is_zero())
}

/// When the last of the pod's containers ended, or when it was told to.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let finished = |status: &ContainerStatus| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0);
    let last = statuses.into_iter().filter_map(finished).max();
    last.or_else(|| pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0))
}
