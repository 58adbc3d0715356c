//! A pod that Linkerd's injector made is the judge of what ours makes; then both directions of every rule.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::decision::{AnnotatedAt, Origin, Skip};
use super::values::Values;
use super::workload::Workload;
use super::{InjectError, Mesh, Outcome, Owner, Request, inject, removal};
use crate::annotations as names;

/// A pod of emojivoto as Linkerd edge-26.8.3 injected it, read back from the API server.
const OBSERVED: &str = include_str!("observed_pod.json");
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Someone who writes pods, and what comes of them.
struct Scenario {
    values: String,
    pod: Value,
    namespace: BTreeMap<String, String>,
    owner: Owner,
    origin: Origin,
}

impl Scenario {
    fn pod() -> Self {
        let pod = json!({
            "kind": "Pod",
            "metadata": { "name": "web-0", "annotations": {}, "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": "web" }] },
        });
        let owner = Owner { kind: "deployment".into(), name: "web".into() };
        Self { values: String::new(), pod, namespace: annotations(&[(names::INJECT, "enabled")]), owner, origin: Origin::Webhook }
    }

    fn annotated(mut self, name: &str, value: &str) -> Self {
        self.pod["metadata"]["annotations"][name] = value.into();
        self
    }

    fn in_namespace(mut self, name: &str, value: &str) -> Self {
        self.namespace.insert(name.into(), value.into());
        self
    }

    fn with_values(mut self, yaml: &str) -> Self {
        self.values = yaml.into();
        self
    }

    fn with_spec(mut self, field: &str, value: Value) -> Self {
        self.pod["spec"][field] = value;
        self
    }

    fn with_ports(self, ports: Value) -> Self {
        self.with_spec("containers", json!([{ "name": "web", "image": "web", "ports": ports }]))
    }

    fn try_outcome(&self) -> Result<Outcome, InjectError> {
        let values = Values::from_yaml(&self.values).unwrap();
        let mesh = Mesh { control_plane_ns: "linkerd", values: &values, created_by: "linkerd/proxy-injector edge-26.8.3" };
        let request = Request {
            workload: Workload::new("Pod", &self.pod),
            namespace: "shop",
            namespace_annotations: &self.namespace,
            owner: &self.owner,
            origin: self.origin,
        };
        inject(&mesh, &request)
    }

    fn outcome(&self) -> Outcome {
        self.try_outcome().unwrap()
    }

    /// The object after its patch.
    fn result(&self) -> Value {
        let mut pod = self.pod.clone();
        self.outcome().patch.apply(&mut pod).unwrap();
        pod
    }

    fn env(&self, name: &str) -> Option<String> {
        let pod = self.result();
        let proxy = container(&pod, "linkerd-proxy");
        let env = proxy["env"].as_array().unwrap();
        let found = env.iter().find(|env| env["name"] == name || env["name"] == format!("LINKERD2_PROXY_{name}").as_str())?;
        Some(found["value"].as_str().unwrap_or_default().to_owned())
    }

    fn init_arg(&self, flag: &str) -> Option<String> {
        let pod = self.result();
        let args = container(&pod, "linkerd-init")["args"].as_array().unwrap();
        let at = args.iter().position(|arg| *arg == flag)?;
        args.get(at + 1)?.as_str().map(str::to_owned)
    }
}

fn annotations(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainers", "containers"].map(|field| pod["spec"][field].as_array());
    lists.into_iter().flatten().flatten().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

/// Takes out what an API server fills in, and what others than the injector wrote.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let probe = map.contains_key("timeoutSeconds") || map.contains_key("failureThreshold");
            for (field, default) in [
                ("terminationMessagePath", json!("/dev/termination-log")),
                ("protocol", json!("TCP")),
                ("apiVersion", json!("v1")),
                ("defaultMode", json!(420)),
                ("scheme", json!("HTTP")),
                ("initialDelaySeconds", json!(0)),
            ] {
                if map.get(field) == Some(&default) {
                    map.remove(field);
                }
            }
            if probe {
                map.remove("successThreshold");
                map.entry("failureThreshold").or_insert(json!(3));
                map.entry("periodSeconds").or_insert(json!(10));
                map.entry("timeoutSeconds").or_insert(json!(1));
            }
            map.values_mut().for_each(normalize);
        }
        Value::Array(list) => {
            list.retain(|item| item["name"] != "LINKERD2_PROXY_TAP_SVC_NAME");
            list.iter_mut().for_each(normalize);
        }
        _ => {}
    }
}

