//! What `--ha` promises. Without it, these checks have no meaning.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::control_plane::SELECTOR;
use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::workloads;

/// The label that names a component.
const COMPONENT: &str = "linkerd.io/control-plane-component";

async fn is_promised(facts: &Facts) -> Result<bool, Problem> {
    facts.is_on(&["highAvailability"]).await
}

pub(super) async fn replicas(facts: &Facts) -> Answer {
    if !is_promised(facts).await? {
        return Ok(Pass::Skip);
    }
    let deployments: Vec<Deployment> = workloads::list(&facts.client()?, Some(&facts.control_plane_ns), Some(SELECTOR)).await?;
    let alone = deployments.iter().filter_map(|deployment| {
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        (ready < 2).then(|| deployment.name_any())
    });
    unless_empty("not enough replicas available for", &alone.collect::<Vec<_>>())
}

/// Replicas on one node go with that node.
pub(super) async fn spread(facts: &Facts) -> Answer {
    if !is_promised(facts).await? {
        return Ok(Pass::Skip);
    }
    let nodes: Api<Node> = Api::all(facts.client()?);
    if nodes.list(&ListParams::default()).await?.items.len() < 2 {
        return Err(Problem("there is only one node: if it goes, so does the control plane".to_owned()));
    }
    unless_empty("all replicas are on one node:", &together(&facts.control_plane_pods().await?))
}

/// Components with several pods, all on one node.
fn together(pods: &[Pod]) -> Vec<String> {
    let mut places: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| workloads::phase(pod) == "Running") {
        let (Some(component), Some(node)) =
            (pod.labels().get(COMPONENT), pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()))
        else {
            continue;
        };
        let place = places.entry(component).or_default();
        place.0 += 1;
        place.1.insert(node);
    }
    let together = places.into_iter().filter(|(_, (number, nodes))| *number > 1 && nodes.len() == 1);
    together.map(|(component, (_, nodes))| format!("linkerd-{component} ({})", Vec::from_iter(nodes).join(""))).collect()
}

/// With `Ignore`, pods start without a proxy while no injector answers.
pub(super) async fn fails_closed(facts: &Facts) -> Answer {
    if !is_promised(facts).await? {
        return Ok(Pass::Skip);
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(facts.client()?);
    let config = webhooks.get("linkerd-proxy-injector-webhook-config").await?;
    let open = config.webhooks.into_iter().flatten().any(|webhook| webhook.failure_policy.as_deref() == Some("Ignore"));
    match open {
        false => Ok(Pass::Yes),
        true => Err(Problem("its failurePolicy is Ignore: pods start unmeshed while no injector answers".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn replicas_on_one_node() {
        let pod = |component: &str, node: &str| {
            serde_json::from_value::<Pod>(json!({
                "metadata": { "labels": { COMPONENT: component } },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "phase": "Running" },
            }))
            .unwrap()
        };
        let pods = [pod("identity", "a"), pod("identity", "a"), pod("destination", "a"), pod("destination", "b"), pod("x", "a")];
        assert_eq!(together(&pods), ["linkerd-identity (a)"]);
    }
}
