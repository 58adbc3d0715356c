#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use serde_json::{Value, json};

use super::env::{self, Lookup};
use super::fields::{self, Surroundings};
use super::images::Images;
use super::order::{self, Setting};

struct Objects;

impl Lookup for Objects {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        (name == "settings").then(|| [("colour".to_owned(), "red".to_owned())].into())
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        (name == "keys").then(|| [("pin".to_owned(), b"1234".to_vec())].into())
    }
}

fn pod(container: Value) -> (Pod, Container) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u",
                     "labels": {"app": "web"}, "annotations": {"a/b": "c\"d"}},
        "spec": {"nodeName": "here", "serviceAccountName": "clerk", "containers": [container]}
    }))
    .unwrap();
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    (pod, container)
}

fn around() -> Surroundings {
    Surroundings { host_ip: Ipv4Addr::new(10, 42, 0, 1), pod_ip: Some(Ipv4Addr::new(10, 42, 0, 9)), cpus: 2.0, memory: 1e9 }
}

fn environment(container: Value) -> Result<BTreeMap<String, String>, String> {
    let (pod, container) = pod(container);
    let services = [("API_PORT".to_owned(), "1".to_owned())].into();
    let list = env::environment(&pod, &container, &around(), services, &Objects)?;
    Ok(list.into_iter().collect())
}

#[test]
fn variables_come_from_everywhere() {
    let env = environment(json!({"name": "c",
    "resources": {"limits": {"cpu": "1500m"}},
    "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "S_"}, {"secretRef": {"name": "none", "optional": true}}],
    "env": [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "SA", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1M"}}},
        {"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "pin"}}},
        {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x", "optional": true}}},
        {"name": "ALL", "value": "$(SA).$(IP):$(API_PORT) $(S_colour) $$(SA) $(NOBODY) $x"},
    ]}))
    .unwrap();
    assert_eq!(env["IP"], "10.42.0.9");
    assert_eq!(env["APP"], "web");
    assert_eq!(env["CPU"], "2");
    assert_eq!(env["MEM"], "1000");
    assert_eq!(env["PIN"], "1234");
    assert!(!env.contains_key("GONE"));
    assert_eq!(env["ALL"], "clerk.10.42.0.9:1 red $(SA) $(NOBODY) $x");
    assert_eq!(env["API_PORT"], "1");
}

#[test]
fn what_is_missing_is_named() {
    let missing = |source: Value| environment(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err();
    assert_eq!(missing(json!({"secretKeyRef": {"name": "no", "key": "k"}})), "secret \"no\" not found");
    assert_eq!(missing(json!({"configMapKeyRef": {"name": "settings", "key": "k"}})), "couldn't find key k in configmap settings");
    assert!(missing(json!({"fieldRef": {"fieldPath": "status.mood"}})).contains("status.mood"));
}

#[test]
fn quantities_have_units() {
    for (text, value) in [("100m", 0.1), ("1.5", 1.5), ("64Mi", 67_108_864.0), ("2k", 2000.0), ("0", 0.0)] {
        assert_eq!(fields::quantity(text), Some(value), "{text}");
    }
    for text in ["", "x", "1Q", "inf", "nan"] {
        assert_eq!(fields::quantity(text), None, "{text}");
    }
}

#[test]
fn files_of_the_downward_api_quote_values() {
    let (pod, _) = pod(json!({"name": "c"}));
    let annotations = fields::field(&pod, &around(), "metadata.annotations").unwrap();
    assert_eq!(annotations, r#"a/b="c\"d""#);
}

#[test]
fn services_of_the_namespace_are_told() {
    let service = |namespace: &str, name: &str| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "http-web", "port": 80}]}}))
        .unwrap()
    };
    let all = [service("shop", "my-db"), service("other", "x"), service("default", "kubernetes")];
    let env = env::of_services("shop", true, &all);
    assert_eq!(env["MY_DB_SERVICE_HOST"], "10.43.0.7");
    assert_eq!(env["MY_DB_SERVICE_PORT_HTTP_WEB"], "80");
    assert_eq!(env["MY_DB_PORT_80_TCP"], "tcp://10.43.0.7:80");
    assert!(env.contains_key("KUBERNETES_SERVICE_HOST"));
    assert!(!env.contains_key("X_SERVICE_HOST"));
    let env = env::of_services("shop", false, &all);
    assert!(!env.contains_key("MY_DB_SERVICE_HOST") && env.contains_key("KUBERNETES_SERVICE_HOST"));
}

