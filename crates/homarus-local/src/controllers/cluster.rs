//! What the controllers share: the stores, their queues, and the ways to write.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Binding, Event, EventSource, Node, ObjectReference, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::queue::Queue;
use super::routes::Watched;
use super::store::{Key, Store};

/// Events waiting to be posted; more are dropped, for they are only told to people.
const EVENTS_WAITING: usize = 512;

/// The cluster as the controllers know it.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) deployments: Store<Deployment>,
    pub(super) replica_sets: Store<ReplicaSet>,
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) daemon_sets: Store<DaemonSet>,
    pub(super) revisions: Store<ControllerRevision>,
    pub(super) cron_jobs: Store<CronJob>,
    pub(super) claims: Store<PersistentVolumeClaim>,
    pub(super) pods: Store<Pod>,
    pub(super) jobs: Store<Job>,
    pub(super) services: Store<Service>,
    pub(super) slices: Store<EndpointSlice>,
    pub(super) nodes: Store<Node>,
    pub(super) queues: Queues,
    events: mpsc::Sender<Event>,
}

/// What each controller is to look at.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) deployments: Queue,
    pub(super) replica_sets: Queue,
    pub(super) stateful_sets: Queue,
    pub(super) daemon_sets: Queue,
    pub(super) cron_jobs: Queue,
    pub(super) claims: Queue,
    pub(super) jobs: Queue,
    /// Services, by the name of the Service.
    pub(super) endpoints: Queue,
    /// Pods without a node.
    pub(super) scheduler: Queue,
}

/// A write that the API did not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {source}")]
pub(super) struct Fault {
    doing: String,
    source: kube::Error,
}

/// What to make of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The object is a newer one than the decision was made on: look again.
    Conflict,
    /// The name is taken.
    Taken,
    /// The object isn't there any more: nothing to do.
    Missing,
    /// The namespace is going: nothing to do.
    NamespaceEnding,
    /// Everything else: try again later.
    Other,
}

impl Fault {
    fn new(verb: &str, kind: &str, name: &str, source: kube::Error) -> Fault {
        Fault { doing: format!("{verb} {kind} {name}"), source }
    }

    pub(super) fn cause(&self) -> Cause {
        let kube::Error::Api(status) = &self.source else { return Cause::Other };
        let ending = |reason: &str| reason == "NamespaceTerminating";
        if status.details.iter().flat_map(|details| &details.causes).any(|cause| ending(&cause.reason)) {
            return Cause::NamespaceEnding;
        }
        match status.code {
            404 => Cause::Missing,
            409 if status.reason == "AlreadyExists" => Cause::Taken,
            409 => Cause::Conflict,
            _ => Cause::Other,
        }
    }

    /// What the API said, for conditions and events.
    pub(super) fn said(&self) -> String {
        match &self.source {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
    }
}

/// A namespaced object that we write.
pub(super) trait Written: Watched + Resource<Scope = NamespaceResourceScope> + Serialize {}
impl<K: Watched + Resource<Scope = NamespaceResourceScope> + Serialize> Written for K {}

impl Cluster {
    pub(super) fn new(client: Client) -> (Cluster, mpsc::Receiver<Event>) {
        let (events, posted) = mpsc::channel(EVENTS_WAITING);
        let cluster = Cluster {
            client,
            deployments: Store::default(),
            replica_sets: Store::default(),
            stateful_sets: Store::default(),
            daemon_sets: Store::default(),
            revisions: Store::default(),
            cron_jobs: Store::default(),
            claims: Store::default(),
            pods: Store::default(),
            jobs: Store::default(),
            services: Store::default(),
            slices: Store::default(),
            nodes: Store::default(),
            queues: Queues::default(),
            events,
        };
        (cluster, posted)
    }

    fn api<K: Written>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Completes when every store had its first listing.
    pub(super) async fn synced(&self) {
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.daemon_sets.synced().await;
        self.revisions.synced().await;
        self.cron_jobs.synced().await;
        self.claims.synced().await;
        self.pods.synced().await;
        self.jobs.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
    }

    pub(super) async fn create<K: Written>(&self, object: &K) -> Result<K, Fault> {
        let key = Key::of(object);
        let created = self.api::<K>(&key.namespace).create(&PostParams::default(), object).await;
        self.answered(created, "create", &key)
    }

