//! Pods that ask for a proxy and came up without one, because the webhook was not asked: with failure policy `Ignore` such a
//! pod simply runs outside of the mesh. It is never silent: an Event on what it belongs to, a metric, a line of the log; and
//! where its namespace says `homarus.io/evict-uninjected: enabled`, it is evicted, so that it is made again.
//!
//! A pod that is in the mesh carries a label by injection, so only the others are watched, and of those only what decides is
//! kept. Whether one should have a proxy is said by the same code that injects. A pod that was made before anybody asked for a
//! proxy looks the same, and is treated the same: it isn't what its namespace says.
//!
//! One replica does this, by a Lease. [`Memory::judge`] is pure.
//!
//! Absent on purpose: evicting pods that nobody would make again, and those of Jobs, whose work would be cut short.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use homarus_kube::annotations::EVICT_UNINJECTED;
use homarus_kube::injection::decision::{Origin, decide};
use homarus_kube::injection::values::Values;
use homarus_kube::injection::workload::Workload;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{EvictParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::ObjectRef};
use kube::{Api, Client, ResourceExt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::cluster::{KubernetesCluster, topmost};
use super::config::Config;
use super::webhook::subject;
use crate::events::{Happening, Recorder, Severity};
use crate::external::lease::Lease;
use crate::webhook::review::OwnerReference;

const LEASE: &str = "linkerd-proxy-injector-missed";
/// Which pods the injector has not been at.
const UNTOUCHED: &str = "!linkerd.io/control-plane-ns";
/// How often is looked; a namespace that begins to ask is noticed by then.
const LOOK: Duration = Duration::from_secs(5);
/// Pods that are watched at most; beyond, the log says so.
const MAX_WATCHED: usize = 50_000;
/// Owners whose evictions are remembered; beyond, the oldest are forgotten.
const MAX_OWNERS: usize = 4096;
/// The pause between evictions of one owner's pods: if the next pod has no proxy either, evicting doesn't help.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Evictions at one look.
const MAX_EVICTIONS: usize = 10;
const EVICT_TIMEOUT: Duration = Duration::from_secs(10);

/// What of a pod decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspect {
    namespace: String,
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    /// Its controller.
    owner: Option<OwnerReference>,
    /// Whether it gets a proxy in a namespace that asks for one, and in one that says nothing.
    where_asked: bool,
    by_itself: bool,
}

impl Suspect {
    /// None if the pod can't get a proxy anywhere, or no longer matters.
    fn of(pod: &Pod, token_projected: bool) -> Option<Suspect> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let object = json!({ "metadata": { "annotations": pod.annotations() }, "spec": pod.spec });
        let workload = Workload::new("Pod", &object);
        let injected = |namespace: &str| {
            let annotations = [(homarus_kube::annotations::INJECT.to_owned(), namespace.to_owned())].into();
            decide(&workload, &annotations, Origin::Webhook, token_projected).skips.is_empty()
        };
        let (where_asked, by_itself) = (injected("enabled"), injected(""));
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        (where_asked || by_itself).then(|| Suspect {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            labels: pod.labels().clone(),
            owner: owner.map(|owner| OwnerReference { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() }),
            where_asked,
            by_itself,
        })
    }
}

/// For whom the webhook is called.
struct Called {
    namespaces: Selector,
    pods: Selector,
}

impl Called {
    /// A selector that can't be read would keep the webhook from being installed: then nobody is missed.
    fn of(values: &Values) -> Option<Called> {
        let selector = |value: &serde_json::Value| {
            let selector: LabelSelector = serde_json::from_value(value.clone()).ok()?;
            Selector::try_from(selector).ok()
        };
        let injector = &values.proxy_injector;
        Some(Called { namespaces: selector(&injector.namespace_selector)?, pods: selector(&injector.object_selector)? })
    }
}

/// What a namespace says.
fn asks(namespace: &Namespace) -> bool {
    let inject = namespace.annotations().get(homarus_kube::annotations::INJECT);
    inject.is_some_and(|mode| matches!(mode.as_str(), "enabled" | "ingress"))
}

fn is_nonsense(namespace: &Namespace) -> bool {
    let inject = namespace.annotations().get(homarus_kube::annotations::INJECT).filter(|mode| !mode.is_empty());
    inject.is_some_and(|mode| !matches!(mode.as_str(), "enabled" | "ingress" | "disabled"))
}

fn is_missed(suspect: &Suspect, namespace: &Namespace, called: &Called) -> bool {
    let asked = if asks(namespace) { suspect.where_asked } else { suspect.by_itself };
    asked && !is_nonsense(namespace) && called.namespaces.matches(namespace.labels()) && called.pods.matches(&suspect.labels)
}

