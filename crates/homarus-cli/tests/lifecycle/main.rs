//! The life of an installation on a real cluster, as its user sees it: what the CLI and Helm install is ready and green, a second time
//! changes nothing, an upgrade changes what was asked for, prune finds what is left over, and uninstall leaves nothing.
//!
//! One cluster, one story after the other: the control plane is in one namespace. Of the list of acceptance scenarios, 1 to 4, 6 to 13
//! (7 and 8 in the upgrades), 15 and 17 are here; 5 is `e2e/drop-in`, 14 `e2e/identity`, 16 `cni_cluster`, 18 is in all of them, and 19
//! is in `e2e/book` and in the unit tests of the decision.
#![allow(clippy::unwrap_used)]

mod cluster;
mod variants;

use cluster::{Certificates, Cluster, ROOT, eventually};
use serde_json::Value;
use std::time::{Duration, Instant};

/// From the first manifest to a green check, with images loaded, on a machine that is also building or testing.
const GREEN_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn stories() {
    let cluster = Cluster::start();
    cluster.load_images();
    missing_custom_resources_are_named(&cluster);
    variants::s1_version_on_an_empty_cluster(&cluster);
    variants::s2_check_pre(&cluster);
    by_the_cli(&cluster);
    variants::with_flags(&cluster);
    by_helm(&cluster);
}

fn missing_custom_resources_are_named(cluster: &Cluster) {
    let refused = cluster.homarus(&["install"]).unwrap_err();
    assert!(refused.out.is_empty(), "nothing that could be applied by half: {}", refused.out);
    assert!(refused.err.contains("homarus install --crds | kubectl apply -f -"), "{}", refused.err);
    let refused = cluster.homarus(&["upgrade"]).unwrap_err();
    assert!(refused.out.is_empty() && refused.err.contains("--crds"), "{}", refused.err);
    assert!(cluster.homarus(&["uninstall"]).unwrap_err().err.contains("No resources found to uninstall"));
}

fn by_the_cli(cluster: &Cluster) {
    let began = Instant::now();
    cluster.apply(&cluster.homarus(&["install", "--crds"]).unwrap());
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=30s", "crd", "--all"]);
    let manifests = cluster.homarus(&["install"]).unwrap();
    cluster.apply(&manifests);
    cluster.wait_for_control_plane();
    let check = cluster.homarus(&["check", "--wait", "30s"]).unwrap();
    assert!(check.contains("Status check results are √") && !check.contains('×'), "{check}");
    let took = began.elapsed();
    println!("from nothing to a green check: {:.1} s", took.as_secs_f64());
    assert!(took < GREEN_WITHIN, "{took:?}");

    a_second_time_changes_nothing(cluster, &manifests);
    the_demo_is_meshed(cluster);
    what_cannot_be_meant_is_refused(cluster);
    certificates_are_made_again(cluster);
    upgrades_change_what_was_asked_for(cluster, &manifests);
    prune_finds_what_is_left_over(cluster);
    uninstall_leaves_nothing(cluster);
}

fn a_second_time_changes_nothing(cluster: &Cluster, manifests: &str) {
    let before = cluster.versions();
    let said = cluster.apply(manifests);
    let changed: Vec<&str> = said.lines().filter(|line| !line.ends_with(" unchanged")).collect();
    assert!(changed.is_empty(), "kubectl apply changed {changed:?}");
    assert_eq!(cluster.versions(), before);
    // The first time moves ownership of fields, which is a change; the second must be none.
    cluster.apply_by_server(manifests);
    let before = cluster.versions();
    cluster.apply_by_server(manifests);
    assert_eq!(cluster.versions(), before);
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        let list = cluster.json(&["get", kind, "-l", "linkerd.io/control-plane-ns"]);
        for configuration in list["items"].as_array().unwrap() {
            assert!(configuration["webhooks"][0]["clientConfig"]["caBundle"].is_string(), "{configuration}");
        }
    }
}

fn the_demo_is_meshed(cluster: &Cluster) {
    let injected = cluster.homarus(&["inject", &format!("{ROOT}/examples/emojivoto.yml")]).unwrap();
    cluster.apply(&injected);
    cluster.kubectl(&["-n", "emojivoto", "wait", "deploy", "--all", "--for=condition=available", "--timeout=120s"]);
    let check = cluster.homarus(&["check", "--proxy", "-n", "emojivoto", "--wait", "60s"]).unwrap();
    assert!(check.contains("√ data plane proxies are ready"), "{check}");
    traffic_of_the_demo_is_meshed(cluster);
}

fn traffic_of_the_demo_is_meshed(cluster: &Cluster) {
    eventually("traffic of the demo over mTLS", || {
        let metrics = cluster.homarus(&["diagnostics", "proxy-metrics", "-n", "emojivoto", "deploy/voting"]).ok()?;
        let meshed = |line: &&str| {
            line.starts_with("request_total{") && line.contains("direction=\"inbound\"") && line.contains("client_id=\"web.")
        };
        metrics.lines().find(meshed).map(drop)
    });
}

