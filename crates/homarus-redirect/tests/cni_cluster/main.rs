//! The CNI chart on a real cluster, from its first configuration to its last (scenario 16 of the specification): pods of a
//! restricted namespace are meshed without `NET_ADMIN`; what others write into the node's folder is followed; pods that came
//! too early are made again; everything of ours goes.
//!
//! One test, whose parts follow each other: there is one node with one chain.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kubectl;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kubectl::{ROOT, eventually, exec, get, helm, kubectl, kubectl_with, try_exec};
use serde_json::{Value, json};

const IMAGES: [&str; 4] = ["homarus", "homarus-proxy", "homarus-redirect", "test-programs"];
const CNI: &str = "--namespace linkerd-cni --set image.name=localhost/homarus-redirect --set repairController.enabled=true \
                   --set nodeTaint.enabled=true --set logLevel=debug";
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(90);
const TAINT: &str = "cni.homarus.io/not-ready";

#[test]
fn pods_are_meshed_without_any_right() {
    load_images();
    kubectl_with("apply -f -", include_str!("node.yaml"));
    kubectl("wait -n kube-system pod/node --for=condition=Ready --timeout=60s");
    let before = files();
    install();
    meshed_in_a_restricted_namespace();
    rewritten_by_another();
    replaced_and_tainted_meanwhile();
    too_early_and_made_again(&before);
    taken_away(&before);
}

fn load_images() {
    // Another cluster than ours has the images already.
    let Some(cluster) = std::env::var_os("HOMARUS_CLUSTER") else { return };
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), Into::into).join("test-images");
    let load = |name: &&str| {
        let mut load = Command::new(Path::new(ROOT).join("e2e/cluster/cluster"));
        load.arg("load").arg(folder.join(format!("{name}.tar"))).arg(&cluster).spawn().unwrap()
    };
    for mut load in IMAGES.iter().map(load).collect::<Vec<_>>() {
        assert!(load.wait().unwrap().success(), "images (cargo xtask image --test)");
    }
}

/// The node's network configurations by name.
fn files() -> Vec<(String, String)> {
    let names = exec("kube-system", "node", "shell", "cd /net && for f in * .[!.]*; do [ -f \"$f\" ] && echo \"$f\"; done; true");
    names.lines().map(|name| (name.to_owned(), exec("kube-system", "node", "shell", &format!("cat '/net/{name}'")))).collect()
}

fn chain(name: &str) -> Vec<String> {
    let text = exec("kube-system", "node", "shell", &format!("cat '/net/{name}'"));
    let list: Value = serde_json::from_str(&text).unwrap();
    list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

/// The node's first configuration.
fn first(files: &[(String, String)]) -> String {
    files.iter().map(|(name, _)| name.clone()).find(|name| name.ends_with(".conflist")).expect("a node with a network")
}

/// Whether pods get addresses of IPv6 too: a validator of IPv6 can't succeed without one.
fn ipv6() -> &'static str {
    let nodes = get("nodes");
    let cidrs = nodes["items"][0]["spec"]["podCIDRs"].to_string();
    if cidrs.contains("::") { "--set disableIPv6=false" } else { "--set disableIPv6=true" }
}

fn install_cni() {
    helm(&format!("upgrade --install homarus-cni homarus-cni --create-namespace {CNI} {}", ipv6()));
    // Helm's own waiting counts a DaemonSet as ready that may lack a pod.
    kubectl("rollout status -n linkerd-cni daemonset/linkerd-cni --timeout=60s");
}

fn install() {
    install_cni();
    let config = first(&files());
    assert_eq!(chain(&config).last().unwrap(), "linkerd-cni");
    helm("install homarus-crds homarus-crds --namespace linkerd --create-namespace --set installGatewayAPI=true");
    let images = "--set controllerImage=localhost/homarus --set proxy.image.name=localhost/homarus-proxy";
    let values = format!("--set cniEnabled=true {} {images}", ipv6());
    helm(&format!("install homarus-control-plane homarus-control-plane --namespace linkerd {values}"));
    for deployment in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
        kubectl(&format!("rollout status -n linkerd deployment/{deployment} --timeout=90s"));
    }
    // The API server learns of the webhook's certificate a moment later; until then it lets pods through as they are.
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "probe", "namespace": "default", "annotations": { "linkerd.io/inject": "enabled" } },
        "spec": { "containers": [{ "name": "a", "image": "localhost/test-programs:local" }] },
    });
    eventually("injection", SHORT, || {
        kubectl_with("create --dry-run=server -o json -f -", &pod.to_string()).contains("linkerd-proxy").then_some(())
    });
}

