//! The CNI plugin in a chain of real plugins and network namespaces. Needs root, iproute2, nftables, iptables and Debian's
//! containernetworking-plugins.
#![allow(clippy::unwrap_used, clippy::panic)]

mod api;
mod node;

use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use api::Manner;
use homarus_redirect::cni::ASKING_TIME;
use node::{Node, said};
use serde_json::{Value, json};

const V4: (&str, &str) = ("0.0.0.0:4140", "192.0.2.2:1404");
const V6: (&str, &str) = ("[::]:4140", "[fd00:7::1]:1404");

fn pod(spec: &Value) -> Manner {
    let pod = json!({ "metadata": { "name": "web", "namespace": "app", "uid": "u" }, "spec": spec });
    Manner::Answers(200, vec![("/pods/web", pod.to_string())])
}

fn meshed() -> Manner {
    pod(&json!({ "containers": [{ "name": "app" }], "initContainers": [{ "name": "linkerd-proxy" }] }))
}

fn redirected(node: &Node, (listen, connect): (&str, &str)) -> bool {
    node.is_redirected(listen, connect)
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no error of CNI: {}", said(output)))
}

#[test]
fn a_meshed_pod_is_redirected_and_the_chain_s_result_handed_on() {
    let node = Node::new();
    node.api.behave(meshed());
    let previous = node.connect();
    assert!(!redirected(&node, V4), "not yet");
    let config = node.config(&json!({}), Some(&previous));
    assert_eq!(error(&node.plugin("CHECK", &config))["code"], 102);
    assert_eq!(stdout(&node.plugin("ADD", &config)), previous.trim());
    assert!(redirected(&node, V4) && redirected(&node, V6));
    stdout(&node.plugin("CHECK", &config));
    assert_eq!(stdout(&node.plugin("ADD", &config)), previous.trim(), "a runtime tries again");
    assert!(redirected(&node, V4));
    node.api.behave(Manner::Silent);
    assert_eq!(stdout(&node.plugin("DEL", &config)), "");
    assert_eq!(stdout(&node.plugin_in("DEL", "", &config)), "", "its namespace may be gone");
    assert_eq!(node.api.asked()[..2], ["/api/v1/namespaces/app/pods/web", "/api/v1/namespaces/app"]);
}

#[test]
fn without_ipv6_only_ipv4_is_redirected() {
    let node = Node::new();
    node.api.behave(meshed());
    let previous = node.connect();
    stdout(&node.plugin("ADD", &node.config(&json!({ "ipv6": false }), Some(&previous))));
    assert!(redirected(&node, V4) && !redirected(&node, V6));
}

#[test]
fn iptables_is_used_where_it_is_asked_for() {
    for (mode, save) in [("legacy", "iptables-legacy-save"), ("plain", "iptables-save")] {
        let node = Node::new();
        node.api.behave(meshed());
        let previous = node.connect();
        stdout(&node.plugin("ADD", &node.config(&json!({ "iptables-mode": mode }), Some(&previous))));
        assert!(redirected(&node, V4) && redirected(&node, V6), "{mode}");
        for save in [save.to_owned(), format!("ip6{}", &save[2..])] {
            let rules = node.in_pod(&format!("{save} -t nat"));
            for line in [
                "-A PREROUTING -m comment --comment \"proxy-init/install-proxy-init-prerouting\" -j PROXY_INIT_REDIRECT",
                "-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4191,4190 -m comment",
                "-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -m comment",
                "-A PROXY_INIT_OUTPUT -p tcp -m comment --comment \"proxy-init/redirect-all-outgoing-to-proxy-port\" -j REDIRECT --to-ports 4140",
            ] {
                assert!(rules.lines().any(|rule| rule.starts_with(line)), "{mode}: {line}\n{rules}");
            }
        }
        assert!(!node.in_pod("nft list tables").contains("homarus"), "{mode} is what was asked for");
    }
}

#[test]
fn what_is_not_meshed_is_left_alone() {
    let node = Node::new();
    let previous = node.connect();
    let config = node.config(&json!({}), Some(&previous));
    for spec in [
        json!({ "containers": [{ "name": "app" }] }),
        json!({ "containers": [{ "name": "linkerd-proxy" }], "initContainers": [{ "name": "linkerd-init" }] }),
        json!({ "containers": [{ "name": "linkerd-proxy" }], "hostNetwork": true }),
    ] {
        node.api.behave(pod(&spec));
        assert_eq!(stdout(&node.plugin("ADD", &config)), previous.trim(), "{spec}");
        assert!(!node.in_pod("nft list tables").contains("homarus"), "{spec}");
    }
    let before = node.api.asked().len();
    let exempt = config.replace("[\"linkerd-cni\"]", "[\"app\"]");
    node.api.behave(Manner::Answers(401, Vec::new()));
    assert_eq!(stdout(&node.plugin("ADD", &exempt)), previous.trim(), "the installer's own namespace");
    assert_eq!(node.api.asked().len(), before);
}

