//! A pod that belongs to a node.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
};
use kube::ResourceExt;

use super::super::{ownership, pods};

/// The label of a pod, and of a revision, that has the hash of its template.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const NAME: &str = "metadata.name";
/// What doesn't keep such a pod from its node: effect and key.
const TOLERATED: [(&str, &str); 6] = [
    ("NoExecute", "node.kubernetes.io/not-ready"),
    ("NoExecute", "node.kubernetes.io/unreachable"),
    ("NoSchedule", "node.kubernetes.io/disk-pressure"),
    ("NoSchedule", "node.kubernetes.io/memory-pressure"),
    ("NoSchedule", "node.kubernetes.io/pid-pressure"),
    ("NoSchedule", "node.kubernetes.io/unschedulable"),
];

/// The node that a pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pods::node_name(pod).or_else(|| super::super::scheduler::meant_for(pod))
}

/// The pod for a node.
pub(super) fn pod(set: &DaemonSet, spec: &DaemonSetSpec, hash: &str, node: &str) -> Pod {
    let mut pod = pods::from_template(&spec.template, &set.namespace().unwrap_or_default(), ownership::reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.to_owned());
    if let Some(generation) = set.annotations().get(GENERATION) {
        labels.insert(GENERATION_LABEL.into(), generation.clone());
    }
    let pod_spec = pod.spec.get_or_insert_default();
    let here = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NAME.into(),
            operator: "In".into(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let affinity: &mut Affinity = pod_spec.affinity.get_or_insert_default();
    let on_nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    on_nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![here] });
    let tolerations = pod_spec.tolerations.get_or_insert_default();
    let host_network = pod_spec.host_network == Some(true);
    let network = host_network.then_some(("NoSchedule", "node.kubernetes.io/network-unavailable"));
    for (effect, key) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod
}
