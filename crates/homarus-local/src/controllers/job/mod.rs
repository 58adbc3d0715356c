//! Jobs: pods that are to end, as often as asked for.
//!
//! Counting must not depend on pods that may be deleted at any time. So each pod of a Job carries a finalizer until it was
//! counted: first its uid goes into the status (`uncountedTerminatedPods`), then its finalizer goes, then the counter
//! goes up and the uid away. A stop between any two of these steps neither loses a pod nor counts one twice.
//!
//! Not done here: Indexed completion, and policies for pod failures and success. A Job that asks for them is told so.

mod plan;
#[cfg(test)]
mod tests;
mod track;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::ownership::{self, Claim, selects};
use super::pods;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

/// Held by pods that aren't counted yet.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The labels that a Job's pods have, by its uid and by its name; the short ones are the older.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// See the module.
pub(super) struct Jobs;

impl Controller for Jobs {
    const NAME: &'static str = "job";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.jobs
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let job = cluster.jobs.find(key);
        let Some(job) = job.filter(|job| plan::result(job).is_none()) else {
            release_orphans(cluster, key).await?;
            return expire(cluster, key).await;
        };
        if let Some(what) = plan::unsupported(&job) {
            let message = format!("{what} is not supported by this cluster; leave it away, or use a Kubernetes cluster");
            cluster.tell(&*job, Severity::Warning, "Unsupported", message);
            return Ok(Next::OnChange);
        }
        let pods = claimed_pods(cluster, &job).await?;
        let plan = plan::plan(&job, &pods, Timestamp::now());
        let acted = act(cluster, &job, &plan).await;
        let look_again = plan.look_again;
        count(cluster, &job, &pods, plan, acted.created).await?;
        match acted.fault {
            Some(fault) => Err(fault),
            None => Ok(look_again.into()),
        }
    }
}

/// Looks at the Jobs that might adopt a pod.
pub(super) fn wake_adopters(cluster: &Cluster, pod: &Pod) {
    for job in cluster.jobs.in_namespace(&pod.namespace().unwrap_or_default()) {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selector.is_some_and(|selector| selects(selector, pod.labels())) {
            cluster.queues.jobs.add(Key::of(&*job));
        }
    }
}

/// The Job's pods, ended or not, after those were adopted and released that must be.
async fn claimed_pods(cluster: &Cluster, job: &Job) -> Result<Vec<Arc<Pod>>, Fault> {
    let uid = job.uid().unwrap_or_default();
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let mut own = Vec::new();
    for pod in cluster.pods.in_namespace(&job.namespace().unwrap_or_default()) {
        let claim = match selector {
            Some(selector) => ownership::claim(job.meta(), selector, pod.meta()),
            None if ownership::is_controlled_by(pod.meta(), &uid) => Claim::Ours,
            None => Claim::Ignore,
        };
        match claim {
            Claim::Ours => own.push(pod),
            Claim::Adopt => {
                let mut adopted = ownership::adoption(ownership::reference(job), pod.meta());
                adopted["metadata"]["finalizers"] =
                    json!(pod.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect::<Vec<_>>());
                own.push(Arc::new(cluster.change(&*pod, adopted).await?));
            }
            Claim::Release => {
                let mut released = ownership::release(&uid, pod.meta());
                released["metadata"]["finalizers"] = finalizers_left(&pod);
                cluster.change(&*pod, released).await?;
            }
            Claim::Ignore => {}
        }
    }
    Ok(own)
}

