//! Where a connection may lead: to itself, to the outside, nowhere.

use crate::{clients, cluster::cluster, outside};

#[test]
fn s32_host_names_are_in_metrics_only_where_asked_for() {
    cluster().wait_for_deployment("apps", "web");
    let clients = clients();
    for (client, hostname, other) in [(clients.friend, "", "web.apps"), (clients.hosts, "web.apps", "")] {
        assert_eq!(client.status("http://web.apps"), "200");
        let metrics = cluster().metrics("clients", &format!("po/{}", client.pod));
        let name = "outbound_http_route_request_statuses_total";
        let count = |hostname| metrics.sum(name, &[("parent_name", "web"), ("hostname", hostname)]);
        assert!(count(hostname) > 0.0 && count(other) == 0.0, "{}:\n{}", client.pod, metrics.family(name));
    }
}

#[test]
fn s34_the_outbound_port_relays_nothing_from_outside() {
    cluster().wait_for_deployment("apps", "web");
    let proxy = cluster().pod_address("clients", "friend");
    let web = "web.apps.svc.cluster.local:80";
    let plain = clients().plain;
    plain.wait_for_status("http://web.apps", "200");
    for header in ["", "-H 'l5d-dst-override: web.apps.svc.cluster.local:80'"] {
        let answer = plain.run(&format!("curl -s -m 10 -w '%{{http_code}}' -H 'Host: {web}' {header} http://{proxy}:4140"));
        assert!(!answer.contains("nginx") && !answer.contains("200"), "{answer}");
    }
}

#[test]
fn s35_a_server_that_listens_on_localhost_alone_is_not_reached_through_the_mesh() {
    cluster().wait_for_deployment("apps", "web");
    let friend = clients().friend;
    // Its own pod reaches it.
    assert_eq!(friend.run("curl -s -m 10 http://127.0.0.1:8035"), "nginx 8035 GET HTTP/1.1");
    for _ in 0..3 {
        let status = friend.status("http://local.apps");
        assert!(status.starts_with('5'), "{status}");
    }
    let metrics = cluster().metrics("apps", "deploy/web");
    let answered = metrics.sum("response_total", &[("direction", "inbound"), ("target_port", "8035"), ("status_code", "200")]);
    let failed = metrics.sum("inbound_http_errors_total", &[("target_port", "8035")]);
    assert!(answered == 0.0 && failed >= 3.0, "{}", metrics.family("inbound_http_errors_total"));
}

#[test]
fn s36_a_pod_reaches_itself_by_its_address() {
    let friend = clients().friend;
    let own = cluster().pod_address("clients", "friend");
    assert_eq!(friend.run(&format!("curl -s -m 10 http://{own}:8080")), "nginx 8080 GET HTTP/1.1");
}

#[test]
fn s37_a_pod_reaches_itself_by_the_name_of_its_service() {
    let friend = clients().friend;
    assert_eq!(friend.run("curl -s -m 10 http://self"), "nginx 8080 GET HTTP/1.1");
    let metrics = cluster().metrics("clients", "po/friend");
    let itself = [("authority", "self.clients.svc.cluster.local:80"), ("no_tls_reason", "loopback")];
    assert!(metrics.sum("tcp_open_total", &itself) > 0.0, "{}", metrics.family("tcp_open_total"));
}

#[test]
fn s38_what_lies_outside_is_reached_by_http_and_https() {
    let _outside = outside::Outside::start();
    for client in [clients().friend, clients().plain] {
        for scheme in ["http", "https"] {
            for host in [outside::ADDRESS, outside::TWO_LABELS, outside::THREE_LABELS] {
                for (method, more) in [("GET", ""), ("POST", "--data hello")] {
                    let resolve = format!("--resolve {host}:80:{0} --resolve {host}:443:{0}", outside::ADDRESS);
                    let answer = client.run(&format!("curl -sk -m 10 {resolve} {more} {scheme}://{host}/"));
                    assert_eq!(answer, format!("outside {method} {scheme} {host}"));
                }
            }
        }
    }
}
