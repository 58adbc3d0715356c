//! The objects of the control plane, and its pods.

use std::fmt::Debug;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::facts::{Answer, Facts, Pass, Problem, unless_empty, unless_missing};
use crate::workloads;

/// The components without which there is no mesh.
const COMPONENTS: [&str; 3] = ["destination", "identity", "proxy-injector"];
/// What the objects of the control plane have in common.
pub(super) const SELECTOR: &str = "linkerd.io/control-plane-ns,!linkerd.io/cni-resource";

pub(super) async fn config_map(facts: &Facts) -> Answer {
    let maps: Api<ConfigMap> = facts.of_control_plane()?;
    maps.get("linkerd-config").await?;
    Ok(Pass::Yes)
}

/// Values say whether there is a heartbeat.
pub(super) async fn heartbeat_account(facts: &Facts) -> Answer {
    match facts.values().await?.get("disableHeartBeat").and_then(serde_yaml_ng::Value::as_bool) {
        Some(false) => accounts(facts, &["linkerd-heartbeat".to_owned()]).await,
        _ => Ok(Pass::Skip),
    }
}

pub(super) async fn replica_sets(facts: &Facts) -> Answer {
    let sets: Vec<ReplicaSet> = workloads::list(&facts.client()?, Some(&facts.control_plane_ns), Some(SELECTOR)).await?;
    let unready = sets.iter().filter_map(|set| {
        let wanted = set.spec.as_ref()?.replicas.unwrap_or(1);
        let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        (ready < wanted).then(|| format!("{} ({ready}/{wanted} ready)", set.name_any()))
    });
    unless_empty("Some replica sets are not ready:", &unready.collect::<Vec<_>>())
}

pub(super) async fn unschedulable(facts: &Facts) -> Answer {
    let pods = facts.control_plane_pods().await?;
    let stuck = pods.iter().filter_map(|pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let found = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))?;
        Some(format!("{}: {}", pod.name_any(), found.message.as_deref().unwrap_or("Unschedulable")))
    });
    unless_empty("", &stuck.collect::<Vec<_>>())
}

pub(super) async fn pods_ready(facts: &Facts) -> Answer {
    let pods = facts.control_plane_pods().await?;
    for component in COMPONENTS {
        let of_component = |pod: &&Pod| pod.labels().get("linkerd.io/control-plane-component").is_some_and(|c| c == component);
        let mut running = pods.iter().filter(of_component).filter(|pod| workloads::phase(pod) == "Running").peekable();
        if running.peek().is_none() {
            return Err(Problem(format!("No running pods for \"linkerd-{component}\"")));
        }
        let unready: Vec<_> = running.map(unready_containers).collect();
        if unready.iter().all(|containers| !containers.is_empty()) {
            return Err(Problem(unready.concat().join("\n")));
        }
    }
    Ok(Pass::Yes)
}

/// The containers of a pod that are not ready, as sentences.
pub(super) fn unready_containers(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return vec![format!("pod/{} has no status", pod.name_any())] };
    let apps = status.container_statuses.iter().flatten();
    let sidecars = status.init_container_statuses.iter().flatten().filter(|status| status.name == "linkerd-proxy");
    let unready = apps.chain(sidecars).filter(|status| !status.ready);
    unready.map(|status| format!("pod/{} container {} is not ready", pod.name_any(), status.name)).collect()
}

async fn cluster_networks(facts: &Facts) -> Result<Vec<IpNet>, Problem> {
    let values = facts.values().await?;
    let list = values.get("clusterNetworks").and_then(serde_yaml_ng::Value::as_str).unwrap_or_default();
    let networks = list.split(',').map(str::trim).filter(|network| !network.is_empty());
    networks.map(|network| network.parse().map_err(|_| Problem(format!("clusterNetworks: {network:?} is not a network")))).collect()
}

/// Those of some addresses that are in none of the networks; what is no address is left out.
fn outside(networks: &[IpNet], named: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let out = named.filter(|(_, address)| {
        let Some(net) = address.parse::<IpNet>().ok().or_else(|| address.parse::<IpAddr>().ok().map(IpNet::from)) else {
            return false;
        };
        !networks.iter().any(|network| network.contains(&net))
    });
    out.map(|(name, address)| format!("{name} [{address}]")).collect()
}

