//! StatefulSets: pods with names, names in DNS and volumes that stay theirs.
//!
//! [`identity`] says what stays, [`plan`] what is done now; revisions of the template are `revisions`'.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};
use super::{claiming, ownership, pods, revisions};
use identity::With;
use plan::{Plan, Seen, Version};

/// See the module.
pub(super) struct StatefulSets;

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.stateful_sets
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(set) = cluster.stateful_sets.find(key) else { return Ok(Next::OnChange) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Next::OnChange) };
        let pods = claiming::pods(cluster, &*set, &spec.selector, |pod| identity::ordinal(&set, pod).is_some()).await?;
        let status = set.status.clone().unwrap_or_default();
        let subject = revisions::Subject {
            selector: &spec.selector,
            template: &spec.template,
            hash_label: "controller.kubernetes.io/hash",
            collisions: status.collision_count.unwrap_or(0),
        };
        let history = revisions::settle(cluster, &*set, subject).await?;
        let current = history.named(status.current_revision.as_deref());
        let pods_before = pods.clone();
        let plan = plan::plan(Seen {
            set: &set,
            pods,
            current: version(&current, &spec.template),
            update: version(&history.update, &spec.template),
            collisions: history.collisions,
            now: Timestamp::now(),
        });
        let look_again = plan.look_again;
        let acted = act(cluster, &set, &plan, &pods_before).await;
        if set.status.as_ref() != Some(&plan.status) {
            let changed = StatefulSet { status: Some(plan.status), ..StatefulSet::clone(&set) };
            cluster.replace_status(&changed).await?;
        }
        acted?;
        let has_pods = |revision: &ControllerRevision| {
            let name = revision.name_any();
            pods_before.iter().any(|pod| pod.labels().get(identity::REVISION_LABEL) == Some(&name)) || name == current.name_any()
        };
        history.trim(cluster, has_pods, spec.revision_history_limit).await?;
        Ok(look_again.into())
    }
}

fn version(revision: &ControllerRevision, present: &k8s_openapi::api::core::v1::PodTemplateSpec) -> Version {
    Version { name: revision.name_any(), template: revisions::template_of(revision).unwrap_or_else(|| present.clone()) }
}

async fn act(cluster: &Cluster, set: &StatefulSet, plan: &Plan, pods: &[Arc<Pod>]) -> Result<(), Fault> {
    // A claim that was deleted by hand is missed by a pod that waits for its volume.
    let waiting = pods.iter().filter(|pod| pods::phase(pod) == "Pending").map(|pod| &**pod);
    for pod in waiting.chain(&plan.create) {
        ensure_claims(cluster, set, pod).await?;
    }
    for pod in &plan.create {
        let created = cluster.create(pod).await;
        tell(cluster, set, "Create", "create", &pod.name_any(), created.as_ref().err());
        created?;
    }
    for pod in &plan.condemn {
        if identity::goes(set, With::Pod) {
            hand_claims_to(cluster, set, pod).await?;
        }
    }
    for pod in plan.delete.iter().chain(&plan.condemn) {
        let deleted = cluster.delete(&**pod, DeleteParams::default()).await;
        tell(cluster, set, "Delete", "delete", &pod.name_any(), deleted.as_ref().err());
        deleted?;
    }
    Ok(())
}

fn tell(cluster: &Cluster, set: &StatefulSet, reason: &str, verb: &str, pod: &str, fault: Option<&Fault>) {
    let name = set.name_any();
    match fault {
        None => {
            let message = format!("{verb} Pod {pod} in StatefulSet {name} successful");
            cluster.tell(set, Severity::Normal, &format!("Successful{reason}"), message);
        }
        Some(fault) if fault.cause() == Cause::Other => {
            let message = format!("{verb} Pod {pod} in StatefulSet {name} failed error: {}", fault.said());
            cluster.tell(set, Severity::Warning, &format!("Failed{reason}"), message);
        }
        Some(_) => {}
    }
}

/// Makes the claims that the pod lacks. Those that are there already are its, whoever made them.
async fn ensure_claims(cluster: &Cluster, set: &StatefulSet, pod: &Pod) -> Result<(), Fault> {
    let Some(ordinal) = identity::ordinal(set, pod) else { return Ok(()) };
    for claim in identity::claims(set, ordinal) {
        if cluster.claims.find(&Key::of(&claim)).is_some() {
            continue;
        }
        match cluster.create(&claim).await {
            Ok(_) => {
                let (claim, pod, name) = (claim.name_any(), pod.name_any(), set.name_any());
                let message = format!("create Claim {claim} Pod {pod} in StatefulSet {name} success");
                cluster.tell(set, Severity::Normal, "SuccessfulCreate", message);
            }
            Err(fault) if fault.cause() == Cause::Taken => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Makes the pod, rather than the set, the owner of its claims, so that they go when it does.
async fn hand_claims_to(cluster: &Cluster, set: &StatefulSet, pod: &Pod) -> Result<(), Fault> {
    let Some(ordinal) = identity::ordinal(set, pod) else { return Ok(()) };
    for claim in identity::claims(set, ordinal) {
        let Some(claim) = cluster.claims.find(&Key::of(&claim)) else { continue };
        let mut owners = claim.meta().owner_references.clone().unwrap_or_default();
        let owner = ownership::reference(pod);
        if !owners.iter().any(|other| other.uid == owner.uid) {
            owners.retain(|other| Some(&other.uid) != set.meta().uid.as_ref());
            owners.push(owner);
            cluster.change(&*claim, json!({ "metadata": { "ownerReferences": owners } })).await?;
        }
    }
    Ok(())
}
