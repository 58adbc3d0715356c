//! Which nodes lack a pod, which have one too many or an old one, and how the set stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::{pods, scheduler};
use super::daemon::{self, HASH_LABEL};

/// What there is.
pub(super) struct Seen<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) nodes: &'a [Arc<Node>],
    /// The hash of the present template.
    pub(super) update: &'a str,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Pod>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
    /// When a pod becomes available by waiting alone.
    pub(super) look_again: Option<Duration>,
}

/// Decides.
pub(super) fn plan(seen: &Seen<'_>) -> Plan {
    let none = DaemonSetSpec::default();
    let spec = seen.set.spec.as_ref().unwrap_or(&none);
    let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let view = View { seen, spec, min_ready, places: places(seen, spec) };
    let mut plan = Plan { status: view.status(), ..Plan::default() };
    plan.look_again =
        seen.pods.iter().filter_map(|pod| pods::available_in(pod, min_ready, seen.now)).filter(|wait| !wait.is_zero()).min();
    if seen.set.metadata.deletion_timestamp.is_none() {
        view.manage(&mut plan);
        if plan.create.is_empty() && plan.delete.is_empty() {
            view.update(&mut plan);
        }
    }
    plan
}

/// A node, whether it is to have a pod, and those it has, the oldest first.
struct Place<'a> {
    name: String,
    wanted: bool,
    pods: Vec<&'a Arc<Pod>>,
}

fn places<'a>(seen: &Seen<'a>, spec: &DaemonSetSpec) -> Vec<Place<'a>> {
    let mut by_node: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in seen.pods {
        by_node.entry(daemon::node_of(pod).unwrap_or_default().to_owned()).or_default().push(pod);
    }
    let mut places: Vec<Place<'a>> = seen
        .nodes
        .iter()
        .map(|node| {
            let template = daemon::pod(seen.set, spec, seen.update, &node.name_any());
            let wanted = scheduler::may_run(&template, node);
            Place { wanted, pods: by_node.remove(&node.name_any()).unwrap_or_default(), name: node.name_any() }
        })
        .collect();
    // The pods of a node that is gone are cleaned up with it.
    places.retain(|place| place.wanted || !place.pods.is_empty());
    for place in &mut places {
        place.pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
    }
    places
}

struct View<'a> {
    seen: &'a Seen<'a>,
    spec: &'a DaemonSetSpec,
    min_ready: Duration,
    places: Vec<Place<'a>>,
}

