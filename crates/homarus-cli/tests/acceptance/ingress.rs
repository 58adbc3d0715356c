//! A client in ingress mode: it says in a header whom it means. In front of an application, with nginx and Envoy, it is chapter 5
//! of `e2e/book`.

use crate::{
    clients,
    cluster::{Shell, cluster},
};
use serde_json::json;

const OVERRIDE: &str = "l5d-dst-override";

/// The meshed client `ingress`, made once, though scenarios run at the same time.
fn client() -> Shell {
    cluster().apply_all(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "ingress", "namespace": "clients", "annotations": { "linkerd.io/inject": "ingress" } },
        "spec": { "serviceAccountName": "friend", "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "shell",
            "image": "localhost/test-programs:local",
            "command": ["socat", "TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr", "EXEC:sh"],
        }] },
    })]);
    Shell::of(cluster(), "clients", "ingress")
}

#[test]
fn in_ingress_mode_a_request_goes_where_its_header_says() {
    cluster().wait_for_deployment("apps", "web");
    let shell = client();
    let ask = |url: &str, meant: &str, more: &str| {
        let header = if meant.is_empty() { String::new() } else { format!("-H '{OVERRIDE}: {meant}'") };
        shell.run(&format!("curl -s -m 10 -w ' %{{http_code}}' {more} {header} {url}")).replace('\n', " ")
    };
    let (web, http1, http2) = ("nginx 8080 GET HTTP/1.1  200", "nginx 8082 GET HTTP/1.1  200", "nginx 8083 GET HTTP/2.0  200");
    let name = |name: &str| format!("{name}.apps.svc.cluster.local");
    for _ in 0..5 {
        assert_eq!(ask("http://web.apps", &format!("{}:81", name("told")), ""), http1);
        assert_eq!(ask("http://web.apps", &format!("{}:82", name("told")), "--http2-prior-knowledge"), http2);
        // Without a port it is 80; without the header it is as addressed.
        assert_eq!(ask("http://told.apps:81", &name("web"), ""), web);
        assert_eq!(ask("http://told.apps:81", "", ""), http1);
    }
    // On one connection, each request by itself.
    let both = format!("-H '{OVERRIDE}: {}:81' http://web.apps --next -s -m 10 -w ' %{{http_code}}' http://web.apps", name("told"));
    assert_eq!(ask(&both, "", ""), format!("{http1}{web}"));
    for nobody in [name("nobody"), "a b".into()] {
        let answer = ask("http://web.apps", &nobody, "");
        assert!(!answer.contains("nginx"), "{nobody}: {answer}");
    }
    let metrics = cluster().metrics("clients", "po/ingress");
    let meshed = [("direction", "outbound"), ("tls", "true"), ("target_port", "8082")];
    assert!(metrics.sum("request_total", &meshed) >= 5.0, "{}", metrics.family("request_total"));
    // What isn't HTTP has no header.
    let said = shell.run("{ echo EHLO; sleep 1; } | nc -q 1 -w 15 smtp.apps 2525");
    assert_eq!(said.lines().collect::<Vec<_>>(), ["220 ready", "EHLO"]);
}

#[test]
fn s33_in_ingress_mode_the_outbound_port_is_no_open_relay() {
    cluster().wait_for_deployment("apps", "web");
    client();
    let proxy = cluster().pod_address("clients", "ingress");
    let plain = clients().plain;
    plain.wait_for_status("http://web.apps", "200");
    for host in ["web.apps.svc.cluster.local", "ingress"] {
        let header = format!("-H '{OVERRIDE}: web.apps.svc.cluster.local:80'");
        let answer = plain.run(&format!("curl -s -m 10 -w '%{{http_code}}' -H 'Host: {host}' {header} http://{proxy}:4140"));
        assert!(!answer.contains("nginx") && !answer.contains("200"), "{answer}");
    }
}
