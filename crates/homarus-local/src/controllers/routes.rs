//! Which change concerns which controller.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::cluster::Cluster;
use super::ownership::{controller_of, selects};
use super::store::{Key, Store};
use super::{claims, endpoints, job, pods};

/// A kind that is watched.
pub(super) trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// Who tells of objects of this kind in events.
    const CONTROLLER: &'static str;

    /// Where objects of this kind are kept.
    fn store(cluster: &Cluster) -> &Store<Self>;

    /// An object came (no `old`), changed, or went (no `new`): tell the controllers concerned.
    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>);
}

impl Watched for Deployment {
    const CONTROLLER: &'static str = "deployment-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.deployments
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(deployment) = new.or(old) {
            cluster.queues.deployments.add(Key::of(deployment));
        }
    }
}

impl Watched for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.replica_sets
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(set) = new.or(old) {
            cluster.queues.replica_sets.add(Key::of(set));
        }
        for set in old.into_iter().chain(new) {
            wake_deployment(cluster, set);
        }
    }
}

/// The Deployment that a set belongs to, or those that might adopt it.
fn wake_deployment(cluster: &Cluster, set: &ReplicaSet) {
    let namespace = set.namespace().unwrap_or_default();
    match controller_of(set.meta()) {
        Some(owner) if owner.kind == "Deployment" => cluster.queues.deployments.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in cluster.deployments.in_namespace(&namespace) {
                if deployment.spec.as_ref().is_some_and(|spec| selects(&spec.selector, set.labels())) {
                    cluster.queues.deployments.add(Key::of(&*deployment));
                }
            }
        }
    }
}

impl Watched for Pod {
    const CONTROLLER: &'static str = "default-scheduler";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.pods
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        for pod in old.into_iter().chain(new) {
            wake_owner(cluster, pod);
        }
        if let Some(pod) = new.filter(|pod| pods::node_name(pod).is_none()) {
            cluster.queues.scheduler.add(Key::of(pod));
        }
        if let Some(pod) = old.filter(|_| new.is_none_or(pods::has_ended)) {
            claims::wake(cluster, pod);
        }
        endpoints::wake_services(cluster, old, new);
    }
}

/// The workload that a pod belongs to, or those that might adopt it.
fn wake_owner(cluster: &Cluster, pod: &Pod) {
    let namespace = pod.namespace().unwrap_or_default();
    match controller_of(pod.meta()) {
        Some(owner) if owner.kind == "ReplicaSet" => {
            let key = Key::new(namespace, &owner.name);
            // A Deployment that recreates waits for the pods themselves.
            if let Some(set) = cluster.replica_sets.find(&key) {
                wake_deployment(cluster, &set);
            }
            cluster.queues.replica_sets.add(key);
        }
        Some(owner) if owner.kind == "Job" => cluster.queues.jobs.add(Key::new(namespace, &owner.name)),
        Some(owner) if owner.kind == "StatefulSet" => cluster.queues.stateful_sets.add(Key::new(namespace, &owner.name)),
        Some(owner) if owner.kind == "DaemonSet" => cluster.queues.daemon_sets.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for set in cluster.stateful_sets.in_namespace(&namespace) {
                if set.spec.as_ref().is_some_and(|spec| selects(&spec.selector, pod.labels())) {
                    cluster.queues.stateful_sets.add(Key::of(&*set));
                }
            }
            for set in cluster.daemon_sets.in_namespace(&namespace) {
                if set.spec.as_ref().is_some_and(|spec| selects(&spec.selector, pod.labels())) {
                    cluster.queues.daemon_sets.add(Key::of(&*set));
                }
            }
            for set in cluster.replica_sets.in_namespace(&namespace) {
                if set.spec.as_ref().is_some_and(|spec| selects(&spec.selector, pod.labels())) {
                    cluster.queues.replica_sets.add(Key::of(&*set));
                }
            }
            job::wake_adopters(cluster, pod);
        }
    }
}

impl Watched for Job {
    const CONTROLLER: &'static str = "job-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.jobs
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        let Some(job) = new.or(old) else { return };
        cluster.queues.jobs.add(Key::of(job));
        if let Some(owner) = controller_of(job.meta()).filter(|owner| owner.kind == "CronJob") {
            cluster.queues.cron_jobs.add(Key::new(job.namespace().unwrap_or_default(), &owner.name));
        }
    }
}

impl Watched for CronJob {
    const CONTROLLER: &'static str = "cronjob-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.cron_jobs
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(cron_job) = new.or(old) {
            cluster.queues.cron_jobs.add(Key::of(cron_job));
        }
    }
}

impl Watched for StatefulSet {
    const CONTROLLER: &'static str = "statefulset-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.stateful_sets
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(set) = new.or(old) {
            cluster.queues.stateful_sets.add(Key::of(set));
        }
    }
}

impl Watched for DaemonSet {
    const CONTROLLER: &'static str = "daemonset-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.daemon_sets
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(set) = new.or(old) {
            cluster.queues.daemon_sets.add(Key::of(set));
        }
    }
}

impl Watched for ControllerRevision {
    const CONTROLLER: &'static str = "history";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.revisions
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        // Only one that goes, by somebody else's hand, has to be made again.
        let (Some(gone), None) = (old, new) else { return };
        let Some(owner) = controller_of(gone.meta()) else { return };
        let key = Key::new(gone.namespace().unwrap_or_default(), &owner.name);
        match owner.kind.as_str() {
            "StatefulSet" => cluster.queues.stateful_sets.add(key),
            "DaemonSet" => cluster.queues.daemon_sets.add(key),
            _ => {}
        }
    }
}

impl Watched for PersistentVolumeClaim {
    const CONTROLLER: &'static str = "persistentvolume-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.claims
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(claim) = new.or(old) {
            cluster.queues.claims.add(Key::of(claim));
        }
    }
}

impl Watched for Service {
    const CONTROLLER: &'static str = "endpoint-slice-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.services
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        if let Some(service) = new.or(old) {
            cluster.queues.endpoints.add(Key::of(service));
        }
    }
}

impl Watched for EndpointSlice {
    const CONTROLLER: &'static str = "endpoint-slice-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.slices
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        for slice in old.into_iter().chain(new) {
            if let Some(key) = endpoints::service_of(slice) {
                cluster.queues.endpoints.add(key);
            }
        }
    }
}

impl Watched for Node {
    const CONTROLLER: &'static str = "node-controller";

    fn store(cluster: &Cluster) -> &Store<Self> {
        &cluster.nodes
    }

    fn changed(cluster: &Cluster, old: Option<&Self>, new: Option<&Self>) {
        for pod in cluster.pods.all() {
            if pods::node_name(&pod).is_none() {
                cluster.queues.scheduler.add(Key::of(&*pod));
            }
        }
        // A node's status changes every few seconds; endpoints depend on its labels and on its being there.
        let place = |node: &Node| (node.labels().clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()));
        if old.map(place) != new.map(place) {
            for set in cluster.daemon_sets.all() {
                cluster.queues.daemon_sets.add(Key::of(&*set));
            }
            for service in cluster.services.all() {
                cluster.queues.endpoints.add(Key::of(&*service));
            }
        }
    }
}
