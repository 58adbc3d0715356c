//! The repair controller: deletes pods of its node that started before the CNI plugin was there.
//!
//! Such a pod isn't redirected and never will be: rules are set when its network is made. Its network validator finds out and
//! exits with [`FAILURE_EXIT_CODE`], again and again. Deleted, its owner makes it again, and the plugin meets it. A pod that
//! nobody would make again is only told of, once: deleting it would be the end of it (linkerd-cni deletes it all the same).
//!
//! Invariant: a pod is only ever deleted if it is, by its uid, the one whose validator failed.

pub mod admin;
pub mod metrics;

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::api::{Api, ApiError, Change};
use crate::validator::FAILURE_EXIT_CODE;
use metrics::Metrics;

const VALIDATOR: &str = "linkerd-network-validator";
/// Meshed pods have it.
const MESHED: &str = "linkerd.io%2Fcontrol-plane-ns";
const CONTROLLER: &str = "linkerd-cni-repair-controller";
const REASON: &str = "LinkerdCNINotConfigured";
/// How long deleting a pod, or telling of it, may take.
const ACT_TIME: Duration = Duration::from_secs(1);
const LIST_TIME: Duration = Duration::from_secs(30);
/// How long one watch lasts, and the time after which it counts as hung.
const WATCH_SECS: u64 = 240;
const WATCH_TIME: Duration = Duration::from_secs(WATCH_SECS + 15);
/// Before looking again after an error.
const BACKOFF: Duration = Duration::from_secs(2);
/// Pods that are remembered as done with, and owners; a node has fewer.
const MAX_REMEMBERED: usize = 1024;
/// How long an owner's next pod is left alone after one was deleted; twice as long after each. What a validator finds may have
/// another reason, which deleting doesn't mend.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A pod, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Metadata,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<String>,
    owner_references: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    state: ContainerState,
    last_state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    exit_code: i64,
}

#[derive(Deserialize)]
struct PodList {
    metadata: Metadata,
    items: Vec<Pod>,
}

/// What a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// To be deleted, and made again by its owner.
    Delete,
    /// Somebody who makes it again.
    Tell,
}

impl Pod {
    /// What it needs, if anything.
    pub fn repair(&self) -> Option<Repair> {
        // One that runs has got past its validator, whatever that said before.
        if self.status.phase != "Pending" || self.metadata.deletion_timestamp.is_some() || !self.lost_the_race() {
            return None;
        }
        let owned = self.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        Some(if owned { Repair::Delete } else { Repair::Tell })
    }

    /// The uid of whoever makes it again.
    fn owner(&self) -> &str {
        let owners = self.metadata.owner_references.as_ref();
        owners.and_then(|owners| owners.first()?["uid"].as_str()).unwrap_or(&self.metadata.uid)
    }

    fn lost_the_race(&self) -> bool {
        let failed =
            |state: &ContainerState| state.terminated.as_ref().is_some_and(|ended| ended.exit_code == i64::from(FAILURE_EXIT_CODE));
        let mut validators = self.status.init_container_statuses.iter().flatten().filter(|status| status.name == VALIDATOR);
        let passed = |state: &ContainerState| state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
        validators.any(|status| failed(&status.state) || failed(&status.last_state) && !passed(&status.state))
    }
}

/// How to ask, with the token of the moment.
pub type Ask = Box<dyn Fn() -> Result<Api, ApiError> + Send + Sync>;

/// The controller of one node.
pub struct Repairer {
    /// How to ask.
    pub api: Ask,
    /// The node whose pods are looked after.
    pub node: String,
    /// The pod that this runs in, as events name it.
    pub instance: String,
    /// What happened.
    pub metrics: Metrics,
}

/// What was done.
#[derive(Debug, Default)]
struct Past {
    done: Done,
    owners: Owners,
}

/// Uids of pods that were done with.
#[derive(Debug, Default)]
struct Done(VecDeque<String>);

impl Done {
    /// Whether it is the first time.
    fn first(&mut self, uid: &str) -> bool {
        if self.0.iter().any(|done| done == uid) {
            return false;
        }
        if self.0.len() == MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(uid.to_owned());
        true
    }

    fn forget(&mut self, uid: &str) {
        self.0.retain(|done| done != uid);
    }
}

/// Owners whose pods were deleted: which, how often in a row, and when last.
#[derive(Debug, Default)]
struct Owners(VecDeque<(String, u32, Instant)>);

