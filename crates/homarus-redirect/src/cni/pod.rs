//! Whether a pod's traffic is redirected, and by which rules: pure, from what the API says of the pod and its namespace.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::netconf::Rules;
use crate::config::Request;

const PROXY: &str = "linkerd-proxy";
const INIT: &str = "linkerd-init";
/// On pods of the control plane.
const COMPONENT: &str = "linkerd.io/control-plane-component";
/// On the API's picture of a pod that the kubelet has from a file. Its uid isn't the one that the kubelet uses.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The API server's ports, where its Service can't say.
const API_SERVER_PORTS: [&str; 2] = ["443", "6443"];

/// A pod, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Metadata,
    spec: PodSpec,
}

/// A namespace, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    metadata: Metadata,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    uid: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
}

/// A Service, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    ports: Option<Vec<ServicePort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    port: u16,
    target_port: Value,
}

/// Why a pod's traffic is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It shares the node's network.
    HostNetwork,
    /// It has no proxy.
    NoProxy,
    /// Its own init container redirects.
    InitContainer,
}

/// An annotation that can't be meant. The pod's owner's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation config.linkerd.io/{name} is {value:?}, which is no number")]
pub struct InvalidAnnotation {
    name: &'static str,
    value: String,
}

impl Pod {
    /// Why it is left alone, if it is.
    pub fn skip(&self) -> Option<Skip> {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        let proxied = self.spec.containers.iter().chain(inits).any(|container| container.name == PROXY);
        match () {
            () if self.spec.host_network => Some(Skip::HostNetwork),
            () if !proxied => Some(Skip::NoProxy),
            () if inits.iter().any(|container| container.name == INIT) => Some(Skip::InitContainer),
            () => None,
        }
    }

    /// Whether it is the pod that the runtime means, and not another that had or will have its name.
    pub fn is(&self, uid: Option<&str>) -> bool {
        let mirrored = self.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
        mirrored || uid.is_none_or(|uid| uid == self.metadata.uid)
    }

    /// Whether it is one of the control plane's, which must reach the API server before any proxy is ready.
    pub fn is_control_plane(&self) -> bool {
        self.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(COMPONENT))
    }
}

impl Service {
    /// The ports under which a client meets it, before and after the node rewrote the address.
    pub fn ports(&self) -> Vec<String> {
        let ports = self.spec.ports.iter().flatten();
        let mut all: Vec<String> = ports
            .flat_map(|port| [Some(port.port.into()), port.target_port.as_u64()])
            .flatten()
            .map(|port: u64| port.to_string())
            .collect();
        all.dedup();
        all
    }
}

/// The ports of an API server that nobody knows better.
pub fn usual_api_server_ports() -> Vec<String> {
    API_SERVER_PORTS.map(String::from).to_vec()
}

/// What to redirect for this pod: what the node's configuration says, changed by the pod's annotations or else its
/// namespace's. Skipped inbound ports add to the node's, all else replaces. `api_server_ports` are left alone.
pub fn request(rules: &Rules, pod: &Pod, namespace: &Namespace, api_server_ports: &[String]) -> Result<Request, InvalidAnnotation> {
    let said = Said { pod, namespace };
    let mut request = rules.request();
    if let Some(ports) = said.list("skip-outbound-ports") {
        request.outbound_ports_to_ignore = ports;
    }
    request.inbound_ports_to_ignore.extend(said.list("skip-inbound-ports").unwrap_or_default());
    if let Some(subnets) = said.list("skip-subnets") {
        request.subnets_to_ignore = subnets;
    }
    said.number("proxy-uid", &mut request.proxy_uid)?;
    said.number("proxy-gid", &mut request.proxy_gid)?;
    // Linkerd's plugin knows these four from the node's configuration alone; a proxy that listens elsewhere gets nothing.
    said.number("inbound-port", &mut request.incoming_proxy_port)?;
    said.number("outbound-port", &mut request.outgoing_proxy_port)?;
    for name in ["control-port", "admin-port"] {
        let mut port = 0;
        said.number(name, &mut port)?;
        request.inbound_ports_to_ignore.extend((port != 0).then(|| port.to_string()));
    }
    request.outbound_ports_to_ignore.extend(api_server_ports.iter().cloned());
    Ok(request)
}

struct Said<'a> {
    pod: &'a Pod,
    namespace: &'a Namespace,
}

