//! Installations that aren't the plain one: what flags say, a root of RSA, no native sidecars. Numbers in names are those of the
//! list of acceptance scenarios.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, ROOT, eventually};

const GREEN: &str = "Status check results are √";
/// Values that are no flags.
const SET: &str = "proxy.nativeSidecar=false,proxy.defaultInboundPolicy=cluster-unauthenticated,heartbeatSchedule=1 2 3 4 5";

pub fn s1_version_on_an_empty_cluster(cluster: &Cluster) {
    let version = cluster.homarus(&["version"]).unwrap();
    let client = cluster.homarus(&["version", "--client", "--short"]).unwrap();
    assert!(version.contains(&format!("Client version: {}", client.trim())), "{version}");
    assert!(version.contains("Server version: unavailable"), "{version}");
}

/// Custom resources or not: what is looked at before an installation is whether it may be made.
pub fn s2_check_pre(cluster: &Cluster) {
    let check = cluster.homarus(&["check", "--pre", "--wait", "0s"]);
    assert!(check.as_ref().is_ok_and(|check| check.contains(GREEN)), "{check:?}");
    let check = cluster.homarus(&["check", "--pre", "--linkerd-cni-enabled", "--wait", "0s"]);
    assert!(check.unwrap_err().out.contains("plugin"), "there is no plugin");
}

