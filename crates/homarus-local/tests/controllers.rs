//! The controllers on the embedded API: real requests, and a stand-in for the node that does to pods what a kubelet would.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use homarus_local::api::{self, Api};
use homarus_local::controllers::{self, Controllers};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, watcher::Event};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "t";

/// An embedded cluster of one node, whose pods are ready as soon as they are told where to be.
struct World {
    client: Client,
    controllers: Option<Controllers>,
    kubelet: JoinHandle<()>,
    _api: Api,
}

impl Drop for World {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

impl World {
    async fn start() -> World {
        let api = Api::open(api::Config::ephemeral(vec!["127.0.0.1:6443".parse().unwrap()])).unwrap();
        let client = api.client();
        let mut world = World { kubelet: tokio::spawn(kubelet(client.clone())), client, controllers: None, _api: api };
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": "z"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let nodes = kube::Api::<Node>::all(world.client.clone());
        let mut node: Node = serde_json::from_value(node).unwrap();
        let status = node.status.take();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        nodes.patch_status("one", &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let namespace = serde_json::from_value(namespace).unwrap();
        kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        world.start_controllers().await;
        world
    }

    async fn start_controllers(&mut self) {
        let mut controllers = controllers::start(self.client.clone(), controllers::Config::default());
        tokio::time::timeout(PATIENCE, controllers.synced()).await.expect("the controllers begin");
        self.controllers = Some(controllers);
    }

    async fn stop_controllers(&mut self) {
        self.controllers.take().unwrap().stop().await;
    }

    fn api<K: Kind>(&self) -> kube::Api<K> {
        kube::Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create<K: Kind>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    async fn patch<K: Kind>(&self, name: &str, patch: Value) {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn list<K: Kind>(&self) -> Vec<K> {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until the object is as it should be.
    async fn until<K: Kind>(&self, name: &str, is: impl Fn(&K) -> bool) -> K {
        let mut last = None;
        let waiting = async {
            loop {
                last = self.api::<K>().get_opt(name).await.unwrap();
                if let Some(object) = last.clone().filter(|object| is(object)) {
                    return object;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(object) => object,
            Err(_) => panic!("{name} is still {last:#?}"),
        }
    }

    /// Waits until all objects of a kind are as they should be.
    async fn until_all<K: Kind>(&self, are: impl Fn(&[K]) -> bool) -> Vec<K> {
        let mut last = Vec::new();
        let waiting = async {
            loop {
                last = self.list::<K>().await;
                if are(&last) {
                    return std::mem::take(&mut last);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(objects) => objects,
            Err(_) => panic!("still {last:#?}"),
        }
    }

    async fn rolled_out(&self, name: &str) -> Deployment {
        self.until(name, is_rolled_out).await
    }

    async fn ready_endpoints(&self, service: &str, number: usize) -> Vec<Endpoint> {
        let of_service =
            |slice: &&EndpointSlice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service);
        let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
        let endpoints = |slices: &[EndpointSlice]| {
            slices.iter().filter(of_service).flat_map(|slice| slice.endpoints.clone()).collect::<Vec<_>>()
        };
        let slices =
            self.until_all::<EndpointSlice>(|slices| endpoints(slices).iter().filter(|each| ready(each)).count() == number).await;
        endpoints(&slices).into_iter().filter(ready).collect()
    }
}

/// A kind of the namespace.
trait Kind:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + serde::Serialize
    + Send
    + Sync
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + serde::Serialize
        + Send
        + Sync
{
}

/// What `kubectl rollout status` waits for.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let (spec, status) = (deployment.spec.clone().unwrap(), deployment.status.clone().unwrap_or_default());
    let wanted = spec.replicas.unwrap();
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

/// Does to pods what a kubelet would: readies those that have a node, ends those that were told to.
///
/// A pod's annotation `test/phase` says how it ends by itself, or `Pending` that it never becomes ready.
async fn kubelet(client: Client) {
    let mut events = std::pin::pin!(watcher(kube::Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff());
    let mut next = 1u32;
    while let Some(event) = events.next().await {
        let (Ok(Event::Apply(pod)) | Ok(Event::InitApply(pod))) = event else { continue };
        let pods = kube::Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if has_node && pod.metadata.deletion_timestamp.is_some() {
            // A pod with finalizers stays until they are gone; that it is gone already is no error either.
            let _ = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let wanted = pod.annotations().get("test/phase").map_or("Running", String::as_str);
        if !has_node || phase == wanted || phase != "Pending" {
            continue;
        }
        next += 1;
        let ip = format!("10.9.{}.{}", next / 250, next % 250 + 1);
        let ready = if wanted == "Running" { "True" } else { "False" };
        let status = json!({"status": {
            "phase": wanted, "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": api::now_text()}],
        }});
        let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
    }
}

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")},
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

fn job(completions: i32, phase: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
        "spec": {
            "completions": completions, "parallelism": 2, "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": {"test/phase": phase}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "v1"}]},
            },
        },
    })
}

fn condition(job: &Job, type_: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[tokio::test]
async fn a_deployment_becomes_pods_on_the_node_and_endpoints_of_the_service() {
    let world = World::start().await;
    world.create::<Service>(service()).await;
    world.create::<Deployment>(deployment(3)).await;
    let deployed = world.rolled_out("web").await;
    assert_eq!(deployed.annotations()["deployment.kubernetes.io/revision"], "1");
    let sets = world.list::<ReplicaSet>().await;
    let hash = &sets[0].labels()["pod-template-hash"];
    assert_eq!(sets.len(), 1);
    for pod in world.list::<Pod>().await {
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("one"));
        assert_eq!(&pod.labels()["pod-template-hash"], hash);
        assert_eq!(pod.owner_references()[0].name, sets[0].name_any());
    }
    let endpoints = world.ready_endpoints("web", 3).await;
    assert!(endpoints.iter().all(|endpoint| endpoint.zone.as_deref() == Some("z")));
    let slice = world.list::<EndpointSlice>().await.into_iter().find(|slice| slice.name_any().starts_with("web-")).unwrap();
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
}

#[tokio::test]
async fn a_rollout_loses_no_endpoint_and_can_be_undone() {
    let world = World::start().await;
    world.create::<Service>(service()).await;
    let mut rolling = deployment(4);
    rolling["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    world.create::<Deployment>(rolling).await;
    world.rolled_out("web").await;
    let before: BTreeSet<_> = world.list::<Pod>().await.iter().map(ResourceExt::name_any).collect();

    world.patch::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    let steps = async {
        loop {
            let deployment = world.api::<Deployment>().get("web").await.unwrap();
            let status = deployment.status.clone().unwrap();
            assert!(status.available_replicas >= Some(4) && status.replicas <= Some(5), "{status:?}");
            if is_rolled_out(&deployment) {
                return deployment;
            }
            tokio::task::yield_now().await;
        }
    };
    let rolled = tokio::time::timeout(PATIENCE, steps).await.expect("the rollout ends");
    assert_eq!(rolled.annotations()["deployment.kubernetes.io/revision"], "2");
    let after = world.until_all::<Pod>(|pods| pods.len() == 4).await;
    assert!(after.iter().all(|pod| !before.contains(&pod.name_any())));
    world.ready_endpoints("web", 4).await;

    world.patch::<Deployment>("web", json!({"spec": {"template": template("v1")}})).await;
    let undone = world
        .until::<Deployment>("web", |web| is_rolled_out(web) && web.annotations()["deployment.kubernetes.io/revision"] == "3")
        .await;
    assert_eq!(undone.status.unwrap().updated_replicas, Some(4));
    assert_eq!(world.list::<ReplicaSet>().await.len(), 2, "the first set is used again");
}

#[tokio::test]
async fn pods_that_never_become_ready_stop_a_rollout() {
    let world = World::start().await;
    world.create::<Deployment>(deployment(4)).await;
    world.rolled_out("web").await;
    let mut bad = template("v2");
    bad["metadata"]["annotations"] = json!({"test/phase": "Pending"});
    world.patch::<Deployment>("web", json!({"spec": {"template": bad, "progressDeadlineSeconds": 1}})).await;
    let stuck = world
        .until::<Deployment>("web", |web| {
            let conditions = web.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|each| each.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        })
        .await;
    let status = stuck.status.unwrap();
    assert_eq!((status.available_replicas, status.updated_replicas), (Some(3), Some(2)));
}

#[tokio::test]
async fn a_pod_that_goes_is_replaced() {
    let world = World::start().await;
    world.create::<Service>(service()).await;
    world.create::<Deployment>(deployment(2)).await;
    world.rolled_out("web").await;
    let lost = world.list::<Pod>().await[0].name_any();
    world.api::<Pod>().delete(&lost, &DeleteParams::default()).await.unwrap();
    world.until_all::<Pod>(|pods| pods.len() == 2 && pods.iter().all(|pod| pod.name_any() != lost)).await;
    let endpoints = world.ready_endpoints("web", 2).await;
    assert!(endpoints.iter().all(|endpoint| endpoint.target_ref.as_ref().unwrap().name.as_ref() != Some(&lost)));
}

#[tokio::test]
async fn sizes_follow_in_both_directions_and_large_services_have_several_slices() {
    let world = World::start().await;
    world.create::<Service>(service()).await;
    world.create::<Deployment>(deployment(1)).await;
    world.rolled_out("web").await;
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 130}})).await;
    world.rolled_out("web").await;
    world.ready_endpoints("web", 130).await;
    let slices = world.list::<EndpointSlice>().await;
    let sizes: Vec<_> =
        slices.iter().filter(|slice| slice.name_any().starts_with("web-")).map(|slice| slice.endpoints.len()).collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    assert_eq!(world.list::<Pod>().await.len(), 130, "none too many");
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
    world.ready_endpoints("web", 0).await;
}

