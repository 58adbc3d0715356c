//! Telling the API how a pod is, and that it is over.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(1);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last status may take before the object goes anyway.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a finished pod's deletion is tried.
const DELETES_MAX: u32 = 60;

/// Writes the latest status of one pod; those in between may be left out.
pub(crate) struct Publisher {
    client: Client,
    wanted: watch::Sender<Option<PodStatus>>,
    written: watch::Receiver<Option<PodStatus>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    pub(crate) fn start(client: Client, pod: Arc<Pod>) -> Self {
        let (wanted, inbox) = watch::channel(None);
        let (done, written) = watch::channel(None);
        let task = tokio::spawn(write_all(client.clone(), pod, inbox, done));
        Self { client, wanted, written, task }
    }

    pub(crate) fn publish(&self, status: PodStatus) {
        let _ = self.wanted.send(Some(status));
    }

    /// Lets the object go, once its last status is written.
    pub(crate) async fn finish(&self, pod: &Pod) {
        let last = self.wanted.borrow().clone();
        let mut written = self.written.clone();
        let flushed = written.wait_for(|w| *w == last);
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
        let meta = &pod.metadata;
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else {
            return;
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        for _ in 0..DELETES_MAX {
            match api.delete(name, &params).await {
                Ok(_) => return,
                // It is gone, or another has its name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => tracing::debug!(%namespace, %name, %error, "deleting a pod failed"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn write_all(
    client: Client,
    pod: Arc<Pod>,
    mut wanted: watch::Receiver<Option<PodStatus>>,
    done: watch::Sender<Option<PodStatus>>,
) {
    let meta = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(client, meta.namespace.as_deref().unwrap_or_default());
    let name = meta.name.as_deref().unwrap_or_default();
    while wanted.changed().await.is_ok() {
        let Some(status) = wanted.borrow_and_update().clone() else {
            continue;
        };
        loop {
            let written = tokio::time::timeout(WRITE_TIMEOUT, write(&api, name, meta.uid.as_deref(), &status)).await;
            match written {
                Ok(Ok(())) => break,
                Ok(Err(kube::Error::Api(refusal))) if matches!(refusal.code, 404 | 409 | 422) => {
                    tracing::debug!(name, %refusal, "a status was refused");
                    break;
                }
                Ok(Err(error)) => tracing::debug!(name, %error, "writing a status failed"),
                Err(_) => tracing::debug!(name, "writing a status took too long"),
            }
            tokio::time::sleep(RETRY).await;
            if wanted.has_changed().unwrap_or(true) {
                break;
            }
        }
        let _ = done.send(Some(status));
    }
}

/// Replaces what a node answers for. Lists go as a whole, so what is no more doesn't stay; the uid keeps it from
/// a successor of the same name.
async fn write(api: &Api<Pod>, name: &str, uid: Option<&str>, status: &PodStatus) -> kube::Result<()> {
    let mut body = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    if let Some(fields) = body.as_object_mut() {
        for field in ["podIP", "podIPs"] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    let patch = json!({"metadata": {"uid": uid}, "status": body});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
