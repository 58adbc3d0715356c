//! What an admission review doesn't carry: the annotations of the namespace, and what the owner of a pod belongs to.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use homarus_daemon::drain::Drain;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference as KubeOwner;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use tracing::warn;

use crate::webhook::review::OwnerReference;

/// Owners that are remembered; beyond, remembering begins anew.
const MAX_REMEMBERED: usize = 4096;

/// The cluster can't be asked, or doesn't know. Asking again may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClusterError {
    #[error("namespace {0} is not known")]
    NoNamespace(String),
    #[error("failed to read {what}: {reason}")]
    Api { what: String, reason: String },
}

/// What the webhook asks of a cluster.
pub(super) trait Cluster: Send + Sync + 'static {
    /// The annotations of a namespace.
    fn namespace_annotations(&self, name: &str) -> impl Future<Output = Result<BTreeMap<String, String>, ClusterError>> + Send;

    /// The owners of a ReplicaSet or Job; none of any other kind, and of one that is gone.
    fn owners(
        &self,
        namespace: &str,
        of: &OwnerReference,
    ) -> impl Future<Output = Result<Vec<OwnerReference>, ClusterError>> + Send;
}

impl<C: Cluster> Cluster for Arc<C> {
    async fn namespace_annotations(&self, name: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        C::namespace_annotations(self, name).await
    }

    async fn owners(&self, namespace: &str, of: &OwnerReference) -> Result<Vec<OwnerReference>, ClusterError> {
        C::owners(self, namespace, of).await
    }
}

/// What an object belongs to in the end: what `direct`, its only owner, belongs to, or that itself.
pub(super) async fn topmost<C: Cluster>(
    cluster: &C,
    namespace: &str,
    direct: &OwnerReference,
) -> Result<OwnerReference, ClusterError> {
    let above = cluster.owners(namespace, direct).await?;
    let owner = match (direct.kind.as_str(), &above[..]) {
        ("ReplicaSet", [above]) if matches!(above.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "Job") => above,
        ("Job", [above]) => above,
        _ => direct,
    };
    Ok(owner.clone())
}

/// A Kubernetes API server, with namespaces watched and owners remembered.
pub(super) struct KubernetesCluster {
    client: Client,
    namespaces: Store<Namespace>,
    /// By uid: an object never changes its controller.
    remembered: Mutex<HashMap<String, Vec<OwnerReference>>>,
}

impl KubernetesCluster {
    /// Begins to watch.
    pub(super) fn watch(client: Client, mut drain: Drain) -> Self {
        let (namespaces, writer) = reflector::store();
        let api = Api::<Namespace>::all(client.clone());
        let watch = reflector::reflector(writer, watcher(api, watcher::Config::default())).default_backoff();
        tokio::spawn(async move {
            let mut watch = pin!(watch);
            loop {
                tokio::select! {
                    () = drain.signaled() => return,
                    event = watch.next() => match event {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => warn!(%error, "watching namespaces failed"),
                        None => return,
                    },
                }
            }
        });
        Self { client, namespaces, remembered: Mutex::default() }
    }

    /// The namespaces as they are now.
    pub(super) fn namespaces(&self) -> Store<Namespace> {
        self.namespaces.clone()
    }

    /// Resolves when all namespaces are known.
    pub(super) async fn wait_until_known(&self) -> anyhow::Result<()> {
        Ok(self.namespaces.wait_until_ready().await?)
    }
}

impl Cluster for KubernetesCluster {
    async fn namespace_annotations(&self, name: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        if let Some(known) = self.namespaces.get(&ObjectRef::new(name)) {
            return Ok(known.metadata.annotations.clone().unwrap_or_default());
        }
        // Made a moment ago, perhaps: the watch may be behind.
        match Api::<Namespace>::all(self.client.clone()).get_opt(name).await {
            Ok(Some(found)) => Ok(found.metadata.annotations.unwrap_or_default()),
            Ok(None) => Err(ClusterError::NoNamespace(name.to_owned())),
            Err(error) => Err(failed(format!("namespace {name}"), &error)),
        }
    }

    async fn owners(&self, namespace: &str, of: &OwnerReference) -> Result<Vec<OwnerReference>, ClusterError> {
        if let Some(known) = self.remembered.lock().get(&of.uid) {
            return Ok(known.clone());
        }
        let found = match of.kind.as_str() {
            "ReplicaSet" => owners_of::<ReplicaSet>(Api::namespaced(self.client.clone(), namespace), &of.name).await,
            "Job" => owners_of::<Job>(Api::namespaced(self.client.clone(), namespace), &of.name).await,
            _ => return Ok(Vec::new()),
        };
        let found = found.map_err(|error| failed(format!("{} {namespace}/{}", of.kind, of.name), &error))?;
        let Some(owners) = found else { return Ok(Vec::new()) };
        if of.uid.is_empty() {
            return Ok(owners);
        }
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(of.uid.clone(), owners.clone());
        Ok(owners)
    }
}

async fn owners_of<K>(api: Api<K>, name: &str) -> kube::Result<Option<Vec<OwnerReference>>>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found = api.get_opt(name).await?;
    let owners = |object: K| object.meta().owner_references.clone().unwrap_or_default();
    Ok(found.map(|object| owners(object).into_iter().map(reference).collect()))
}

fn reference(owner: KubeOwner) -> OwnerReference {
    OwnerReference { kind: owner.kind, name: owner.name, uid: owner.uid }
}

fn failed(what: String, error: &kube::Error) -> ClusterError {
    ClusterError::Api { what, reason: error.to_string() }
}
