#![allow(clippy::unwrap_used)]
use super::*;

fn options() -> Options {
    let pair = |name: &str| KeyPair { certificate: format!("{name} certificate"), key: format!("{name} key") };
    Options::new("anchors".into(), pair("issuer"), pair("injector"))
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap_or_else(|| panic!("{kind} {name}"))
}

fn containers<'a>(deployment: &'a Value, list: &str) -> Vec<&'a str> {
    let list = deployment["spec"]["template"]["spec"][list].as_array().unwrap();
    list.iter().map(|container| container["name"].as_str().unwrap()).collect()
}

fn env(deployment: &Value, name: &str) -> Vec<Value> {
    let spec = &deployment["spec"]["template"]["spec"];
    let all = ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array().unwrap());
    let proxy = all.into_iter().find(|c| c["name"] == "linkerd-proxy").unwrap();
    proxy["env"].as_array().unwrap().iter().filter(|v| v["name"] == name).cloned().collect()
}

#[test]
fn names_are_those_that_running_systems_know() {
    let objects = control_plane(&options()).unwrap();
    for (kind, name) in [
        ("Namespace", "linkerd"),
        ("ConfigMap", "linkerd-config"),
        ("ConfigMap", "linkerd-identity-trust-roots"),
        ("Secret", "linkerd-identity-issuer"),
        ("Secret", "linkerd-proxy-injector-k8s-tls"),
        ("Deployment", "linkerd-identity"),
        ("Deployment", "linkerd-destination"),
        ("Deployment", "linkerd-proxy-injector"),
        ("Service", "linkerd-dst-headless"),
        ("Service", "linkerd-policy"),
        ("ServiceAccount", "linkerd-destination"),
        ("ClusterRole", "linkerd-linkerd-destination"),
        ("ClusterRoleBinding", "linkerd-destination-policy"),
        ("ClusterRole", "linkerd-policy"),
        ("RoleBinding", "linkerd-destination-remote-discovery"),
        ("MutatingWebhookConfiguration", "linkerd-proxy-injector-webhook-config"),
    ] {
        find(&objects, kind, name);
    }
}

#[test]
fn each_controller_has_its_proxy() {
    let objects = control_plane(&options()).unwrap();
    let destination = find(&objects, "Deployment", "linkerd-destination");
    assert_eq!(containers(destination, "initContainers"), ["linkerd-init", "linkerd-proxy"]);
    assert_eq!(containers(destination, "containers"), ["destination", "policy"]);
    // Identity's proxy starts after identity, which signs its certificate.
    let identity = find(&objects, "Deployment", "linkerd-identity");
    assert_eq!(containers(identity, "initContainers"), ["linkerd-init"]);
    assert_eq!(containers(identity, "containers"), ["identity", "linkerd-proxy"]);
    let annotations = &identity["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["linkerd.io/inject"], Value::Null);
    assert_eq!(annotations["config.linkerd.io/default-inbound-policy"], "all-unauthenticated");
}

#[test]
fn a_proxy_finds_its_own_pods_controllers_by_localhost() {
    let objects = control_plane(&options()).unwrap();
    let value = |deployment: &str, name: &str| {
        let found = env(find(&objects, "Deployment", deployment), name);
        assert_eq!(found.len(), 1, "{deployment} {name}");
        found[0]["value"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(value("linkerd-identity", "LINKERD2_PROXY_IDENTITY_SVC_ADDR"), "localhost.:8080");
    assert_eq!(value("linkerd-identity", "LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_TLS"), "8080");
    assert_eq!(value("linkerd-destination", "LINKERD2_PROXY_DESTINATION_SVC_ADDR"), "localhost.:8086");
    assert_eq!(value("linkerd-destination", "LINKERD2_PROXY_POLICY_SVC_ADDR"), "localhost.:8090");
    assert!(value("linkerd-proxy-injector", "LINKERD2_PROXY_POLICY_SVC_ADDR").starts_with("linkerd-policy.linkerd.svc"));
    for deployment in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
        let anchors = env(find(&objects, "Deployment", deployment), "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS");
        assert_eq!(anchors.len(), 1);
        assert_eq!(anchors[0]["valueFrom"]["configMapKeyRef"]["key"], "ca-bundle.crt");
    }
}

#[test]
fn values_reach_the_configuration_and_the_proxies() {
    let values = json!({ "proxy": { "logLevel": "debug", "nativeSidecar": false }, "clusterDomain": "example.org" });
    let objects = control_plane(&Options { values, ..options() }).unwrap();
    let config = find(&objects, "ConfigMap", "linkerd-config")["data"]["values"].as_str().unwrap().to_owned();
    let read = Values::from_yaml(&config).unwrap();
    assert_eq!((read.proxy.log_level.as_str(), read.cluster_domain.as_str()), ("debug", "example.org"));
    assert_eq!(read.identity_trust_anchors_pem, "anchors");
    assert!(!config.contains("issuer key"), "no key belongs into a ConfigMap");
    let destination = find(&objects, "Deployment", "linkerd-destination");
    assert_eq!(containers(destination, "containers"), ["linkerd-proxy", "destination", "policy"]);
    let bad = Options { values: json!({ "proxy": 1 }), ..options() };
    assert!(control_plane(&bad).unwrap_err().to_string().contains("values"));
}

#[test]
fn readiness_is_known_within_a_second() {
    let objects = control_plane(&options()).unwrap();
    for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
        let spec = &find(&objects, "Deployment", name)["spec"]["template"]["spec"];
        let all = ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array().unwrap());
        let probes: Vec<&Value> = all.map(|container| &container["readinessProbe"]).filter(|probe| !probe.is_null()).collect();
        assert!(probes.len() > 1, "{name}: its controllers and its proxy have one each");
        assert!(probes.iter().all(|probe| probe["periodSeconds"] == 1 && probe["failureThreshold"] == 60), "{probes:?}");
        // Liveness is none of it: it ends processes.
        assert!(
            spec["containers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|c| c["livenessProbe"]["periodSeconds"].is_null() || c["name"] == "linkerd-proxy")
        );
    }
}
