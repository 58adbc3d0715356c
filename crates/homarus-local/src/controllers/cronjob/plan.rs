//! Whether a CronJob's time has come, and which of its Jobs are over, in the way, or forgotten.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job, JobCondition};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cluster::{Severity, time};
use super::super::ownership;
use crate::schedule::Schedule;

/// Says when a Job was to begin.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Says that somebody made the Job by hand, from the CronJob's template.
const BY_HAND: &str = "cronjob.kubernetes.io/instantiate";
/// More missed times than this are told.
const MANY_MISSED: usize = 100;
/// How long after a time to look, so that it has come by everybody's clock.
const AFTER: Duration = Duration::from_millis(100);

/// What is to be told.
pub(super) type Told = (Severity, &'static str, String);

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Jobs that are over, more than are to be kept.
    pub(super) forget: Vec<Arc<Job>>,
    /// Jobs that a new one replaces.
    pub(super) replace: Vec<Arc<Job>>,
    pub(super) create: Option<Job>,
    pub(super) tell: Vec<Told>,
    /// What the status says once that is done; a Job that is to be created isn't in it yet.
    pub(super) status: CronJobStatus,
    /// When the next time comes.
    pub(super) look_again: Option<Duration>,
}

/// How a Job ended, if it has.
fn result(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}

fn is_complete(job: &Job) -> bool {
    result(job).is_some_and(|condition| condition.type_ == "Complete")
}

/// Decides about a CronJob whose Jobs are `jobs`.
pub(super) fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let none = CronJobSpec::default();
    let spec = cron_job.spec.as_ref().unwrap_or(&none);
    let mut plan = Plan { status: cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    note(&mut plan, jobs);
    forget(&mut plan, spec, jobs);
    if cron_job.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => begin(&mut plan, cron_job, spec, &schedule, jobs, now),
        Err(why) => {
            let message = format!("unparseable schedule {:?}: {why}", spec.schedule);
            plan.tell.push((Severity::Warning, "UnparseableSchedule", message));
        }
    }
    plan
}

/// Brings the list of active Jobs to what they are.
fn note(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let mut active = plan.status.active.take().unwrap_or_default();
    let knows = |active: &[ObjectReference], job: &Job| active.iter().any(|one| one.uid == job.uid());
    for job in jobs {
        match (knows(&active, job), result(job)) {
            (true, Some(ended)) => {
                active.retain(|one| one.uid != job.uid());
                let message = format!("Saw completed job: {}, condition: {}", job.name_any(), ended.type_);
                plan.tell.push((Severity::Normal, "SawCompletedJob", message));
            }
            (false, None) if job.annotations().get(BY_HAND).is_none_or(|by| by != "manual") => {
                let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
                plan.tell.push((Severity::Warning, "UnexpectedJob", message));
                // It runs on our behalf, so that it counts; and it isn't told again.
                active.push(reference(job));
            }
            _ => {}
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone()).filter(|_| is_complete(job));
        if completed > plan.status.last_successful_time {
            plan.status.last_successful_time = completed;
        }
    }
    for lost in active.iter().filter(|one| !jobs.iter().any(|job| job.uid() == one.uid)) {
        let message = format!("Active job went missing: {}", lost.name.as_deref().unwrap_or_default());
        plan.tell.push((Severity::Normal, "MissingJob", message));
    }
    active.retain(|one| jobs.iter().any(|job| job.uid() == one.uid));
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// Chooses the Jobs that are over and beyond the limits of the history, the earliest first.
fn forget(plan: &mut Plan, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
    let limits = [(true, spec.successful_jobs_history_limit.unwrap_or(3)), (false, spec.failed_jobs_history_limit.unwrap_or(1))];
    for (complete, limit) in limits {
        let over = jobs.iter().filter(|job| result(job).is_some() && is_complete(job) == complete);
        let mut over: Vec<_> = over.filter(|job| job.metadata.deletion_timestamp.is_none()).cloned().collect();
        let started = |job: &Arc<Job>| job.status.as_ref().and_then(|status| status.start_time.clone());
        over.sort_by_key(|job| (started(job), job.name_any()));
        let surplus = over.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.forget.extend(over.into_iter().take(surplus));
    }
}

fn begin(plan: &mut Plan, cron_job: &CronJob, spec: &CronJobSpec, schedule: &Schedule, jobs: &[Arc<Job>], now: Timestamp) {
    let until = |time: Timestamp| Duration::try_from(time.duration_since(now)).unwrap_or_default() + AFTER;
    plan.look_again = schedule.next(now).map(until);
    let Some(due) = due(plan, cron_job, spec, schedule, now) else { return };
    let name = format!("{}-{}", cron_job.name_any(), due.as_second() / 60);
    if jobs.iter().any(|job| job.name_any() == name) || plan.status.last_schedule_time.as_ref() == Some(&time(due)) {
        return;
    }
    let active = plan.status.active.clone().unwrap_or_default();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.tell.push((Severity::Normal, "JobAlreadyActive", message.into()));
            return;
        }
        Some("Replace") => {
            let old = jobs.iter().filter(|job| active.iter().any(|one| one.uid == job.uid()));
            plan.replace = old.cloned().collect();
            plan.status.active = None;
        }
        _ => {}
    }
    plan.status.last_schedule_time = Some(time(due));
    plan.create = Some(job(cron_job, spec, name, schedule.written(due)));
}

/// The last time that came, if it wasn't served and isn't too long ago.
fn due(plan: &mut Plan, cron_job: &CronJob, spec: &CronJobSpec, schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let created = cron_job.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let since = plan.status.last_schedule_time.as_ref().map(|time| time.0).or(created).unwrap_or(now);
    let due = schedule.last(now).filter(|due| *due > since)?;
    let deadline = spec.starting_deadline_seconds.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()));
    let late = Duration::try_from(now.duration_since(due)).unwrap_or_default();
    if deadline.is_some_and(|deadline| late > deadline) {
        let message = format!("Missed scheduled time to start a job: {}", schedule.written(due));
        plan.tell.push((Severity::Warning, "MissSchedule", message));
        // Told once: that time is over.
        plan.status.last_schedule_time = Some(time(due));
        return None;
    }
    if deadline.is_none() && missed_many(schedule, since, now) {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.tell.push((Severity::Warning, "TooManyMissedTimes", message.into()));
    }
    Some(due)
}

fn missed_many(schedule: &Schedule, since: Timestamp, now: Timestamp) -> bool {
    let times = std::iter::successors(schedule.next(since), |time| schedule.next(*time));
    times.take_while(|time| *time <= now).take(MANY_MISSED + 1).count() > MANY_MISSED
}

fn job(cron_job: &CronJob, spec: &CronJobSpec, name: String, scheduled: String) -> Job {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), scheduled);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron_job.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![ownership::reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// How an active Job is named in the status.
pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        namespace: job.namespace(),
        name: Some(job.name_any()),
        uid: job.uid(),
        resource_version: job.resource_version(),
        ..ObjectReference::default()
    }
}
