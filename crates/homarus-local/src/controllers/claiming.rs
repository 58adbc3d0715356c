//! The pods of a workload, after those were adopted and released that must be.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Resource, ResourceExt};

use super::cluster::{Cluster, Fault, Written};
use super::ownership::{self, Claim};

/// All pods of `owner`, ended and ending ones too. A pod that doesn't fit isn't its, whatever its labels.
pub(super) async fn pods<K: Written>(
    cluster: &Cluster,
    owner: &K,
    selector: &LabelSelector,
    fits: impl Fn(&Pod) -> bool,
) -> Result<Vec<Arc<Pod>>, Fault> {
    let mut own = Vec::new();
    for pod in cluster.pods.in_namespace(&owner.namespace().unwrap_or_default()) {
        let claim = match ownership::claim(owner.meta(), selector, pod.meta()) {
            Claim::Ours if !fits(&pod) => Claim::Release,
            Claim::Adopt if !fits(&pod) => Claim::Ignore,
            claim => claim,
        };
        match claim {
            Claim::Ours => own.push(pod),
            Claim::Adopt => {
                let adopted = ownership::adoption(ownership::reference(owner), pod.meta());
                own.push(Arc::new(cluster.change(&*pod, adopted).await?));
            }
            Claim::Release => {
                let released = ownership::release(&owner.uid().unwrap_or_default(), pod.meta());
                cluster.change(&*pod, released).await?;
            }
            Claim::Ignore => {}
        }
    }
    Ok(own)
}