fn setting() -> Setting {
    Setting {
        lowers: Vec::new(),
        hidden: Vec::new(),
        dns_server: Ipv4Addr::new(10, 42, 0, 1),
        domain: "cluster.local".into(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        search: vec!["example.org".into()],
    }
}

fn order_of(pod: &Pod, container: &Container) -> Result<crate::node::sandbox::wire::LaunchSpec, String> {
    let images = Images::new(&[], Path::new("/nonexistent"));
    let env = vec![("GREETING".into(), "hello".into())];
    order::order(pod, container, env, &images, &setting(), around().pod_ip).map_err(|e| e.to_string())
}

#[test]
fn an_order_has_program_rights_and_files() {
    let (pod, container) = pod(json!({"name": "c", "command": ["/bin/echo"], "args": ["$(GREETING)", "$(X)"],
        "securityContext": {"runAsUser": 65534, "runAsGroup": 7, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "readOnlyRootFilesystem": true}}));
    let order = order_of(&pod, &container).unwrap();
    assert_eq!(order.argv, ["/bin/echo", "hello", "$(X)"]);
    assert_eq!((order.rights.uid, order.rights.gid), (65534, 7));
    assert_eq!(order.rights.capabilities, 1 << 12);
    assert_eq!(order.rights.ambient, 1 << 12);
    assert!(order.rights.no_new_privileges);
    let root = order.root.unwrap();
    assert!(root.read_only);
    let file = |path: &str| root.files.iter().find(|(p, _)| p == Path::new(path)).unwrap().1.clone();
    assert!(file("/etc/hosts").contains("10.42.0.9\tweb-1"));
    assert_eq!(
        file("/etc/resolv.conf"),
        "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.42.0.1\noptions ndots:5\n"
    );
}

#[test]
fn dns_policies_are_followed() {
    let (mut pod, container) = pod(json!({"name": "c", "command": ["x"]}));
    let resolv = |pod: &Pod| {
        let root = order_of(pod, &container).unwrap().root.unwrap();
        root.files.iter().find(|(p, _)| p == Path::new("/etc/resolv.conf")).unwrap().1.clone()
    };
    let spec = pod.spec.as_mut().unwrap();
    spec.dns_policy = Some("Default".into());
    assert_eq!(resolv(&pod), "nameserver 192.0.2.1\n");
    let spec = pod.spec.as_mut().unwrap();
    spec.dns_policy = Some("None".into());
    spec.dns_config =
        serde_json::from_value(json!({"nameservers": ["192.0.2.9"], "options": [{"name": "ndots", "value": "2"}]})).unwrap();
    assert_eq!(resolv(&pod), "nameserver 192.0.2.9\noptions ndots:2\n");
}

#[test]
fn what_can_not_be_ordered_says_why() {
    let refusal = |container: Value| {
        let (pod, container) = pod(container);
        order_of(&pod, &container).unwrap_err()
    };
    let root = json!({"name": "c", "command": ["x"], "securityContext": {"runAsNonRoot": true}});
    assert!(refusal(root).contains("runAsUser"));
    let volume = json!({"name": "c", "command": ["x"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    assert!(refusal(volume).contains("\"v\""));
    let capability = json!({"name": "c", "command": ["x"], "securityContext": {"capabilities": {"add": ["FLY"]}}});
    assert!(refusal(capability).contains("FLY"));
    assert!(refusal(json!({"name": "c", "image": "nginx"})).contains("add a row"));
}
