//! Spreading endpoints over slices so that few slices change.
//!
//! An endpoint stays in the slice that it is in. New ones go first into slices that change anyway, then into one with
//! room for all of them, then into new slices. Slices never are joined: that would change two where none needs to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::super::ownership;
use super::desired::{Family, Group};
use super::{HEADLESS, MANAGED_BY, OURSELVES, SERVICE_NAME};

/// The most endpoints in one slice.
pub(super) const MOST_ENDPOINTS: usize = 100;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) replace: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Decides how the slices of a Service that there are become those that are `wanted`.
pub(super) fn plan(service: &Service, existing: Vec<Arc<EndpointSlice>>, wanted: BTreeMap<Family, Vec<Group>>) -> Changes {
    let mut changes = Changes::default();
    let mut existing = existing;
    for (family, groups) in wanted {
        let of_family: Vec<_> = existing.extract_if(.., |slice| slice.address_type == family.name()).collect();
        changes.add(plan_family(service, family, of_family, groups));
    }
    // What is left is of a family that the Service doesn't have.
    changes.delete.extend(existing);
    if service.metadata.deletion_timestamp.is_some() {
        changes.create.clear();
    }
    changes
}

impl Changes {
    fn add(&mut self, other: Changes) {
        self.create.extend(other.create);
        self.replace.extend(other.replace);
        self.delete.extend(other.delete);
    }
}

fn plan_family(service: &Service, family: Family, existing: Vec<Arc<EndpointSlice>>, mut groups: Vec<Group>) -> Changes {
    if groups.is_empty() {
        // A Service without endpoints has one slice that says so.
        groups.push(Group::default());
    }
    let is_ours = |slice: &Arc<EndpointSlice>| ownership::is_controlled_by(slice.meta(), &service.uid().unwrap_or_default());
    let (mut ours, foreign): (Vec<_>, Vec<_>) = existing.into_iter().partition(is_ours);
    let mut changes = Changes { delete: foreign, ..Changes::default() };
    for group in groups {
        let same_ports = |slice: &mut Arc<EndpointSlice>| same_ports(slice.ports.as_deref().unwrap_or_default(), &group.ports);
        let slices: Vec<_> = ours.extract_if(.., same_ports).collect();
        changes.add(plan_group(service, family, slices, group));
    }
    changes.delete.extend(ours);
    reuse(&mut changes, service);
    changes
}

fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    let key = |port: &EndpointPort| (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone());
    let sorted = |ports: &[EndpointPort]| {
        let mut keys: Vec<_> = ports.iter().map(key).collect();
        keys.sort();
        keys
    };
    sorted(a) == sorted(b)
}

/// What makes an endpoint the same endpoint: its addresses, its name, and whose they are.
type Identity = (Vec<String>, Option<String>, Option<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), endpoint.hostname.clone(), uid)
}

/// One slice on its way.
struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    labels: BTreeMap<String, String>,
    changed: bool,
}

fn plan_group(service: &Service, family: Family, existing: Vec<Arc<EndpointSlice>>, group: Group) -> Changes {
    let labels = labels(service);
    let is_placeholder = group.endpoints.is_empty();
    let order: Vec<_> = group.endpoints.iter().map(identity).collect();
    let mut wanted: HashMap<_, Endpoint> = order.iter().cloned().zip(group.endpoints).collect();
    let mut drafts: Vec<Draft> = existing.into_iter().map(|slice| draft(slice, &labels, &mut wanted)).collect();
    let mut left: Vec<Endpoint> = order.iter().filter_map(|identity| wanted.remove(identity)).collect();

    let mut open: Vec<&mut Draft> = drafts.iter_mut().filter(|draft| draft.changed && !draft.endpoints.is_empty()).collect();
    open.sort_by_key(|draft| std::cmp::Reverse(draft.endpoints.len()));
    for draft in open {
        draft.fill(&mut left);
    }
    if !left.is_empty() && left.len() < MOST_ENDPOINTS {
        let room = |draft: &&mut Draft| !draft.changed && draft.endpoints.len() + left.len() <= MOST_ENDPOINTS;
        if let Some(fullest) = drafts.iter_mut().filter(room).max_by_key(|draft| draft.endpoints.len()) {
            fullest.fill(&mut left);
        }
    }
    let mut changes = Changes::default();
    for part in left.chunks(MOST_ENDPOINTS) {
        changes.create.push(new_slice(service, family, &labels, &group.ports, part.to_vec()));
    }
    let mut kept = 0;
    for draft in drafts {
        // Without endpoints, the first slice stays to say so.
        if draft.endpoints.is_empty() && !(is_placeholder && kept == 0) {
            changes.delete.push(draft.slice);
            continue;
        }
        kept += 1;
        if draft.changed {
            changes.replace.push(draft.into_slice());
        }
    }
    if is_placeholder && kept == 0 {
        changes.create.push(new_slice(service, family, &labels, &group.ports, Vec::new()));
    }
    changes
}

/// What stays of a slice: the endpoints that are still wanted, as they are now.
fn draft(slice: Arc<EndpointSlice>, labels: &BTreeMap<String, String>, wanted: &mut HashMap<Identity, Endpoint>) -> Draft {
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    let mut changed = slice.labels() != labels;
    for current in &slice.endpoints {
        match wanted.remove(&identity(current)) {
            Some(now) => {
                let hints = current.hints.clone();
                let now = Endpoint { hints, ..now };
                changed |= now != *current;
                endpoints.push(now);
            }
            None => changed = true,
        }
    }
    Draft { slice, endpoints, labels: labels.clone(), changed }
}

impl Draft {
    fn fill(&mut self, from: &mut Vec<Endpoint>) {
        let room = MOST_ENDPOINTS.saturating_sub(self.endpoints.len()).min(from.len());
        if room > 0 {
            self.endpoints.extend(from.drain(..room));
            self.changed = true;
        }
    }

    fn into_slice(self) -> EndpointSlice {
        let mut slice = EndpointSlice::clone(&self.slice);
        slice.endpoints = self.endpoints;
        slice.metadata.labels = Some(self.labels);
        slice
    }
}

/// The labels of the Service, and ours.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    labels.remove(HEADLESS);
    if ip.is_empty() || ip == "None" {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), OURSELVES.into());
    labels
}

fn new_slice(
    service: &Service,
    family: Family,
    labels: &BTreeMap<String, String>,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![ownership::reference(service)]),
            ..Default::default()
        },
        address_type: family.name().into(),
        ports: Some(ports.to_vec()),
        endpoints,
    }
}

/// A slice that would be deleted becomes one that would be created: one change instead of two, and no moment without.
fn reuse(changes: &mut Changes, service: &Service) {
    let uid = service.uid().unwrap_or_default();
    let mut at = 0;
    while at < changes.delete.len() {
        if !ownership::is_controlled_by(changes.delete[at].meta(), &uid) {
            at += 1;
            continue;
        }
        let Some(new) = changes.create.pop() else { return };
        let old = changes.delete.remove(at);
        let mut slice = EndpointSlice::clone(&old);
        slice.metadata.labels = new.metadata.labels;
        slice.ports = new.ports;
        slice.endpoints = new.endpoints;
        changes.replace.push(slice);
    }
}