impl Said<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        let key = format!("config.linkerd.io/{name}");
        let mut all = [&self.pod.metadata, &self.namespace.metadata].into_iter().filter_map(|it| it.annotations.as_ref());
        all.find_map(|annotations| annotations.get(&key)).map(String::as_str)
    }

    /// Entries with commas between.
    fn list(&self, name: &str) -> Option<Vec<String>> {
        let entries = self.text(name)?.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Some(entries.map(str::to_owned).collect())
    }

    fn number(&self, name: &'static str, into: &mut i64) -> Result<(), InvalidAnnotation> {
        if let Some(text) = self.text(name) {
            *into = text.trim().parse().map_err(|_| InvalidAnnotation { name, value: text.to_owned() })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn annotated(annotations: Value) -> Pod {
        pod(json!({ "metadata": { "annotations": annotations } }))
    }

    fn rules() -> Rules {
        Rules {
            incoming_proxy_port: 4143,
            outgoing_proxy_port: 4140,
            proxy_uid: 2102,
            inbound_ports_to_ignore: vec!["4191".into(), "4190".into()],
            outbound_ports_to_ignore: vec!["25".into()],
            ..Rules::default()
        }
    }

    #[test]
    fn only_pods_with_a_proxy_and_without_init_are_redirected() {
        let skip = |spec: Value| pod(json!({ "spec": spec })).skip();
        let proxy = json!({ "name": "linkerd-proxy" });
        assert_eq!(skip(json!({ "containers": [{ "name": "app" }, proxy] })), None);
        assert_eq!(skip(json!({ "containers": [{ "name": "app" }], "initContainers": [proxy] })), None);
        assert_eq!(skip(json!({ "containers": [{ "name": "app" }] })), Some(Skip::NoProxy));
        assert_eq!(
            skip(json!({ "containers": [proxy], "initContainers": [{ "name": "linkerd-init" }] })),
            Some(Skip::InitContainer)
        );
        assert_eq!(skip(json!({ "containers": [proxy], "hostNetwork": true })), Some(Skip::HostNetwork));
    }

    #[test]
    fn a_name_may_have_had_another_pod() {
        let one = pod(json!({ "metadata": { "uid": "1" } }));
        assert!(one.is(Some("1")) && one.is(None) && !one.is(Some("2")));
        let mirror = pod(json!({ "metadata": { "uid": "1", "annotations": { MIRROR: "x" } } }));
        assert!(mirror.is(Some("2")));
    }

    #[test]
    fn annotations_of_the_pod_go_before_those_of_the_namespace() {
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "annotations": {
            "config.linkerd.io/skip-outbound-ports": "1",
            "config.linkerd.io/proxy-uid": "7",
            "config.linkerd.io/skip-subnets": "10.0.0.0/8,fd00::/8",
        } } }))
        .unwrap();
        let plain = request(&rules(), &Pod::default(), &Namespace::default(), &[]).unwrap();
        assert_eq!(plain, rules().request());
        let pod = annotated(json!({
            "config.linkerd.io/skip-outbound-ports": "2, 3-4",
            "config.linkerd.io/skip-inbound-ports": "80",
            "config.linkerd.io/admin-port": "9191",
        }));
        let found = request(&rules(), &pod, &namespace, &["443".to_owned()]).unwrap();
        assert_eq!(found.outbound_ports_to_ignore, ["2", "3-4", "443"]);
        assert_eq!(found.inbound_ports_to_ignore, ["4191", "4190", "80", "9191"]);
        assert_eq!(found.subnets_to_ignore, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!((found.proxy_uid, found.incoming_proxy_port), (7, 4143));
    }

    #[test]
    fn a_proxy_elsewhere_is_found_and_nonsense_refused() {
        let of = |name: &str, value: &str| {
            let key = format!("config.linkerd.io/{name}");
            request(&rules(), &annotated(json!({ key: value })), &Namespace::default(), &[])
        };
        assert_eq!(of("outbound-port", "5140").unwrap().outgoing_proxy_port, 5140);
        assert_eq!(of("inbound-port", "5143").unwrap().incoming_proxy_port, 5143);
        for name in ["proxy-uid", "proxy-gid", "inbound-port", "control-port"] {
            assert!(of(name, "many").unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn services_tell_ports_and_numbered_targets() {
        let service: Service = serde_json::from_value(json!({ "spec": { "ports": [
            { "port": 443, "targetPort": 6443 }, { "port": 80, "targetPort": "http" }, { "port": 90 },
        ] } }))
        .unwrap();
        assert_eq!(service.ports(), ["443", "6443", "80", "90"]);
        assert!(Service::default().ports().is_empty());
    }
}
