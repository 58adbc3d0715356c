//! Puts pods on a node. With one node there is nothing to weigh; what remains is whether the pod may go there at all.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::cluster::{Cluster, Fault, Severity, time};
use super::pods;
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// See the module.
pub(super) struct Scheduler {
    pub(super) name: String,
}

/// What becomes of a pod.
#[derive(Debug)]
enum Place {
    /// Nothing to decide: it has a node, is ending, waits for a gate, or asks for another scheduler.
    Leave,
    On(Arc<Node>),
    /// Nowhere, and why.
    Nowhere(String),
}

impl Controller for Scheduler {
    const NAME: &'static str = "scheduler";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.scheduler
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let Some(pod) = cluster.pods.find(key) else { return Ok(Next::OnChange) };
        match place(&pod, &self.name, &cluster.nodes.all()) {
            Place::Leave => {}
            Place::On(node) => {
                cluster.bind(&pod, &node).await?;
                let message = format!("Successfully assigned {key} to {}", node.name_any());
                cluster.tell(&*pod, Severity::Normal, "Scheduled", message);
            }
            Place::Nowhere(why) => report(cluster, &pod, why).await?,
        }
        Ok(Next::OnChange)
    }
}

/// Says in the pod's status why it has no node, once.
async fn report(cluster: &Cluster, pod: &Pod, why: String) -> Result<(), Fault> {
    let mut changed = pod.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let current = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    if current.is_some_and(|current| current.message.as_deref() == Some(&why)) {
        return Ok(());
    }
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(why.clone()),
        last_transition_time: Some(time(Timestamp::now())),
        ..Default::default()
    });
    cluster.replace_status(&changed).await?;
    cluster.tell(pod, Severity::Warning, "FailedScheduling", why);
    Ok(())
}

fn place(pod: &Pod, scheduler: &str, nodes: &[Arc<Node>]) -> Place {
    let Some(spec) = &pod.spec else { return Place::Leave };
    let asks_for = spec.scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(scheduler);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if pods::node_name(pod).is_some() || !pods::is_active(pod) || gated || asks_for != scheduler {
        return Place::Leave;
    }
    let mut reasons = Vec::new();
    for node in nodes {
        match objection(pod, node) {
            None => return Place::On(node.clone()),
            Some(reason) => reasons.push(reason),
        }
    }
    reasons.sort_unstable();
    reasons.dedup();
    Place::Nowhere(format!(
        "0/{} nodes are available: {}.",
        nodes.len(),
        if reasons.is_empty() { "no node is registered".into() } else { reasons.join(", ") }
    ))
}

/// Why the pod can't go to this node.
fn objection(pod: &Pod, node: &Node) -> Option<&'static str> {
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    if !ready(node) {
        Some("the node is not ready")
    } else if unschedulable && !tolerates(pod, UNSCHEDULABLE, "NoSchedule") {
        Some("the node is unschedulable; `kubectl uncordon` it")
    } else {
        unfit(pod, node)
    }
}

/// Whether a pod that goes wherever it may may go to this node, be it ready or not.
pub(super) fn may_run(pod: &Pod, node: &Node) -> bool {
    unfit(pod, node).is_none()
}

/// What of the node itself is in the pod's way.
fn unfit(pod: &Pod, node: &Node) -> Option<&'static str> {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if !wanted.into_iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value)) {
        Some("the node didn't match Pod's node selector")
    } else if meant_for(pod).is_some_and(|name| name != node.name_any()) {
        Some("the node didn't match Pod's node affinity")
    } else if taints.any(|taint| taint.effect != "PreferNoSchedule" && !tolerates_taint(pod, taint)) {
        Some("the node has a taint that the pod doesn't tolerate")
    } else {
        None
    }
}

/// The one node that a pod is meant for, by its name: how DaemonSets say it.
pub(super) fn meant_for(pod: &Pod) -> Option<&str> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let [field] = term.match_fields.as_deref()? else { return None };
    let [name] = field.values.as_deref()? else { return None };
    (field.key == "metadata.name" && field.operator == "In").then_some(name)
}

fn tolerates(pod: &Pod, key: &str, effect: &str) -> bool {
    let taint = Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
    tolerates_taint(pod, &taint)
}

fn tolerates_taint(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    tolerations.into_iter().any(|toleration| {
        let exists = toleration.operator.as_deref() == Some("Exists");
        let key = said(&toleration.key).map_or(exists, |key| key == taint.key);
        let effect = said(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        key && effect && (exists || said(&toleration.value) == said(&taint.value))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, PodSchedulingGate, PodSpec};

    use super::*;

    fn node(ready: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("one".into());
        node.metadata.labels = Some([("disk".to_owned(), "ssd".to_owned())].into());
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..Default::default() };
        node.status.get_or_insert_default().conditions = Some(vec![condition]);
        node
    }

    fn placed(spec: PodSpec, nodes: Vec<Node>) -> String {
        let pod = Pod { spec: Some(spec), ..Default::default() };
        let nodes: Vec<_> = nodes.into_iter().map(Arc::new).collect();
        match place(&pod, "default-scheduler", &nodes) {
            Place::Leave => "left".into(),
            Place::On(node) => node.name_any(),
            Place::Nowhere(why) => why,
        }
    }

    #[test]
    fn a_pod_goes_to_the_node_that_is_ready() {
        assert_eq!(placed(PodSpec::default(), vec![node("True")]), "one");
        assert_eq!(placed(PodSpec::default(), vec![node("Unknown")]), "0/1 nodes are available: the node is not ready.");
        assert_eq!(placed(PodSpec::default(), vec![]), "0/0 nodes are available: no node is registered.");
        let cordoned = Node { spec: Some(NodeSpec { unschedulable: Some(true), ..Default::default() }), ..node("True") };
        assert!(placed(PodSpec::default(), vec![cordoned]).contains("unschedulable"));
    }

    #[test]
    fn a_selector_is_heeded() {
        let wants =
            |disk: &str| PodSpec { node_selector: Some([("disk".to_owned(), disk.to_owned())].into()), ..Default::default() };
        assert_eq!(placed(wants("ssd"), vec![node("True")]), "one");
        assert!(placed(wants("hdd"), vec![node("True")]).contains("node selector"));
    }

    #[test]
    fn other_pods_are_left_alone() {
        let gates = Some(vec![PodSchedulingGate { name: "quota".into() }]);
        for spec in [
            PodSpec { node_name: Some("one".into()), ..Default::default() },
            PodSpec { scheduler_name: Some("other".into()), ..Default::default() },
            PodSpec { scheduling_gates: gates, ..Default::default() },
        ] {
            assert_eq!(placed(spec, vec![node("True")]), "left");
        }
    }
}
