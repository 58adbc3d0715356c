//! DaemonSets: a pod on each node, or on each that the template selects.
//!
//! [`plan`] decides, [`daemon`] says what such a pod has besides its template; the scheduler puts it on its node.

mod daemon;
mod plan;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::cluster::{Cause, Cluster, Fault, Severity};
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};
use super::{claiming, revisions};
use plan::{Plan, Seen};

/// See the module.
pub(super) struct DaemonSets;

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.daemon_sets
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(set) = cluster.daemon_sets.find(key) else { return Ok(Next::OnChange) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Next::OnChange) };
        let pods = claiming::pods(cluster, &*set, &spec.selector, |_| true).await?;
        let subject = revisions::Subject {
            selector: &spec.selector,
            template: &spec.template,
            hash_label: daemon::HASH_LABEL,
            collisions: set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0),
        };
        let history = revisions::settle(cluster, &*set, subject).await?;
        let update = revisions::hash_of(&history.update);
        let plan = plan::plan(&Seen {
            set: &set,
            pods: &pods,
            nodes: &cluster.nodes.all(),
            update: &update,
            collisions: history.collisions,
            now: Timestamp::now(),
        });
        let acted = act(cluster, &set, &plan).await;
        if set.status.as_ref() != Some(&plan.status) {
            let changed = DaemonSet { status: Some(plan.status), ..DaemonSet::clone(&set) };
            cluster.replace_status(&changed).await?;
        }
        acted?;
        let has_pods = |revision: &ControllerRevision| {
            let hash = revisions::hash_of(revision);
            pods.iter().any(|pod| pod.labels().get(daemon::HASH_LABEL) == Some(&hash))
        };
        history.trim(cluster, has_pods, spec.revision_history_limit).await?;
        Ok(plan.look_again.into())
    }
}

async fn act(cluster: &Cluster, set: &DaemonSet, plan: &Plan) -> Result<(), Fault> {
    for pod in &plan.create {
        match cluster.create(pod).await {
            Ok(created) => {
                let message = format!("Created pod: {}", created.name_any());
                cluster.tell(set, Severity::Normal, "SuccessfulCreate", message);
            }
            Err(fault) => {
                if fault.cause() == Cause::Other {
                    cluster.tell(set, Severity::Warning, "FailedCreate", format!("Error creating: {}", fault.said()));
                }
                return Err(fault);
            }
        }
    }
    for pod in &plan.delete {
        cluster.delete(&**pod, DeleteParams::default()).await?;
        cluster.tell(set, Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
    }
    Ok(())
}