fn is_held(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

fn finalizers_left(pod: &Pod) -> Value {
    let left: Vec<_> = pod.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    if left.is_empty() { Value::Null } else { json!(left) }
}

/// Takes our finalizer off a pod. One that is gone is as good.
async fn release(cluster: &Cluster, pod: &Pod) -> Result<(), Fault> {
    if !is_held(pod) {
        return Ok(());
    }
    let patch = json!({ "metadata": { "finalizers": finalizers_left(pod) } });
    match cluster.change(pod, patch).await {
        Err(fault) if fault.cause() == Cause::Missing => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Lets go of pods whose Job is gone, is another one of that name, or has finished: nobody will count them any more.
async fn release_orphans(cluster: &Cluster, key: &Key) -> Result<(), Fault> {
    let uid = cluster.jobs.find(key).filter(|job| plan::result(job).is_none()).and_then(|job| job.uid());
    for pod in cluster.pods.in_namespace(&key.namespace) {
        let owner = ownership::controller_of(pod.meta()).filter(|owner| owner.kind == "Job" && owner.name == key.name);
        if owner.is_some_and(|owner| Some(&owner.uid) != uid.as_ref()) {
            release(cluster, &pod).await?;
        }
    }
    Ok(())
}

/// Deletes a Job that has been finished for as long as it was to be kept.
async fn expire(cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
    let Some(job) = cluster.jobs.find(key) else { return Ok(Next::OnChange) };
    match plan::expires_in(&job, Timestamp::now()) {
        Some(Duration::ZERO) if job.metadata.deletion_timestamp.is_none() => {
            cluster.delete(&*job, DeleteParams::background()).await?;
            Ok(Next::OnChange)
        }
        after => Ok(after.filter(|after| !after.is_zero()).into()),
    }
}

/// What came of a plan.
struct Acted {
    created: usize,
    fault: Option<Fault>,
}

async fn act(cluster: &Cluster, job: &Job, plan: &plan::Plan) -> Acted {
    let mut acted = Acted { created: 0, fault: None };
    acted.fault = remove(cluster, job, plan).await.err();
    if acted.fault.is_some() || plan.create == 0 {
        return acted;
    }
    let pod = pod_of(job);
    for _ in 0..plan.create {
        match cluster.create(&pod).await {
            Ok(created) => {
                acted.created += 1;
                let message = format!("Created pod: {}", created.name_any());
                cluster.tell(job, Severity::Normal, "SuccessfulCreate", message);
            }
            Err(fault) => {
                if fault.cause() != Cause::NamespaceEnding {
                    cluster.tell(job, Severity::Warning, "FailedCreate", format!("Error creating: {}", fault.said()));
                }
                acted.fault = Some(fault);
                break;
            }
        }
    }
    acted
}

async fn remove(cluster: &Cluster, job: &Job, plan: &plan::Plan) -> Result<(), Fault> {
    for pod in &plan.discard {
        release(cluster, pod).await?;
    }
    for pod in plan.discard.iter().chain(&plan.end) {
        cluster.delete(&**pod, DeleteParams::default()).await?;
        cluster.tell(job, Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
    }
    Ok(())
}

/// A pod of the Job: its template, held until it is counted, with the labels that tell whose it is.
fn pod_of(job: &Job) -> Pod {
    let none = PodTemplateSpec::default();
    let template = job.spec.as_ref().map_or(&none, |spec| &spec.template);
    let mut pod = pods::from_template(template, &job.namespace().unwrap_or_default(), ownership::reference(job));
    let labels = pod.metadata.labels.get_or_insert_default();
    if job.spec.as_ref().and_then(|spec| spec.manual_selector) != Some(true) {
        for label in UID_LABELS {
            labels.entry(label.into()).or_insert_with(|| job.uid().unwrap_or_default());
        }
        for label in NAME_LABELS {
            labels.entry(label.into()).or_insert_with(|| job.name_any());
        }
    }
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    pod
}

/// Counts the pods that have ended, and says how the Job stands.
async fn count(cluster: &Cluster, job: &Job, pods: &[Arc<Pod>], plan: plan::Plan, created: usize) -> Result<(), Fault> {
    let now = Timestamp::now();
    let tracked = track::note(job, pods, &plan, created, now);
    let mut current = job.clone();
    if current.status.as_ref() != Some(&tracked.status) {
        current.status = Some(tracked.status);
        current = cluster.replace_status(&current).await?;
    }
    for pod in &tracked.release {
        release(cluster, pod).await?;
    }
    let status = current.status.clone().unwrap_or_default();
    let settled = track::settle(status, &tracked.still_held, plan.outcome.as_ref(), plan.terminating, now);
    if current.status.as_ref() != Some(&settled) {
        current.status = Some(settled);
        let finished = cluster.replace_status(&current).await?;
        if let Some(result) = plan::result(&finished) {
            let (severity, reason) = match result.type_.as_str() {
                "Complete" => (Severity::Normal, "Completed"),
                _ => (Severity::Warning, result.reason.as_deref().unwrap_or("Failed")),
            };
            let message = if reason == "Completed" { "Job completed" } else { result.message.as_deref().unwrap_or_default() };
            cluster.tell(&finished, severity, reason, message.to_owned());
        }
    }
    Ok(())
}