#[tokio::test]
async fn a_new_start_goes_on_where_the_last_one_ended() {
    let mut world = World::start().await;
    world.create::<Deployment>(deployment(6)).await;
    world.until_all::<Pod>(|pods| !pods.is_empty()).await;
    world.stop_controllers().await;
    world.patch::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    world.start_controllers().await;
    world.rolled_out("web").await;
    let pods = world.until_all::<Pod>(|pods| pods.len() == 6).await;
    assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2")));
}

#[tokio::test]
async fn pods_without_an_owner_are_adopted_and_pods_that_no_longer_match_are_let_go() {
    let world = World::start().await;
    world.create::<Deployment>(deployment(2)).await;
    world.rolled_out("web").await;
    let pods = world.list::<Pod>().await;
    let (let_go, labels) = (pods[0].name_any(), pods[0].labels().clone());
    world.patch::<Pod>(&let_go, json!({"metadata": {"labels": {"app": "other"}}})).await;
    world.until::<Pod>(&let_go, |pod| pod.owner_references().is_empty()).await;
    world.until_all::<Pod>(|pods| pods.len() == 3).await;
    // It matches again: there is one too many, and one of them goes.
    world.patch::<Pod>(&let_go, json!({"metadata": {"labels": labels}})).await;
    let left = world.until_all::<Pod>(|pods| pods.len() == 2).await;
    assert!(left.iter().all(|pod| !pod.owner_references().is_empty()));
}

