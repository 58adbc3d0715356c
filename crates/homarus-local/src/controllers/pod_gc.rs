//! Cleans up pods that nobody else will: too many that have ended, those of a node that is gone, those that were deleted
//! before they had a node.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use tokio::time::Instant;

use super::Config;
use super::cluster::{Cluster, Fault};
use super::pods;
use super::worker::Chore;

/// See the module.
pub(super) struct PodGc {
    kept: usize,
    grace: Duration,
    /// Since when nodes are missing that pods are on.
    missing: HashMap<String, Instant>,
}

impl PodGc {
    pub(super) fn new(config: &Config) -> PodGc {
        PodGc { kept: config.ended_pods_kept, grace: config.node_grace, missing: HashMap::new() }
    }

    /// The nodes that have been missing for long enough. One that comes back is forgiven.
    fn lost(&mut self, on: HashSet<String>, known: &HashSet<String>, now: Instant) -> HashSet<String> {
        self.missing.retain(|node, _| on.contains(node) && !known.contains(node));
        for node in on {
            if !known.contains(&node) {
                self.missing.entry(node).or_insert(now);
            }
        }
        let lost = self.missing.iter().filter(|(_, since)| now.duration_since(**since) >= self.grace);
        lost.map(|(node, _)| node.clone()).collect()
    }
}

impl Chore for PodGc {
    const NAME: &'static str = "pod-gc";

    async fn run(&mut self, cluster: &Cluster) -> Result<(), Fault> {
        let pods = cluster.pods.all();
        let known = cluster.nodes.all().iter().map(|node| node.name_any()).collect();
        let on = pods.iter().filter_map(|pod| pods::node_name(pod)).map(str::to_owned).collect();
        let lost = self.lost(on, &known, Instant::now());
        for (pod, why) in doomed(pods, &lost, self.kept) {
            tracing::info!(pod = pod.name_any(), namespace = pod.namespace(), why, "deleting a pod");
            cluster.delete(&*pod, DeleteParams::default().grace_period(0)).await?;
        }
        Ok(())
    }
}

/// The pods to delete, each with its reason.
fn doomed(mut pods: Vec<Arc<Pod>>, lost: &HashSet<String>, kept: usize) -> Vec<(Arc<Pod>, &'static str)> {
    let mut doomed = Vec::new();
    pods.retain(|pod| {
        let node = pods::node_name(pod);
        let why = if node.is_some_and(|node| lost.contains(node)) {
            Some("its node is gone")
        } else if node.is_none() && pod.metadata.deletion_timestamp.is_some() {
            Some("it was deleted before it had a node")
        } else {
            None
        };
        doomed.extend(why.map(|why| (pod.clone(), why)));
        why.is_none()
    });
    pods.retain(|pod| pods::has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.namespace(), pod.name_any()));
    pods.truncate(pods.len().saturating_sub(kept));
    doomed.extend(pods.into_iter().map(|pod| (pod, "too many have ended")));
    doomed
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::super::cluster::time;
    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, age: i64, deleted: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.creation_timestamp = Timestamp::from_second(1_000 - age).ok().map(time);
        pod.metadata.deletion_timestamp = deleted.then(|| time(Timestamp::UNIX_EPOCH));
        pod.spec.get_or_insert_default().node_name = node.map(str::to_owned);
        pod.status.get_or_insert_default().phase = Some(phase.into());
        Arc::new(pod)
    }

    #[test]
    fn each_kind_of_leftover_goes_and_the_rest_stays() {
        let pods = vec![
            pod("running", Some("here"), "Running", 9, false),
            pod("ending", Some("here"), "Running", 9, true),
            pod("pending", None, "Pending", 9, false),
            pod("orphan", Some("gone"), "Running", 9, false),
            pod("unplaced", None, "Pending", 9, true),
            pod("oldest", Some("here"), "Failed", 5, false),
            pod("older", Some("here"), "Succeeded", 4, false),
            pod("newest", Some("here"), "Succeeded", 3, false),
        ];
        let doomed = doomed(pods, &["gone".to_owned()].into(), 2);
        let names: Vec<_> = doomed.iter().map(|(pod, _)| pod.name_any()).collect();
        assert_eq!(names, ["orphan", "unplaced", "oldest"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_time_to_come_back() {
        let mut gc = PodGc::new(&Config::default());
        let on = || HashSet::from(["here".to_owned(), "gone".to_owned()]);
        let here = HashSet::from(["here".to_owned()]);
        assert!(gc.lost(on(), &here, Instant::now()).is_empty());
        tokio::time::advance(Duration::from_secs(39)).await;
        assert!(gc.lost(on(), &here, Instant::now()).is_empty());
        assert!(gc.lost(on(), &on(), Instant::now()).is_empty(), "it is back");
        tokio::time::advance(Duration::from_secs(39)).await;
        assert!(gc.lost(on(), &here, Instant::now()).is_empty());
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(gc.lost(on(), &here, Instant::now()), HashSet::from(["gone".to_owned()]));
    }
}