/// What was told and done already.
#[derive(Debug, Default)]
struct Memory {
    /// By uid, and since when they are known.
    told: HashMap<String, Instant>,
    /// By owner: when a pod of it was evicted, and how long to wait then.
    evicted: HashMap<String, (Instant, Duration)>,
}

/// What is to be done about the pods that were missed.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    tell: Vec<Suspect>,
    evict: Vec<Suspect>,
    by_namespace: BTreeMap<String, usize>,
}

impl Memory {
    /// Judges all suspects. `evicts` says whether a namespace wants its pods made again.
    fn judge(&mut self, missed: &[&Suspect], evicts: impl Fn(&str) -> bool, now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        let there: HashSet<&str> = missed.iter().map(|suspect| suspect.uid.as_str()).collect();
        self.told.retain(|uid, _| there.contains(uid.as_str()));
        self.evicted.retain(|_, (at, pause)| now.duration_since(*at) < *pause + LONGEST_PAUSE);
        if self.evicted.len() >= MAX_OWNERS {
            self.evicted.clear();
        }
        for suspect in missed {
            *verdict.by_namespace.entry(suspect.namespace.clone()).or_default() += 1;
            if !self.told.contains_key(&suspect.uid) {
                self.told.insert(suspect.uid.clone(), now);
                verdict.tell.push((*suspect).clone());
            }
            if evicts(&suspect.namespace) && verdict.evict.len() < MAX_EVICTIONS && self.may_evict(suspect, now) {
                verdict.evict.push((*suspect).clone());
            }
        }
        verdict
    }

    /// One pod of an owner at a time; and each further one later, if it was made without a proxy after the last was evicted.
    fn may_evict(&mut self, suspect: &Suspect, now: Instant) -> bool {
        let Some(owner) = suspect.owner.as_ref().filter(|owner| !matches!(owner.kind.as_str(), "Job" | "Node")) else {
            return false;
        };
        let pause = match self.evicted.get(&owner.uid) {
            Some((at, pause)) if now.duration_since(*at) < *pause => return false,
            Some((at, pause)) if self.told.get(&suspect.uid).is_some_and(|known| known > at) => (*pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.evicted.insert(owner.uid.clone(), (now, pause));
        true
    }
}

/// What operators' dashboards see.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    missed: Family<Vec<(String, String)>, Counter>,
    evicted: Family<Vec<(String, String)>, Counter>,
    present: Family<Vec<(String, String)>, Gauge>,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let counters = Counters { missed: Family::default(), evicted: Family::default(), present: Family::default() };
        metrics.register(|registry| {
            let help = "Pods seen that ask for a proxy and came up without one";
            registry.register("proxy_inject_missed", help, counters.missed.clone());
            let help = "Pods that ask for a proxy and have none, evicted to be made again";
            registry.register("proxy_inject_missed_evicted", help, counters.evicted.clone());
            let help = "Pods that ask for a proxy and have none, now";
            registry.register("proxy_inject_missed_pods", help, counters.present.clone());
        });
        counters
    }
}

fn labels(namespace: &str) -> Vec<(String, String)> {
    vec![("namespace".to_owned(), namespace.to_owned())]
}

/// Looks for such pods.
pub(super) struct Finder {
    pub(super) client: Client,
    pub(super) cluster: Arc<KubernetesCluster>,
    pub(super) config: Config,
    pub(super) recorder: Recorder,
    pub(super) counters: Counters,
}

/// Looks for as long as this replica leads, until the program drains.
pub(super) async fn run(finder: Finder, namespace: String, drain: Drain) {
    let lease = Lease::new(finder.client.clone(), &namespace, LEASE);
    lease.lead(drain, || finder.look()).await;
    finder.counters.present.clear();
}

