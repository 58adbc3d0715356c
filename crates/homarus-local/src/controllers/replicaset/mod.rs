//! ReplicaSets: as many pods of one template as asked for.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::ownership::{self, Claim};
use super::pods;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

/// See the module.
pub(super) struct ReplicaSets;

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.replica_sets
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(set) = cluster.replica_sets.find(key) else { return Ok(Next::OnChange) };
        let own = claimed_pods(cluster, &set).await?;
        let related = related_pods(cluster, &set);
        let now = Timestamp::now();
        let plan = plan::plan(&set, own, &related, now);
        let acted = act(cluster, &set, &plan).await;
        let status = plan::status(&set, &plan, acted.as_ref().err().map(Fault::said), now);
        if set.status.as_ref() != Some(&status) {
            let updated = ReplicaSet { status: Some(status), ..ReplicaSet::clone(&set) };
            cluster.replace_status(&updated).await?;
        }
        acted.map(|()| plan.look_again.into())
    }
}

/// The pods of the set that are active, after those were adopted and released that must be.
async fn claimed_pods(cluster: &Cluster, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Fault> {
    let Some(spec) = &set.spec else { return Ok(Vec::new()) };
    let mut own = Vec::new();
    for pod in cluster.pods.in_namespace(&set.namespace().unwrap_or_default()) {
        if !pods::is_active(&pod) {
            continue;
        }
        match ownership::claim(set.meta(), &spec.selector, pod.meta()) {
            Claim::Ours => own.push(pod),
            Claim::Adopt => {
                let adopted = ownership::adoption(ownership::reference(set), pod.meta());
                own.push(Arc::new(cluster.change(&*pod, adopted).await?));
            }
            Claim::Release => {
                let released = ownership::release(&set.uid().unwrap_or_default(), pod.meta());
                cluster.change(&*pod, released).await?;
            }
            Claim::Ignore => {}
        }
    }
    Ok(own)
}

/// The pods of all sets with the owner that this one has: the whole of an application.
fn related_pods(cluster: &Cluster, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let namespace = set.namespace().unwrap_or_default();
    let owner = ownership::controller_of(set.meta());
    let siblings: Vec<String> = match owner {
        Some(owner) => {
            let sets = cluster.replica_sets.in_namespace(&namespace);
            let related = sets.iter().filter(|each| ownership::is_controlled_by(each.meta(), &owner.uid));
            related.filter_map(|each| each.uid()).collect()
        }
        None => set.uid().into_iter().collect(),
    };
    let mut pods = cluster.pods.in_namespace(&namespace);
    pods.retain(|pod| ownership::controller_of(pod.meta()).is_some_and(|owner| siblings.contains(&owner.uid)));
    pods
}

/// Creates and deletes, one by one: the first failure is likely to be everybody's.
async fn act(cluster: &Cluster, set: &ReplicaSet, plan: &plan::Plan) -> Result<(), Fault> {
    let namespace = set.namespace().unwrap_or_default();
    if let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) {
        let pod = pods::from_template(template, &namespace, ownership::reference(set));
        for _ in 0..plan.create {
            match cluster.create(&pod).await {
                Ok(created) => {
                    let message = format!("Created pod: {}", created.name_any());
                    cluster.tell(set, Severity::Normal, "SuccessfulCreate", message);
                }
                Err(fault) if fault.cause() == Cause::NamespaceEnding => break,
                Err(fault) => {
                    let message = format!("Error creating: {}", fault.said());
                    cluster.tell(set, Severity::Warning, "FailedCreate", message);
                    return Err(fault);
                }
            }
        }
    }
    for pod in &plan.delete {
        if let Err(fault) = cluster.delete(&**pod, DeleteParams::default()).await {
            cluster.tell(set, Severity::Warning, "FailedDelete", format!("Error deleting: {}", fault.said()));
            return Err(fault);
        }
        cluster.tell(set, Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
    }
    Ok(())
}
