//! Events about pods, for `kubectl describe` and `kubectl get events`.
//!
//! The same thing about the same object is one Event that counts. What can't be written in time is dropped: Events
//! are for people, and a flood of them must not slow down the pods.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

const QUEUE_MAX: usize = 1024;
/// Remembered Events; beyond, counting begins anew.
const REMEMBERED_MAX: usize = 2048;
const MESSAGE_MAX: usize = 1024;
const COMPONENT: &str = "kubelet";
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// One thing to say about a pod.
#[derive(Debug)]
struct Said {
    about: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Writes Events in the background.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Said>,
}

impl Events {
    /// Starts the writer, which ends with `tasks`.
    pub(crate) fn start(client: Client, node: String, tasks: &mut tokio::task::JoinSet<()>) -> Self {
        let (queue, mut inbox) = mpsc::channel::<Said>(QUEUE_MAX);
        tasks.spawn(async move {
            let mut known: HashMap<String, (String, i32)> = HashMap::new();
            while let Some(said) = inbox.recv().await {
                let writing = write(&client, &node, &mut known, said);
                match tokio::time::timeout(WRITE_TIMEOUT, writing).await {
                    Ok(Err(error)) => tracing::debug!(%error, "writing an event failed"),
                    Ok(Ok(())) => {}
                    Err(_) => tracing::debug!("writing an event took too long"),
                }
            }
        });
        Self { queue }
    }

    /// Says something about a pod, or about one of its containers.
    pub(crate) fn say(&self, pod: &Pod, container: Option<(&str, bool)>, warning: bool, reason: &'static str, message: String) {
        let field_path = container.map(|(name, init)| {
            let list = if init { "initContainers" } else { "containers" };
            format!("spec.{list}{{{name}}}")
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        let message = message.chars().take(MESSAGE_MAX).collect();
        let _ = self.queue.try_send(Said { about, warning, reason, message });
    }
}

async fn write(client: &Client, node: &str, known: &mut HashMap<String, (String, i32)>, said: Said) -> kube::Result<()> {
    let Said { about, warning, reason, message } = said;
    let namespace = about.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let now = Timestamp::now();
    let key = format!("{:?}/{:?}/{reason}/{message}", about.uid, about.field_path);
    if let Some((name, count)) = known.get_mut(&key) {
        *count += 1;
        let patch = serde_json::json!({"count": *count, "lastTimestamp": Time(now)});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            // It was deleted meanwhile.
            Err(_) => known.remove(&key),
        };
    }
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: about,
        type_: Some(if warning { "Warning" } else { "Normal" }.into()),
        reason: Some(reason.into()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        event_time: None::<MicroTime>,
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &event).await?;
    known.insert(key, (name, 1));
    Ok(())
}