impl Owners {
    /// Whether a pod of this owner may be deleted now; then it counts as deleted.
    fn may_lose_one(&mut self, owner: &str, now: Instant) -> bool {
        let place = self.0.iter().position(|(uid, ..)| uid == owner);
        let before = place.and_then(|place| self.0.get(place)).map(|(_, times, last)| (*times, now.duration_since(*last)));
        let times = match before {
            Some((times, since)) if since < pause(times) => return false,
            // It was well for long enough to begin anew.
            Some((times, since)) if since < LONGEST_PAUSE * 2 => times + 1,
            _ => 0,
        };
        place.and_then(|place| self.0.remove(place));
        if self.0.len() == MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((owner.to_owned(), times, now));
        true
    }
}

fn pause(times: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_PAUSE)
}

impl Repairer {
    /// Looks after the node's pods until the process ends.
    pub fn run(&self) -> ! {
        let mut past = Past::default();
        loop {
            if let Err(error) = self.follow(&mut past) {
                tracing::warn!(%error, "pods can't be followed, trying again");
                thread::sleep(BACKOFF);
            }
        }
    }

    /// One list, and one watch after it.
    fn follow(&self, past: &mut Past) -> Result<(), ApiError> {
        // The token changes from time to time.
        let api = (self.api)()?;
        let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&labelSelector={MESHED}", self.node);
        let list: PodList = api.list(&pods, LIST_TIME)?;
        self.metrics.set_ready();
        for pod in &list.items {
            self.look(&api, pod, past);
        }
        let from = &list.metadata.resource_version;
        let watch = format!("{pods}&watch=true&timeoutSeconds={WATCH_SECS}&resourceVersion={from}");
        for change in api.watch::<Value>(&watch, WATCH_TIME)? {
            let Change { kind, object } = change?;
            if kind == "ERROR" {
                tracing::debug!(%object, "the watch is over");
                thread::sleep(BACKOFF);
                return Ok(());
            }
            match serde_json::from_value::<Pod>(object) {
                Ok(pod) if kind == "DELETED" => past.done.forget(&pod.metadata.uid),
                Ok(pod) => self.look(&api, &pod, past),
                Err(error) => tracing::warn!(%error, "a pod can't be read"),
            }
        }
        Ok(())
    }

    fn look(&self, api: &Api, pod: &Pod, past: &mut Past) {
        let Some(repair) = pod.repair() else { return };
        let Metadata { namespace, name, uid, .. } = &pod.metadata;
        if !past.done.first(uid) {
            return;
        }
        if repair == Repair::Delete && !past.owners.may_lose_one(pod.owner(), Instant::now()) {
            tracing::warn!(
                namespace,
                pod = name,
                "left alone for a while: pods of its owner were deleted before, and didn't get better"
            );
            past.done.forget(uid);
            return;
        }
        let outcome = match repair {
            Repair::Delete => self.delete(api, pod),
            Repair::Tell => Ok(()),
        };
        match outcome {
            Ok(()) => {
                tracing::info!(namespace, pod = name, ?repair, "its network validator failed: the CNI plugin wasn't there in time");
                self.tell(api, pod, repair);
            }
            Err(error) if error.is_not_found() || error.is_conflict() => tracing::debug!(%error, "gone already"),
            Err(error) => {
                tracing::error!(%error, namespace, pod = name, "can't be deleted");
                // Its validator fails again, and it is looked at again.
                past.done.forget(uid);
            }
        }
    }

    fn delete(&self, api: &Api, pod: &Pod) -> Result<(), ApiError> {
        let Metadata { namespace, name, uid, .. } = &pod.metadata;
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": { "uid": uid },
        });
        let start = Instant::now();
        let outcome = api.delete(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &options, ACT_TIME);
        self.metrics.deleted(&outcome, start.elapsed());
        outcome
    }

    fn tell(&self, api: &Api, pod: &Pod, repair: Repair) {
        let event = event(pod, repair, &self.instance, OffsetDateTime::now_utc());
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", pod.metadata.namespace);
        let start = Instant::now();
        let outcome = api.create(&path, &event, ACT_TIME);
        self.metrics.published(&outcome, start.elapsed());
        if let Err(error) = outcome {
            tracing::warn!(%error, "the event can't be published");
        }
    }
}