const SERVER: &str = "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: web, namespace: emojivoto}\nspec: {podSelector: {}, port: 9999, proxyProtocol: PROTOCOL}\n";
const PROFILE: &str = "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {name: web.emojivoto.svc.cluster.local, namespace: emojivoto}\nspec: {routes: [{name: a, condition: CONDITION}]}\n";

fn what_cannot_be_meant_is_refused(cluster: &Cluster) {
    let refused = cluster.try_apply(&SERVER.replace("PROTOCOL", "garbanzo")).unwrap_err();
    assert!(refused.contains("linkerd-policy-validator.linkerd.io") && refused.contains("spec.proxyProtocol"), "{refused}");
    cluster.apply(&SERVER.replace("PROTOCOL", "HTTP/1"));
    let refused = cluster.try_apply(&PROFILE.replace("CONDITION", "{}")).unwrap_err();
    assert!(refused.contains("linkerd-sp-validator.linkerd.io") && refused.contains("spec.routes[0].condition"), "{refused}");
    cluster.apply(&PROFILE.replace("CONDITION", "{method: GET}"));
}

/// Whoever deletes a webhook's certificate gets another, and the API server believes it.
fn certificates_are_made_again(cluster: &Cluster) {
    let names = ["linkerd-proxy-injector-k8s-tls", "linkerd-sp-validator-k8s-tls", "linkerd-policy-validator-k8s-tls"];
    let uid = |name: &str| cluster.json(&["-n", "linkerd", "get", "secret", name])["metadata"]["uid"].clone();
    for name in names {
        let before = uid(name);
        cluster.kubectl(&["-n", "linkerd", "delete", "secret", name]);
        eventually(&format!("another {name}"), || {
            let found = cluster.kubectl(&["-n", "linkerd", "get", "secret", name, "--ignore-not-found", "-o", "name"]);
            (!found.trim().is_empty() && uid(name) != before).then_some(())
        });
    }
    what_cannot_be_meant_is_refused(cluster);
    let check = cluster.homarus(&["check", "--wait", "30s"]).unwrap();
    assert!(check.contains("√ proxy-injector webhook has valid cert"), "{check}");
    // A pod that is made now has a proxy.
    cluster.kubectl(&["-n", "emojivoto", "delete", "pod", "-l", "app=emoji-svc"]);
    cluster.kubectl(&["-n", "emojivoto", "rollout", "status", "deploy/emoji", "--timeout=60s"]);
    let pods = cluster.json(&["-n", "emojivoto", "get", "pods", "-l", "app=emoji-svc"]);
    let meshed = |pod: &Value| pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] == "linkerd";
    assert!(pods["items"].as_array().unwrap().iter().all(meshed), "{pods}");
}

/// Scenarios 6 to 8; the demo of before runs on.
fn upgrades_change_what_was_asked_for(cluster: &Cluster, installed: &str) {
    let uid = || cluster.json(&["-n", "linkerd", "get", "cm", "linkerd-config"])["metadata"]["uid"].clone();
    let before = uid();
    assert_eq!(cluster.homarus(&["upgrade"]).unwrap(), installed, "an upgrade to the same version says the same");
    let dump = cluster.kubectl(&["-n", "linkerd", "get", "cm,secret", "-o", "yaml"]);
    let dumped = cluster.homarus_with(&["upgrade", "--from-manifests", "-"], &dump).unwrap();
    assert_eq!(dumped, installed, "and so it does without a cluster");
    let versions = cluster.versions();
    cluster.apply(&cluster.homarus(&["upgrade", "--crds"]).unwrap());
    assert_eq!(cluster.versions(), versions);

    cluster.apply(&cluster.homarus(&["upgrade", "--controller-log-level", "debug", "--set", "proxy.logLevel=debug"]).unwrap());
    cluster.wait_for_control_plane();
    assert_eq!(uid(), before, "the ConfigMap stands for the installation");
    traffic_of_the_demo_is_meshed(cluster);
    let stored = cluster.homarus(&["upgrade"]).unwrap();
    assert!(stored.contains("--log-level=debug"), "what was asked for once stays");
    let back = cluster.homarus(&["upgrade", "--set", "controllerLogLevel=null,proxy.logLevel=null"]).unwrap();
    assert_eq!(back, installed, "and goes when it is removed");
    cluster.apply(&back);
    cluster.wait_for_control_plane();
    let ha = cluster.homarus(&["upgrade", "--ha"]).unwrap();
    assert!(ha.contains("kind: PodDisruptionBudget") && ha.contains("replicas: 3"));
    let refused = cluster.homarus(&["upgrade", "--set", "controllerReplicas=many"]).unwrap_err();
    assert!(refused.out.is_empty() && refused.err.contains("controllerReplicas"), "{}", refused.err);
    let again = cluster.homarus(&["install"]).unwrap_err();
    assert!(again.out.is_empty() && again.err.contains("ConfigMap/linkerd-config already exists"), "{}", again.err);
    let check = cluster.homarus(&["check", "--wait", "60s"]).unwrap();
    assert!(check.contains("Status check results are √"), "{check}");
}

