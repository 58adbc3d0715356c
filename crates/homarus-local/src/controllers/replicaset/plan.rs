//! How many pods are missing or too many, and what the status says of those there are.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cluster::time;
use super::super::pods;

/// Pods created or deleted at one look; the rest at the next.
pub(super) const MOST_AT_ONCE: usize = 500;
/// The condition that says that pods can't be created or deleted.
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What is to be done about one set.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
    /// When a pod becomes available by waiting alone.
    pub(super) look_again: Option<Duration>,
    counted: Counted,
}

#[derive(Debug, Default)]
struct Counted {
    active: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    wanted: i32,
}

/// Decides about a set whose active pods are `own`.
pub(super) fn plan(set: &ReplicaSet, mut own: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let wanted = spec.replicas.unwrap_or(1).max(0);
    let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let has_labels = |pod: &Pod| labels.into_iter().flatten().all(|(key, value)| pod.labels().get(key) == Some(value));
    let waits: Vec<Duration> = own.iter().filter_map(|pod| pods::available_in(pod, min_ready, now)).collect();
    let counted = Counted {
        active: count(own.len()),
        fully_labeled: count(own.iter().filter(|pod| has_labels(pod)).count()),
        ready: count(waits.len()),
        available: count(waits.iter().filter(|wait| wait.is_zero()).count()),
        wanted,
    };
    let look_again = waits.into_iter().filter(|wait| !wait.is_zero()).min();
    let mut plan = Plan { counted, look_again, ..Plan::default() };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    plan.create = wanted.saturating_sub(own.len()).min(MOST_AT_ONCE);
    let too_many = own.len().saturating_sub(wanted).min(MOST_AT_ONCE);
    if too_many > 0 {
        pods::sort_by_loss(&mut own, related, now);
        own.truncate(too_many);
        plan.delete = own;
    }
    plan
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What the status says, given what the plan saw, and how doing it failed.
pub(super) fn status(set: &ReplicaSet, plan: &Plan, failure: Option<String>, now: Timestamp) -> ReplicaSetStatus {
    let seen = &plan.counted;
    let nonzero = |number: i32| Some(number).filter(|number| *number != 0);
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let reported = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(message) if !reported => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(if seen.active < seen.wanted { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(message),
            last_transition_time: Some(time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    ReplicaSetStatus {
        replicas: seen.active,
        fully_labeled_replicas: nonzero(seen.fully_labeled),
        ready_replicas: nonzero(seen.ready),
        available_replicas: nonzero(seen.available),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        terminating_replicas: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{PodCondition, PodTemplateSpec};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap_or_default()
    }

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        let mut template = PodTemplateSpec::default();
        template.metadata.get_or_insert_default().labels = Some([("app".to_owned(), "web".to_owned())].into());
        let spec = ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: Some(min_ready),
            template: Some(template),
            ..Default::default()
        };
        let mut set = ReplicaSet { spec: Some(spec), ..Default::default() };
        set.metadata.generation = Some(4);
        set
    }

    fn pod(name: &str, ready_at: Option<i64>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        let since = |second| Timestamp::from_second(second).ok().map(time);
        pod.status.get_or_insert_default().conditions = ready_at.map(|second| {
            let condition = PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                last_transition_time: since(second),
                ..Default::default()
            };
            vec![condition]
        });
        Arc::new(pod)
    }

    #[test]
    fn the_difference_is_created_or_deleted() {
        let three = || vec![pod("a", Some(1)), pod("b", None), pod("c", Some(1))];
        let planned = |replicas| plan(&set(replicas, 0), three(), &three(), now());
        assert_eq!((planned(5).create, planned(5).delete.len()), (2, 0));
        assert_eq!((planned(3).create, planned(3).delete.len()), (0, 0));
        let fewer = planned(2);
        let deleted: Vec<_> = fewer.delete.iter().map(|pod| pod.name_any()).collect();
        assert_eq!((fewer.create, deleted), (0, vec!["b".to_owned()]));
        assert_eq!(planned(-1).delete.len(), 3);
        assert_eq!(planned(100_000).create, MOST_AT_ONCE);
    }

    #[test]
    fn a_set_that_ends_creates_nothing() {
        let mut set = set(3, 0);
        set.metadata.deletion_timestamp = Some(time(now()));
        let plan = plan(&set, vec![], &[], now());
        assert_eq!(plan.create, 0);
    }

    #[test]
    fn the_status_counts_what_is_there() {
        let mut stranger = Pod::clone(&pod("c", None));
        stranger.metadata.labels = None;
        let pods = vec![pod("a", Some(980)), pod("b", Some(995)), Arc::new(stranger)];
        let set = set(3, 10);
        let plan = plan(&set, pods, &[], now());
        assert_eq!(plan.look_again, Some(Duration::from_secs(5)));
        let status = status(&set, &plan, None, now());
        assert_eq!(
            (status.replicas, status.fully_labeled_replicas, status.ready_replicas, status.available_replicas),
            (3, Some(2), Some(2), Some(1))
        );
        assert_eq!((status.observed_generation, status.conditions), (Some(4), None));
    }

    #[test]
    fn a_failure_is_reported_until_it_is_over() {
        let mut set = set(1, 0);
        let plan = plan(&set, vec![], &[], now());
        let failed = status(&set, &plan, Some("quota".into()), now());
        let conditions = failed.conditions.clone().unwrap_or_default();
        assert_eq!((conditions.len(), conditions[0].reason.as_deref()), (1, Some("FailedCreate")));
        set.status = Some(failed.clone());
        assert_eq!(status(&set, &plan, Some("again".into()), now()), failed, "the first message stays");
        assert_eq!(status(&set, &plan, None, now()).conditions, None);
    }
}
