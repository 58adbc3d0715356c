//! What a pod of a StatefulSet keeps when it is made anew: its name, its name in DNS, and its volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::super::{ownership, pods};
use super::plan::Version;

/// The label of a pod that names its revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number in the name of a pod; none for a pod that isn't named after the set.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let digits = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    // No other spelling of the number is a name that we give.
    (number >= 0 && number.to_string() == digits).then_some(number)
}

/// The pod of this number.
pub(super) fn pod(set: &StatefulSet, version: &Version, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(&version.template, &set.namespace().unwrap_or_default(), ownership::reference(set));
    let name = format!("{}-{ordinal}", set.name_any());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), name.clone());
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    labels.insert(REVISION_LABEL.into(), version.name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let claimed = templates(set).iter().filter_map(|template| {
        let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name(set, template, ordinal), read_only: None };
        let name = template.metadata.name.clone()?;
        Some(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() })
    });
    let claimed: Vec<Volume> = claimed.collect();
    if !claimed.is_empty() {
        let own = spec.volumes.take().unwrap_or_default();
        let others = own.into_iter().filter(|volume| !claimed.iter().any(|claim| claim.name == volume.name));
        spec.volumes = Some(claimed.iter().cloned().chain(others).collect());
    }
    pod
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// Whether claims go with what they are for, rather than stay: with the set, or with the pod that is scaled away.
pub(super) fn goes(set: &StatefulSet, with: With) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let said = policy.and_then(|policy| match with {
        With::Set => policy.when_deleted.as_deref(),
        With::Pod => policy.when_scaled.as_deref(),
    });
    said == Some("Delete")
}

/// What a claim may go with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    Set,
    Pod,
}

/// The claims of the pod of this number.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let owner = goes(set, With::Set).then(|| vec![ownership::reference(set)]);
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.labels().clone();
        labels.extend(selector.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.namespace(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: owner.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates(set).iter().map(claim).collect()
}
