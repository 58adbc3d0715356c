//! Pods and who owns them, as far as traffic is told by workload. Pure but for [`Workloads::list`].

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::reach;
use crate::resources::Kind;

/// How many objects are asked for at once.
const PAGE: u32 = 500;
/// The most pages that are read of one list.
const MAX_PAGES: usize = 400;

/// A pod and what it is part of.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Running, Pending, ...
    pub phase: String,
    /// Whether it has a proxy.
    pub meshed: bool,
    /// Everything it is part of, itself included.
    pub parts_of: Vec<(Kind, String)>,
    /// The pod.
    pub pod: Pod,
}

impl Member {
    /// Whether its proxy can be asked.
    pub fn has_running_proxy(&self) -> bool {
        self.meshed && self.phase == "Running"
    }

    /// Whether it is part of such a thing.
    pub fn is_part_of(&self, kind: Kind, name: Option<&str>) -> bool {
        self.parts_of.iter().any(|(part, of)| *part == kind && name.is_none_or(|name| name == of))
    }

    /// The names of the things of a kind that it is part of.
    pub fn parts(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.parts_of.iter().filter(move |(part, _)| *part == kind).map(|(_, name)| name.as_str())
    }
}

/// The pods of a namespace, or of all.
#[derive(Clone, Debug, Default)]
pub struct Workloads(pub Vec<Member>);

impl Workloads {
    /// Asks the API. Without the right to see ReplicaSets or Jobs, their pods have fewer owners.
    pub async fn list(client: &Client, namespace: Option<&str>, selector: Option<&str>) -> Result<Self, Failure> {
        let pods = list::<Pod>(client, namespace, selector).await?;
        let sets = list::<ReplicaSet>(client, namespace, None).await.unwrap_or_default();
        let jobs = list::<Job>(client, namespace, None).await.unwrap_or_default();
        Ok(Self::of(pods, &sets, &jobs))
    }

    /// Finds the owners of pods.
    pub fn of(pods: Vec<Pod>, sets: &[ReplicaSet], jobs: &[Job]) -> Self {
        let mut above: HashMap<(Kind, String, String), (Kind, String)> = HashMap::new();
        for set in sets {
            let owner = controller(set.owner_references());
            above.extend(owner.map(|owner| ((Kind::ReplicaSet, set.namespace().unwrap_or_default(), set.name_any()), owner)));
        }
        for job in jobs {
            let owner = controller(job.owner_references());
            above.extend(owner.map(|owner| ((Kind::Job, job.namespace().unwrap_or_default(), job.name_any()), owner)));
        }
        let ended = |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed");
        Self(pods.into_iter().filter(|pod| !ended(pod)).map(|pod| member(pod, &above)).collect())
    }
}

/// The phase of a pod.
pub fn phase(pod: &Pod) -> &str {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating";
    }
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

/// Whether a pod has a proxy.
pub fn is_meshed(pod: &Pod) -> bool {
    pod.labels().contains_key(CONTROL_PLANE_NS_LABEL) && reach::proxy_admin_port(pod).is_some()
}

/// The label that injected pods carry: the namespace of their control plane.
pub const CONTROL_PLANE_NS_LABEL: &str = "linkerd.io/control-plane-ns";

fn member(pod: Pod, above: &HashMap<(Kind, String, String), (Kind, String)>) -> Member {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let mut parts_of = vec![(Kind::Pod, name.clone()), (Kind::Namespace, namespace.clone())];
    let mut next = controller(pod.owner_references());
    while let Some((kind, name)) = next {
        next = above.get(&(kind, namespace.clone(), name.clone())).cloned();
        parts_of.push((kind, name));
        if parts_of.len() > 5 {
            break;
        }
    }
    Member { phase: phase(&pod).to_owned(), meshed: is_meshed(&pod), namespace, name, parts_of, pod }
}

fn controller(owners: &[OwnerReference]) -> Option<(Kind, String)> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first())?;
    Some((Kind::of_owner(&owner.kind)?, owner.name.clone()))
}

/// All objects of a kind, a page at a time.
pub async fn list<K>(client: &Client, namespace: Option<&str>, selector: Option<&str>) -> Result<Vec<K>, Failure>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = namespace.map_or_else(|| Api::all(client.clone()), |ns| Api::namespaced(client.clone(), ns));
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector = selector.map(str::to_owned);
    let mut all = Vec::new();
    for _ in 0..MAX_PAGES {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
    Err(Failure::new(format!("more than {} objects: choose a namespace or a selector", MAX_PAGES * PAGE as usize)))
}
