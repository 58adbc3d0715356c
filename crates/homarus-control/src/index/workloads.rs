//! Pods, external workloads, and what they belong to.

use super::{Dirty, Index, Topic, links::Link};
use homarus_model::{
    facts::{ExternalWorkload, Id, InboundSettings, Kind, Owner, OwnerKind, OwnerObject, Pod, PortRef, Server, Service, Workloads},
    workload::{Workload, WorkloadKind},
};
use std::sync::Arc;

/// A workload of either kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    Pod(&'a Pod),
    External(&'a ExternalWorkload),
}

impl<'a> Subject<'a> {
    pub(super) fn id(self) -> &'a Id {
        match self {
            Self::Pod(pod) => &pod.id,
            Self::External(external) => &external.id,
        }
    }

    pub(super) fn settings(self) -> &'a InboundSettings {
        match self {
            Self::Pod(pod) => &pod.settings,
            Self::External(external) => &external.settings,
        }
    }

    /// Whether a Server (of the same namespace) is about this workload.
    pub(super) fn is_selected_by(self, server: &Server) -> bool {
        match (self, &server.workloads) {
            (Self::Pod(pod), Workloads::Pods(selector)) => selector.matches(&pod.labels),
            (Self::External(external), Workloads::External(selector)) => selector.matches(&external.labels),
            _ => false,
        }
    }

    /// Whether a reference means this port. A number needn't be declared.
    pub(super) fn means(self, reference: &PortRef, port: u16) -> bool {
        match (reference, self) {
            (PortRef::Number(number), _) => *number == port,
            (PortRef::Name(name), Self::Pod(pod)) => pod.named_ports(name).any(|p| p == port),
            (PortRef::Name(name), Self::External(external)) => external.named_ports(name).next() == Some(port),
        }
    }
}

impl Index {
    /// The workload that a proxy says it works for.
    pub(super) fn subject(&self, workload: &Workload) -> Option<Subject<'_>> {
        let id = |name: &Arc<str>| Id { namespace: workload.namespace.clone(), name: name.clone() };
        match &workload.kind {
            WorkloadKind::Pod(name) => self.facts.pod(&id(name)).map(Subject::Pod),
            WorkloadKind::External(name) => self.facts.external(&id(name)).map(Subject::External),
        }
    }

    /// The kind and name of what a user wrote to get this pod: one level above ReplicaSets and Jobs, itself if nothing is.
    pub(super) fn pod_owner(&self, pod: &Pod) -> Owner {
        let Some(owner) = &pod.owner else {
            return Owner { kind: "pod".into(), name: pod.id.name.clone() };
        };
        let id = Id { namespace: pod.id.namespace.clone(), name: owner.name.clone() };
        let above = match &*owner.kind {
            "replicaset" => self.facts.owner(OwnerKind::ReplicaSet, &id).and_then(|rs| rs.owner.clone()).filter(writes_pods),
            "job" => self.facts.owner(OwnerKind::Job, &id).and_then(|job| job.owner.clone()),
            _ => None,
        };
        above.unwrap_or_else(|| owner.clone())
    }

    /// Services that select external workloads, with those.
    pub(crate) fn services_of_externals(&self) -> Vec<(&Service, Vec<&ExternalWorkload>)> {
        let mut found = Vec::new();
        for (namespace, _) in self.count(Kind::ExternalWorkload) {
            for service in self.facts.services_in(&namespace) {
                let Some(selector) = &service.selector else { continue };
                let externals = self.facts.externals_in(&namespace).filter(|x| selector.matches(&x.labels));
                let externals: Vec<_> = externals.collect();
                if !externals.is_empty() {
                    found.push((service, externals));
                }
            }
        }
        found
    }

    pub(super) fn touch_owned(&self, owner: &OwnerObject, dirty: &mut Dirty) {
        for (_, id) in self.links.of(&Link::OwnedBy(owner.kind, owner.id.clone())) {
            if let Some(pod) = self.facts.pod(id) {
                self.touch_addressed(Subject::Pod(pod), dirty);
            }
        }
    }

    pub(super) fn touch_pod(&self, pod: &Pod, dirty: &mut Dirty) {
        let kind = WorkloadKind::Pod(pod.id.name.clone());
        dirty.insert(Topic::Workload(Workload { namespace: pod.id.namespace.clone(), kind }));
        self.touch_addressed(Subject::Pod(pod), dirty);
    }

    pub(super) fn touch_external(&self, external: &ExternalWorkload, dirty: &mut Dirty) {
        let kind = WorkloadKind::External(external.id.name.clone());
        dirty.insert(Topic::Workload(Workload { namespace: external.id.namespace.clone(), kind }));
        self.touch_addressed(Subject::External(external), dirty);
    }

    /// What clients know of a workload: its addresses, and the Services that it is an endpoint of.
    pub(super) fn touch_addressed(&self, subject: Subject<'_>, dirty: &mut Dirty) {
        let kind = match subject {
            Subject::Pod(pod) => {
                dirty.extend(pod.ips.iter().chain(&pod.host_ips).copied().map(Topic::Ip));
                Kind::Pod
            }
            Subject::External(external) => {
                dirty.extend(external.ips.iter().copied().map(Topic::Ip));
                Kind::ExternalWorkload
            }
        };
        for (_, slice) in self.links.of(&Link::Holds(kind, subject.id().clone())) {
            if let Some(slice) = self.facts.slice(slice) {
                self.touch_slice(slice, dirty);
            }
        }
    }
}

/// A ReplicaSet of somebody else's kind counts as the workload itself.
fn writes_pods(owner: &Owner) -> bool {
    matches!(&*owner.kind, "deployment" | "statefulset" | "daemonset" | "job")
}