pub(super) async fn networks_of_nodes(facts: &Facts) -> Answer {
    let networks = cluster_networks(facts).await?;
    let nodes: Api<Node> = Api::all(facts.client()?);
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let cidrs = nodes.into_iter().flat_map(|node| {
        let name = node.name_any();
        let spec = node.spec.unwrap_or_default();
        let cidrs = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        cidrs.into_iter().map(move |cidr| (name.clone(), cidr))
    });
    unless_empty("node has podCIDR(s) which are not contained in the Linkerd clusterNetworks:", &outside(&networks, cidrs))
}

pub(super) async fn networks_of_pods(facts: &Facts) -> Answer {
    let networks = cluster_networks(facts).await?;
    let pods: Vec<Pod> = workloads::list(&facts.client()?, None, None).await?;
    let addresses = pods.iter().filter_map(|pod| {
        let on_host = pod.spec.as_ref()?.host_network.unwrap_or(false);
        let address = pod.status.as_ref()?.pod_ip.clone()?;
        (!on_host).then(|| (format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()), address))
    });
    unless_empty("the Linkerd clusterNetworks do not include pod(s):", &outside(&networks, addresses))
}

pub(super) async fn networks_of_services(facts: &Facts) -> Answer {
    let networks = cluster_networks(facts).await?;
    let services: Vec<Service> = workloads::list(&facts.client()?, None, None).await?;
    let addresses = services.iter().filter_map(|service| {
        let address = service.spec.as_ref()?.cluster_ip.clone()?;
        Some((format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()), address))
    });
    unless_empty("the Linkerd clusterNetworks do not include svc:", &outside(&networks, addresses))
}

pub(super) async fn namespace(facts: &Facts) -> Answer {
    let namespaces: Api<Namespace> = Api::all(facts.client()?);
    match namespaces.get_opt(&facts.control_plane_ns).await? {
        Some(_) => Ok(Pass::Yes),
        None => Err(Problem(format!("The {:?} namespace does not exist", facts.control_plane_ns))),
    }
}

/// Whether objects without a namespace exist.
async fn exist<K>(facts: &Facts, what: &str, names: &[String]) -> Answer
where
    K: Resource<Scope = k8s_openapi::ClusterResourceScope> + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::all(facts.client()?);
    let found = api.list(&ListParams::default().labels(SELECTOR)).await?;
    let found: Vec<_> = found.iter().map(ResourceExt::name_any).collect();
    unless_missing(what, names, |name| found.iter().any(|known| known == name))
}

fn roles(facts: &Facts) -> Vec<String> {
    ["identity", "proxy-injector"].map(|component| format!("linkerd-{}-{component}", facts.control_plane_ns)).into()
}

pub(super) async fn cluster_roles(facts: &Facts) -> Answer {
    exist::<ClusterRole>(facts, "ClusterRoles", &roles(facts)).await
}

pub(super) async fn cluster_role_bindings(facts: &Facts) -> Answer {
    exist::<ClusterRoleBinding>(facts, "ClusterRoleBindings", &roles(facts)).await
}

async fn accounts(facts: &Facts, names: &[String]) -> Answer {
    let found: Vec<ServiceAccount> = workloads::list(&facts.client()?, Some(&facts.control_plane_ns), None).await?;
    unless_missing("ServiceAccounts", names, |name| found.iter().any(|account| account.name_any() == name))
}

pub(super) async fn service_accounts(facts: &Facts) -> Answer {
    accounts(facts, &COMPONENTS.map(|component| format!("linkerd-{component}"))).await
}

