//! The proxies of workloads, and what people write on pods and Services for them.

use std::collections::BTreeMap;

use homarus_kube::annotations;
use homarus_model::ports::parse_range;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{Api, ResourceExt};

use super::control_plane::unready_containers;
use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::workloads;

pub(super) async fn namespace(facts: &Facts) -> Answer {
    let Some(namespace) = &facts.namespace else { return Ok(Pass::Yes) };
    let namespaces: Api<Namespace> = Api::all(facts.client()?);
    match namespaces.get_opt(namespace).await? {
        Some(_) => Ok(Pass::Yes),
        None => Err(Problem(format!("The {namespace:?} namespace does not exist"))),
    }
}

pub(super) async fn ready(facts: &Facts) -> Answer {
    let pods = facts.data_plane_pods().await?;
    let mut living = pods.iter().filter(|pod| !matches!(workloads::phase(pod), "Succeeded" | "Failed" | "Terminating")).peekable();
    if living.peek().is_none() {
        return Err(Problem(match &facts.namespace {
            Some(namespace) => format!("No \"linkerd-proxy\" containers found in the {namespace:?} namespace"),
            None => "No \"linkerd-proxy\" containers found".to_owned(),
        }));
    }
    let unready = living.flat_map(|pod| match workloads::phase(pod) {
        "Running" => unready_containers(pod),
        phase => vec![format!("pod/{} status is {phase}", pod.name_any())],
    });
    let of_proxies: Vec<_> = unready.filter(|line| !line.contains(" container ") || line.contains(" linkerd-proxy ")).collect();
    unless_empty("Some data plane pods are not ready:", &of_proxies)
}

/// Labels that only mean something as annotations.
fn misplaced_labels(labels: &BTreeMap<String, String>) -> Vec<&str> {
    let names = labels.keys().map(String::as_str);
    names.filter(|name| *name == annotations::INJECT || annotations::find(name).is_some()).collect()
}

fn misplaced<K: ResourceExt>(objects: &[K]) -> Vec<String> {
    let found = objects.iter().filter_map(|object| {
        let labels = misplaced_labels(object.labels());
        (!labels.is_empty())
            .then(|| format!("{}/{}: {}", object.namespace().unwrap_or_default(), object.name_any(), labels.join(", ")))
    });
    found.collect()
}

pub(super) async fn pod_labels(facts: &Facts) -> Answer {
    let pods: Vec<Pod> = workloads::list(&facts.client()?, facts.namespace.as_deref(), None).await?;
    unless_empty("Some labels on data plane pods should be annotations:", &misplaced(&pods))
}

pub(super) async fn service_labels(facts: &Facts) -> Answer {
    let services: Vec<Service> = workloads::list(&facts.client()?, facts.namespace.as_deref(), None).await?;
    unless_empty("Some labels on data plane services should be annotations:", &misplaced(&services))
}

pub(super) async fn service_annotations(facts: &Facts) -> Answer {
    let services: Vec<Service> = workloads::list(&facts.client()?, facts.namespace.as_deref(), None).await?;
    let wrong = services.iter().filter(|service| service.annotations().contains_key("mirror.linkerd.io/exported"));
    let wrong: Vec<_> = wrong
        .map(|service| format!("{}/{}: mirror.linkerd.io/exported", service.namespace().unwrap_or_default(), service.name_any()))
        .collect();
    unless_empty("Some annotations on data plane services should be labels:", &wrong)
}

/// A port that is opaque for a Service must be opaque for its pods, and the other way round.
pub(super) async fn opaque_ports(facts: &Facts) -> Answer {
    let (client, namespace) = (facts.client()?, facts.namespace.as_deref());
    let services: Vec<Service> = workloads::list(&client, namespace, None).await?;
    let pods = facts.data_plane_pods().await?;
    let found = services.iter().flat_map(|service| {
        let own = pods.iter().filter(|pod| pod.namespace() == service.namespace() && is_selected(service, pod));
        own.flat_map(|pod| disagreements(service, pod)).collect::<Vec<_>>()
    });
    unless_empty("", &found.collect::<Vec<_>>())
}

fn is_selected(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
}

fn lists(annotations: &BTreeMap<String, String>, port: u16) -> bool {
    let list = annotations.get(annotations::OPAQUE_PORTS).map(String::as_str).unwrap_or_default();
    list.split(',').filter_map(|item| parse_range(item.trim())).any(|range| range.contains(&port))
}

fn disagreements(service: &Service, pod: &Pod) -> Vec<String> {
    let (name, pod_name) = (service.name_any(), pod.name_any());
    if !service.annotations().contains_key(annotations::OPAQUE_PORTS) {
        return Vec::new();
    }
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let found = ports.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        let target = match &port.target_port {
            None => number,
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) => u16::try_from(*target).ok()?,
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(port)) => crate::reach::named_port(pod, port)?,
        };
        match (lists(service.annotations(), number), lists(pod.annotations(), target)) {
            (true, false) => Some(format!(
                "service {name} targets the opaque port {number} through {target}; add {target} to its {} annotation of pod {pod_name}",
                annotations::OPAQUE_PORTS
            )),
            (false, true) => Some(format!(
                "pod {pod_name} targets the opaque port {target}; add {number} to the {} annotation of service {name}",
                annotations::OPAQUE_PORTS
            )),
            _ => None,
        }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn service(opaque: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "db", "annotations": { "config.linkerd.io/opaque-ports": opaque } },
            "spec": { "selector": { "app": "db" }, "ports": [{ "port": 3306, "targetPort": 3307 }] },
        }))
        .unwrap()
    }

    fn pod(opaque: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "db-0", "labels": { "app": "db" }, "annotations": { "config.linkerd.io/opaque-ports": opaque } },
        }))
        .unwrap()
    }

    #[test]
    fn opaque_on_both_sides_or_on_none() {
        assert!(is_selected(&service(""), &pod("")));
        assert_eq!(disagreements(&service("3306"), &pod("3000-4000")).len(), 0);
        assert_eq!(disagreements(&service("1"), &pod("2")).len(), 0);
        assert!(disagreements(&service("3306"), &pod("1"))[0].starts_with("service db targets the opaque port 3306 through 3307"));
        assert!(disagreements(&service("1"), &pod("3307"))[0].starts_with("pod db-0 targets the opaque port 3307"));
    }

    #[test]
    fn annotations_written_as_labels() {
        let labels = [("app", "x"), ("linkerd.io/inject", "enabled"), ("config.linkerd.io/opaque-ports", "1")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(misplaced_labels(&labels), ["config.linkerd.io/opaque-ports", "linkerd.io/inject"]);
    }
}