impl View<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_active(pod) && pods::available_in(pod, self.min_ready, self.seen.now) == Some(Duration::ZERO)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL).map(String::as_str) == Some(self.seen.update)
    }

    fn made(&self, node: &str) -> Pod {
        daemon::pod(self.seen.set, self.spec, self.seen.update, node)
    }

    /// One pod on each node that is to have one, none elsewhere.
    fn manage(&self, plan: &mut Plan) {
        let (surge, _) = self.limits();
        for place in &self.places {
            let active = place.pods.iter().filter(|pod| pods::is_active(pod)).copied();
            let ended = place.pods.iter().filter(|pod| pods::has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
            plan.delete.extend(ended.map(|pod| (*pod).clone()));
            if !place.wanted {
                plan.delete.extend(active.cloned());
            } else if place.pods.is_empty() {
                plan.create.push(self.made(&place.name));
            } else {
                // A surge has two, an old and a new one.
                let (new, old): (Vec<_>, Vec<_>) = active.partition(|pod| self.is_new(pod));
                let spare = if surge > 0 { vec![old, new] } else { vec![[old, new].concat()] };
                for mut each in spare {
                    each.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
                    plan.delete.extend(each.into_iter().skip(1).cloned());
                }
            }
        }
    }

    /// How many pods may be beside the old ones, and how many may be missing.
    fn limits(&self) -> (usize, usize) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let wanted = self.places.iter().filter(|place| place.wanted).count();
        let surge = number(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0, wanted);
        let missing = number(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1, wanted);
        (surge, if surge == 0 { missing.max(1) } else { missing })
    }

    fn update(&self, plan: &mut Plan) {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if strategy == Some("OnDelete") {
            return;
        }
        match self.limits() {
            (0, missing) => self.replace(plan, missing),
            (surge, missing) => self.surge(plan, surge, missing),
        }
    }

    /// Ends old pods; their nodes then lack one. One that serves nobody costs nothing.
    fn replace(&self, plan: &mut Plan, missing: usize) {
        let wanted = self.places.iter().filter(|place| place.wanted);
        let unavailable = wanted.clone().filter(|place| !place.pods.iter().any(|pod| self.is_available(pod))).count();
        let mut left = missing.saturating_sub(unavailable);
        for pod in wanted.flat_map(|place| &place.pods).filter(|pod| pods::is_active(pod) && !self.is_new(pod)) {
            if !self.is_available(pod) {
                plan.delete.push((*pod).clone());
            } else if left > 0 {
                left -= 1;
                plan.delete.push((*pod).clone());
            }
        }
    }

    /// Makes new pods beside the old ones, and ends those whose successor serves.
    fn surge(&self, plan: &mut Plan, surge: usize, missing: usize) {
        let both = |place: &Place<'_>| {
            let is_new: Vec<bool> = place.pods.iter().filter(|pod| pods::is_active(pod)).map(|pod| self.is_new(pod)).collect();
            is_new.contains(&true) && is_new.contains(&false)
        };
        let wanted = || self.places.iter().filter(|place| place.wanted);
        let unavailable = wanted().filter(|place| !place.pods.iter().any(|pod| self.is_available(pod))).count();
        let mut surging = wanted().filter(|place| both(place)).count();
        let mut missing = missing.saturating_sub(unavailable);
        for place in wanted() {
            let active = place.pods.iter().copied().filter(|pod| pods::is_active(pod));
            let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = active.partition(|pod| self.is_new(pod));
            let Some(&old) = old.first() else { continue };
            let served = new.iter().any(|pod| self.is_available(pod));
            if served || (!new.is_empty() && !self.is_available(old)) {
                plan.delete.push(old.clone());
            } else if new.is_empty() && (surging < surge || !self.is_available(old)) {
                surging += 1;
                plan.create.push(self.made(&place.name));
            } else if new.is_empty() && missing > 0 {
                missing -= 1;
                plan.delete.push(old.clone());
            }
        }
    }

    fn status(&self) -> DaemonSetStatus {
        let count = |is: &dyn Fn(&&Place<'_>) -> bool| i32::try_from(self.places.iter().filter(is).count()).unwrap_or(i32::MAX);
        let active = |place: &Place<'_>, is: &dyn Fn(&Pod) -> bool| place.pods.iter().any(|pod| pods::is_active(pod) && is(pod));
        let desired = count(&|place| place.wanted);
        let available = count(&|place| place.wanted && active(place, &|pod| self.is_available(pod)));
        let nonzero = |number: i32| Some(number).filter(|number| *number != 0);
        DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: count(&|place| place.wanted && !place.pods.is_empty()),
            number_misscheduled: count(&|place| !place.wanted && !place.pods.is_empty()),
            number_ready: count(&|place| place.wanted && active(place, &pods::is_ready)),
            number_available: nonzero(available),
            number_unavailable: nonzero(desired - available),
            updated_number_scheduled: nonzero(count(&|place| place.wanted && active(place, &|pod| self.is_new(pod)))),
            observed_generation: self.seen.set.metadata.generation,
            collision_count: nonzero(self.seen.collisions),
            conditions: self.seen.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

/// A number, or a part of all, rounded up.
fn number(given: Option<&IntOrString>, default: usize, all: usize) -> usize {
    match given {
        None => default,
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            all.saturating_mul(percent).div_ceil(100)
        }
    }
}