/// Scenarios 3, 9, 11, 12, 13 and 17, from an empty cluster to an empty cluster.
pub fn with_flags(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    rsa_rooted(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    cluster.apply(&cluster.homarus(&["install", "--crds"]).unwrap());
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=30s", "crd", "--all"]);
    s2_check_pre(cluster);
    let (root, certificate, key) = (file("ca.crt"), file("issuer.crt"), file("issuer.key"));
    let flags = ["--controller-log-level", "debug", "--skip-inbound-ports", "1234,5678", "--set", SET];
    let certificates = [
        "--identity-trust-anchors-file",
        &root,
        "--identity-issuer-certificate-file",
        &certificate,
        "--identity-issuer-key-file",
        &key,
    ];
    cluster.apply(&cluster.homarus(&[&["install"][..], &flags, &certificates].concat()).unwrap());
    cluster.wait_for_control_plane();
    s12_versions_are_one_and_nothing_restarts(cluster);
    s3_flags_are_followed(cluster);
    s9_overrides_are_what_was_said(cluster);
    s11_the_objects_are_there(cluster);
    s17_all_works_without_native_sidecars(cluster);
    cluster.kubectl(&["delete", "ns", "variants"]);
    let objects = cluster.homarus(&["uninstall"]).unwrap();
    cluster.kubectl_with(&["delete", "-f", "-"], &objects);
    assert_eq!(cluster.remains(), Vec::<String>::new());
    s15_check_pre_passes_again(cluster);
}

/// A root of RSA, which signs an issuer of the only kind that issuers can be.
fn rsa_rooted(folder: &Path) {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 365 -subj /CN=root.linkerd.cluster.local \
                    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
                  openssl ecparam -name prime256v1 -genkey -noout -out issuer.key
                  openssl req -new -key issuer.key -subj /CN=identity.linkerd.cluster.local -out issuer.csr
                  printf 'basicConstraints=critical,CA:TRUE,pathlen:0\\nkeyUsage=critical,keyCertSign,cRLSign\\nsubjectAltName=DNS:identity.linkerd.cluster.local\\n' > ext
                  openssl x509 -req -in issuer.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile ext -out issuer.crt";
    let done = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn s12_versions_are_one_and_nothing_restarts(cluster: &Cluster) {
    let check = cluster.homarus(&["check", "--wait", "60s"]).unwrap();
    assert!(check.contains(GREEN), "{check}");
    let short = cluster.homarus(&["version", "--short"]).unwrap();
    let versions: Vec<&str> = short.split_whitespace().collect();
    assert!(versions.len() == 2 && versions[0] == versions[1], "{short}");
    let pods = cluster.json(&["-n", "linkerd", "get", "pods"]);
    for pod in pods["items"].as_array().unwrap() {
        for status in pod["status"]["containerStatuses"].as_array().unwrap() {
            assert_eq!(status["restartCount"], 0, "{}: {status}", pod["metadata"]["name"]);
        }
    }
}

fn s3_flags_are_followed(cluster: &Cluster) {
    let deployments = cluster.json(&["-n", "linkerd", "get", "deploy"]);
    let items = deployments["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    let containers = items.iter().flat_map(|each| each["spec"]["template"]["spec"]["containers"].as_array().unwrap());
    let at_debug = containers.filter(|each| each["args"].to_string().contains("\"--log-level=debug\"")).count();
    assert_eq!(at_debug, 4, "each controller but that of policies, whose level is a value of its own");
    let text = deployments.to_string();
    assert!(text.contains("4190,4191,1234,5678"), "skipped ports are the control plane's too");
    let job = cluster.json(&["-n", "linkerd", "get", "cronjob", "linkerd-heartbeat"]);
    assert_eq!(job["spec"]["schedule"], "1 2 3 4 5");
    cluster.kubectl(&["create", "ns", "variants"]);
    cluster.kubectl(&["annotate", "ns", "variants", "linkerd.io/inject=enabled"]);
    let pod = in_play(cluster);
    let proxy =
        &pod["spec"]["containers"].as_array().unwrap().iter().find(|each| each["name"] == "linkerd-proxy").expect("no sidecar");
    let policy =
        proxy["env"].as_array().unwrap().iter().find(|each| each["name"] == "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY").unwrap();
    assert_eq!(policy["value"], "cluster-unauthenticated");
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    assert!(inits.iter().all(|init| init["restartPolicy"].is_null()), "{inits:?}");
    assert!(inits.iter().any(|init| init["args"].to_string().contains("4190,4191,1234,5678")), "{inits:?}");
}

/// What a pod would be.
fn in_play(cluster: &Cluster) -> Value {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "variants"},
                  "spec": {"containers": [{"name": "web", "image": "web"}]}}"#;
    let play = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    eventually("an injected pod", || {
        let made: Value = serde_json::from_str(&cluster.try_kubectl_with(&play, pod).ok()?).unwrap();
        made["metadata"]["annotations"]["linkerd.io/proxy-version"].is_string().then_some(made)
    })
}

/// The leaves that flags have set, and certificates: nothing else.
fn s9_overrides_are_what_was_said(cluster: &Cluster) {
    let secret = cluster.json(&["-n", "linkerd", "get", "secret", "linkerd-config-overrides"]);
    assert_eq!(secret["data"].as_object().unwrap().len(), 1);
    let text = cluster.kubectl(&[
        "-n",
        "linkerd",
        "get",
        "secret",
        "linkerd-config-overrides",
        "-o",
        "go-template={{index .data \"linkerd-config-overrides\" | base64decode}}",
    ]);
    let values: Value = serde_yaml_ng::from_str(&text).unwrap();
    let mut found = Vec::new();
    leaves(&values, String::new(), &mut found);
    found.sort();
    assert_eq!(
        found,
        [
            "controllerLogLevel",
            "heartbeatSchedule",
            "identity.issuer.tls.crtPEM",
            "identity.issuer.tls.keyPEM",
            "identityTrustAnchorsPEM",
            "proxy.defaultInboundPolicy",
            "proxy.nativeSidecar",
            "proxyInit.ignoreInboundPorts",
        ]
    );
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value.as_object() {
        Some(map) => {
            for (key, value) in map {
                leaves(value, if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        None => found.push(path),
    }
}

fn s11_the_objects_are_there(cluster: &Cluster) {
    let names = |kind: &str| {
        let list = cluster.json(&["-n", "linkerd", "get", kind]);
        let mut names: Vec<String> =
            list["items"].as_array().unwrap().iter().map(|each| each["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        names.retain(|name| name != "default");
        names.sort();
        names
    };
    let services = [
        "linkerd-dst",
        "linkerd-dst-headless",
        "linkerd-identity",
        "linkerd-identity-headless",
        "linkerd-policy",
        "linkerd-policy-validator",
        "linkerd-proxy-injector",
        "linkerd-sp-validator",
    ];
    assert_eq!(names("svc"), services);
    assert_eq!(names("deploy"), ["linkerd-destination", "linkerd-identity", "linkerd-proxy-injector"]);
    assert_eq!(names("sa"), ["linkerd-destination", "linkerd-heartbeat", "linkerd-identity", "linkerd-proxy-injector"]);
}

/// A pod is meshed without a native sidecar, and its certificate is one of the RSA root's issuer.
fn s17_all_works_without_native_sidecars(cluster: &Cluster) {
    cluster.apply(&std::fs::read_to_string(format!("{ROOT}/examples/emojivoto.yml")).unwrap());
    cluster.kubectl(&["annotate", "ns", "emojivoto", "linkerd.io/inject=enabled"]);
    cluster.kubectl(&["-n", "emojivoto", "rollout", "restart", "deploy"]);
    for name in ["emoji", "voting", "web", "vote-bot"] {
        cluster.kubectl(&["-n", "emojivoto", "rollout", "status", "deploy", name, "--timeout=120s"]);
    }
    let pods = eventually("only new pods", || {
        let pods = cluster.json(&["-n", "emojivoto", "get", "pods"]);
        (pods["items"].as_array()?.len() == 4).then_some(pods)
    });
    for pod in pods["items"].as_array().unwrap() {
        let names: Vec<&str> =
            pod["spec"]["containers"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"linkerd-proxy"), "{names:?}");
    }
    let check = cluster.homarus(&["check", "--proxy", "-n", "emojivoto", "--wait", "60s"]).unwrap();
    assert!(check.contains("√ data plane proxies are ready"), "{check}");
    eventually("traffic by mTLS", || {
        let metrics = cluster.homarus(&["diagnostics", "proxy-metrics", "-n", "emojivoto", "deploy/voting"]).ok()?;
        metrics.lines().find(|line| line.starts_with("request_total{") && line.contains("client_id=\"web.")).map(drop)
    });
    cluster.kubectl(&["delete", "ns", "emojivoto"]);
}

fn s15_check_pre_passes_again(cluster: &Cluster) {
    let check = cluster.homarus(&["check", "--pre", "--wait", "0s"]).unwrap();
    assert!(check.contains(GREEN), "{check}");
}

/// What is set for the proxy of one controller reaches that one.
pub fn s10_helm_changes_the_proxies_of_each_controller(cluster: &Cluster, upgrade: &dyn Fn(&[&str])) {
    let resources = |name: &str| {
        let deployment = cluster.json(&["-n", "linkerd", "get", "deploy", name]);
        let spec = &deployment["spec"]["template"]["spec"];
        let all = spec["containers"].as_array().into_iter().chain(spec["initContainers"].as_array()).flatten();
        all.into_iter().find(|each| each["name"] == "linkerd-proxy").unwrap()["resources"]["requests"].clone()
    };
    let kinds = [("destination", "30m", "31Mi"), ("identity", "40m", "41Mi"), ("proxyInjector", "50m", "51Mi")];
    let set: Vec<String> = kinds
        .iter()
        .map(|(name, cpu, memory)| format!("{name}ProxyResources.cpu.request={cpu},{name}ProxyResources.memory.request={memory}"))
        .collect();
    upgrade(&["--set", &set.join(",")]);
    for ((_, cpu, memory), name) in kinds.iter().zip(["linkerd-destination", "linkerd-identity", "linkerd-proxy-injector"]) {
        assert_eq!(resources(name), serde_json::json!({ "cpu": cpu, "memory": memory }), "{name}");
    }
    let check = cluster.homarus(&["check", "--wait", "60s"]).unwrap();
    assert!(check.contains(GREEN), "{check}");
}
