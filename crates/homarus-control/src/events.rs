//! Kubernetes Events: what operators see in `kubectl describe` and `kubectl get events`.
//!
//! Recording never waits and never fails its caller: events go through a bounded queue and are dropped, counted in the
//! log, when the API server can't keep up. Of one reason on one object at most [`BURST`] are written in [`WINDOW`], as
//! client-go limits them, so that a thousand restarting pods don't bury what else happened.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Events that wait to be written.
const QUEUE: usize = 256;
/// Events of one reason on one object in a [`WINDOW`].
const BURST: u32 = 25;
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Objects that are counted at a time; beyond, counting begins anew.
const MAX_COUNTED: usize = 4096;
/// Kubernetes' own limit of a message.
const MAX_MESSAGE_BYTES: usize = 1024;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Normal, or something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// All is well.
    Normal,
    /// Someone should look.
    Warning,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) subject: Subject,
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Takes happenings; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(mpsc::Sender<Happening>);

impl Recorder {
    /// A recorder that writes to the cluster in the name of `component`.
    pub(crate) fn spawn(client: Client, component: &'static str) -> Self {
        let (recorder, happenings) = Self::channel();
        tokio::spawn(write_all(client, component, happenings));
        recorder
    }

    /// A recorder and the queue it fills.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Happening>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (Self(tx), rx)
    }

    pub(crate) fn record(&self, happening: Happening) {
        if let Err(error) = self.0.try_send(happening) {
            debug!(%error, "event dropped");
        }
    }
}

async fn write_all(client: Client, component: &'static str, mut happenings: mpsc::Receiver<Happening>) {
    let mut limit = Limit::default();
    while let Some(happening) = happenings.recv().await {
        if !limit.admits(&happening, Instant::now()) {
            continue;
        }
        let namespace = happening.subject.namespace.clone();
        let event = event(happening, component, Timestamp::now());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let params = PostParams::default();
        match tokio::time::timeout(WRITE_TIMEOUT, api.create(&params, &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, reason = event.reason, "failed to write an event"),
            Err(_) => warn!(reason = event.reason, "timed out writing an event"),
        }
    }
}

#[derive(Debug, Default)]
struct Limit(HashMap<(Subject, &'static str), (Instant, u32)>);

impl Limit {
    fn admits(&mut self, happening: &Happening, now: Instant) -> bool {
        if self.0.len() >= MAX_COUNTED {
            self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if self.0.len() >= MAX_COUNTED {
                self.0.clear();
            }
        }
        let key = (happening.subject.clone(), happening.reason);
        let (since, count) = self.0.entry(key).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= BURST
    }
}

fn event(happening: Happening, component: &str, now: Timestamp) -> Event {
    let Happening { subject, severity, reason, mut message } = happening;
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    // As client-go names them: the object's name and the time, which is unique enough and readable.
    let name = format!("{}.{:x}", subject.name, now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(subject.namespace.clone()), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some(subject.api_version.into()),
            kind: Some(subject.kind.into()),
            name: Some(subject.name),
            namespace: Some(subject.namespace),
            uid: subject.uid,
            ..ObjectReference::default()
        },
        type_: Some(match severity {
            Severity::Normal => "Normal".into(),
            Severity::Warning => "Warning".into(),
        }),
        reason: Some(reason.into()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn happening(name: &str, message: String) -> Happening {
        let subject = Subject { api_version: "v1", kind: "Pod", namespace: "shop".into(), name: name.into(), uid: None };
        Happening { subject, severity: Severity::Normal, reason: "Injected", message }
    }

    #[test]
    fn a_flood_on_one_object_is_cut_and_others_are_heard() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let flood = happening("web", String::new());
        let admitted = (0..100).filter(|_| limit.admits(&flood, now)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(limit.admits(&happening("api", String::new()), now));
        assert!(limit.admits(&flood, now + WINDOW));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let event = event(happening("web", "ü".repeat(1000)), "homarus", Timestamp::UNIX_EPOCH);
        assert!(event.message.unwrap().len() <= MAX_MESSAGE_BYTES);
        assert_eq!(event.metadata.name.unwrap(), "web.0");
    }
}
