//! The CNI plugin, where it redirects instead of an init container.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};

/// The name of everything that the plugin is made of but its configuration.
const NAME: &str = "linkerd-cni";
/// What a node carries until the plugin is ready there, where the chart's nodeTaint has it so.
const TAINT: &str = "cni.homarus.io/not-ready";

/// Whether pods are redirected by the plugin.
async fn is_used(facts: &Facts) -> Result<bool, Problem> {
    if facts.cni_asked { Ok(true) } else { facts.is_on(&["cniEnabled"]).await }
}

/// Whether an object is there.
async fn exists<K>(facts: &Facts, api: impl FnOnce(kube::Client) -> Api<K>, what: &str, name: &str) -> Answer
where
    K: Resource + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    if !is_used(facts).await? {
        return Ok(Pass::Skip);
    }
    match api(facts.client()?).get_opt(name).await? {
        Some(_) => Ok(Pass::Yes),
        None => Err(Problem(format!("missing {what}: {name}"))),
    }
}

pub(super) async fn config_map(facts: &Facts) -> Answer {
    let api = |client| Api::<ConfigMap>::namespaced(client, &facts.cni_ns);
    exists(facts, api, "ConfigMap", "linkerd-cni-config").await
}

pub(super) async fn cluster_role(facts: &Facts) -> Answer {
    exists(facts, Api::<ClusterRole>::all, "ClusterRole", NAME).await
}

pub(super) async fn cluster_role_binding(facts: &Facts) -> Answer {
    exists(facts, Api::<ClusterRoleBinding>::all, "ClusterRoleBinding", NAME).await
}

pub(super) async fn service_account(facts: &Facts) -> Answer {
    exists(facts, |client| Api::<ServiceAccount>::namespaced(client, &facts.cni_ns), "ServiceAccount", NAME).await
}

pub(super) async fn daemon_set(facts: &Facts) -> Answer {
    exists(facts, |client| Api::<DaemonSet>::namespaced(client, &facts.cni_ns), "DaemonSet", NAME).await
}

pub(super) async fn on_all_nodes(facts: &Facts) -> Answer {
    if !is_used(facts).await? {
        return Ok(Pass::Skip);
    }
    let sets: Api<DaemonSet> = Api::namespaced(facts.client()?, &facts.cni_ns);
    let (ready, wanted) = counts(&sets.get(NAME).await?);
    match ready >= wanted {
        true => Ok(Pass::As(format!("{ready} of {wanted} nodes"))),
        false => Err(Problem(format!("number ready: {ready}, number scheduled: {wanted}"))),
    }
}

/// How many of its pods are ready, and how many should be.
fn counts(set: &DaemonSet) -> (i32, i32) {
    set.status.as_ref().map_or((0, 1), |status| (status.number_ready, status.desired_number_scheduled))
}

/// Nodes that take no pods as the plugin never became ready there.
pub(super) async fn guarded_nodes(facts: &Facts) -> Answer {
    if facts.cni_asked || !is_used(facts).await? {
        return Ok(Pass::Skip);
    }
    let nodes: Api<Node> = Api::all(facts.client()?);
    let held = nodes.list(&ListParams::default()).await?.items.into_iter().filter(is_held).map(|node| node.name_any());
    unless_empty("nodes take no pods until the plugin is ready there:", &held.collect::<Vec<_>>())
}

fn is_held(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == TAINT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_with_the_plugin_and_without() {
        let set = |status: serde_json::Value| serde_json::from_value::<DaemonSet>(json!({ "status": status })).unwrap();
        let status = json!({ "currentNumberScheduled": 2, "desiredNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 2 });
        assert_eq!(counts(&set(status)), (2, 3));
        assert_eq!(counts(&DaemonSet::default()), (0, 1));
        let node = |key: &str| {
            let taints = json!([{ "key": key, "effect": "NoSchedule" }]);
            serde_json::from_value::<Node>(json!({ "spec": { "taints": taints } })).unwrap()
        };
        assert!(is_held(&node(TAINT)));
        assert!(!is_held(&node("node.kubernetes.io/not-ready")));
    }
}
