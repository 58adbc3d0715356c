//! EndpointSlices: which addresses stand behind a Service that selects pods.
//!
//! [`desired`] turns pods into endpoints, [`plan`] spreads them over slices so that few slices change.

mod desired;
mod plan;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::cluster::{Cluster, Fault};
use super::queue::Queue;
use super::store::Key;
use super::worker::{Controller, Next};

/// Whose slices are ours; slices that others manage are left alone.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURSELVES: &str = "endpointslice-controller.k8s.io";
/// The Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Marks slices of Services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// See the module.
pub(super) struct Endpoints;

impl Controller for Endpoints {
    const NAME: &'static str = "endpoints";

    fn queue(cluster: &Cluster) -> &Queue {
        &cluster.queues.endpoints
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Next, Fault> {
        let mut slices = cluster.slices.in_namespace(&key.namespace);
        slices.retain(|slice| service_of(slice).as_ref() == Some(key));
        let Some(service) = cluster.services.find(key).filter(|service| selects_pods(service)) else {
            // Slices of a Service that is gone go with it; those of one that no longer selects are kept, for whoever
            // took its selector away may want to fill them.
            return Ok(Next::OnChange);
        };
        let pods = cluster.pods.in_namespace(&key.namespace);
        let members = pods.iter().filter(|pod| is_member(&service, pod));
        let nodes = cluster.nodes.all();
        let changes = plan::plan(&service, slices, desired::groups(&service, members, &nodes));
        for slice in &changes.create {
            cluster.create(slice).await?;
        }
        for slice in &changes.replace {
            cluster.replace(slice).await?;
        }
        for slice in &changes.delete {
            cluster.delete(&**slice, DeleteParams::default()).await?;
        }
        Ok(Next::OnChange)
    }
}

fn selects_pods(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

fn is_member(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector
        .is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
}

/// The Service whose endpoints a slice of ours holds.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.labels();
    if labels.get(MANAGED_BY).map(String::as_str) != Some(OURSELVES) {
        return None;
    }
    Some(Key::new(slice.namespace().unwrap_or_default(), labels.get(SERVICE_NAME)?))
}

/// Looks at the Services that a pod belongs to, or belonged to, if it changed in a way that endpoints show.
pub(super) fn wake_services(cluster: &Cluster, old: Option<&Pod>, new: Option<&Pod>) {
    if let (Some(old), Some(new)) = (old, new)
        && desired::looks_the_same(old, new)
    {
        return;
    }
    let Some(namespace) = old.or(new).and_then(ResourceExt::namespace) else { return };
    for service in cluster.services.in_namespace(&namespace) {
        if old.into_iter().chain(new).any(|pod| is_member(&service, pod)) {
            cluster.queues.endpoints.add(Key::of(&*service));
        }
    }
}