impl Finder {
    async fn look(&self) {
        self.counters.present.clear();
        let api = Api::<Pod>::all(self.client.clone());
        let mut events = pin!(watcher(api, watcher::Config::default().labels(UNTOUCHED)).default_backoff());
        let mut suspects: BTreeMap<String, Suspect> = BTreeMap::new();
        let mut memory = Memory::default();
        let mut ticks = tokio::time::interval(LOOK);
        let mut known = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        known |= matches!(event, Event::InitDone);
                        self.follow(&mut suspects, event);
                    }
                    Some(Err(error)) => warn!(%error, "watching pods without a proxy failed"),
                    None => return,
                },
                _ = ticks.tick() => {
                    if known {
                        self.act(&suspects, &mut memory).await;
                    }
                }
            }
        }
    }

    fn follow(&self, suspects: &mut BTreeMap<String, Suspect>, event: Event<Pod>) {
        // With values that can't be read nobody is injected; pods are judged as by the defaults until they can.
        let projected = self.config.values().map_or(true, |values| values.identity.service_account_token_projection);
        match event {
            Event::Init => suspects.clear(),
            Event::InitDone => {}
            Event::Delete(pod) => {
                suspects.remove(&pod.uid().unwrap_or_default());
            }
            Event::Apply(pod) | Event::InitApply(pod) => match Suspect::of(&pod, projected) {
                None => {
                    suspects.remove(&pod.uid().unwrap_or_default());
                }
                Some(suspect) if suspects.len() >= MAX_WATCHED && !suspects.contains_key(&suspect.uid) => {
                    // Once: the rest of the cluster's pods come after this one.
                    debug!(most = MAX_WATCHED, "too many pods without a proxy to look after");
                }
                Some(suspect) => {
                    suspects.insert(suspect.uid.clone(), suspect);
                }
            },
        }
    }

    async fn act(&self, suspects: &BTreeMap<String, Suspect>, memory: &mut Memory) {
        let Some(called) = self.config.values().ok().and_then(|values| Called::of(&values)) else { return };
        let namespaces = self.cluster.namespaces();
        let namespace = |name: &str| namespaces.get(&ObjectRef::new(name));
        let missed = suspects
            .values()
            .filter(|suspect| namespace(&suspect.namespace).is_some_and(|namespace| is_missed(suspect, &namespace, &called)));
        let missed: Vec<&Suspect> = missed.collect();
        let evicts = |name: &str| {
            let namespace = namespace(name);
            namespace.is_some_and(|namespace| namespace.annotations().get(EVICT_UNINJECTED).is_some_and(|it| it == "enabled"))
        };
        let verdict = memory.judge(&missed, evicts, Instant::now());
        self.counters.present.clear();
        for (name, number) in &verdict.by_namespace {
            let number = i64::try_from(*number).unwrap_or(i64::MAX);
            self.counters.present.get_or_create(&labels(name)).set(number);
        }
        for suspect in &verdict.tell {
            self.tell(suspect).await;
        }
        for suspect in &verdict.evict {
            self.evict(suspect).await;
        }
    }

    async fn tell(&self, suspect: &Suspect) {
        let Suspect { namespace, name, .. } = suspect;
        warn!(namespace, pod = name, "a pod asks for a proxy and came up without one");
        self.counters.missed.get_or_create(&labels(namespace)).inc();
        let message = format!(
            "pod {name} asks for a proxy and has none: it was made while the injector could not be asked, or before the proxy was \
             asked for. Restart it; annotation {EVICT_UNINJECTED}: enabled on the namespace has that done"
        );
        self.record(suspect, "InjectionMissed", message).await;
    }

    async fn record(&self, suspect: &Suspect, reason: &'static str, message: String) {
        let top = match &suspect.owner {
            Some(direct) => topmost(&*self.cluster, &suspect.namespace, direct).await.ok(),
            None => None,
        };
        let on_owner = top.and_then(|top| subject(&top.kind.to_ascii_lowercase(), &suspect.namespace, &top.name, Some(top.uid)));
        let on_pod = || subject("pod", &suspect.namespace, &suspect.name, Some(suspect.uid.clone()));
        if let Some(subject) = on_owner.or_else(on_pod) {
            self.recorder.record(Happening { subject, severity: Severity::Warning, reason, message });
        }
    }

    /// By the Eviction API: disruption budgets are heeded, and what they refuse is tried again later.
    async fn evict(&self, suspect: &Suspect) {
        let Suspect { namespace, name, uid, .. } = suspect;
        let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
        let mut params = EvictParams::default();
        params.delete_options.get_or_insert_default().preconditions = preconditions;
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        match tokio::time::timeout(EVICT_TIMEOUT, api.evict(name, &params)).await {
            Ok(Ok(_)) => {
                info!(namespace, pod = name, "evicted, to be made again with a proxy");
                self.counters.evicted.get_or_create(&labels(namespace)).inc();
                self.record(suspect, "UninjectedPodEvicted", format!("evicted pod {name}, to be made again with a proxy")).await;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => {}
            Ok(Err(error)) => warn!(%error, namespace, pod = name, "failed to evict a pod without a proxy"),
            Err(_) => warn!(namespace, pod = name, "timed out evicting a pod without a proxy"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    fn pod(more: Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "p", "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true }] },
            "spec": { "containers": [{ "name": "web", "image": "web" }] },
        });
        for (field, value) in more.as_object().unwrap() {
            for (name, value) in value.as_object().unwrap() {
                pod[field][name] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn namespace(name: &str, annotations: Value) -> Namespace {
        let labels = json!({ "kubernetes.io/metadata.name": name });
        serde_json::from_value(json!({ "metadata": { "name": name, "annotations": annotations, "labels": labels } })).unwrap()
    }

    fn missed(pod: &Pod, namespace: &Namespace) -> bool {
        let called = Called::of(&Values::from_yaml("").unwrap()).unwrap();
        Suspect::of(pod, true).is_some_and(|suspect| is_missed(&suspect, namespace, &called))
    }

    #[test]
    fn whoever_would_get_a_proxy_now_is_missed() {
        let on = || json!({ "linkerd.io/inject": "enabled" });
        let (asking, silent) = (namespace("shop", on()), namespace("shop", json!({})));
        let plain = pod(json!({}));
        assert!(missed(&plain, &asking));
        assert!(!missed(&plain, &silent));
        assert!(missed(&pod(json!({ "metadata": { "annotations": on() } })), &silent));
        let off = json!({ "metadata": { "annotations": { "linkerd.io/inject": "disabled" } } });
        for left_alone in [
            off,
            json!({ "spec": { "hostNetwork": true } }),
            json!({ "spec": { "initContainers": [{ "name": "linkerd-proxy" }] } }),
            json!({ "status": { "phase": "Succeeded" } }),
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
            json!({ "metadata": { "labels": { "linkerd.io/cni-resource": "true" } } }),
        ] {
            assert!(!missed(&pod(left_alone.clone()), &asking), "{left_alone}");
        }
        assert!(!missed(&plain, &namespace("kube-system", on())), "the webhook isn't called for it");
        assert!(!missed(
            &pod(json!({ "metadata": { "annotations": on() } })),
            &namespace("shop", json!({ "linkerd.io/inject": "x" }))
        ));
    }

    fn suspect(uid: &str, owner: Option<&str>) -> Suspect {
        let owner = owner.map(|kind| OwnerReference { kind: kind.into(), name: "o".into(), uid: format!("of {kind}") });
        let (namespace, name) = ("shop".to_owned(), uid.to_owned());
        Suspect { namespace, name, uid: uid.into(), labels: BTreeMap::new(), owner, where_asked: true, by_itself: false }
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_told_once_and_evicted_in_turn_ever_more_slowly() {
        let mut memory = Memory::default();
        let (a, b) = (suspect("a", Some("ReplicaSet")), suspect("b", Some("ReplicaSet")));
        let mut names = |missed: &[&Suspect], evicts: bool| {
            let verdict = memory.judge(missed, |_| evicts, Instant::now());
            let of = |all: Vec<Suspect>| all.into_iter().map(|suspect| suspect.name).collect::<Vec<_>>().join(" ");
            (of(verdict.tell), of(verdict.evict))
        };
        assert_eq!(names(&[&a, &b], false), ("a b".into(), String::new()), "the namespace doesn't ask for it");
        assert_eq!(names(&[&a, &b], true), (String::new(), "a".into()));
        assert_eq!(names(&[&b], true), (String::new(), String::new()));
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(names(&[&b], true), (String::new(), "b".into()));
        // The one that was made for it has none either, nor the one after it.
        let (c, d) = (suspect("c", Some("ReplicaSet")), suspect("d", Some("ReplicaSet")));
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(names(&[&c], true), ("c".into(), "c".into()));
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(names(&[&d], true), ("d".into(), String::new()), "it takes longer now");
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(names(&[&d], true), (String::new(), "d".into()));
        assert_eq!(names(&[&a], false), ("a".into(), String::new()), "it is missed anew");
    }

    #[tokio::test]
    async fn what_nobody_makes_again_and_work_under_way_is_never_evicted() {
        let mut memory = Memory::default();
        for owner in [None, Some("Job"), Some("Node")] {
            assert_eq!(memory.judge(&[&suspect("x", owner)], |_| true, Instant::now()).evict, []);
        }
        let verdict = memory.judge(&[&suspect("x", Some("DaemonSet"))], |_| true, Instant::now());
        assert_eq!((verdict.evict.len(), verdict.by_namespace["shop"]), (1, 1));
    }

    #[test]
    fn selectors_that_cannot_be_read_miss_nobody() {
        let called = |yaml: &str| Called::of(&Values::from_yaml(yaml).unwrap()).is_some();
        assert!(called("proxyInjector: {namespaceSelector: {matchLabels: {a: b}}}"));
        assert!(!called("proxyInjector: {namespaceSelector: {matchExpressions: [{key: a, operator: Sometimes}]}}"));
        assert!(!called("proxyInjector: {objectSelector: 5}"));
    }
}
