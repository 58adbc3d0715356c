//! Waiting until the Deployments of a namespace are ready, and saying what keeps them.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::workloads;

use super::progress::Progress;

/// How often to look.
const PERIOD: Duration = Duration::from_millis(100);

/// Waits until every Deployment of a namespace has all of its pods ready.
pub(super) async fn wait(client: &Client, namespace: &str, limit: Duration, progress: &Progress) -> Result<(), Failure> {
    progress.step(&format!("waiting for {namespace}"));
    let deadline = Instant::now() + limit;
    loop {
        let deployments: Vec<Deployment> = workloads::list(client, Some(namespace), None).await?;
        let waiting: Vec<_> = deployments.iter().filter(|deployment| !is_ready(deployment)).map(ResourceExt::name_any).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        progress.detail(&format!("waiting for {}", waiting.join(", ")));
        if Instant::now() > deadline {
            let pods: Vec<Pod> = workloads::list(client, Some(namespace), None).await?;
            let reasons: Vec<_> = pods.iter().flat_map(reasons).collect();
            let what = format!("not ready after {} s: {}\n{}", limit.as_secs(), waiting.join(", "), reasons.join("\n"));
            return Err(Failure::new(what.trim()));
        }
        sleep(PERIOD).await;
    }
}

fn is_ready(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    let seen = status.observed_generation >= deployment.metadata.generation;
    seen && status.updated_replicas.unwrap_or(0) >= wanted && status.ready_replicas.unwrap_or(0) >= wanted
}

/// What keeps a pod, a line for each container.
fn reasons(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return vec![format!("  {}: no status", pod.name_any())] };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let lines = containers.filter_map(|container| Some(format!("  {} {}: {}", pod.name_any(), container.name, reason(container)?)));
    lines.collect()
}

fn reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let words = [waiting.reason.as_deref(), waiting.message.as_deref()];
        return Some(words.into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    match &state.terminated {
        Some(ended) if ended.exit_code == 0 => None,
        Some(ended) => Some(format!("exit code {} {}", ended.exit_code, ended.message.as_deref().unwrap_or_default().trim())),
        None => (!container.ready).then(|| format!("running, not ready, {} restarts", container.restart_count)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_are_ready_when_their_newest_pods_are() {
        let check = |status: serde_json::Value, wanted: bool| {
            let object = json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": status });
            assert_eq!(is_ready(&serde_json::from_value(object).unwrap()), wanted);
        };
        check(json!({ "observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2 }), true);
        check(json!({ "observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 2 }), false);
        check(json!({ "observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 2 }), false);
        check(json!({ "observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 1 }), false);
        check(json!({}), false);
    }

    #[test]
    fn pods_say_what_keeps_them() {
        let container = |name: &str, state: serde_json::Value| json!({ "name": name, "ready": false, "image": "", "imageID": "", "restartCount": 3, "state": state });
        let pod = json!({ "metadata": { "name": "p" }, "status": {
            "initContainerStatuses": [container("init", json!({ "terminated": { "exitCode": 0 } }))],
            "containerStatuses": [
                container("a", json!({ "waiting": { "reason": "ErrImagePull", "message": "no program" } })),
                container("b", json!({ "terminated": { "exitCode": 2, "message": "bad flag\n" } })),
                container("c", json!({ "running": {} })),
            ],
        }});
        let lines = reasons(&serde_json::from_value(pod).unwrap());
        assert_eq!(
            lines,
            ["  p a: ErrImagePull: no program", "  p b: exit code 2 bad flag", "  p c: running, not ready, 3 restarts"]
        );
    }
}
