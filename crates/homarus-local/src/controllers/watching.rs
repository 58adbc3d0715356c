//! Keeps one store in step with the API, and tells the controllers what changed.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use super::cluster::Cluster;
use super::routes::Watched;
use super::store::Key;

/// Watches one kind until `stop`. A watch that fails is begun again, after a pause that grows.
pub(super) async fn run<K: Watched>(cluster: Arc<Cluster>, mut stop: watch::Receiver<bool>) {
    let api = Api::<K>::all(cluster.client.clone());
    let mut events = pin!(watch_kind(api, watcher::Config::default()).default_backoff());
    let mut listing = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match event {
            Some(Ok(event)) => happened(&cluster, event, &mut listing),
            Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "cannot watch, trying again"),
            None => return,
        }
    }
}

fn happened<K: Watched + Debug>(cluster: &Cluster, event: Event<K>, listing: &mut Vec<K>) {
    let store = K::store(cluster);
    match event {
        Event::Init => listing.clear(),
        Event::InitApply(object) => listing.push(slim(object)),
        Event::InitDone => {
            let listed = std::mem::take(listing);
            let keys: Vec<Key> = listed.iter().map(Key::of).collect();
            for lost in store.listed(listed) {
                K::changed(cluster, Some(&lost), None);
            }
            for object in keys.iter().filter_map(|key| store.find(key)) {
                K::changed(cluster, None, Some(&object));
            }
        }
        Event::Apply(object) => {
            let key = Key::of(&object);
            let before = store.find(&key);
            store.seen(slim(object));
            K::changed(cluster, before.as_deref(), store.find(&key).as_deref());
        }
        Event::Delete(object) => {
            store.gone(&Key::of(&object), &object.uid().unwrap_or_default());
            K::changed(cluster, Some(&object), None);
        }
    }
}

/// Who set which field is half of an object, and no controller asks for it.
fn slim<K: Watched>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
