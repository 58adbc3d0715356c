//! Who may talk to whom: each rule with somebody it lets in and somebody it refuses.

use crate::{Clients, clients, cluster::cluster};
use serde_json::{Value, json};

/// Asserts who is let in at a port of `web`.
fn lets_in(scenario: u16, friend: bool, stranger: bool, plain: bool) {
    cluster().wait_for_deployment("apps", "web");
    let Clients { friend: a, stranger: b, plain: c, .. } = clients();
    let url = format!("http://guarded.apps:{}", 9000 + scenario);
    for (client, is_let_in) in [(a, friend), (b, stranger), (c, plain)] {
        client.wait_for_status(&url, if is_let_in { "200" } else { "403" });
    }
}

/// Networks of one address each, of clients' pods.
fn networks(pods: &[&str]) -> Value {
    pods.iter().map(|pod| json!({ "cidr": format!("{}/32", cluster().pod_address("clients", pod)) })).collect()
}

fn network_authentication(name: &str, pods: &[&str]) {
    cluster().apply_all(&[json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "NetworkAuthentication",
        "metadata": { "name": name, "namespace": "apps" },
        "spec": { "networks": networks(pods) },
    })]);
}

fn server_authorization(name: &str, server: &str, client: &Value) {
    cluster().apply_all(&[json!({
        "apiVersion": "policy.linkerd.io/v1beta1", "kind": "ServerAuthorization",
        "metadata": { "name": name, "namespace": "apps" },
        "spec": { "server": { "name": server }, "client": client },
    })]);
}

#[test]
fn s223_mesh_tls_lets_the_named_in_and_nobody_else() {
    lets_in(223, true, false, false);
}

#[test]
fn s225_a_policy_for_a_namespace_is_for_all_its_servers() {
    cluster().wait_for_deployment("audited", "web");
    let clients = clients();
    for (client, status) in [(clients.friend, "200"), (clients.stranger, "403"), (clients.plain, "403")] {
        client.wait_for_status("http://web.audited:9225", status);
    }
}

#[test]
fn s226_mesh_tls_by_namespace() {
    lets_in(226, true, false, false);
}

#[test]
fn s227_networks_alone_authenticate() {
    network_authentication("friend", &["friend"]);
    lets_in(227, true, false, false);
}

#[test]
fn s228_both_authentications_are_required() {
    network_authentication("friend-and-plain", &["friend", "plain"]);
    lets_in(228, true, false, false);
    // The right name from elsewhere.
    clients().hosts.wait_for_status("http://guarded.apps:9228", "403");
}

#[test]
fn s229_either_of_two_policies_is_enough() {
    network_authentication("plain", &["plain"]);
    lets_in(229, true, false, true);
}

#[test]
fn s230_a_policy_without_authentications_lets_everybody_in() {
    lets_in(230, true, true, true);
}

#[test]
fn s231_server_authorization_by_mesh_tls() {
    lets_in(231, true, false, false);
}

#[test]
fn s232_server_authorization_by_network() {
    server_authorization("s232", "s232", &json!({ "unauthenticated": true, "networks": networks(&["friend"]) }));
    lets_in(232, true, false, false);
}

#[test]
fn s233_server_authorization_by_both() {
    let accounts = json!([{ "name": "friend", "namespace": "clients" }]);
    let client = json!({ "meshTLS": { "serviceAccounts": accounts }, "networks": networks(&["friend", "plain"]) });
    server_authorization("s233", "s233", &client);
    lets_in(233, true, false, false);
    clients().hosts.wait_for_status("http://guarded.apps:9233", "403");
}

#[test]
fn s234_either_of_two_server_authorizations_is_enough() {
    server_authorization("s234-plain", "s234", &json!({ "unauthenticated": true, "networks": networks(&["plain"]) }));
    lets_in(234, true, false, true);
}

/// Allowed, logged and counted as audit.
fn is_audited(namespace: &str, port: &str) {
    let pods = cluster().pods(namespace, "web");
    let name = pods[0].metadata.name.clone().unwrap();
    let logs = cluster().logs(namespace, &name, "linkerd-proxy");
    let allowed = logs.lines().filter(|line| line.contains("Request allowed") && line.contains("audit"));
    assert!(allowed.count() > 0, "nothing of an audit in:\n{logs}");
    let metrics = cluster().metrics(namespace, "deploy/web");
    let counted = metrics.sum("inbound_http_authz_allow_total", &[("authz_name", "audit"), ("target_port", port)]);
    assert!(counted >= 3.0, "{}", metrics.family("inbound_http_authz_allow_total"));
}

#[test]
fn s235_a_server_that_audits_lets_in_and_tells() {
    lets_in(235, true, true, true);
    is_audited("apps", "9235");
}

#[test]
fn s236_a_namespace_that_audits_lets_in_and_tells() {
    cluster().wait_for_deployment("audited", "web");
    let clients = clients();
    for client in [clients.friend, clients.stranger, clients.plain] {
        client.wait_for_status("http://web.audited", "200");
    }
    is_audited("audited", "8080");
}