#[tokio::test]
async fn a_job_completes_and_is_deleted_in_its_time() {
    let world = World::start().await;
    world.create::<Job>(job(3, "Succeeded")).await;
    let done = world.until::<Job>("work", |job| condition(job, "Complete")).await;
    let status = done.status.unwrap();
    assert_eq!((status.active, status.succeeded, status.failed), (None, Some(3), None));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let pods = world.list::<Pod>().await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.finalizers().is_empty() && pod.labels()["batch.kubernetes.io/job-name"] == "work"));
    world.patch::<Job>("work", json!({"spec": {"ttlSecondsAfterFinished": 0}})).await;
    world.until_all::<Job>(<[Job]>::is_empty).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
}

#[tokio::test]
async fn a_job_that_fails_says_why() {
    let world = World::start().await;
    world.create::<Job>(job(3, "Failed")).await;
    let failed = world.until::<Job>("work", |job| condition(job, "Failed")).await;
    let status = failed.status.unwrap();
    let reasons: BTreeSet<_> = status.conditions.unwrap().into_iter().filter_map(|condition| condition.reason).collect();
    assert_eq!(reasons, BTreeSet::from(["BackoffLimitExceeded".to_owned()]));
    assert!(status.failed >= Some(1) && status.succeeded.is_none());
}

