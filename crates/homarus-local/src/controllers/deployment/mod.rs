//! Deployments: from one template to the next without an interruption, and back.
//!
//! Each template has a ReplicaSet; a rollout moves pods from the old sets to the new one by changing how many each is to
//! have. [`plan`] decides what changes now, [`sets`] knows the sets and their revisions, [`status`] says how it goes.

mod plan;
mod sets;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::ownership::{self, Claim};
use super::pods;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};
use plan::{Plan, Seen};

/// See the module.
pub(super) struct Deployments;

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.deployments
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(deployment) = cluster.deployments.find(key) else { return Ok(Next::OnChange) };
        let sets = claimed_sets(cluster, &deployment).await?;
        let running = uids_with_pods(cluster, &deployment, &sets);
        let plan = plan::plan(Seen { deployment: &deployment, sets, running: &running, now: Timestamp::now() });
        let Some(plan) = plan else { return Ok(Next::OnChange) };
        let look_again = plan.look_again;
        act(cluster, &deployment, plan).await?;
        Ok(look_again.into())
    }
}

/// The sets of the deployment, after those were adopted and released that must be.
async fn claimed_sets(cluster: &Cluster, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Fault> {
    let Some(spec) = &deployment.spec else { return Ok(Vec::new()) };
    let mut own = Vec::new();
    for set in cluster.replica_sets.in_namespace(&deployment.namespace().unwrap_or_default()) {
        match ownership::claim(deployment.meta(), &spec.selector, set.meta()) {
            Claim::Ours => own.push(set),
            Claim::Adopt => {
                let adopted = ownership::adoption(ownership::reference(deployment), set.meta());
                own.push(Arc::new(cluster.change(&*set, adopted).await?));
            }
            Claim::Release => {
                let released = ownership::release(&deployment.uid().unwrap_or_default(), set.meta());
                cluster.change(&*set, released).await?;
            }
            Claim::Ignore => {}
        }
    }
    Ok(own)
}

/// Which of the sets have pods that haven't ended, be they to end or not.
fn uids_with_pods(cluster: &Cluster, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<String> {
    let pods = cluster.pods.in_namespace(&deployment.namespace().unwrap_or_default());
    let uids = sets.iter().filter_map(|set| set.uid());
    let has_pods = |uid: &String| pods.iter().any(|pod| ownership::is_controlled_by(pod.meta(), uid) && !pods::has_ended(pod));
    uids.filter(has_pods).collect()
}

/// Does what was planned, in an order that may end anywhere: nothing is said in the status that wasn't done.
async fn act(cluster: &Cluster, deployment: &Deployment, plan: Plan) -> Result<(), Fault> {
    for edit in &plan.edits {
        cluster.change(&*edit.set, edit.patch.clone()).await?;
        if let Some((from, to)) = edit.scaled {
            let direction = if from < to { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {from} to {to}", edit.set.name_any());
            cluster.tell(deployment, Severity::Normal, "ScalingReplicaSet", message);
        }
    }
    if let Some(set) = &plan.create {
        create(cluster, deployment, set).await?;
    }
    for set in &plan.delete {
        cluster.delete(&**set, DeleteParams::background()).await?;
    }
    let mut current = deployment.clone();
    if let Some(revision) = &plan.revision {
        let annotation = json!({ "metadata": { "annotations": { sets::REVISION: revision } } });
        current = cluster.change(&current, annotation).await?;
    }
    if deployment.status.as_ref() != Some(&plan.status) {
        current.status = Some(plan.status);
        cluster.replace_status(&current).await?;
    }
    Ok(())
}

/// Creates the set of a new template. A namesake of another template makes the next name a different one.
async fn create(cluster: &Cluster, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Fault> {
    let fault = match cluster.create(set).await {
        Ok(created) => {
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            if replicas > 0 {
                let message = format!("Scaled up replica set {} from 0 to {replicas}", created.name_any());
                cluster.tell(deployment, Severity::Normal, "ScalingReplicaSet", message);
            }
            return Ok(());
        }
        Err(fault) => fault,
    };
    let mut status = deployment.status.clone().unwrap_or_default();
    match fault.cause() {
        Cause::Taken => {
            // Ours, if the watch is late: then the next look finds it. Otherwise a collision.
            let Some(taken) = cluster.replica_sets.find(&Key::of(set)) else { return Err(fault) };
            if ownership::is_controlled_by(taken.meta(), &deployment.uid().unwrap_or_default())
                && sets::has_template_of(&taken, deployment)
            {
                return Err(fault);
            }
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        }
        Cause::Other => {
            let message = format!("Failed to create new replica set {:?}: {}", set.name_any(), fault.said());
            cluster.tell(deployment, Severity::Warning, status::CREATE_FAILED, message.clone());
            status::creation_failed(deployment, &mut status, message, Timestamp::now());
        }
        Cause::Conflict | Cause::Missing | Cause::NamespaceEnding => return Err(fault),
    }
    if deployment.status.as_ref() != Some(&status) {
        let updated = Deployment { status: Some(status), ..deployment.clone() };
        cluster.replace_status(&updated).await?;
    }
    Err(fault)
}
