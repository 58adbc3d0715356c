//! CronJobs: a Job at each time of a schedule.
//!
//! A Job is named after its time, so that no time has two, whatever happens between making it and noting it.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::ownership;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

/// See the module.
pub(super) struct CronJobs;

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.cron_jobs
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(cron_job) = cluster.cron_jobs.find(key) else { return Ok(Next::OnChange) };
        let uid = cron_job.uid().unwrap_or_default();
        let mut jobs = cluster.jobs.in_namespace(&key.namespace);
        jobs.retain(|job| ownership::is_controlled_by(job.meta(), &uid));
        let plan = plan::plan(&cron_job, &jobs, Timestamp::now());
        let mut status = plan.status;
        for job in plan.forget.iter().chain(&plan.replace) {
            delete(cluster, &cron_job, job).await?;
        }
        for (severity, reason, message) in plan.tell {
            cluster.tell(&*cron_job, severity, reason, message);
        }
        let created = match &plan.create {
            Some(job) => create(cluster, &cron_job, job, &mut status).await,
            None => Ok(()),
        };
        if cron_job.status.as_ref() != Some(&status) {
            let changed = CronJob { status: Some(status), ..CronJob::clone(&cron_job) };
            cluster.replace_status(&changed).await?;
        }
        created.map(|()| plan.look_again.into())
    }
}

/// Makes a Job and notes it. One that can't be made leaves its time to be tried again.
async fn create(cluster: &Cluster, cron_job: &CronJob, job: &Job, status: &mut CronJobStatus) -> Result<(), Fault> {
    let made = match cluster.create(job).await {
        Ok(created) => {
            cluster.tell(cron_job, Severity::Normal, "SuccessfulCreate", format!("Created job {}", created.name_any()));
            Arc::new(created)
        }
        Err(fault) => {
            let taken = cluster.jobs.find(&Key::of(job)).filter(|_| fault.cause() == Cause::Taken);
            let uid = cron_job.uid().unwrap_or_default();
            match taken.filter(|taken| ownership::is_controlled_by(taken.meta(), &uid)) {
                Some(ours) => ours,
                None => {
                    status.last_schedule_time = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.clone());
                    if matches!(fault.cause(), Cause::Other | Cause::Taken) {
                        let message = format!("Error creating job: {}", fault.said());
                        cluster.tell(cron_job, Severity::Warning, "FailedCreate", message);
                    }
                    return Err(fault);
                }
            }
        }
    };
    status.active.get_or_insert_default().push(plan::reference(&made));
    Ok(())
}

async fn delete(cluster: &Cluster, cron_job: &CronJob, job: &Job) -> Result<(), Fault> {
    match cluster.delete(job, DeleteParams::background()).await {
        Ok(()) => {
            cluster.tell(cron_job, Severity::Normal, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
            Ok(())
        }
        Err(fault) => {
            cluster.tell(cron_job, Severity::Warning, "FailedDelete", format!("Deleted job: {}", fault.said()));
            Err(fault)
        }
    }
}
