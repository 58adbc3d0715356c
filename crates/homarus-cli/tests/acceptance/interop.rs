//! A linkerd2-proxy in the place of ours, on either side and on both, under our control plane and injector.
//!
//! It gets the very environment that our injector writes, as ours does; only the image differs. Without
//! `LINKERD2_PROXY_BIN` there is none (we neither have nor distribute one), and on the embedded cluster images aren't files.

use crate::cluster::{Shell, cluster};
use serde_json::{Value, json};

const NAMESPACE: &str = "interop";
const OURS: &str = "ours";
const THEIRS: &str = "theirs";

fn template(side: &str, proxy: &str, spec: Value) -> Value {
    let mut annotations = json!({ "linkerd.io/inject": "enabled" });
    if proxy == THEIRS {
        annotations["config.linkerd.io/proxy-image"] = "localhost/linkerd2-proxy".into();
        annotations["config.linkerd.io/proxy-version"] = "interop".into();
    }
    let labels = json!({ "app": format!("{proxy}-{side}") });
    json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": spec })
}

fn account(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": NAMESPACE } })
}

fn client(proxy: &str) -> [Value; 2] {
    let name = format!("{proxy}-client");
    let command = ["socat", "TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr", "EXEC:sh"];
    let shell = json!({ "name": "shell", "image": "localhost/test-programs:local", "command": command });
    let mut pod = template("client", proxy, json!({ "serviceAccountName": name, "containers": [shell] }));
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    (pod["metadata"]["name"], pod["metadata"]["namespace"]) = (name.as_str().into(), NAMESPACE.into());
    [account(&name), pod]
}

fn server(proxy: &str) -> [Value; 3] {
    let name = format!("{proxy}-server");
    let program =
        |name: &str, command: Value| json!({ "name": name, "image": "localhost/test-programs:local", "command": command });
    let mut web = program("web", json!(["nginx", "-e", "stderr", "-c", "/config/nginx.conf"]));
    web["volumeMounts"] = json!([{ "name": "config", "mountPath": "/config" }]);
    web["readinessProbe"] = json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
    let banner = program("banner", json!(["socat", "TCP-LISTEN:2525,fork,reuseaddr", "SYSTEM:echo 220 ready; cat"]));
    let grpc = json!({
        "name": "grpc", "image": format!("localhost/homarus-demo:{}", env!("CARGO_PKG_VERSION")), "args": ["emojivoto-emoji-svc"],
        "env": [{ "name": "GRPC_PORT", "value": "8090" }],
    });
    let volumes = json!([{ "name": "config", "configMap": { "name": "nginx" } }]);
    let spec = json!({ "serviceAccountName": name, "containers": [web, banner, grpc], "volumes": volumes });
    let mut template = template("server", proxy, spec);
    let opaque = "config.linkerd.io/opaque-ports";
    template["metadata"]["annotations"][opaque] = "2525".into();
    let selector = json!({ "app": name });
    let metadata = json!({ "name": name, "namespace": NAMESPACE, "annotations": { opaque: "2525" } });
    let ports = [8080, 8083, 8090, 2525].map(|port: u16| json!({ "name": format!("p{port}"), "port": port }));
    [
        account(&name),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "selector": selector, "ports": ports },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "selector": { "matchLabels": selector }, "template": template },
        }),
    ]
}

#[test]
fn a_linkerd2_proxy_takes_either_place() {
    if std::env::var_os("LINKERD2_PROXY_BIN").is_none() {
        println!("no LINKERD2_PROXY_BIN: nothing to interoperate with");
        return;
    }
    let cluster = cluster();
    assert!(cluster.real, "images aren't files on the embedded cluster");
    let config = cluster.ask(cluster.api::<k8s_openapi::api::core::v1::ConfigMap>("apps").get("nginx")).unwrap().data;
    cluster.apply_all(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "nginx", "namespace": NAMESPACE }, "data": config }),
    ]);
    for proxy in [OURS, THEIRS] {
        cluster.apply_all(&server(proxy));
        cluster.apply_all(&client(proxy));
    }
    for server in ["ours-server", "theirs-server"] {
        cluster.wait_for_deployment(NAMESPACE, server);
        for client in ["ours-client", "theirs-client"] {
            carries_everything(client, server);
        }
    }
}

fn carries_everything(client: &'static str, server: &str) {
    let cluster = cluster();
    let shell = Shell::of(cluster, NAMESPACE, client);
    let pair = format!("{client} > {server}");
    let http = |port: u16, more: &str| shell.run(&format!("curl -s -m 10 {more} http://{server}:{port}"));
    for _ in 0..20 {
        assert_eq!(http(8080, ""), "nginx 8080 GET HTTP/1.1", "{pair}");
        assert_eq!(http(8083, "--http2-prior-knowledge"), "nginx 8083 GET HTTP/2.0", "{pair}");
    }
    // An empty message, and what the server says at the end.
    let grpc = format!(
        r"printf '\0\0\0\0\0' | curl -s -v -m 10 --http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' \
          --data-binary @- -o /tmp/answer http://{server}:8090/emojivoto.v1.EmojiService/ListAll 2>&1 | grep -i grpc-status"
    );
    for _ in 0..5 {
        assert_eq!(shell.run(&grpc), "< grpc-status: 0", "{pair}");
    }
    let said = shell.run(&format!("{{ sleep 0.5; echo EHLO; }} | nc -q 1 -w 5 {server} 2525"));
    assert_eq!(said.lines().collect::<Vec<_>>(), ["220 ready", "EHLO"], "{pair}");

    let id = |account: &str| format!("{account}.{NAMESPACE}.serviceaccount.identity.linkerd.cluster.local");
    let (client_id, server_id) = (id(client), id(server));
    let sent = cluster.metrics(NAMESPACE, &format!("po/{client}"));
    let received = cluster.metrics(NAMESPACE, &format!("deploy/{server}"));
    for (port, requests) in [("8080", 20.0), ("8083", 20.0), ("8090", 5.0), ("2525", 0.0)] {
        let out = [("direction", "outbound"), ("target_port", port), ("tls", "true"), ("server_id", server_id.as_str())];
        let opened = sent.sum("tcp_open_total", &[&out[..], &[("peer", "dst")]].concat());
        assert!(opened > 0.0, "{pair}:\n{}", sent.family("tcp_open_total"));
        assert!(sent.sum("request_total", &out) >= requests, "{pair}:\n{}", sent.family("request_total"));
        let inward = [("direction", "inbound"), ("target_port", port), ("tls", "true"), ("client_id", client_id.as_str())];
        assert!(received.sum("request_total", &inward) >= requests, "{pair}:\n{}", received.family("request_total"));
        println!("{pair}: port {port}: {opened} connections, {} requests", sent.sum("request_total", &out));
    }
}