fn event(pod: &Pod, repair: Repair, instance: &str, now: OffsetDateTime) -> Value {
    let Metadata { namespace, name, uid, .. } = &pod.metadata;
    let (kind, action, note) = match repair {
        Repair::Delete => {
            ("Normal", "Deleting", "The CNI plugin wasn't ready when this pod started: deleting it, so that it is made again")
        }
        Repair::Tell => (
            "Warning",
            "Waiting",
            "The CNI plugin wasn't ready when this pod started, so its traffic isn't redirected and it can't go on. It has no \
             owner that would make it again: delete it and create it yourself",
        ),
    };
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "generateName": format!("{name}-"), "namespace": namespace },
        "eventTime": timestamp(now),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "type": kind,
        "reason": REASON,
        "action": action,
        "note": note,
        "regarding": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid },
    })
}

/// As Kubernetes' `MicroTime` is written.
fn timestamp(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(status: Value) -> Pod {
        let owned = json!([{ "kind": "ReplicaSet" }]);
        serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "b", "uid": "u", "ownerReferences": owned },
            "status": status,
        }))
        .unwrap()
    }

    fn validator(state: Value, last: Value) -> Value {
        json!({ "phase": "Pending", "initContainerStatuses": [{ "name": VALIDATOR, "state": state, "lastState": last }] })
    }

    fn ended(code: i64) -> Value {
        json!({ "terminated": { "exitCode": code } })
    }

    #[test]
    fn pods_whose_validator_found_no_rules_are_deleted() {
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        assert_eq!(pod(validator(waiting.clone(), ended(95))).repair(), Some(Repair::Delete));
        assert_eq!(pod(validator(ended(95), json!({}))).repair(), Some(Repair::Delete));
        for other in [
            validator(ended(0), json!({})),
            validator(ended(0), ended(95)),
            json!({ "phase": "Running", "initContainerStatuses": [{ "name": VALIDATOR, "state": {}, "lastState": ended(95) }] }),
            validator(waiting.clone(), ended(1)),
            validator(waiting, json!({})),
            json!({ "initContainerStatuses": [{ "name": "other", "lastState": ended(95) }] }),
            json!({}),
        ] {
            assert_eq!(pod(other.clone()).repair(), None, "{other}");
        }
    }

    #[test]
    fn whoever_nobody_makes_again_is_not_deleted() {
        let mut orphan = pod(validator(json!({}), ended(95)));
        orphan.metadata.owner_references = None;
        assert_eq!(orphan.repair(), Some(Repair::Tell));
        orphan.metadata.owner_references = Some(Vec::new());
        assert_eq!(orphan.repair(), Some(Repair::Tell));
    }

    #[test]
    fn what_goes_or_went_is_left_alone() {
        let mut going = pod(validator(json!({}), ended(95)));
        going.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
        assert_eq!(going.repair(), None);
        let mut over = pod(validator(ended(95), json!({})));
        over.status.phase = "Failed".into();
        assert_eq!(over.repair(), None);
    }

    #[test]
    fn a_pod_is_acted_on_once() {
        let mut done = Done::default();
        assert!(done.first("a") && !done.first("a") && done.first("b"));
        done.forget("a");
        assert!(done.first("a"));
        (0..2 * MAX_REMEMBERED).for_each(|uid| assert!(done.first(&uid.to_string())));
        assert_eq!(done.0.len(), MAX_REMEMBERED);
    }

    #[test]
    fn an_owner_whose_pods_get_no_better_is_left_alone_longer_and_longer() {
        let mut owners = Owners::default();
        let mut now = Instant::now();
        for times in 0..12 {
            assert!(owners.may_lose_one("a", now), "{times}");
            assert!(!owners.may_lose_one("a", now + pause(times) - Duration::from_millis(1)));
            now += pause(times);
        }
        assert!(owners.may_lose_one("b", now), "another owner");
        assert!(
            owners.may_lose_one("a", now + 2 * LONGEST_PAUSE) && owners.may_lose_one("a", now + 2 * LONGEST_PAUSE + FIRST_PAUSE)
        );
    }

    #[test]
    fn events_name_pod_and_time() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_001_000).unwrap();
        let event = event(&pod(json!({})), Repair::Delete, "linkerd-cni-x", at);
        assert_eq!(event["eventTime"], "2023-11-14T22:13:20.000001Z");
        assert_eq!(event["regarding"]["uid"], "u");
        assert_eq!((event["type"].as_str(), event["reason"].as_str()), (Some("Normal"), Some("LinkerdCNINotConfigured")));
    }
}