#[test]
fn a_pod_becomes_what_linkerd_makes_of_it() {
    let mut wanted: Value = serde_json::from_str(OBSERVED).unwrap();
    let anchors = container(&wanted, "linkerd-proxy")["env"].as_array().unwrap();
    let anchors = anchors.iter().find(|env| env["name"] == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS").unwrap();
    let anchors = anchors["value"].as_str().unwrap().trim_end().to_owned();

    // The pod as it was before, with what the ServiceAccount admission had added by then.
    let mut scenario = Scenario::pod();
    let mount = json!([{ "mountPath": MOUNT, "name": "kube-api-access-qcs9b", "readOnly": true }]);
    scenario.pod = wanted.clone();
    for map in ["annotations", "labels"] {
        let map = scenario.pod["metadata"][map].as_object_mut().unwrap();
        map.retain(|name, _| !name.contains("linkerd.io/"));
    }
    scenario.pod["metadata"]["annotations"][names::INJECT] = "enabled".into();
    scenario.pod["spec"].as_object_mut().unwrap().remove("initContainers");
    scenario.pod["spec"]["volumes"].as_array_mut().unwrap().truncate(1);
    scenario.pod["spec"]["containers"][0]["volumeMounts"] = mount.clone();
    scenario.namespace.clear();
    scenario.values = serde_json::to_string(&json!({
        "linkerdVersion": "edge-26.8.3",
        "identityTrustAnchorsPEM": anchors,
        "proxy": { "image": { "name": "REGISTRY/linkerd/proxy" } },
    }))
    .unwrap();

    let values = Values::from_yaml(&scenario.values).unwrap();
    let mesh = Mesh { control_plane_ns: "linkerd", values: &values, created_by: "linkerd/proxy-injector edge-26.8.3" };
    let request = Request {
        workload: Workload::new("Pod", &scenario.pod),
        namespace: "emojivoto",
        namespace_annotations: &scenario.namespace,
        owner: &scenario.owner,
        origin: Origin::Webhook,
    };
    let outcome = inject(&mesh, &request).unwrap();
    assert_eq!(outcome.annotated_at(), AnnotatedAt::Workload);
    let mut ours = scenario.pod.clone();
    outcome.patch.apply(&mut ours).unwrap();
    wanted["metadata"]["annotations"].as_object_mut().unwrap().remove("viz.linkerd.io/tap-enabled");
    wanted["spec"]["containers"][0]["volumeMounts"] = mount;
    normalize(&mut wanted);
    normalize(&mut ours);
    assert_eq!(ours["metadata"], wanted["metadata"]);
    for name in ["linkerd-init", "linkerd-proxy"] {
        assert_eq!(container(&ours, name), container(&wanted, name), "{name}");
    }
    assert_eq!(ours, wanted);
}

#[test]
fn the_decision_table() {
    let all = [None, Some("enabled"), Some("ingress"), Some("disabled"), Some("yes")];
    let on = |mode: Option<&str>| matches!(mode, Some("enabled" | "ingress"));
    for namespace in all {
        for pod in all {
            let wanted = match (namespace, pod) {
                (Some("yes"), _) => (AnnotatedAt::Nowhere, Some(Skip::InvalidAtNamespace)),
                (_, Some("yes")) => (AnnotatedAt::Nowhere, Some(Skip::InvalidAtWorkload)),
                (ns, Some("disabled")) if on(ns) => (AnnotatedAt::Workload, Some(Skip::Disabled)),
                (ns, _) if on(ns) => (AnnotatedAt::Namespace, None),
                (_, pod) if on(pod) => (AnnotatedAt::Workload, None),
                _ => (AnnotatedAt::Nowhere, Some(Skip::NotEnabled)),
            };
            let mut scenario = Scenario::pod();
            scenario.namespace.clear();
            if let Some(mode) = namespace {
                scenario = scenario.in_namespace(names::INJECT, mode);
            }
            if let Some(mode) = pod {
                scenario = scenario.annotated(names::INJECT, mode);
            }
            let outcome = scenario.outcome();
            let decided = (outcome.annotated_at(), outcome.decision.skips.first().copied());
            assert_eq!(decided, wanted, "{namespace:?} {pod:?}");
            assert_eq!(outcome.patch.is_empty(), wanted.1.is_some());
        }
    }
}

#[test]
fn every_reason_to_skip_is_told() {
    let check = |scenario: Scenario, wanted: &[Skip]| {
        assert_eq!(scenario.outcome().decision.skips, wanted);
    };
    check(Scenario::pod().with_spec("hostNetwork", json!(true)), &[Skip::HostNetwork]);
    check(Scenario::pod().with_spec("hostNetwork", json!(false)), &[]);
    let also = |name: &str, image: &str| json!([{ "name": "web", "image": "x" }, { "name": name, "image": image }]);
    check(Scenario::pod().with_spec("containers", also("istio-proxy", "x")), &[Skip::SidecarExists]);
    check(Scenario::pod().with_spec("containers", also("other", "cr.l5d.io/linkerd/proxy:1")), &[Skip::SidecarExists]);
    check(Scenario::pod().with_spec("containers", also("linkerd-init", "x")), &[]);
    check(Scenario::pod().with_spec("initContainers", also("linkerd-init", "x")), &[Skip::SidecarExists]);
    check(Scenario::pod().with_spec("initContainers", also("linkerd-proxy", "x")), &[Skip::SidecarExists]);
    let unprojected = "identity: {serviceAccountTokenProjection: false}";
    check(Scenario::pod().with_values(unprojected), &[Skip::NoServiceAccountToken]);
    let mounted = json!([{ "name": "web", "volumeMounts": [{ "mountPath": MOUNT, "name": "t" }] }]);
    check(Scenario::pod().with_values(unprojected).with_spec("containers", mounted), &[]);
    let both = Scenario::pod().with_spec("hostNetwork", json!(true)).annotated(names::INJECT, "disabled");
    check(both, &[Skip::HostNetwork, Skip::Disabled]);
    let mut service = Scenario::pod();
    service.pod = json!({ "kind": "Service", "spec": {} });
    check(service, &[Skip::Unsupported]);
}

#[test]
fn settings_are_inherited_unless_the_pod_has_its_own() {
    let ns = Scenario::pod().in_namespace(names::LOG_LEVEL, "debug").in_namespace(names::DEBUG_IMAGE_VERSION, "v9");
    let pod = ns.result();
    assert_eq!(pod["metadata"]["annotations"][names::LOG_LEVEL], "debug");
    assert_eq!(pod["metadata"]["annotations"][names::DEBUG_IMAGE_VERSION], Value::Null, "not inherited");
    assert_eq!(ns.env("LOG").unwrap(), "debug,[{headers}]=off,[{request}]=off");
    let own = ns.annotated(names::LOG_LEVEL, "trace");
    assert_eq!(own.env("LOG").unwrap(), "trace,[{headers}]=off,[{request}]=off");
    assert_eq!(own.result()["metadata"]["annotations"][names::LOG_LEVEL], "trace");
}

#[test]
fn annotations_become_environment() {
    let check = |name: &str, value: &str, env: &str, wanted: Option<&str>| {
        let scenario = Scenario::pod().annotated(name, value);
        assert_eq!(scenario.env(env).as_deref(), wanted, "{name}: {value}");
    };
    check(names::DEFAULT_INBOUND_POLICY, "all-authenticated", "INBOUND_DEFAULT_POLICY", Some("all-authenticated"));
    check(names::DEFAULT_INBOUND_POLICY, "anyone", "INBOUND_DEFAULT_POLICY", Some("all-unauthenticated"));
    check(names::LOG_FORMAT, "json", "LOG_FORMAT", Some("json"));
    check(names::LOG_HTTP_HEADERS, "insecure", "LOG", Some("warn,linkerd=info,hickory=error"));
    check(names::OUTBOUND_CONNECT_TIMEOUT, "2s", "OUTBOUND_CONNECT_TIMEOUT", Some("2000ms"));
    check(names::INBOUND_CONNECT_TIMEOUT, "1m", "INBOUND_CONNECT_TIMEOUT", Some("60000ms"));
    check(names::OUTBOUND_DISCOVERY_CACHE, "7500ms", "OUTBOUND_DISCOVERY_IDLE_TIMEOUT", Some("7s"));
    check(names::INBOUND_DISCOVERY_CACHE, "soon", "INBOUND_DISCOVERY_IDLE_TIMEOUT", Some("90s"));
    check(names::DISABLE_OUTBOUND_DETECT_TIMEOUT, "true", "OUTBOUND_DETECT_TIMEOUT", Some("365d"));
    check(names::DISABLE_OUTBOUND_DETECT_TIMEOUT, "false", "OUTBOUND_DETECT_TIMEOUT", None);
    check(names::DISABLE_INBOUND_DETECT_TIMEOUT, "1", "INBOUND_DETECT_TIMEOUT", Some("365d"));
    check(names::SHUTDOWN_GRACE_PERIOD, "10s", "SHUTDOWN_GRACE_PERIOD", Some("10000ms"));
    check(names::ADMIN_SHUTDOWN, "enabled", "SHUTDOWN_ENDPOINT_ENABLED", Some("true"));
    check(names::ACCESS_LOG, "json", "ACCESS_LOG", Some("json"));
    check(names::REQUIRE_IDENTITY_PORTS, "80, 90-99,x", "INBOUND_PORTS_REQUIRE_IDENTITY", Some("80,90-99"));
    check(names::HOSTNAME_LABELS, "true", "OUTBOUND_METRICS_HOSTNAME_LABELS", Some("true"));
    check(names::EXTERNAL_PROFILES, "true", "DESTINATION_PROFILE_SUFFIXES", Some("."));
    check(names::GATEWAY, "true", "INBOUND_GATEWAY_SUFFIXES", Some("svc.cluster.local."));
    check(names::INJECT, "ingress", "INGRESS_MODE", Some("true"));
    check(names::INJECT, "enabled", "INGRESS_MODE", None);
    check(names::INBOUND_PORT, "5000", "INBOUND_LISTEN_ADDR", Some("0.0.0.0:5000"));
    check(names::ADMIN_PORT, "0", "ADMIN_LISTEN_ADDR", Some("0.0.0.0:4191"));
    check(names::CPU_LIMIT, "2500m", "CORES_MAX", Some("3"));
    check(names::CPU_REQUEST, "1500m", "CORES", Some("2"));
    check(names::CPU_RATIO_LIMIT, "0.5", "CORES_MAX_RATIO", Some("0.5"));
}

#[test]
fn ports_that_bypass_the_proxy() {
    let check = |name: &str, value: &str, flag: &str, wanted: Option<&str>| {
        let scenario = Scenario::pod().annotated(name, value);
        assert_eq!(scenario.init_arg(flag).as_deref(), wanted, "{name}: {value}");
    };
    let (inbound, outbound) = ("--inbound-ports-to-ignore", "--outbound-ports-to-ignore");
    check(names::SKIP_INBOUND_PORTS, "22, 8000-8010", inbound, Some("4190,4191,22,8000-8010"));
    check(names::SKIP_INBOUND_PORTS, "", inbound, Some("4190,4191"));
    check(names::SKIP_OUTBOUND_PORTS, "3306,oops", outbound, Some("3306"));
    check(names::SKIP_OUTBOUND_PORTS, "", outbound, None);
    check(names::SKIP_SUBNETS, "10.0.0.0/8, 192.168.0.0/16", "--subnets-to-ignore", Some("10.0.0.0/8,192.168.0.0/16"));
    check(names::SKIP_SUBNETS, "x", "--subnets-to-ignore", None);
    check(names::PROXY_UID, "3000", "--proxy-uid", Some("3000"));
    check(names::PROXY_GID, "3001", "--proxy-gid", Some("3001"));
    check(names::CONTROL_PORT, "5190", inbound, Some("5190,4191,4567,4568"));
    let invalid = Scenario::pod().annotated(names::SKIP_OUTBOUND_PORTS, "3306,oops").outcome().invalid;
    assert!(matches!(invalid.as_slice(), [bad] if bad.name == names::SKIP_OUTBOUND_PORTS && bad.reason.contains("oops")));
}

#[test]
fn opaque_ports_of_an_injected_pod() {
    let env = "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION";
    let ports = || json!([{ "containerPort": 3306, "name": "mysql" }, { "containerPort": 80, "name": "http" }]);
    let check = |scenario: Scenario, annotation: Option<&str>, wanted: Option<&str>| {
        let pod = scenario.result();
        assert_eq!(pod["metadata"]["annotations"][names::OPAQUE_PORTS].as_str(), annotation);
        assert_eq!(scenario.env(env).as_deref(), wanted);
    };
    let defaults = "25,587,3306,4444,5432,6379,9300,11211";
    check(Scenario::pod(), None, Some(defaults));
    check(Scenario::pod().with_ports(ports()), Some("3306"), Some("3306"));
    let own = |list: &str| Scenario::pod().with_ports(ports()).annotated(names::OPAQUE_PORTS, list);
    check(own("http,9000-9010,nope,Bad!,12"), Some("http,9000-9010,nope,Bad!,12"), Some("80,9000-9010,12"));
    check(own(""), Some(""), None);
    check(Scenario::pod().in_namespace(names::OPAQUE_PORTS, "7777"), Some("7777"), Some("7777"));
}

#[test]
fn opaque_ports_of_what_is_not_injected() {
    let annotation = |scenario: &Scenario| scenario.result()["metadata"]["annotations"][names::OPAQUE_PORTS].clone();
    let off = || Scenario::pod().annotated(names::INJECT, "disabled");
    assert_eq!(annotation(&off()), Value::Null);
    assert_eq!(annotation(&off().with_ports(json!([{ "containerPort": 25 }, { "containerPort": 80 }]))), "25");
    assert_eq!(annotation(&off().in_namespace(names::OPAQUE_PORTS, "1-9")), "1-9");
    assert_eq!(annotation(&off().in_namespace(names::OPAQUE_PORTS, "1-9").annotated(names::OPAQUE_PORTS, "")), "");

    let service = |ports: Value| {
        let mut scenario = Scenario::pod();
        scenario.pod = json!({ "kind": "Service", "metadata": { "name": "db" }, "spec": { "ports": ports } });
        scenario
    };
    let ports = json!([
        { "port": 3306 },
        { "port": 9999, "targetPort": 5432 },
        { "port": 6379, "targetPort": 80 },
        { "port": 25, "targetPort": "smtp" },
    ]);
    let scenario = service(ports);
    assert_eq!(annotation(&scenario), "3306,9999");
    assert!(!scenario.outcome().is_injected());
    let inherited = service(json!([])).in_namespace(names::LOG_LEVEL, "debug").in_namespace(names::OPAQUE_PORTS, "80");
    let map = inherited.result()["metadata"]["annotations"].clone();
    assert_eq!(map, json!({ names::OPAQUE_PORTS: "80" }));
    assert!(service(json!([{ "port": 80 }])).outcome().patch.is_empty());
}

#[test]
fn where_the_containers_go() {
    let order = |scenario: &Scenario, field: &str| -> Vec<String> {
        let pod = scenario.result();
        let list = pod["spec"][field].as_array().cloned().unwrap_or_default();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let with_init = || Scenario::pod().with_spec("initContainers", json!([{ "name": "mine" }]));
    let native = with_init();
    assert_eq!(order(&native, "initContainers"), ["linkerd-init", "linkerd-proxy", "mine"]);
    assert_eq!(order(&native, "containers"), ["web"]);
    let awaited = with_init().annotated(names::NATIVE_SIDECAR, "false");
    assert_eq!(order(&awaited, "initContainers"), ["mine", "linkerd-init"]);
    assert_eq!(order(&awaited, "containers"), ["linkerd-proxy", "web"]);
    let pod = awaited.result();
    let proxy = container(&pod, "linkerd-proxy");
    assert_eq!(proxy["lifecycle"]["postStart"]["exec"]["command"][2], "--port=4191");
    assert_eq!(proxy["restartPolicy"], Value::Null);
    assert_eq!(proxy["startupProbe"]["failureThreshold"], 120);
    let alone = awaited.annotated(names::AWAIT, "disabled").annotated(names::WAIT_BEFORE_EXIT, "5");
    assert_eq!(order(&alone, "containers"), ["web", "linkerd-proxy"]);
    let pod = alone.result();
    let lifecycle = &container(&pod, "linkerd-proxy")["lifecycle"];
    assert_eq!(*lifecycle, json!({ "preStop": { "exec": { "command": ["/bin/sleep", "5"] } } }));
    // The first name that is there decides, even if it can't be read.
    let unreadable = with_init().annotated(names::NATIVE_SIDECAR, "x").annotated(names::NATIVE_SIDECAR_BETA, "false");
    assert_eq!(order(&unreadable, "containers"), ["web"]);
    let alpha = with_init().in_namespace(names::NATIVE_SIDECAR_ALPHA, "false");
    assert_eq!(order(&alpha, "containers"), ["linkerd-proxy", "web"]);
    let debug = Scenario::pod().annotated(names::DEBUG_SIDECAR, "true");
    assert_eq!(order(&debug, "containers"), ["web", "linkerd-debug"]);
}

#[test]
fn with_cni_the_validator_stands_where_init_did() {
    let scenario = Scenario::pod().with_values("cniEnabled: true\ndisableIPv6: false");
    let pod = scenario.result();
    assert_eq!(*container(&pod, "linkerd-init"), Value::Null);
    let args = container(&pod, "linkerd-network-validator")["args"].as_array().unwrap();
    assert!(args.contains(&json!("[fd00::1]:20001")) && args.contains(&json!("[::]:4140")), "{args:?}");
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().all(|volume| volume["name"] != "linkerd-proxy-init-xtables-lock"));
    assert_eq!(scenario.env("OUTBOUND_LISTEN_ADDRS").unwrap(), "127.0.0.1:4140,[::1]:4140");
    assert_eq!(scenario.env("INBOUND_LISTEN_ADDR").unwrap(), "[::]:4143");
}

#[test]
fn security_contexts() {
    let capabilities = json!({ "add": ["NET_BIND_SERVICE", "NET_RAW"], "drop": ["ALL", "NET_ADMIN"] });
    let app = json!([{ "name": "web", "securityContext": { "capabilities": capabilities } }]);
    let pod = Scenario::pod().with_spec("containers", app).annotated(names::PROXY_GID, "7").result();
    assert_eq!(container(&pod, "linkerd-proxy")["securityContext"]["capabilities"], capabilities);
    assert_eq!(container(&pod, "linkerd-proxy")["securityContext"]["runAsGroup"], 7);
    let init = &container(&pod, "linkerd-init")["securityContext"]["capabilities"];
    assert_eq!(*init, json!({ "add": ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"], "drop": ["ALL"] }));
    let pod = Scenario::pod().with_values("proxy: {securityContext: {runAsUser: 9}}").result();
    assert_eq!(container(&pod, "linkerd-proxy")["securityContext"], json!({ "runAsUser": 9 }));
    let root = Scenario::pod().with_values("proxyInit: {runAsRoot: true}").annotated(names::CLOSE_WAIT_TIMEOUT, "30s");
    assert_eq!(root.init_arg("--timeout-close-wait-secs").unwrap(), "30");
    let pod = root.result();
    let context = &container(&pod, "linkerd-init")["securityContext"];
    assert_eq!((&context["privileged"], &context["runAsUser"], &context["runAsNonRoot"]), (&json!(true), &json!(0), &json!(false)));
}

#[test]
fn resources_and_ports_of_the_pod() {
    let scenario = Scenario::pod().annotated(names::CPU_REQUEST, "100m").annotated(names::MEMORY_LIMIT, "64Mi");
    let pod = scenario.result();
    let wanted = json!({ "limits": { "memory": "64Mi" }, "requests": { "cpu": "100m" } });
    assert_eq!(container(&pod, "linkerd-proxy")["resources"], wanted);
    assert_eq!(container(&pod, "linkerd-init")["resources"], wanted);
    let probed = json!([{
        "name": "web",
        "ports": [{ "containerPort": 80 }, { "containerPort": 9 }],
        "readinessProbe": { "httpGet": { "port": 1000 } },
        "livenessProbe": { "httpGet": { "port": "http" } },
    }]);
    let inits = json!([{ "name": "setup", "ports": [{ "containerPort": 80 }, { "containerPort": 443 }] }]);
    let scenario = Scenario::pod().with_spec("containers", probed).with_spec("initContainers", inits);
    assert_eq!(scenario.env("INBOUND_PORTS").unwrap(), "1000,443,80,9");
}

#[test]
fn additional_variables_are_merged_by_name() {
    let list = |entries: &[(&str, &str)]| {
        let list: Vec<_> = entries.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        serde_json::to_string(&list).unwrap()
    };
    let scenario = Scenario::pod()
        .with_values(r#"{"proxy": {"additionalEnv": [{"name": "A", "value": "helm"}, {"name": "B", "value": "helm"}]}}"#)
        .in_namespace(names::ADDITIONAL_ENV, &list(&[("B", "ns"), ("C", "ns")]))
        .annotated(names::ADDITIONAL_ENV, &list(&[("C", "\"pod\\"), ("D", "pod")]));
    let pod = scenario.result();
    let env = container(&pod, "linkerd-proxy")["env"].as_array().unwrap();
    let last: Vec<_> = env[env.len() - 4..].iter().map(|e| (e["name"].as_str().unwrap(), e["value"].as_str().unwrap())).collect();
    assert_eq!(last, [("A", "helm"), ("B", "ns"), ("C", "\"pod\\"), ("D", "pod")]);
    let broken = scenario.annotated(names::ADDITIONAL_ENV, "[");
    assert_eq!(broken.env("C").unwrap(), "ns");
    assert_eq!(broken.outcome().invalid[0].name, names::ADDITIONAL_ENV);
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let check = |scenario: Scenario, says: &str| {
        let error = scenario.try_outcome().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(Scenario::pod().annotated(names::LOG_HTTP_HEADERS, "all"), "logHTTPHeaders");
    check(Scenario::pod().with_values("clusterNetworks: 10.0.0.0/8,nonsense"), "clusterNetworks");
    check(Scenario::pod().with_values("proxyInit: {iptablesMode: ebpf}"), "iptablesMode");
    check(Scenario::pod().annotated(names::CLOSE_WAIT_TIMEOUT, "30s"), "runAsRoot");
    check(Scenario::pod().with_values("proxy: {tracing: {enabled: true}}"), "collector.endpoint");
    // What isn't injected isn't rendered, so nothing of it can fail.
    let off = Scenario::pod().with_values("proxyInit: {iptablesMode: ebpf}").annotated(names::INJECT, "disabled");
    off.outcome();
}

#[test]
fn tracing_names_collector_and_attributes() {
    let values =
        "proxy: {tracing: {enabled: true, collector: {endpoint: 'c.t:4317', meshIdentity: {serviceAccountName: c, namespace: t}}}}";
    let scenario = Scenario::pod().with_values(values).annotated("resource.opentelemetry.io/team", "shop");
    assert_eq!(scenario.env("TRACE_COLLECTOR_SVC_NAME").unwrap(), "c.t.serviceaccount.identity.linkerd.cluster.local");
    let attributes = scenario.env("TRACE_EXTRA_ATTRIBUTES").unwrap();
    assert!(attributes.contains("k8s.pod.ip=$(_pod_ip)\n") && attributes.ends_with("team=shop\n"), "{attributes}");
    let pod = scenario.result();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["name"] == "linkerd-podinfo"));
    assert_eq!(Scenario::pod().env("TRACE_COLLECTOR_SVC_ADDR"), None);
}

#[test]
fn owners_become_labels() {
    let label = |kind: &str, name: &str, origin: Origin| {
        let mut scenario = Scenario::pod();
        scenario.owner = Owner { kind: kind.into(), name: name.into() };
        scenario.origin = origin;
        scenario.result()["metadata"]["labels"][format!("linkerd.io/proxy-{kind}")].as_str().map(str::to_owned)
    };
    assert_eq!(label("statefulset", "db", Origin::Webhook).as_deref(), Some("db"));
    assert_eq!(label("pod", "web-0", Origin::Webhook), None);
    assert_eq!(label("cronjob", "nightly", Origin::Webhook), None);
    assert_eq!(label("cronjob", "nightly", Origin::Cli).as_deref(), Some("nightly"));
    assert_eq!(label("deployment", &"x".repeat(64), Origin::Webhook), None);
}

#[test]
fn templates_are_patched_where_they_are() {
    for (kind, path) in [("Deployment", "/spec/template"), ("CronJob", "/spec/jobTemplate/spec/template")] {
        let template = json!({ "spec": { "containers": [{ "name": "web", "image": "web" }] } });
        let mut scenario = Scenario::pod();
        scenario.origin = Origin::Cli;
        scenario.namespace.clear();
        scenario.pod = match kind {
            "CronJob" => json!({ "kind": kind, "metadata": {}, "spec": { "jobTemplate": { "spec": { "template": template } } } }),
            _ => json!({ "kind": kind, "metadata": {}, "spec": { "template": template } }),
        };
        let object = scenario.result();
        let template = object.pointer(path).unwrap();
        assert_eq!(container(template, "linkerd-proxy")["name"], "linkerd-proxy", "{kind}");
        assert_eq!(template["metadata"]["labels"]["linkerd.io/control-plane-ns"], "linkerd");
        // Only a pod's own word stops whoever asks by hand.
        scenario.pod.pointer_mut(path).unwrap()["metadata"] = json!({ "annotations": { names::INJECT: "disabled" } });
        assert_eq!(scenario.outcome().decision.skips, [Skip::Disabled]);
    }
}

#[test]
fn a_proxy_goes_without_a_trace() {
    let modes = [
        Scenario::pod(),
        Scenario::pod().annotated(names::NATIVE_SIDECAR, "false").annotated(names::DEBUG_SIDECAR, "true"),
        Scenario::pod().with_values("cniEnabled: true").with_spec("volumes", json!([{ "name": "data" }])),
        Scenario::pod().with_spec("initContainers", json!([{ "name": "setup" }])).annotated("viz.linkerd.io/x", "stays"),
    ];
    for scenario in modes {
        let mut object = scenario.result();
        assert!(removal::uninject(&mut object));
        let mut original = scenario.pod.clone();
        removal::uninject(&mut original);
        // A map that was empty before is gone afterwards: the same to an API server.
        let metadata = original["metadata"].as_object_mut().unwrap();
        metadata.retain(|_, value| *value != json!({}));
        assert_eq!(object, original);
        assert!(!removal::uninject(&mut object), "nothing is left");
    }
    let template = json!({ "kind": "Deployment", "metadata": {}, "spec": { "template": { "spec": { "containers": [] } } } });
    let mut scenario = Scenario::pod();
    scenario.pod = template.clone();
    scenario.origin = Origin::Cli;
    let mut object = scenario.result();
    removal::uninject(&mut object);
    assert_eq!(object, template);
    let mut refused = json!({ "kind": "Namespace", "metadata": { "annotations": { names::INJECT: "disabled" } } });
    assert!(!removal::uninject(&mut refused));
    let mut namespace = json!({ "kind": "Namespace", "metadata": { "name": "a", "annotations": { names::INJECT: "enabled" } } });
    assert!(removal::uninject(&mut namespace));
    assert_eq!(namespace, json!({ "kind": "Namespace", "metadata": { "name": "a" } }));
}

#[test]
fn objects_of_any_shape_do_not_panic() {
    for object in [json!(null), json!([]), json!({ "spec": 1 }), json!({ "spec": { "containers": {} } }), json!({ "metadata": [] })]
    {
        let mut scenario = Scenario::pod();
        scenario.pod = object;
        let _ = scenario.try_outcome();
        removal::uninject(&mut scenario.pod);
    }
}

proptest! {
    /// Whatever people write into annotations: the pod still gets one proxy, and its patch still fits.
    #[test]
    fn no_annotation_breaks_a_pod(which in 0..names::ALL.len(), value in "\\PC{0,24}|[0-9a-z,.:/-]{0,24}", at_namespace: bool) {
        let name = names::ALL[which].name;
        prop_assume!(name != names::INJECT && name != names::LOG_HTTP_HEADERS && name != names::CLOSE_WAIT_TIMEOUT);
        let scenario = Scenario::pod();
        let scenario = if at_namespace { scenario.in_namespace(name, &value) } else { scenario.annotated(name, &value) };
        let pod = scenario.result();
        let proxies = ["containers", "initContainers"].into_iter().flat_map(|field| pod["spec"][field].as_array().unwrap());
        prop_assert_eq!(proxies.filter(|container| container["name"] == "linkerd-proxy").count(), 1);
    }

    #[test]
    fn hostile_values_never_panic(text in "\\PC{0,200}|([a-zA-Z]{1,12}: ?[\\[{&*a-z0-9]{0,8}\n? {0,4}){0,12}") {
        let _ = Values::from_yaml(&text).is_ok();
    }
}