pub(super) async fn crds(facts: &Facts) -> Answer {
    let api: Api<CustomResourceDefinition> = Api::all(facts.client()?);
    let found = api.list(&ListParams::default()).await?.items;
    let (mut missing, mut old) = (Vec::new(), Vec::new());
    for wanted in homarus_kube::crds::all() {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        // What only an extension needs comes with the extension.
        if name.ends_with(".multicluster.linkerd.io") {
            continue;
        }
        let Some(crd) = found.iter().find(|crd| crd.name_any() == name) else {
            missing.push(name.to_owned());
            continue;
        };
        let versions = wanted["spec"]["versions"].as_array().into_iter().flatten();
        let stored = versions.filter(|version| version["storage"] == true).filter_map(|version| version["name"].as_str());
        let served = |version: &str| crd.spec.versions.iter().any(|known| known.name == version && known.served);
        old.extend(stored.filter(|version| !served(version)).map(|version| format!("CRD {name} is missing version {version}")));
    }
    if !missing.is_empty() {
        return Err(Problem(format!("missing CustomResourceDefinitions: {}", missing.join(", "))));
    }
    if old.is_empty() { Ok(Pass::Yes) } else { Err(Problem(old.join("\n"))) }
}

pub(super) async fn mutating_webhooks(facts: &Facts) -> Answer {
    let name = "linkerd-proxy-injector-webhook-config".to_owned();
    exist::<MutatingWebhookConfiguration>(facts, "MutatingWebhookConfigurations", &[name]).await
}

/// Only control planes that validate ServiceProfiles have one.
pub(super) async fn validating_webhooks(facts: &Facts) -> Answer {
    let services: Api<Service> = facts.of_control_plane()?;
    if services.get_opt("linkerd-sp-validator").await?.is_none() {
        return Ok(Pass::Skip);
    }
    let name = "linkerd-sp-validator-webhook-config".to_owned();
    exist::<ValidatingWebhookConfiguration>(facts, "ValidatingWebhookConfigurations", &[name]).await
}

pub(super) async fn init_as_root(facts: &Facts) -> Answer {
    let values = facts.values().await?;
    let is = |path: [&str; 2]| values.get(path[0]).and_then(|value| value.get(path[1])).and_then(serde_yaml_ng::Value::as_bool);
    if is(["proxyInit", "runAsRoot"]) == Some(true)
        || values.get("cniEnabled").and_then(serde_yaml_ng::Value::as_bool) == Some(true)
    {
        return Ok(Pass::Skip);
    }
    let nodes: Api<Node> = Api::all(facts.client()?);
    let docker = nodes.list(&ListParams::default()).await?.items.into_iter().any(|node| {
        let info = node.status.and_then(|status| status.node_info).unwrap_or_default();
        info.container_runtime_version.starts_with("docker:")
    });
    match docker {
        false => Ok(Pass::Yes),
        true => Err(Problem(
            "there are nodes using the docker container runtime and proxy-init container must run as root user.\n\
             try installing linkerd via --set proxyInit.runAsRoot=true"
                .to_owned(),
        )),
    }
}

pub(super) async fn proxies_healthy(facts: &Facts) -> Answer {
    let pods = facts.control_plane_pods().await?;
    let running = pods.iter().filter(|pod| workloads::phase(pod) == "Running" && workloads::is_meshed(pod));
    unless_empty("Some proxies are not ready:", &running.flat_map(unready_containers).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_outside_of_networks() {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let named = ["10.1.2.3", "10.244.0.0/16", "11.0.0.1", "0.0.0.0/0", "fd00::1", "None", ""];
        let named = named.into_iter().map(|address| ("x".to_owned(), address.to_owned()));
        assert_eq!(outside(&networks, named), ["x [11.0.0.1]", "x [0.0.0.0/0]"]);
    }

    #[test]
    fn containers_that_are_not_ready() {
        let pod = serde_json::json!({ "metadata": { "name": "p" }, "status": {
            "containerStatuses": [
                { "name": "a", "ready": true, "image": "", "imageID": "", "restartCount": 0 },
                { "name": "b", "ready": false, "image": "", "imageID": "", "restartCount": 0 }],
            "initContainerStatuses": [
                { "name": "linkerd-init", "ready": false, "image": "", "imageID": "", "restartCount": 0 },
                { "name": "linkerd-proxy", "ready": false, "image": "", "imageID": "", "restartCount": 0 }],
        }});
        let unready = unready_containers(&serde_json::from_value(pod).unwrap());
        assert_eq!(unready, ["pod/p container b is not ready", "pod/p container linkerd-proxy is not ready"]);
    }
}
