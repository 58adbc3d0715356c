//! EndpointSlices of external workloads (control-plane §3.3).
//!
//! Kubernetes makes slices of pods; the leader among the destination controllers makes those of ExternalWorkloads, so that
//! everybody (kube-proxy too) finds them behind a Service. What they should be is a pure function of the index (`plan`);
//! it is compared with what was written last, and only a Service for which that differs costs a question to the API server.
//! Only TCP ports are of interest here, as everywhere in the mesh.

pub(crate) mod lease;
mod plan;

pub use plan::{Family, Slice, SliceAddress};

use crate::serve::Hub;
use anyhow::Context;
use homarus_daemon::drain::Drain;
use homarus_model::facts::Id;
use k8s_openapi::{
    api::core::v1::Service,
    api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tracing::{debug, warn};

/// Who manages our slices.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "linkerd-external-workloads-controller");
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// How often the index is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often a Service is tried that can't be written; then only when it changes again.
const MAX_RETRIES: u32 = 15;
/// Everything is looked at again after this time, in case somebody else changed our slices.
const RESYNC: Duration = Duration::from_secs(600);

type Wanted = BTreeMap<Id, Vec<Slice>>;

/// Writes slices for as long as this process leads, until the program drains.
pub async fn run(client: Client, hub: Arc<Hub>, namespace: String, drain: Drain) {
    let lease = lease::Lease::new(client.clone(), &namespace, "linkerd-destination-endpoint-write");
    lease
        .lead(drain, || {
            Writer { client: client.clone(), hub: hub.clone(), written: BTreeMap::new(), failed: BTreeMap::new() }.run()
        })
        .await;
}

struct Writer {
    client: Client,
    hub: Arc<Hub>,
    /// What was written last. A new leader doesn't know and looks at every Service once.
    written: Wanted,
    failed: BTreeMap<Id, u32>,
}

impl Writer {
    async fn run(mut self) {
        if let Err(error) = self.learn().await {
            warn!(%error, "failed to list the slices of external workloads; those of Services without any stay");
        }
        let mut since = tokio::time::Instant::now();
        loop {
            if since.elapsed() > RESYNC {
                self.written.clear();
                since = tokio::time::Instant::now();
            }
            let wanted = self.hub.read(plan::slices);
            self.write(wanted).await;
            tokio::time::sleep(TICK).await;
        }
    }

    /// Learns which Services have slices of ours, so that they lose them when nothing is behind them any more.
    async fn learn(&mut self) -> kube::Result<()> {
        let ours = ListParams::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        for slice in Api::<EndpointSlice>::all(self.client.clone()).list(&ours).await? {
            let service = slice.labels().get(SERVICE_NAME).cloned().unwrap_or_default();
            let unknown = Slice { family: Family::V4, ports: Vec::new(), addresses: Vec::new() };
            self.written.insert(Id::new(slice.namespace().unwrap_or_default(), service), vec![unknown]);
        }
        Ok(())
    }

    async fn write(&mut self, wanted: Wanted) {
        let services: BTreeSet<Id> = wanted.keys().chain(self.written.keys()).cloned().collect();
        for id in services {
            let slices = wanted.get(&id).map(Vec::as_slice).unwrap_or_default();
            if self.written.get(&id).map(Vec::as_slice).unwrap_or_default() == slices {
                continue;
            }
            match reconcile(&self.client, &id, slices).await {
                Ok(()) => drop(self.failed.remove(&id)),
                Err(error) => {
                    let tries = self.failed.entry(id.clone()).or_default();
                    *tries += 1;
                    warn!(service = %id, %error, tries, "failed to write the slices of external workloads");
                    if *tries < MAX_RETRIES {
                        continue;
                    }
                    self.failed.remove(&id);
                }
            }
            match slices {
                [] => drop(self.written.remove(&id)),
                _ => drop(self.written.insert(id, slices.to_vec())),
            }
        }
    }
}

/// Makes the cluster's slices of a Service those that are wanted.
async fn reconcile(client: &Client, id: &Id, wanted: &[Slice]) -> anyhow::Result<()> {
    let services = Api::<Service>::namespaced(client.clone(), &id.namespace);
    let Some(service) = services.get_opt(&id.name).await? else {
        // Its slices go with it.
        return Ok(());
    };
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &id.namespace);
    let ours = format!("{}={},{SERVICE_NAME}={}", MANAGED_BY.0, MANAGED_BY.1, id.name);
    let mut there = slices.list(&ListParams::default().labels(&ours)).await?.items;
    for wanted in wanted {
        let new = slice(&service, wanted).context("the Service has no uid")?;
        let same = |old: &EndpointSlice| is_of(old, &service) && old.address_type == new.address_type && old.ports == new.ports;
        let Some(at) = there.iter().position(same) else {
            slices.create(&PostParams::default(), &new).await?;
            continue;
        };
        let old = there.swap_remove(at);
        if old.endpoints != new.endpoints || old.labels() != new.labels() {
            let metadata = ObjectMeta { labels: new.metadata.labels, managed_fields: None, ..old.metadata.clone() };
            slices.replace(&old.name_any(), &PostParams::default(), &EndpointSlice { metadata, ..new }).await?;
        }
    }
    for old in there {
        debug!(service = %id, slice = %old.name_any(), "deleting a slice that nothing is behind");
        slices.delete(&old.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}

fn is_of(slice: &EndpointSlice, service: &Service) -> bool {
    slice.owner_references().iter().any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref())
}

fn slice(service: &Service, wanted: &Slice) -> Option<EndpointSlice> {
    let name = service.name_any();
    let headless = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels.insert(SERVICE_NAME.into(), name.clone());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: name.clone(),
        uid: service.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        generate_name: Some(format!("linkerd-external-{name}-")),
        namespace: service.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let port = |(name, port): &(Arc<str>, u16)| EndpointPort {
        name: Some(name.to_string()),
        port: Some((*port).into()),
        protocol: Some("TCP".into()),
        ..EndpointPort::default()
    };
    Some(EndpointSlice {
        metadata,
        address_type: wanted.family.as_str().into(),
        ports: Some(wanted.ports.iter().map(port).collect()),
        endpoints: wanted.addresses.iter().map(|address| endpoint(address, headless)).collect(),
    })
}

fn endpoint(address: &SliceAddress, headless: bool) -> Endpoint {
    use k8s_openapi::api::core::v1::ObjectReference;
    Endpoint {
        addresses: vec![address.ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(address.ready), serving: Some(address.ready), terminating: Some(false) }),
        hostname: headless.then(|| address.workload.name.to_string()),
        zone: address.zone.as_deref().map(Into::into),
        target_ref: Some(ObjectReference {
            kind: Some("ExternalWorkload".into()),
            namespace: Some(address.workload.namespace.to_string()),
            name: Some(address.workload.name.to_string()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}