fn pod(app: &str) -> Option<Value> {
    let pods = get(&format!("pods -n app -l app={app}"));
    let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    pods["items"].as_array().unwrap().iter().find(living).cloned()
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn ready(app: &str) -> Value {
    eventually(&format!("a ready pod of {app}"), LONG, || pod(app).filter(is_ready))
}

/// What the server says of the client, if it is meshed.
fn asked(url: &str) -> String {
    let client = ready("client");
    let script = format!("curl -sS -g -m 5 {url}");
    eventually(&format!("an answer of {url}"), SHORT, || {
        try_exec("app", name(&client), "shell", &script).ok().filter(|answer| answer.contains("serviceaccount"))
    })
}

fn meshed_in_a_restricted_namespace() {
    kubectl_with("apply -f -", include_str!("app.yaml"));
    let server = ready("web");
    let inits: Vec<&str> =
        server["spec"]["initContainers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(inits.contains(&"linkerd-network-validator") && !inits.contains(&"linkerd-init"), "{inits:?}");
    let all = server["spec"]["initContainers"].as_array().unwrap().iter().chain(server["spec"]["containers"].as_array().unwrap());
    for container in all {
        assert!(container["securityContext"]["capabilities"]["add"].is_null(), "{container}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]), "{container}");
    }
    let client = "client default.app.serviceaccount.identity.linkerd.cluster.local";
    assert!(asked("http://web").contains(client));
    for address in server["status"]["podIPs"].as_array().unwrap() {
        let address = address["ip"].as_str().unwrap();
        let url = if address.contains(':') { format!("http://[{address}]:8080") } else { format!("http://{address}:8080") };
        // To an address of a pod, too: both ends are redirected, in each family that the pod has.
        assert!(asked(&url).contains(client), "{url}");
    }
}

/// Another plugin's installer writes its configuration again, as it does after an update.
fn rewritten_by_another() {
    let config = first(&files());
    let without: Vec<String> = chain(&config).into_iter().filter(|plugin| plugin != "linkerd-cni").collect();
    let text = exec("kube-system", "node", "shell", &format!("cat '/net/{config}'"));
    let mut list: Value = serde_json::from_str(&text).unwrap();
    list["plugins"].as_array_mut().unwrap().retain(|plugin| plugin["type"] != "linkerd-cni");
    exec("kube-system", "node", "shell", &format!("cat > '/net/{config}' <<'END'\n{list}\nEND\n"));
    eventually("our entry after theirs", SHORT, || {
        let now = chain(&config);
        (now.last().is_some_and(|last| last == "linkerd-cni") && now.len() == without.len() + 1).then_some(())
    });
}

fn taints() -> Vec<String> {
    let nodes = get("nodes");
    let taints = nodes["items"].as_array().unwrap().iter().flat_map(|node| node["spec"]["taints"].as_array().into_iter().flatten());
    taints.map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
}

/// The installer's pod is replaced: meanwhile no new pod comes onto the node, and afterwards all is as before.
fn replaced_and_tainted_meanwhile() {
    let installer = get("pods -n linkerd-cni -l k8s-app=linkerd-cni");
    let uid = installer["items"][0]["metadata"]["uid"].clone();
    kubectl("delete pods -n linkerd-cni -l k8s-app=linkerd-cni --wait=false");
    eventually("the taint", SHORT, || taints().contains(&TAINT.to_owned()).then_some(()));
    kubectl("rollout restart -n app deployment/client");
    eventually("another installer, ready", LONG, || {
        let pods = get("pods -n linkerd-cni -l k8s-app=linkerd-cni");
        pods["items"].as_array()?.iter().find(|pod| pod["metadata"]["uid"] != uid && is_ready(pod)).map(drop)
    });
    eventually("the taint gone", SHORT, || (!taints().contains(&TAINT.to_owned())).then_some(()));
    kubectl("rollout status -n app deployment/client --timeout=60s");
    assert!(asked("http://web").contains("default.app.serviceaccount"));
}

fn validator_failed(pod: &Value) -> bool {
    let statuses = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten();
    let mut validators = statuses.into_iter().filter(|status| status["name"] == "linkerd-network-validator");
    validators.any(|status| [&status["state"], &status["lastState"]].into_iter().any(|state| state["terminated"]["exitCode"] == 95))
}

fn too_early_and_made_again(before: &[(String, String)]) {
    helm("uninstall homarus-cni --namespace linkerd-cni --wait --timeout 60s");
    eventually("the chain as it was", SHORT, || (chain(&first(&files())).last()? != "linkerd-cni").then_some(()));
    assert_eq!(chain(&first(&files())), chain_of(&before[0].1));
    assert_eq!(taints(), Vec::<String>::new(), "no installer will be back");
    kubectl_with("apply -f -", include_str!("late.yaml"));
    let early: Vec<Value> = ["late", "orphan"]
        .map(|app| eventually(&format!("{app} whose validator failed"), LONG, || pod(app).filter(validator_failed)))
        .into();
    assert!(early.iter().all(|pod| !is_ready(pod)), "nothing starts unredirected");
    install_cni();
    let repaired = eventually("a pod in the place of the one that came too early", LONG, || {
        pod("late").filter(|pod| pod["metadata"]["uid"] != early[0]["metadata"]["uid"] && is_ready(pod))
    });
    assert!(!validator_failed(&repaired));
    let told = |pod: &Value| {
        let events = get("events -n app");
        let uid = &pod["metadata"]["uid"];
        let mut events = events["items"].as_array().unwrap().clone();
        events.retain(|event| event["involvedObject"]["uid"] == *uid && event["reason"] == "LinkerdCNINotConfigured");
        events.first().map(|event| event["type"].as_str().unwrap().to_owned())
    };
    assert_eq!(eventually("an event of the repair", SHORT, || told(&early[0])), "Normal");
    assert_eq!(eventually("an event of what nobody makes again", SHORT, || told(&early[1])), "Warning");
    assert_eq!(pod("orphan").unwrap()["metadata"]["uid"], early[1]["metadata"]["uid"], "it isn't deleted");
}

fn chain_of(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap();
    list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

fn taken_away(before: &[(String, String)]) {
    helm("uninstall homarus-cni --namespace linkerd-cni --wait --timeout 60s");
    let names = |files: &[(String, String)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    eventually("the folder as it was", SHORT, || (names(&files()) == names(before)).then_some(()));
    for ((name, now), (_, then)) in files().iter().zip(before) {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(read(now), read(then), "{name}");
    }
    exec("kube-system", "node", "shell", "[ ! -e /plugins/linkerd-cni ]");
    // A pod without a proxy starts as ever.
    kubectl("delete pod -n kube-system node --wait=false");
}
