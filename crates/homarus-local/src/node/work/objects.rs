//! The objects that pods refer to, as the API tells of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a container waits for the first list of Services.
const PATIENCE: Duration = Duration::from_secs(10);

/// Caches, and a signal for each kind of change.
pub(crate) struct Objects {
    client: Client,
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    /// PersistentVolumeClaims.
    claimed: watch::Receiver<u64>,
    /// ConfigMaps and Secrets.
    contents: watch::Receiver<u64>,
    /// Services and EndpointSlices.
    routes: watch::Receiver<u64>,
}

impl Objects {
    /// Starts to watch; the watches end with `tasks`.
    pub(crate) fn watch(client: &Client, tasks: &mut JoinSet<()>) -> Self {
        let (contents_tx, contents) = watch::channel(0);
        let (routes_tx, routes) = watch::channel(0);
        let (claimed_tx, claimed) = watch::channel(0);
        // Which there are is asked for; that there are others is told.
        drop(reflect::<PersistentVolumeClaim>(client, &claimed_tx, tasks));
        Self {
            config_maps: reflect(client, &contents_tx, tasks),
            secrets: reflect(client, &contents_tx, tasks),
            services: reflect(client, &routes_tx, tasks),
            slices: reflect(client, &routes_tx, tasks),
            claimed,
            client: client.clone(),
            contents,
            routes,
        }
    }

    /// Changes with every ConfigMap and Secret.
    pub(crate) fn contents(&self) -> watch::Receiver<u64> {
        self.contents.clone()
    }

    /// Changes with every Service and EndpointSlice.
    pub(crate) fn routes(&self) -> watch::Receiver<u64> {
        self.routes.clone()
    }

    /// Waits until the Services were read at least once; false when that takes too long.
    pub(crate) async fn know_services(&self) -> bool {
        let ready = tokio::time::timeout(PATIENCE, self.services.wait_until_ready()).await;
        matches!(ready, Ok(Ok(())))
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.services.state()
    }

    pub(crate) fn slices(&self) -> Vec<Arc<EndpointSlice>> {
        self.slices.state()
    }

    /// Changes with every claim, for the first time when all are known.
    pub(crate) fn claimed(&self) -> watch::Receiver<u64> {
        self.claimed.clone()
    }

    /// A claim as the API has it now: one that was just made again is another.
    pub(crate) async fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.ask(namespace, name).await
    }

    /// The entries of a ConfigMap. The cache may be behind what the pod was made with, so doubt asks the API.
    pub(crate) async fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        let key = ObjectRef::new(name).within(namespace);
        match self.config_maps.get(&key) {
            Some(found) => Some(found),
            None => self.ask(namespace, name).await,
        }
    }

    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        let key = ObjectRef::new(name).within(namespace);
        match self.secrets.get(&key) {
            Some(found) => Some(found),
            None => self.ask(namespace, name).await,
        }
    }

    async fn ask<K>(&self, namespace: &str, name: &str) -> Option<Arc<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(found) => found.map(Arc::new),
            Err(error) => {
                tracing::warn!(namespace, name, %error, "asking the API for an object failed");
                None
            }
        }
    }
}

/// All entries of a ConfigMap as bytes.
pub(crate) fn config_map_entries(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

/// All entries of a Secret.
pub(crate) fn secret_entries(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let entries = secret.data.iter().flatten();
    entries.map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn reflect<K>(client: &Client, changed: &watch::Sender<u64>, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let api: Api<K> = Api::all(client.clone());
    let changed = changed.clone();
    tasks.spawn(async move {
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(reflector::reflector(writer, events));
        while let Some(event) = events.next().await {
            match event {
                // Between these two the cache still shows what it was.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.send_modify(|version| *version += 1),
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::debug!(%kind, %error, "a watch was interrupted");
                }
            }
        }
    });
    store
}