fn prune_finds_what_is_left_over(cluster: &Cluster) {
    let found = cluster.homarus(&["prune"]).unwrap();
    assert_eq!(found.trim(), "", "what controllers made and what charts render is no leftover");
    cluster.kubectl(&["-n", "linkerd", "create", "cm", "stale"]);
    cluster.kubectl(&["-n", "linkerd", "label", "cm", "stale", "linkerd.io/control-plane-ns=linkerd"]);
    cluster.kubectl(&["create", "clusterrole", "linkerd-stale", "--verb=get", "--resource=pods"]);
    cluster.kubectl(&["label", "clusterrole", "linkerd-stale", "linkerd.io/control-plane-ns=linkerd"]);
    let found = cluster.homarus(&["prune"]).unwrap();
    assert!(found.contains("name: stale") && found.contains("name: linkerd-stale"), "{found}");
    assert_eq!(found.matches("kind: ").count(), 2, "{found}");
    cluster.kubectl_with(&["delete", "-f", "-"], &found);
    assert_eq!(cluster.homarus(&["prune"]).unwrap().trim(), "");
    let check = cluster.homarus(&["check", "--wait", "30s"]).unwrap();
    assert!(check.contains("Status check results are √"), "{check}");
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: of-somebody, namespace: default}\nspec: {parentRefs: [{name: a-gateway}]}\n";

fn uninstall_leaves_nothing(cluster: &Cluster) {
    let refused = cluster.homarus(&["uninstall"]).unwrap_err();
    assert!(refused.out.is_empty() && refused.err.contains("emojivoto/"), "{}", refused.err);
    cluster.kubectl(&["delete", "ns", "emojivoto"]);
    cluster.apply(ROUTE);
    let objects = cluster.homarus(&["uninstall"]).unwrap();
    assert!(!objects.contains("gateway.networking.k8s.io"), "routes of others stay: {objects}");
    cluster.kubectl_with(&["delete", "-f", "-"], &objects);
    cluster.kubectl(&["get", "-n", "default", "httproute.gateway.networking.k8s.io", "of-somebody"]);
    cluster.kubectl(&["delete", "-n", "default", "httproute.gateway.networking.k8s.io", "of-somebody"]);
    let rest = cluster.homarus(&["uninstall"]).unwrap();
    assert!(rest.contains("httproutes.gateway.networking.k8s.io"), "{rest}");
    cluster.kubectl_with(&["delete", "-f", "-"], &rest);
    assert_eq!(cluster.remains(), Vec::<String>::new());
    assert!(cluster.homarus(&["uninstall"]).unwrap_err().err.contains("No resources found to uninstall"));
}

/// With certificates of the user's, as Linkerd's chart demands them.
fn by_helm(cluster: &Cluster) {
    let certificates = Certificates::make();
    let crds = format!("{ROOT}/charts/homarus-crds");
    let chart = format!("{ROOT}/charts/homarus-control-plane");
    cluster.helm(&[
        "install",
        "homarus-crds",
        &crds,
        "-n",
        "linkerd",
        "--create-namespace",
        "--set",
        "installGatewayAPI=true",
        "--wait",
    ]);
    let files = certificates.flags();
    let with_more = |command: &str, more: &[&str]| {
        let mut words = vec![command, "homarus", &chart, "-n", "linkerd", "--wait", "--timeout", "2m"];
        words.extend(files.iter().map(String::as_str));
        cluster.helm(&[&words, more].concat())
    };
    let with = |command: &str| with_more(command, &[]);
    let began = Instant::now();
    with("install");
    let check = cluster.homarus(&["check", "--wait", "30s"]).unwrap();
    println!("by Helm, to a green check: {:.1} s", began.elapsed().as_secs_f64());
    assert!(check.contains("Status check results are √"), "{check}");
    let before = cluster.versions();
    with("upgrade");
    assert_eq!(cluster.versions(), before, "helm upgrade changes nothing");
    for command in ["upgrade", "prune"] {
        let refused = cluster.homarus(&[command]).unwrap_err();
        assert!(refused.out.is_empty() && refused.err.contains("helm upgrade"), "{}", refused.err);
    }
    let config = cluster.kubectl(&["-n", "linkerd", "get", "cm", "linkerd-config", "-o", "yaml"]);
    assert!(config.contains("BEGIN CERTIFICATE") && !config.contains("PRIVATE KEY"), "{config}");
    variants::s10_helm_changes_the_proxies_of_each_controller(cluster, &|more| drop(with_more("upgrade", more)));
    cluster.helm(&["uninstall", "homarus", "-n", "linkerd", "--wait"]);
    cluster.helm(&["uninstall", "homarus-crds", "-n", "linkerd", "--wait"]);
}
