//! Which pods of a StatefulSet are made and deleted now, and how it stands.
//!
//! In order (`OrderedReady`) one thing is done at a time: a pod is made when all before it are available, and deleted when
//! none after it is left. Otherwise (`Parallel`) order counts for updates alone: those go from the last pod to the first,
//! each when all after it are available, down to the partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::pods;
use super::identity::{self, REVISION_LABEL};

/// Pods made or deleted at one look; the rest at the next.
const MOST_AT_ONCE: usize = 500;

/// A template and the name of its revision.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What there is.
pub(super) struct Seen<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: Vec<Arc<Pod>>,
    /// What the last finished rollout left.
    pub(super) current: Version,
    /// What all pods are to become.
    pub(super) update: Version,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Pod>,
    /// To be made anew, now or at their turn.
    pub(super) delete: Vec<Arc<Pod>>,
    /// To be deleted for good.
    pub(super) condemn: Vec<Arc<Pod>>,
    pub(super) status: StatefulSetStatus,
    /// When a pod becomes available by waiting alone.
    pub(super) look_again: Option<Duration>,
}

/// Decides.
pub(super) fn plan(seen: Seen<'_>) -> Plan {
    let none = StatefulSetSpec::default();
    let spec = seen.set.spec.as_ref().unwrap_or(&none);
    let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let view = View { spec, min_ready, seen: &seen };
    let mut plan = Plan { status: view.status(), ..Plan::default() };
    plan.look_again = seen.pods.iter().filter_map(|pod| view.wait(pod)).filter(|wait| !wait.is_zero()).min();
    if seen.set.metadata.deletion_timestamp.is_none() {
        view.act(&mut plan);
    }
    complete(&mut plan.status, spec);
    plan
}

struct View<'a> {
    spec: &'a StatefulSetSpec,
    min_ready: Duration,
    seen: &'a Seen<'a>,
}

impl View<'_> {
    fn wait(&self, pod: &Pod) -> Option<Duration> {
        pods::available_in(pod, self.min_ready, self.seen.now).filter(|_| pods::phase(pod) == "Running")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !is_ending(pod) && self.wait(pod) == Some(Duration::ZERO)
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0).max(0)
    }

    fn end(&self) -> i32 {
        self.start().saturating_add(self.spec.replicas.unwrap_or(1).max(0))
    }

    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// Makes what is missing, ends what is too much, and updates what is left, as far as may be at once.
    fn act(&self, plan: &mut Plan) {
        let of: BTreeMap<i32, &Arc<Pod>> =
            self.seen.pods.iter().filter_map(|pod| Some((identity::ordinal(self.seen.set, pod)?, pod))).collect();
        if self.fill(plan, &of) && self.condemn(plan, &of) {
            self.update(plan, &of);
        }
    }

    /// False if the rest has to wait.
    fn fill(&self, plan: &mut Plan, of: &BTreeMap<i32, &Arc<Pod>>) -> bool {
        for ordinal in self.start()..self.end() {
            if plan.create.len() + plan.delete.len() >= MOST_AT_ONCE {
                return false;
            }
            let waits = match of.get(&ordinal) {
                None => {
                    plan.create.push(self.made(ordinal));
                    true
                }
                Some(pod) if pods::has_ended(pod) => {
                    if !is_ending(pod) {
                        plan.delete.push((*pod).clone());
                    }
                    true
                }
                Some(pod) => !self.is_available(pod),
            };
            if waits && self.in_order() {
                return false;
            }
        }
        true
    }

    fn condemn(&self, plan: &mut Plan, of: &BTreeMap<i32, &Arc<Pod>>) -> bool {
        let (start, end) = (self.start(), self.end());
        let outside = || of.iter().filter(|(ordinal, _)| !(start..end).contains(*ordinal)).map(|(_, pod)| *pod);
        let first_unavailable = outside().find(|pod| !self.is_available(pod)).map(|pod| pod.uid());
        for pod in outside().rev() {
            let is_first = first_unavailable.as_ref() == Some(&pod.uid());
            if self.in_order() && (is_ending(pod) || !(self.is_available(pod) || is_first)) {
                return false;
            }
            if !is_ending(pod) && plan.condemn.len() < MOST_AT_ONCE {
                plan.condemn.push(pod.clone());
            }
            if self.in_order() {
                return false;
            }
        }
        true
    }

    fn update(&self, plan: &mut Plan, of: &BTreeMap<i32, &Arc<Pod>>) {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return;
        }
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0).max(0);
        for ordinal in (self.start().saturating_add(partition)..self.end()).rev() {
            // What isn't there is being made, of the right template.
            let Some(pod) = of.get(&ordinal) else { return };
            if revision(pod) != Some(&self.seen.update.name) && !is_ending(pod) {
                if !plan.delete.iter().any(|gone| gone.uid() == pod.uid()) {
                    plan.delete.push((*pod).clone());
                }
                plan.status.current_replicas = plan.status.current_replicas.map(|number| number - 1);
                return;
            }
            if !self.is_available(pod) {
                return;
            }
        }
    }

    /// A pod below the partition is made as it was, so that it doesn't change by dying.
    fn made(&self, ordinal: i32) -> Pod {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        let kept = match strategy.rolling_update {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if strategy.type_.as_deref() == Some("RollingUpdate") => {
                self.seen.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)
            }
            None => 0,
        };
        let as_it_was = ordinal < self.start().saturating_add(kept);
        identity::pod(self.seen.set, if as_it_was { &self.seen.current } else { &self.seen.update }, ordinal)
    }

    fn status(&self) -> StatefulSetStatus {
        let count =
            |is: &dyn Fn(&Pod) -> bool| i32::try_from(self.seen.pods.iter().filter(|pod| is(pod)).count()).unwrap_or(i32::MAX);
        let of = |version: &Version| count(&|pod| !is_ending(pod) && revision(pod) == Some(&version.name));
        let is_ready = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
        StatefulSetStatus {
            observed_generation: self.seen.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: nonzero(count(&is_ready)),
            available_replicas: Some(count(&|pod| self.wait(pod) == Some(Duration::ZERO))),
            current_replicas: nonzero(of(&self.seen.current)),
            updated_replicas: nonzero(of(&self.seen.update)),
            current_revision: Some(self.seen.current.name.clone()),
            update_revision: Some(self.seen.update.name.clone()),
            collision_count: Some(self.seen.collisions),
            conditions: self.seen.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

/// When all pods are the new ones, there is nothing to go back to by dying.
fn complete(status: &mut StatefulSetStatus, spec: &StatefulSetSpec) {
    let wanted = spec.replicas.unwrap_or(1);
    let rolls = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    let all = [Some(status.replicas), status.updated_replicas.or(Some(0)), status.ready_replicas.or(Some(0))];
    if rolls && all.iter().all(|number| *number == Some(wanted)) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status.current_replicas = status.current_replicas.and_then(|number| nonzero(number.max(0)));
}

fn nonzero(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn revision(pod: &Pod) -> Option<&String> {
    pod.labels().get(REVISION_LABEL)
}