#[tokio::test]
async fn a_deployment_takes_its_sets_and_pods_along() {
    let world = World::start().await;
    world.create::<Deployment>(deployment(3)).await;
    world.rolled_out("web").await;
    world.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    world.until_all::<ReplicaSet>(<[ReplicaSet]>::is_empty).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
}

fn stateful_set(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    })
}

fn names<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[tokio::test]
async fn a_stateful_set_keeps_names_and_claims_and_can_be_undone() {
    let world = World::start().await;
    let mut headless = service();
    headless["spec"]["clusterIP"] = "None".into();
    world.create::<Service>(headless).await;
    world.create::<StatefulSet>(stateful_set(3)).await;
    let is_at = |set: &StatefulSet, revision: usize| {
        let status = set.status.clone().unwrap_or_default();
        status.ready_replicas == Some(3)
            && status.updated_replicas == Some(3)
            && status.current_revision == status.update_revision
            && set.metadata.generation >= i64::try_from(revision).ok()
            && status.observed_generation == set.metadata.generation
    };
    world.until::<StatefulSet>("db", |set| is_at(set, 1)).await;
    let pods = world.list::<Pod>().await;
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    let hosts: BTreeSet<_> = world.ready_endpoints("web", 3).await.into_iter().filter_map(|each| each.hostname).collect();
    assert_eq!(hosts, BTreeSet::from(["db-0".into(), "db-1".into(), "db-2".into()]));
    let bound = |claims: &[PersistentVolumeClaim]| {
        let is_bound = |claim: &PersistentVolumeClaim| claim.status.as_ref().unwrap().phase.as_deref() == Some("Bound");
        claims.len() == 3 && claims.iter().all(is_bound)
    };
    let claims = world.until_all::<PersistentVolumeClaim>(bound).await;
    assert_eq!(names(&claims), ["data-db-0", "data-db-1", "data-db-2"]);

    world.patch::<StatefulSet>("db", json!({"spec": {"template": template("v2")}})).await;
    world.until::<StatefulSet>("db", |set| is_at(set, 2)).await;
    assert!(world.list::<Pod>().await.iter().all(|pod| image(pod) == "v2"));
    // What `kubectl rollout undo` does.
    let revisions = world.list::<ControllerRevision>().await;
    let first = revisions.iter().find(|revision| revision.revision == 1).unwrap();
    let back = Patch::Strategic(first.data.clone().unwrap().0);
    world.api::<StatefulSet>().patch("db", &PatchParams::default(), &back).await.unwrap();
    world.until::<StatefulSet>("db", |set| is_at(set, 3)).await;
    assert!(world.list::<Pod>().await.iter().all(|pod| image(pod) == "v1"));
    let revisions = world.list::<ControllerRevision>().await;
    assert_eq!(revisions.iter().map(|each| each.revision).collect::<BTreeSet<_>>(), BTreeSet::from([2, 3]));

    world
        .api::<StatefulSet>()
        .patch_scale("db", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}})))
        .await
        .unwrap();
    let left = world.until_all::<Pod>(|pods| pods.len() == 1).await;
    assert_eq!(names(&left), ["db-0"]);
    assert_eq!(world.list::<PersistentVolumeClaim>().await.len(), 3, "claims stay");
    // A claim in use stays until its pod has gone.
    world.api::<PersistentVolumeClaim>().delete("data-db-0", &DeleteParams::default()).await.unwrap();
    world.until::<PersistentVolumeClaim>("data-db-0", |claim| claim.metadata.deletion_timestamp.is_some()).await;
    world.api::<StatefulSet>().delete("db", &DeleteParams::background()).await.unwrap();
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
    let kept = world.until_all::<PersistentVolumeClaim>(|claims| claims.len() == 2).await;
    assert_eq!(names(&kept), ["data-db-1", "data-db-2"]);
}

