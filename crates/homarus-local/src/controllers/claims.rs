//! Claims: a folder of the machine for each, which stays until the claim goes.
//!
//! What is decided here is only that a claim has its volume, and that it stays while a pod uses it; the node makes the
//! folder, and removes it after the claim. There are no classes and no sizes: a claim gets what it asks for.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::cluster::{Cluster, Fault, Severity};
use super::pods;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

/// Held by claims that a pod may use.
const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// See the module.
pub(super) struct Claims;

/// What is to be done about a claim.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// Name its volume, and hold it.
    Bind,
    /// Say that it is bound.
    Tell,
    /// Let it go.
    Release,
}

fn step(claim: &PersistentVolumeClaim, is_used: bool) -> Step {
    let held = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    match claim.metadata.deletion_timestamp.is_some() {
        true if held && !is_used => Step::Release,
        true => Step::Nothing,
        false if !volume || !held => Step::Bind,
        false if !bound => Step::Tell,
        false => Step::Nothing,
    }
}

impl Controller for Claims {
    const NAME: &'static str = "claim";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.claims
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(claim) = cluster.claims.find(key) else { return Ok(Next::OnChange) };
        let pods = cluster.pods.in_namespace(&key.namespace);
        let is_used = pods.iter().any(|pod| !pods::has_ended(pod) && claimed_by(pod).any(|name| name == key.name));
        match step(&claim, is_used) {
            Step::Nothing => {}
            Step::Bind => {
                cluster.change(&*claim, binding(&claim)).await?;
            }
            Step::Tell => {
                let changed = PersistentVolumeClaim { status: Some(bound(&claim)), ..PersistentVolumeClaim::clone(&claim) };
                cluster.replace_status(&changed).await?;
                let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
                let message = format!("Successfully provisioned volume {volume}");
                cluster.tell(&*claim, Severity::Normal, "ProvisioningSucceeded", message);
            }
            Step::Release => {
                let left: Vec<_> = claim.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
                let left = if left.is_empty() { Value::Null } else { json!(left) };
                cluster.change(&*claim, json!({ "metadata": { "finalizers": left } })).await?;
            }
        }
        Ok(Next::OnChange)
    }
}

fn binding(claim: &PersistentVolumeClaim) -> Value {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    let volume = named.unwrap_or_else(|| format!("pvc-{}", claim.uid().unwrap_or_default()));
    let mut finalizers = claim.finalizers().to_vec();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    json!({ "metadata": { "finalizers": finalizers }, "spec": { "volumeName": volume } })
}

fn bound(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    let spec = claim.spec.clone().unwrap_or_default();
    PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: spec.access_modes,
        capacity: spec.resources.and_then(|resources| resources.requests),
        ..PersistentVolumeClaimStatus::default()
    }
}

/// The claims that a pod's volumes are.
fn claimed_by(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// A pod that goes or ends may have been the last to use a claim.
pub(super) fn wake(cluster: &Cluster, pod: &Pod) {
    for name in claimed_by(pod) {
        cluster.queues.claims.add(Key::new(pod.namespace().unwrap_or_default(), name));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({ "metadata": { "name": "data", "uid": "u" }, "spec": { "accessModes": ["ReadWriteOnce"] } });
        json_patch::merge(&mut claim, &more);
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_claim_is_bound_and_held_while_it_is_used() {
        let held = json!({ "metadata": { "finalizers": [FINALIZER] }, "spec": { "volumeName": "pvc-u" } });
        let with = |more: Value| {
            let mut all = held.clone();
            json_patch::merge(&mut all, &more);
            claim(all)
        };
        let ending = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        assert_eq!(step(&claim(json!({})), false), Step::Bind);
        assert_eq!(binding(&claim(json!({})))["spec"]["volumeName"], "pvc-u");
        assert_eq!(step(&with(json!({})), false), Step::Tell);
        assert_eq!(step(&with(json!({ "status": { "phase": "Bound" } })), true), Step::Nothing);
        assert_eq!(step(&with(ending.clone()), true), Step::Nothing, "a pod uses it");
        assert_eq!(step(&with(ending.clone()), false), Step::Release);
        assert_eq!(step(&claim(ending), false), Step::Nothing);
    }
}
