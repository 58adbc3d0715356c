//! What the webhook makes of pods and Services. Nothing runs: objects are created in play (`dryRun=All`), for which the API server
//! asks the webhook as it does in earnest.

use crate::cluster::{cluster, eventually};
use k8s_openapi::api::{
    core::v1::{Event, Pod, Service},
    events,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const OPAQUE: &str = "config.linkerd.io/opaque-ports";

/// A namespace with these annotations; made once, as scenarios run at the same time.
fn namespace(name: &str, annotations: &Value) {
    cluster()
        .apply_all(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "annotations": annotations } })]);
}

/// What an object would be if it were created.
fn made<K>(namespace: &str, object: Value) -> Value
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = cluster().api(namespace);
    let object: K = serde_json::from_value(object).unwrap();
    let play = PostParams { dry_run: true, ..PostParams::default() };
    // Pods need their namespace's account, which is made a moment after it.
    let made = eventually("an answer", || cluster().ask(api.create(&play, &object)).ok());
    serde_json::to_value(made).unwrap()
}

fn pod(namespace: &str, annotations: Value) -> Value {
    made::<Pod>(
        namespace,
        json!({
            "metadata": { "name": "web", "annotations": annotations },
            "spec": { "containers": [{ "name": "web", "image": "web", "ports": [{ "containerPort": 80 }, { "containerPort": 3306 }] }] },
        }),
    )
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.into_iter().find(|container| container["name"] == name).unwrap_or(&Value::Null)
}