    /// Changes what the merge patch `change` says, if the object is still at the version that was looked at.
    pub(super) async fn change<K: Written>(&self, object: &K, mut change: Value) -> Result<K, Fault> {
        let key = Key::of(object);
        if let Some(version) = &object.meta().resource_version {
            change["metadata"]["resourceVersion"] = Value::String(version.clone());
        }
        let api = self.api::<K>(&key.namespace);
        let changed = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.answered(changed, "change", &key)
    }

    /// Replaces the whole object, if it is still at the version that was looked at.
    pub(super) async fn replace<K: Written>(&self, object: &K) -> Result<K, Fault> {
        let key = Key::of(object);
        let replaced = self.api::<K>(&key.namespace).replace(&key.name, &PostParams::default(), object).await;
        self.answered(replaced, "replace", &key)
    }

    /// Replaces the status alone, if the object is still at the version that was looked at.
    pub(super) async fn replace_status<K: Written>(&self, object: &K) -> Result<K, Fault> {
        let key = Key::of(object);
        let replaced = self.api::<K>(&key.namespace).replace_status(&key.name, &PostParams::default(), object).await;
        self.answered(replaced, "replace the status of", &key)
    }

    /// Deletes the object, not a namesake that came later. One that is gone already is as good.
    pub(super) async fn delete<K: Written>(&self, object: &K, mut params: DeleteParams) -> Result<(), Fault> {
        let key = Key::of(object);
        let uid = object.uid().unwrap_or_default();
        params.preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
        let deleted = self.api::<K>(&key.namespace).delete(&key.name, &params).await;
        let deleted = deleted.map_err(|error| Fault::new("delete", &K::kind(&()), &key.to_string(), error));
        match deleted.map(|answer| answer.left()) {
            // It ends in its own time: its finalizers or its grace period go first.
            Ok(Some(ending)) if ending.meta().deletion_timestamp.is_some() => K::store(self).wrote(ending),
            Ok(_) => K::store(self).gone(&key, &uid),
            Err(fault) if fault.cause() == Cause::Missing => K::store(self).gone(&key, &uid),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Puts a pod on a node.
    pub(super) async fn bind(&self, pod: &Pod, node: &Node) -> Result<(), Fault> {
        let key = Key::of(pod);
        let binding = Binding {
            metadata: ObjectMeta { name: Some(key.name.clone()), uid: pod.uid(), ..Default::default() },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.name_any()),
                ..Default::default()
            },
        };
        let api = self.api::<Pod>(&key.namespace);
        let bound: kube::Result<Value> = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
        bound.map(|_| ()).map_err(|error| Fault::new("bind", "Pod", &key.to_string(), error))
    }

    /// Tells people what was done, or what failed. Never waits.
    pub(super) fn tell<K: Written>(&self, about: &K, severity: Severity, reason: &str, message: String) {
        let now = Timestamp::now();
        let name = about.name_any();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: about.namespace(),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                name: Some(name),
                namespace: about.namespace(),
                uid: about.uid(),
                resource_version: about.resource_version(),
                field_path: None,
            },
            type_: Some(severity.name().to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource { component: Some(K::CONTROLLER.to_owned()), host: None }),
            reporting_component: Some(K::CONTROLLER.to_owned()),
            count: Some(1),
            first_timestamp: Some(time(now)),
            last_timestamp: Some(time(now)),
            ..Default::default()
        };
        if self.events.try_send(event).is_err() {
            tracing::debug!("too many events waiting, dropping one");
        }
    }

    /// What the API answered goes into the store before anybody decides anew.
    fn answered<K: Written>(&self, answer: kube::Result<K>, verb: &str, key: &Key) -> Result<K, Fault> {
        match answer {
            Ok(object) => {
                K::store(self).wrote(object.clone());
                Ok(object)
            }
            Err(error) => Err(Fault::new(verb, &K::kind(&()), &key.to_string(), error)),
        }
    }
}

/// How much an event should worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// A moment as objects carry it: whole seconds.
pub(super) fn time(moment: Timestamp) -> Time {
    Time(Timestamp::from_second(moment.as_second()).unwrap_or(moment))
}

/// Posts events until `stop`.
pub(super) async fn post_events(client: Client, mut events: mpsc::Receiver<Event>, mut stop: watch::Receiver<bool>) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(event) = event else { return };
        let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason = event.reason, "cannot post an event");
        }
    }
}
