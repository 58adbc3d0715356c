//! What a proxy takes a port for, and who tells it: annotations of pods and Services, `appProtocol`, the Service's ports.
//!
//! A client's proxy counts requests of what it reads as HTTP, and only connections of what it doesn't. Rules differ between
//! the name of a Service and the address of a pod: what a Service says isn't meant for its pods' addresses.

use crate::{clients, cluster::cluster};
use homarus_testkit::metrics::Metrics;

/// What a client's proxy made of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Whether requests were read from it.
    http: bool,
    /// Whether it was secured.
    tls: bool,
}

const HTTP: Seen = Seen { http: true, tls: true };
const OPAQUE: Seen = Seen { http: false, tls: true };

/// Asks, and looks at what the client's proxy has counted with these labels, which nothing else has.
fn seen(url: &str, labels: &[(&str, &str)]) -> Seen {
    let clients = clients();
    let answer = clients.friend.run(&format!("curl -s -m 10 {url}"));
    assert!(answer.starts_with("nginx"), "{url}: {answer}");
    let metrics = cluster().metrics("clients", "po/friend");
    let outbound =
        |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&[("direction", "outbound")], labels, more].concat()) > 0.0;
    let opened = outbound("tcp_open_total", &[("peer", "dst")]);
    assert!(opened, "no connection with {labels:?}:\n{}", metrics.family("tcp_open_total"));
    let unsecured = [("peer", "dst"), ("no_tls_reason", "not_provided_by_service_discovery")];
    let tls = outbound("tcp_open_total", &[("peer", "dst"), ("tls", "true")]);
    assert_ne!(tls, outbound("tcp_open_total", &unsecured), "{}", metrics.family("tcp_open_total"));
    Seen { http: outbound("request_total", &[]), tls }
}

/// By the name of a Service of `apps`, with its port.
fn by_name(service: &str, port: u16) -> Seen {
    let authority = format!("{service}.apps.svc.cluster.local:{port}");
    seen(&format!("http://{service}.apps:{port}"), &[("authority", authority.as_str())])
}

/// By the address of the pod of a deployment of `apps`. Nothing else connects to it without a Service's name.
fn by_pod_ip(app: &str, port: u16) -> Seen {
    cluster().wait_for_deployment("apps", app);
    let target = format!("{}:{port}", cluster().address("apps", app));
    let clients = clients();
    let answer = clients.stranger.run(&format!("curl -s -m 10 http://{target}"));
    assert!(answer.starts_with("nginx"), "{target}: {answer}");
    let metrics = cluster().metrics("strangers", "po/stranger");
    let labels = [("direction", "outbound"), ("target_addr", target.as_str())];
    let tls = metrics.sum("tcp_open_total", &[&labels[..], &[("peer", "dst"), ("tls", "true")]].concat());
    Seen { http: metrics.sum("request_total", &labels) > 0.0, tls: tls > 0.0 }
}

/// What the proxies of a deployment of `apps` received on a port: connections at all, and requests.
fn received(app: &str, port: &str) -> (bool, bool) {
    let metrics: Metrics = cluster().metrics("apps", &format!("deploy/{app}"));
    let labels = [("direction", "inbound"), ("target_port", port), ("tls", "true")];
    let opened = metrics.sum("tcp_open_total", &[&labels[..], &[("peer", "src")]].concat());
    (opened > 0.0, metrics.sum("request_total", &labels) > 0.0)
}

#[test]
fn s25_a_port_that_bypasses_the_servers_proxy_is_plain() {
    cluster().wait_for_deployment("apps", "skipping");
    assert_eq!(by_name("skipping", 80), Seen { http: true, tls: false });
    assert_eq!(by_name("skipping", 81), HTTP);
    let (opened, _) = received("skipping", "8080");
    assert!(!opened, "the server's proxy saw what bypasses it");
    assert_eq!(received("skipping", "8081"), (true, true));
}