fn env(proxy: &Value, name: &str) -> String {
    let all = proxy["env"].as_array().unwrap();
    let found = all.iter().find(|variable| variable["name"] == name || variable["name"] == format!("LINKERD2_PROXY_{name}"));
    found.and_then(|variable| variable["value"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn s20_the_webhook_heeds_every_annotation() {
    namespace("told", &json!({ "linkerd.io/inject": "enabled" }));
    for native in [true, false] {
        let annotations = json!({
            "config.linkerd.io/proxy-enable-native-sidecar": native.to_string(),
            "config.linkerd.io/proxy-image": "registry.invalid/proxy",
            "config.linkerd.io/proxy-version": "v1",
            "config.linkerd.io/image-pull-policy": "Never",
            "config.linkerd.io/control-port": "5000",
            "config.linkerd.io/inbound-port": "5001",
            "config.linkerd.io/outbound-port": "5002",
            "config.linkerd.io/admin-port": "5003",
            "config.linkerd.io/proxy-log-level": "debug",
            "config.linkerd.io/proxy-log-format": "json",
            "config.linkerd.io/proxy-cpu-request": "10m",
            "config.linkerd.io/proxy-memory-limit": "50Mi",
            "config.linkerd.io/proxy-ephemeral-storage-request": "5Mi",
            "config.linkerd.io/proxy-uid": "1337",
            "config.linkerd.io/skip-inbound-ports": "222,333-334",
            "config.linkerd.io/skip-outbound-ports": "111",
            "config.linkerd.io/opaque-ports": "8888,9999",
            "config.linkerd.io/proxy-outbound-connect-timeout": "888ms",
            "config.linkerd.io/proxy-inbound-connect-timeout": "999ms",
            "config.linkerd.io/enable-external-profiles": "true",
            "config.linkerd.io/enable-debug-sidecar": "true",
            "config.linkerd.io/debug-image-version": "v2",
            "config.linkerd.io/access-log": "apache",
            "config.alpha.linkerd.io/proxy-wait-before-exit-seconds": "123",
        });
        let pod = pod("told", annotations);
        let list = if native { "initContainers" } else { "containers" };
        let proxy = container(&pod, list, "linkerd-proxy");
        assert_eq!(proxy["image"], "registry.invalid/proxy:v1", "{pod:#}");
        assert_eq!(proxy["imagePullPolicy"], "Never");
        assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
        assert_eq!(proxy["resources"]["requests"], json!({ "cpu": "10m", "ephemeral-storage": "5Mi", "memory": "50Mi" }));
        assert_eq!(proxy["livenessProbe"]["httpGet"]["port"], 5003);
        for (name, value) in [
            ("CONTROL_LISTEN_ADDR", "0.0.0.0:5000"),
            ("INBOUND_LISTEN_ADDR", "0.0.0.0:5001"),
            ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:5002"),
            ("LOG", "debug,[{headers}]=off,[{request}]=off"),
            ("LOG_FORMAT", "json"),
            ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "8888,9999"),
            ("OUTBOUND_CONNECT_TIMEOUT", "888ms"),
            ("INBOUND_CONNECT_TIMEOUT", "999ms"),
            ("DESTINATION_PROFILE_SUFFIXES", "."),
            ("ACCESS_LOG", "apache"),
        ] {
            assert_eq!(env(proxy, name), value, "{name}");
        }
        let args = &container(&pod, "initContainers", "linkerd-init")["args"];
        let joined: Vec<_> = args.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let joined = joined.join(" ");
        for part in ["--inbound-ports-to-ignore 5000,5003,222,333-334", "--outbound-ports-to-ignore 111", "--proxy-uid 1337"] {
            assert!(joined.contains(part), "{part} is not in {joined}");
        }
        let debug = container(&pod, "containers", "linkerd-debug")["image"].as_str().unwrap_or_default().to_owned();
        assert!(debug.ends_with(":v2"), "{debug}");
        // A native sidecar ends after the app by itself.
        let sleeps = proxy["lifecycle"]["preStop"]["exec"]["command"] == json!(["/bin/sleep", "123"]);
        assert_eq!((proxy["restartPolicy"] == "Always", sleeps), (native, !native), "{proxy:#}");
    }
}

#[test]
fn s21_annotations_of_the_pod_go_before_those_of_the_namespace() {
    let variables = |variables: &[(&str, &str)]| {
        let list: Vec<_> = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        Value::from(list).to_string()
    };
    let of_namespace = json!({
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/proxy-log-level": "info",
        "config.linkerd.io/proxy-cpu-limit": "2",
        "config.linkerd.io/proxy-additional-env": variables(&[("A", "namespace"), ("B", "namespace \"quoted\"")]),
    });
    namespace("overridden", &of_namespace);
    let inherits = pod("overridden", json!({}));
    let proxy = container(&inherits, "initContainers", "linkerd-proxy");
    assert!(env(proxy, "LOG").starts_with("info,"), "{inherits:#}");
    assert_eq!((env(proxy, "CORES_MAX").as_str(), env(proxy, "B").as_str()), ("2", "namespace \"quoted\""));
    let own = json!({
        "config.linkerd.io/proxy-log-level": "warn",
        "config.linkerd.io/proxy-additional-env": variables(&[("A", "pod"), ("C", "pod")]),
    });
    let overrides = pod("overridden", own);
    let proxy = container(&overrides, "initContainers", "linkerd-proxy");
    assert!(env(proxy, "LOG").starts_with("warn,"));
    assert_eq!(proxy["resources"]["limits"]["cpu"], "2");
    assert_eq!(["A", "B", "C"].map(|name| env(proxy, name)), ["pod", "namespace \"quoted\"", "pod"]);
}

#[test]
fn s22_bare_pods_inherit_opaque_ports_unless_they_have_their_own() {
    namespace("opaque", &json!({ "linkerd.io/inject": "enabled", OPAQUE: "1234" }));
    let ports = |pod: &Value| {
        let proxy = container(pod, "initContainers", "linkerd-proxy");
        (pod["metadata"]["annotations"][OPAQUE].clone(), env(proxy, "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"))
    };
    let bare = pod("opaque", json!({}));
    assert_eq!(ports(&bare), (json!("1234"), "1234".to_owned()));
    assert_eq!(ports(&pod("opaque", json!({ OPAQUE: "8080" }))), (json!("8080"), "8080".to_owned()));
    let init = container(&bare, "initContainers", "linkerd-init");
    assert_eq!(init["command"], json!(["/usr/lib/linkerd/linkerd2-proxy-init"]));
    let context = &init["securityContext"];
    assert_eq!(context["capabilities"], json!({ "add": ["NET_ADMIN", "NET_RAW"] }));
    assert_eq!(
        (&context["privileged"], &context["runAsNonRoot"], &context["runAsUser"]),
        (&json!(false), &json!(true), &json!(65534))
    );
    let args = json!([
        "--firewall-bin-path",
        "iptables-nft",
        "--firewall-save-bin-path",
        "iptables-nft-save",
        "--ipv6=false",
        "--incoming-proxy-port",
        "4143",
        "--outgoing-proxy-port",
        "4140",
        "--proxy-uid",
        "2102",
        "--inbound-ports-to-ignore",
        "4190,4191,4567,4568",
        "--outbound-ports-to-ignore",
        "4567,4568",
    ]);
    assert_eq!(init["args"], args);
    // Nobody says anything: what of the default list the pod declares.
    namespace("told-nothing", &json!({ "linkerd.io/inject": "enabled" }));
    assert_eq!(ports(&pod("told-nothing", json!({}))), (json!("3306"), "3306".to_owned()));
}

#[test]
fn s23_opaque_ports_reach_pods_without_a_proxy() {
    namespace("unmeshed", &json!({ OPAQUE: "1234" }));
    let plain = pod("unmeshed", json!({}));
    assert_eq!(plain["metadata"]["annotations"][OPAQUE], "1234");
    assert!(plain["spec"]["initContainers"].is_null() && plain["metadata"]["annotations"]["linkerd.io/proxy-version"].is_null());
    let asks = pod("unmeshed", json!({ "linkerd.io/inject": "enabled" }));
    assert!(container(&asks, "initContainers", "linkerd-proxy").is_object());
    let own = pod("unmeshed", json!({ OPAQUE: "80" }));
    assert_eq!(own["metadata"]["annotations"][OPAQUE], "80");
}

#[test]
fn s24_services_inherit_opaque_ports_or_keep_theirs() {
    namespace("opaque-services", &json!({ OPAQUE: "1234" }));
    namespace("silent-services", &json!({}));
    let service = |namespace: &str, annotations: Value| {
        let metadata = json!({ "name": "db", "annotations": annotations });
        let ports = json!([{ "name": "db", "port": 3306 }, { "name": "web", "port": 80, "targetPort": "http" }]);
        made::<Service>(namespace, json!({ "metadata": metadata, "spec": { "ports": ports } }))["metadata"]["annotations"].clone()
    };
    assert_eq!(service("opaque-services", json!({})), json!({ OPAQUE: "1234" }));
    assert_eq!(service("opaque-services", json!({ OPAQUE: "1" })), json!({ OPAQUE: "1" }));
    assert_eq!(service("silent-services", json!({})), json!({ OPAQUE: "3306" }));
}

#[test]
fn a_pod_on_the_nodes_network_is_skipped_and_its_owner_is_told_why() {
    let metadata = json!({ "name": "on-the-node", "namespace": "apps" });
    let container = json!({ "name": "sleeps", "image": "localhost/test-programs:local", "command": ["sleep", "3600"] });
    let template = json!({
        "metadata": { "labels": { "app": "on-the-node" } },
        "spec": { "hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [container] },
    });
    cluster().apply_all(&[json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": { "selector": { "matchLabels": { "app": "on-the-node" } }, "template": template },
    })]);
    cluster().wait_for_deployment("apps", "on-the-node");
    assert_eq!(cluster().pods("apps", "on-the-node")[0].spec.as_ref().unwrap().containers.len(), 1);
    let events: Api<Event> = cluster().api("apps");
    let about = ListParams::default().fields("involvedObject.name=on-the-node,reason=InjectionSkipped");
    let told = eventually("an event", || cluster().ask(events.list(&about)).ok()?.items.pop());
    assert_eq!(told.involved_object.kind.as_deref(), Some("Deployment"));
    assert!(told.message.as_deref().unwrap_or_default().contains("pods do not use host networking"), "{told:?}");
    // The same event, by its other name.
    let newer: Api<events::v1::Event> = cluster().api("apps");
    assert!(cluster().ask(newer.get(told.metadata.name.as_deref().unwrap())).is_ok());
}

#[test]
fn a_pod_without_the_proxy_it_asks_for_is_told_of_and_made_again() {
    namespace("late", &json!({}));
    let container = json!({ "name": "sleeps", "image": "localhost/test-programs:local", "command": ["sleep", "3600"] });
    let template = json!({
        "metadata": { "labels": { "app": "early" } }, "spec": { "terminationGracePeriodSeconds": 0, "containers": [container] },
    });
    cluster().apply_all(&[json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "early", "namespace": "late" },
        "spec": { "selector": { "matchLabels": { "app": "early" } }, "template": template },
    })]);
    cluster().wait_for_deployment("late", "early");
    let is_meshed = || cluster().pods("late", "early").iter().all(|pod| pod.labels().contains_key("linkerd.io/control-plane-ns"));
    assert!(!is_meshed());
    // It has none when the namespace begins to ask, as if the injector had been away.
    namespace("late", &json!({ "linkerd.io/inject": "enabled", "homarus.io/evict-uninjected": "enabled" }));
    let events: Api<Event> = cluster().api("late");
    for reason in ["InjectionMissed", "UninjectedPodEvicted"] {
        let about = ListParams::default().fields(&format!("involvedObject.name=early,reason={reason}"));
        let told = eventually(reason, || cluster().ask(events.list(&about)).ok()?.items.pop());
        assert_eq!(
            (told.involved_object.kind.as_deref(), told.type_.as_deref()),
            (Some("Deployment"), Some("Warning")),
            "{told:?}"
        );
    }
    eventually("a pod with a proxy", || {
        let pods = cluster().pods("late", "early");
        (!pods.is_empty() && is_meshed()).then_some(())
    });
}
