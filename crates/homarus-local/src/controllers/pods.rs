//! Facts about pods, the order in which they are given up, and how they are made from a template.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

/// What giving up a pod costs, among its like; the cheapest go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The node that the pod is on.
pub(super) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Where the pod is in its life. One that nobody looked at yet is pending.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether all of the pod's containers have ended for good.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as one of its owner's: it neither has ended nor is to end.
pub(super) fn is_active(pod: &Pod) -> bool {
    !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod may be sent requests.
pub(super) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod)?.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until the pod has been ready for `min_ready`: zero if it has been, none if it isn't ready.
pub(super) fn available_in(pod: &Pod, min_ready: Duration, now: Timestamp) -> Option<Duration> {
    ready_condition(pod)?;
    if min_ready.is_zero() {
        return Some(Duration::ZERO);
    }
    let elapsed = ready_since(pod).map(|since| elapsed(since, now))?;
    Some(min_ready.saturating_sub(elapsed))
}

/// The time from `since` to `now`, zero if that is in the future.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

/// Whether an init container runs beside the others for all of the pod's life.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The most restarts of one of the pod's containers, and of one of its sidecars.
fn most_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |all: &mut dyn Iterator<Item = &ContainerStatus>| all.map(|each| each.restart_count).max().unwrap_or(0);
    let sidecar = |name: &str| {
        let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        containers.into_iter().any(|container| container.name == name && is_sidecar(container))
    };
    let regular = most(&mut status.container_statuses.iter().flatten());
    let sidecars = most(&mut status.init_container_statuses.iter().flatten().filter(|each| sidecar(&each.name)));
    (regular, sidecars)
}

/// Sorts pods so that those come first that are missed least.
///
/// Ages are compared by their order of magnitude, so that a set that is scaled down doesn't keep its oldest pods only.
/// `related` are all pods of the same application, so that nodes with many of them lose theirs first.
pub(super) fn sort_by_loss(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *crowd.entry(node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| loss(pod, &crowd, now));
}

/// What is lost with a pod; uids decide by chance. A key, so that the order is total whatever the pods are.
fn loss(pod: &Pod, crowd: &HashMap<&str, usize>, now: Timestamp) -> impl Ord + use<> {
    let progress = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let crowded = node_name(pod).and_then(|node| crowd.get(node)).copied().unwrap_or(0);
    let magnitude = |moment: Option<Timestamp>| moment.and_then(|moment| elapsed(moment, now).as_nanos().checked_ilog2());
    (
        (node_name(pod).is_some(), progress, is_ready(pod), deletion_cost(pod), Reverse(crowded)),
        (magnitude(ready_since(pod)), Reverse(most_restarts(pod)), magnitude(created(pod))),
        pod.uid(),
    )
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// A new pod in `namespace`, named after its owner.
pub(super) fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::time;
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap_or_default()
    }

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 - seconds).unwrap_or_default()
    }

    /// A pod on a node, running, ready for as long as it says.
    fn running(name: &str, ready: Option<i64>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.metadata.creation_timestamp = Some(time(ago(5_000)));
        pod.spec.get_or_insert_default().node_name = Some("node".into());
        let status = pod.status.get_or_insert_default();
        status.phase = Some("Running".into());
        status.conditions = ready.map(|seconds| {
            let since = Some(time(ago(seconds)));
            vec![PodCondition { type_: "Ready".into(), status: "True".into(), last_transition_time: since, ..Default::default() }]
        });
        pod
    }

    fn order(pods: Vec<Pod>) -> Vec<String> {
        let mut pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let related = pods.clone();
        sort_by_loss(&mut pods, &related, now());
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn pods_that_serve_least_go_first() {
        let mut unassigned = running("unassigned", None);
        unassigned.spec.get_or_insert_default().node_name = None;
        let mut pending = running("pending", None);
        pending.status.get_or_insert_default().phase = Some("Pending".into());
        let mut cheap = running("cheap", Some(4_000));
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        let pods = vec![running("old", Some(4_000)), running("new", Some(4)), cheap, running("unready", None), pending, unassigned];
        assert_eq!(order(pods), ["unassigned", "pending", "unready", "cheap", "new", "old"]);
    }

    #[test]
    fn the_node_with_more_of_the_like_loses_first() {
        let mut alone = running("alone", Some(4));
        alone.spec.get_or_insert_default().node_name = Some("elsewhere".into());
        assert_eq!(order(vec![alone, running("a", Some(4_000)), running("b", Some(4_000))]), ["a", "b", "alone"]);
    }

    #[test]
    fn ages_of_one_magnitude_are_equal() {
        // 4000 and 3000 seconds are of one magnitude: the uid decides.
        assert_eq!(order(vec![running("b", Some(3_000)), running("a", Some(4_000))]), ["a", "b"]);
        assert_eq!(order(vec![running("a", Some(4_000)), running("b", Some(1_000))]), ["b", "a"]);
    }

    #[test]
    fn the_restless_go_before_the_steady() {
        let mut restless = running("z-restless", None);
        restless.status.get_or_insert_default().container_statuses =
            Some(vec![ContainerStatus { restart_count: 3, ..Default::default() }]);
        assert_eq!(order(vec![running("a", None), restless]), ["z-restless", "a"]);
    }

    #[test]
    fn availability_waits_for_min_ready() {
        let ten = Duration::from_secs(10);
        assert_eq!(available_in(&running("a", None), ten, now()), None);
        assert_eq!(available_in(&running("a", Some(4)), Duration::ZERO, now()), Some(Duration::ZERO));
        assert_eq!(available_in(&running("a", Some(4)), ten, now()), Some(Duration::from_secs(6)));
        assert_eq!(available_in(&running("a", Some(40)), ten, now()), Some(Duration::ZERO));
    }

    #[test]
    fn activity_ends_with_the_phase_or_with_deletion() {
        let mut pod = running("a", None);
        assert!(is_active(&pod));
        pod.metadata.deletion_timestamp = Some(time(now()));
        assert!(!is_active(&pod) && !has_ended(&pod));
        for phase in ["Succeeded", "Failed"] {
            let mut pod = running("a", None);
            pod.status.get_or_insert_default().phase = Some(phase.into());
            assert!(!is_active(&pod) && has_ended(&pod));
        }
    }
}