#[test]
fn s26_opaque_ports_by_service_name() {
    for app in ["opaque-pod", "opaque-service", "unmeshed"] {
        cluster().wait_for_deployment("apps", app);
    }
    // The Service says nothing of its pod's port: the client reads HTTP, the server doesn't.
    assert_eq!(by_name("opaque-pod", 80), HTTP);
    assert_eq!(received("opaque-pod", "8080"), (true, false));
    assert_eq!(by_name("opaque-service", 80), OPAQUE);
    assert_eq!(by_name("unmeshed", 80), Seen { http: false, tls: false });
}

#[test]
fn s27_opaque_ports_by_pod_ip() {
    assert_eq!(by_pod_ip("opaque-pod", 8080), OPAQUE);
    // What a Service is annotated with isn't meant for the address of its pod.
    assert_eq!(by_pod_ip("opaque-service", 8080), HTTP);
    assert_eq!(by_pod_ip("unmeshed", 8080), Seen { http: true, tls: false });
}

#[test]
fn s28_app_protocol_by_service_name() {
    cluster().wait_for_deployment("apps", "web");
    assert_eq!(by_name("told", 80), OPAQUE);
    assert_eq!(by_name("told", 81), HTTP);
}

#[test]
fn s29_app_protocol_is_ignored_by_pod_ip() {
    assert_eq!(by_pod_ip("web", 8081), HTTP);
    assert_eq!(by_pod_ip("web", 8082), HTTP);
}

fn refuses_what_it_does_not_define(service: &str) {
    cluster().wait_for_deployment("apps", "web");
    let friend = clients().friend;
    friend.wait_for_status(&format!("http://{service}.apps"), "200");
    let refused = friend.run(&format!("curl -s -m 10 http://{service}.apps:8080; echo code=$?"));
    // Closed, at once; not timed out (28).
    let code = refused.split_once("code=").map(|(_, code)| code.trim().to_owned()).unwrap();
    assert!(["52", "56", "7"].contains(&code.as_str()), "{refused}");
}

#[test]
fn s30_a_port_the_service_does_not_define_is_refused() {
    refuses_what_it_does_not_define("web");
}

#[test]
fn s31_a_port_the_service_does_not_define_is_refused_with_a_profile_too() {
    refuses_what_it_does_not_define("profiled");
}

#[test]
fn s46_a_server_that_speaks_first_is_heard_at_once() {
    cluster().wait_for_deployment("apps", "web");
    // A tenth of what detection would take; twice, as the first connection also waits for what is to be discovered.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do timeout 1 nc -d smtp.apps 2525 | head -1 | grep . && exit; sleep 0.2; done";
    assert_eq!(clients().friend.run(script), "220 ready");
    // What the client says then comes back.
    let said = clients().friend.run("{ sleep 0.5; echo EHLO; } | nc -q 1 -w 5 smtp.apps 2525");
    assert_eq!(said.lines().collect::<Vec<_>>(), ["220 ready", "EHLO"]);
    let metrics = cluster().metrics("clients", "po/friend");
    let authority = ("authority", "smtp.apps.svc.cluster.local:2525");
    assert!(metrics.sum("tcp_open_total", &[authority, ("tls", "true")]) >= 2.0, "{}", metrics.family("tcp_open_total"));
}

#[test]
fn s250_what_a_service_says_of_its_ports_is_served() {
    cluster().wait_for_deployment("apps", "web");
    let friend = clients().friend;
    let ask = |port: u16, more: &str| friend.run(&format!("curl -s -m 10 {more} http://told.apps:{port}"));
    assert_eq!(ask(80, ""), "nginx 8081 GET HTTP/1.1");
    assert_eq!(ask(81, ""), "nginx 8082 GET HTTP/1.1");
    assert_eq!(ask(82, "--http2-prior-knowledge"), "nginx 8083 GET HTTP/2.0");
    let metrics = cluster().metrics("clients", "po/friend");
    let name = "outbound_tcp_protocol_connections_total";
    for (port, protocol) in [("80", "opaq"), ("81", "http/1"), ("82", "http/2")] {
        let parent = [("parent_name", "told"), ("parent_port", port)];
        let all = metrics.sum(name, &parent);
        let so = metrics.sum(name, &[&parent[..], &[("protocol", protocol)]].concat());
        assert!(so > 0.0 && so == all, "{port}:\n{}", metrics.family(name));
    }
}