#[tokio::test]
async fn a_stateful_set_in_parallel_with_claims_that_go_with_it() {
    let world = World::start().await;
    let mut set = stateful_set(2);
    set["spec"]["podManagementPolicy"] = "Parallel".into();
    set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    world.create::<StatefulSet>(set).await;
    world.until::<StatefulSet>("db", |set| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2)).await;
    world.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    let left = world.until_all::<PersistentVolumeClaim>(|claims| claims.len() == 1).await;
    assert_eq!(names(&left), ["data-db-0"]);
    world.api::<StatefulSet>().delete("db", &DeleteParams::background()).await.unwrap();
    world.until_all::<PersistentVolumeClaim>(<[PersistentVolumeClaim]>::is_empty).await;
}

#[tokio::test]
async fn a_daemon_set_has_one_pod_on_the_node_and_rolls() {
    let world = World::start().await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("v1")},
    });
    world.create::<DaemonSet>(set).await;
    let rolled_out = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled == Some(1)
            && status.number_available == Some(1)
    };
    world.until::<DaemonSet>("agent", rolled_out).await;
    let pods = world.list::<Pod>().await;
    assert_eq!((pods.len(), pods[0].spec.as_ref().unwrap().node_name.as_deref()), (1, Some("one")));
    world.patch::<DaemonSet>("agent", json!({"spec": {"template": template("v2")}})).await;
    let set = world.until::<DaemonSet>("agent", rolled_out).await;
    assert_eq!(set.annotations()["deprecated.daemonset.template.generation"], "2");
    let pods = world.until_all::<Pod>(|pods| pods.len() == 1).await;
    assert_eq!((image(&pods[0]), pods[0].labels()["pod-template-generation"].as_str()), ("v2", "2"));
    assert_eq!(world.list::<ControllerRevision>().await.len(), 2);
    world.api::<DaemonSet>().delete("agent", &DeleteParams::background()).await.unwrap();
    world.until_all::<ControllerRevision>(<[ControllerRevision]>::is_empty).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
}

#[tokio::test]
async fn a_cron_job_makes_up_for_the_last_time_and_keeps_its_history() {
    let world = World::start().await;
    let mut work = job(1, "Succeeded")["spec"].clone();
    work["parallelism"] = 1.into();
    let cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {"schedule": "* * * * *", "suspend": true, "jobTemplate": {"spec": work}},
    });
    world.create::<CronJob>(cron_job).await;
    // Its last time was before it was made; that of a time long ago is due.
    let long_ago = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    world.api::<CronJob>().patch_status("tick", &PatchParams::default(), &Patch::Merge(long_ago)).await.unwrap();
    assert_eq!(world.list::<Job>().await.len(), 0);
    world.patch::<CronJob>("tick", json!({"spec": {"suspend": false}})).await;
    let jobs = world.until_all::<Job>(|jobs| jobs.iter().any(|job| condition(job, "Complete"))).await;
    assert!(jobs[0].name_any().starts_with("tick-") && jobs[0].owner_references()[0].kind == "CronJob");
    let done = |cron_job: &CronJob| cron_job.status.as_ref().is_some_and(|status| status.last_successful_time.is_some());
    world.until::<CronJob>("tick", done).await;
    world.patch::<CronJob>("tick", json!({"spec": {"suspend": true, "successfulJobsHistoryLimit": 0}})).await;
    world.until_all::<Job>(<[Job]>::is_empty).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
    let wrong = Patch::Merge(json!({"spec": {"schedule": "often"}}));
    let refused = world.api::<CronJob>().patch("tick", &PatchParams::default(), &wrong).await.unwrap_err();
    assert!(refused.to_string().contains("spec.schedule"), "{refused}");
}