#[test]
fn doubt_refuses() {
    let node = Node::new();
    let previous = node.connect();
    let config = node.config(&json!({}), Some(&previous));
    let refuses = |manner: Manner, code: u32, word: &str| {
        node.api.behave(manner);
        let told = error(&node.plugin("ADD", &config));
        assert_eq!(told["code"], code, "{told}");
        assert!(told["details"].as_str().unwrap().contains(word), "{told}");
        assert!(!node.in_pod("nft list tables").contains("homarus"));
    };
    refuses(Manner::Answers(401, Vec::new()), 100, "DaemonSet linkerd-cni");
    refuses(Manner::Answers(403, Vec::new()), 100, "ClusterRole");
    refuses(Manner::Answers(404, Vec::new()), 11, "404");
    refuses(Manner::Answers(200, vec![("/pods/web", "<html>".into())]), 100, "can't be read");
    let other = json!({ "metadata": { "uid": "other" } }).to_string();
    refuses(Manner::Answers(200, vec![("/pods/web", other)]), 11, "another pod");
    let Manner::Answers(status, mut bodies) = meshed() else { unreachable!() };
    let odd = json!({ "metadata": { "annotations": { "config.linkerd.io/proxy-uid": "many" } } });
    bodies.push(("/namespaces/app", odd.to_string()));
    refuses(Manner::Answers(status, bodies), 7, "proxy-uid");
    node.api.behave(meshed());
    for (rules, code) in [(json!({ "incoming-proxy-port": 0 }), 7), (json!({ "iptables-mode": "magic" }), 7)] {
        assert_eq!(error(&node.plugin("ADD", &node.config(&rules, Some(&previous))))["code"], code, "{rules}");
    }
    let node_s_own = node.plugin_in("ADD", "/proc/self/ns/net", &config);
    assert_eq!(error(&node_s_own)["code"], 4);
    assert!(error(&node_s_own)["details"].as_str().unwrap().contains("the node's own"));
}

#[test]
fn an_api_that_is_away_is_waited_for_but_not_long() {
    let silent = Node::new();
    silent.api.behave(Manner::Silent);
    let refusing = Node::new();
    refusing.api.behave(Manner::Answers(503, Vec::new()));
    let elsewhere = Node::new();
    elsewhere.write_kubeconfig(&elsewhere.api.kubeconfig().replace("https://127.0.0.1:", "https://127.0.0.2:"));
    let missing = Node::new();
    missing.write_kubeconfig("{}");
    thread::scope(|scope| {
        for node in [&silent, &refusing, &elsewhere, &missing] {
            scope.spawn(|| {
                let start = Instant::now();
                assert_eq!(error(&node.plugin("ADD", &node.config(&json!({}), None)))["code"], 11);
                assert!(start.elapsed() < ASKING_TIME + Duration::from_secs(7), "{:?}", start.elapsed());
            });
        }
    });
    assert!(refusing.api.asked().len() > 1, "asked again");
}

#[test]
fn an_api_that_comes_back_is_asked_again() {
    let node = Node::new();
    node.api.behave(Manner::Answers(500, Vec::new()));
    let previous = node.connect();
    let config = node.config(&json!({}), Some(&previous));
    thread::scope(|scope| {
        let added = scope.spawn(|| node.plugin("ADD", &config));
        while node.api.asked().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        node.api.behave(meshed());
        assert_eq!(stdout(&added.join().unwrap()), previous.trim());
    });
    assert!(redirected(&node, V4));
}

#[test]
fn versions_and_status_are_told() {
    let node = Node::new();
    let told: Value = serde_json::from_str(&stdout(&node.plugin("VERSION", r#"{"cniVersion": "1.1.0"}"#))).unwrap();
    assert_eq!(told["cniVersion"], "1.1.0");
    assert!(told["supportedVersions"].as_array().unwrap().contains(&"0.4.0".into()));
    let config = node.config(&json!({}), None);
    assert_eq!(stdout(&node.plugin("STATUS", &config)), "");
    assert_eq!(stdout(&node.plugin("GC", &config)), "");
    node.write_kubeconfig("");
    assert_eq!(error(&node.plugin("STATUS", &config))["code"], 50);
    assert_eq!(error(&node.plugin("FLY", &config))["code"], 4);
    let future = config.replace("\"cniVersion\":\"1.0.0\"", "\"cniVersion\":\"9.0.0\"");
    assert_eq!(error(&node.plugin("ADD", &future))["code"], 1);
}
