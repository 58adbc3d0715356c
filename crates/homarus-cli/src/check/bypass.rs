//! Ways past the proxy that nobody meant: pods that should have one and have none, and addresses that none guards.
//!
//! An injector that was away leaves no trace on a pod where the webhook's failure policy is `Ignore`, so pods are compared with
//! what the injector decides, by the same code, and with which namespaces the webhook is called for.

use std::collections::BTreeMap;

use homarus_kube::injection::decision::{Origin, decide};
use homarus_kube::injection::workload::Workload;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::selectors::selects;
use crate::workloads;

/// For whom the webhook is called.
#[derive(Clone, Debug, Default)]
struct Scope {
    namespaces: LabelSelector,
    pods: LabelSelector,
}

/// Pods that ask to be in the mesh and are not.
pub(super) async fn uninjected(facts: &Facts) -> Answer {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(facts.client()?);
    let Some(config) = webhooks.get_opt("linkerd-proxy-injector-webhook-config").await? else { return Ok(Pass::Skip) };
    let Some(webhook) = config.webhooks.and_then(|webhooks| webhooks.into_iter().next()) else { return Ok(Pass::Skip) };
    let scope =
        Scope { namespaces: webhook.namespace_selector.unwrap_or_default(), pods: webhook.object_selector.unwrap_or_default() };
    let projected = facts.is_on(&["identity", "serviceAccountTokenProjection"]).await?;
    let namespaces: Api<Namespace> = Api::all(facts.client()?);
    let namespaces = namespaces.list(&ListParams::default()).await?.items;
    let namespaces: BTreeMap<String, Namespace> = namespaces.into_iter().map(|ns| (ns.name_any(), ns)).collect();
    let pods: Vec<Pod> = workloads::list(&facts.client()?, facts.namespace.as_deref(), None).await?;
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| !matches!(workloads::phase(pod), "Succeeded" | "Failed" | "Terminating")) {
        let Some(namespace) = pod.namespace().and_then(|name| namespaces.get(&name)) else { continue };
        if should_be_meshed(&scope, namespace, pod, projected).map_err(Problem)? {
            found.push(format!("{}/{}", namespace.name_any(), pod.name_any()));
        }
    }
    unless_empty("these pods ask for a proxy and have none; restart them:", &found)
}

/// Whether the injector would give this pod a proxy, if it were made now.
fn should_be_meshed(scope: &Scope, namespace: &Namespace, pod: &Pod, projected: bool) -> Result<bool, String> {
    if !selects(&scope.namespaces, namespace.labels()) || !selects(&scope.pods, pod.labels()) {
        return Ok(false);
    }
    let object = serde_json::to_value(pod).map_err(|error| error.to_string())?;
    Ok(decide(&Workload::new("Pod", &object), namespace.annotations(), Origin::Webhook, projected).skips.is_empty())
}

/// Pods that can be reached over IPv6, in a mesh that leaves IPv6 alone.
pub(super) async fn ipv6(facts: &Facts) -> Answer {
    if !facts.is_on(&["disableIPv6"]).await? {
        return Ok(Pass::Skip);
    }
    let pods = facts.data_plane_pods().await?;
    let open = pods.iter().filter_map(|pod| Some(format!("{}/{} [{}]", pod.namespace()?, pod.name_any(), address_v6(pod)?)));
    unless_empty("traffic to these addresses passes the proxy by, as disableIPv6 is set:", &open.collect::<Vec<_>>())
}

fn address_v6(pod: &Pod) -> Option<&str> {
    let addresses = pod.status.as_ref()?.pod_ips.as_ref()?;
    addresses.iter().map(|address| address.ip.as_str()).find(|ip| ip.contains(':'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn namespace(annotations: serde_json::Value) -> Namespace {
        let labels = json!({ "kubernetes.io/metadata.name": "shop" });
        serde_json::from_value(json!({ "metadata": { "name": "shop", "annotations": annotations, "labels": labels } })).unwrap()
    }

    fn pod(annotations: serde_json::Value, containers: &[&str], host: bool) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({ "name": name })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "annotations": annotations },
            "spec": { "containers": containers, "hostNetwork": host },
        }))
        .unwrap()
    }

    #[test]
    fn pods_that_ask_and_have_none() {
        let on = json!({ "linkerd.io/inject": "enabled" });
        let off = json!({ "linkerd.io/inject": "disabled" });
        let check = |namespace_says: &serde_json::Value, pod_says: &serde_json::Value, containers: &[&str], host, wanted: bool| {
            let pod = pod(pod_says.clone(), containers, host);
            let asks = should_be_meshed(&Scope::default(), &namespace(namespace_says.clone()), &pod, true).unwrap();
            assert_eq!(asks, wanted, "{namespace_says} {pod_says} {containers:?} {host}");
        };
        check(&on, &json!({}), &["web"], false, true);
        check(&json!({}), &on, &["web"], false, true);
        check(&on, &off, &["web"], false, false);
        check(&on, &json!({}), &["web"], true, false);
        check(&on, &json!({}), &["web", "linkerd-proxy"], false, false);
        check(&json!({}), &json!({}), &["web"], false, false);
    }

    #[test]
    fn namespaces_that_the_webhook_is_not_called_for() {
        let scope = |operator: &str, values: &[&str]| Scope {
            namespaces: serde_json::from_value(json!({
                "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": operator, "values": values }],
            }))
            .unwrap(),
            pods: LabelSelector::default(),
        };
        let called = |scope: &Scope| {
            let on = json!({ "linkerd.io/inject": "enabled" });
            should_be_meshed(scope, &namespace(on), &pod(json!({}), &["web"], false), true).unwrap()
        };
        assert!(called(&scope("NotIn", &["kube-system"])));
        assert!(!called(&scope("NotIn", &["shop"])));
        assert!(called(&scope("In", &["shop"])) && called(&scope("Exists", &[])));
        assert!(!called(&scope("DoesNotExist", &[])));
    }

    #[test]
    fn addresses_of_both_families() {
        let pod = |ips: &[&str]| {
            let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
            serde_json::from_value::<Pod>(json!({ "status": { "podIPs": ips } })).unwrap()
        };
        assert_eq!(address_v6(&pod(&["10.0.0.1", "fd00::1"])), Some("fd00::1"));
        assert_eq!(address_v6(&pod(&["10.0.0.1"])), None);
    }
}
