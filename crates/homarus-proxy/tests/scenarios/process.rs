//! The process: its start, its end, its metrics and its admin port.

use crate::{PROXY, mesh, meshed_server};
use homarus_testkit::{
    client::{Http1, block_on, collect, http2, request},
    control::{Allow, Inbound, Protocol},
    ground::{ADMIN, UNMESHED},
    mesh::{CLIENT_ID, Mesh, Plan, SERVER_ID},
    proxy::Proxy,
    servers::{Asked, echo, echo_h2, http1, mirror, respond, serve_h2},
    wait_for,
};
use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

#[test]
fn a_drain_lets_requests_finish() {
    let mut mesh = mesh();
    let port = mesh.serve(|tcp| {
        http1(tcp, |_, out| {
            std::thread::sleep(Duration::from_millis(600));
            out.write_all(&respond("200 OK", &[], b"finished")).is_ok()
        });
    });
    let slow = async |asked: Asked| {
        tokio::time::sleep(Duration::from_millis(600)).await;
        echo_h2(asked).await;
    };
    let grpc = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, slow));
    let web = mesh.service_at("web", port);
    let mut idle = Http1::new(mesh.client().connect(web).unwrap());
    assert_eq!(idle.get("/").status(), 200);
    let mut http = Http1::new(mesh.client().connect(web).unwrap());
    http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n");
    let tcp = mesh.client().connect(grpc).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let (response, _) = client.send_request(request("POST", "/", &[("content-type", "application/grpc")]), true).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        mesh.client_proxy().terminate();
        mesh.server_proxy().terminate();
        let (_, trailers) = collect(response.await.unwrap().into_body()).await.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        // The connection takes no more.
        let refused = match client.ready().await {
            Ok(mut client) => match client.send_request(request("POST", "/", &[]), true) {
                Ok((response, _)) => response.await.is_err(),
                Err(_) => true,
            },
            Err(_) => true,
        };
        assert!(refused, "a connection that was said goodbye to takes no requests");
    });
    let reply = http.response();
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("finished", Some("close")));
    assert_eq!(idle.rest(), b"");
    assert_eq!(mesh.client_proxy().wait_exit().code(), Some(0));
    assert_eq!(mesh.server_proxy().wait_exit().code(), Some(0));
}

#[test]
fn an_invalid_environment_is_named() {
    let output = Command::new(PROXY).env_clear().env("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    for name in ["OUTBOUND_CONNECT_TIMEOUT", "DESTINATION_SVC_ADDR", "IDENTITY_TRUST_ANCHORS"] {
        assert!(text.contains(&format!("LINKERD2_PROXY_{name}")), "{name} is not in {text}");
    }
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let mut mesh = mesh();
    let (status, filter) = mesh.client_proxy().admin("GET", "/proxy-log-level", "");
    assert_eq!(status, 200, "{filter}");
    assert_eq!(mesh.client_proxy().admin("PUT", "/proxy-log-level", "not=a=filter").0, 400);
    assert_eq!(mesh.client_proxy().admin("PUT", "/proxy-log-level", "debug").0, 204);
    let web = mesh.service_at("web", mesh.serve(mirror));
    assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
    wait_for("debug lines", || mesh.client_proxy().log().contains("DEBUG").then_some(()));
    assert_eq!(mesh.client_proxy().admin("GET", "/live", "").0, 200);
    assert_eq!(mesh.client_proxy().admin("POST", "/shutdown", "").0, 404);
}

#[test]
fn metrics_have_the_names_and_labels_that_dashboards_ask_for() {
    let mut mesh = mesh();
    let port = mesh.serve(mirror);
    let web = mesh.service_at("web", port);
    let db = mesh.opaque_service_at("db", mesh.serve(echo));
    assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
    let mut tcp = mesh.client().connect(db).unwrap();
    tcp.write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut tcp, &mut [0]).unwrap();
    drop(tcp);
    let (target, port_text) = (mesh.server().at(port).to_string(), port.to_string());

    let out = mesh.client_proxy().wait_metric("tcp_close_total", &[("direction", "outbound"), ("peer", "dst")], 1.0);
    let parent = [
        ("parent_group", "core"),
        ("parent_kind", "Service"),
        ("parent_namespace", "test"),
        ("parent_name", "web"),
        ("parent_port", "80"),
    ];
    let endpoint = [
        ("direction", "outbound"),
        ("tls", "true"),
        ("server_id", SERVER_ID),
        ("target_addr", &target),
        ("target_ip", "10.77.0.2"),
        ("target_port", &port_text),
        ("authority", "web.test.svc.cluster.local:80"),
        ("dst_service", "web"),
        ("dst_namespace", "test"),
    ];
    let ok = [&endpoint[..], &[("status_code", "200"), ("classification", "success"), ("grpc_status", ""), ("error", "")]].concat();
    let http_route = [("route_kind", "default"), ("route_name", "http")];
    let backend = [("backend_kind", "Service"), ("backend_name", "web"), ("backend_port", "80")];
    let expected: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("request_total", endpoint.into()),
        ("response_total", ok),
        ("response_latency_ms_count", [&endpoint[..], &[("status_code", "200")]].concat()),
        ("tcp_open_total", [&endpoint[..1], &[("peer", "dst"), ("tls", "true"), ("server_id", SERVER_ID)]].concat()),
        ("tcp_open_total", vec![("direction", "outbound"), ("peer", "src")]),
        ("tcp_read_bytes_total", vec![("direction", "outbound"), ("peer", "dst")]),
        ("tcp_write_bytes_total", vec![("direction", "outbound"), ("peer", "dst")]),
        (
            "outbound_http_route_request_statuses_total",
            [&parent[..], &http_route, &[("http_status", "200"), ("error", "")]].concat(),
        ),
        ("outbound_http_route_request_duration_seconds_count", [&parent[..], &http_route].concat()),
        ("outbound_http_route_backend_requests_total", [&parent[..], &http_route, &backend].concat()),
        ("outbound_http_route_backend_response_statuses_total", [&parent[..], &backend, &[("http_status", "200")]].concat()),
        ("outbound_http_balancer_endpoints", [&parent[..], &[("endpoint_state", "ready")]].concat()),
        ("outbound_tcp_route_open_total", vec![("parent_name", "db"), ("route_name", "opaque")]),
        ("outbound_tcp_protocol_connections_total", vec![("protocol", "opaq"), ("parent_name", "db")]),
        ("control_response_total", vec![("addr", "127.0.0.1:8090")]),
        ("process_resident_memory_bytes", vec![]),
        ("process_start_time_seconds", vec![]),
        ("proxy_build_info", vec![]),
        ("control_identity_cert_expiration_timestamp_seconds", vec![]),
    ];
    check(&out, &expected);

    let inbound = mesh.server_proxy().metrics();
    let srv = [("srv_group", ""), ("srv_kind", "default"), ("srv_name", "all-unauthenticated"), ("srv_port", &port_text)];
    let client = [("direction", "inbound"), ("tls", "true"), ("client_id", CLIENT_ID), ("target_addr", &target)];
    let rule = [
        ("route_group", ""),
        ("route_kind", "default"),
        ("route_name", "default"),
        ("authz_group", ""),
        ("authz_kind", "default"),
        ("authz_name", "all-unauthenticated"),
    ];
    let expected: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("request_total", [&client[..], &srv, &rule].concat()),
        ("response_total", [&client[..], &srv, &rule, &[("status_code", "200"), ("classification", "success")]].concat()),
        ("inbound_http_authz_allow_total", [&client[1..], &srv, &rule].concat()),
        ("inbound_tcp_authz_allow_total", vec![("authz_name", "all-unauthenticated"), ("client_id", CLIENT_ID)]),
        ("tcp_open_total", vec![("direction", "inbound"), ("peer", "src"), ("tls", "true"), ("client_id", CLIENT_ID)]),
        ("tcp_open_total", vec![("direction", "inbound"), ("peer", "dst"), ("tls", "no_identity"), ("no_tls_reason", "loopback")]),
        ("inbound_http_requests_total", vec![("parent_kind", "default"), ("route_name", "default")]),
        ("inbound_http_statuses_total", vec![("route_name", "default"), ("status", "200")]),
    ];
    check(&inbound, &expected);
}

#[test]
fn metrics_tell_of_frames_queues_detection_and_stacks() {
    let client_env = vec![("OUTBOUND_METRICS_HOSTNAME_LABELS", "true".to_owned())];
    let mut mesh = Plan { client_env, ..Plan::both(PROXY) }.start();
    let (port, outside) = (mesh.serve(mirror), mesh.serve(mirror));
    let (web, db) = (mesh.service_at("web", port), mesh.opaque_service_at("db", mesh.serve(echo)));
    let mut http = Http1::new(mesh.client().connect(web).unwrap());
    let post = "POST / HTTP/1.1\r\nhost: web.test\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(http.write(post).response().status(), 200);
    let unmeshed = mesh.client().connect_unmeshed(mesh.server().at(outside)).unwrap();
    assert_eq!(Http1::new(unmeshed).get("/").status(), 200);
    let mut tcp = mesh.client().connect(db).unwrap();
    tcp.write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut tcp, &mut [0]).unwrap();
    drop(tcp);

    let (of_web, of_db, control) = (("parent_name", "web"), ("parent_name", "db"), ("addr", "127.0.0.1:8090"));
    let (text, logical) = (db.to_string(), web.port().to_string());
    let out = mesh.client_proxy().wait_metric("outbound_tcp_route_close_total", &[of_db, ("error", "")], 1.0);
    let stack = |protocol, name| vec![("direction", "outbound"), ("protocol", protocol), ("name", name)];
    let expected: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("outbound_tcp_protocol_connections_total", vec![("protocol", "detect"), of_web, ("parent_port", &logical)]),
        ("outbound_tcp_protocol_connections_total", vec![("protocol", "opaq"), of_db]),
        ("outbound_tcp_detect_http_results_total", vec![("result", "http/1"), of_web]),
        ("outbound_tcp_detect_http_duration_seconds_count", vec![of_web]),
        ("outbound_http_route_request_frame_size_bytes_count", vec![of_web, ("hostname", "web.test")]),
        ("outbound_http_route_backend_response_frame_size_bytes_count", vec![of_web, ("backend_name", "web")]),
        ("outbound_http_balancer_p2c_endpoints", vec![of_web]),
        ("outbound_http_balancer_p2c_updates_total", vec![of_web, ("op", "Reset")]),
        ("outbound_http_balancer_queue_requests_total", vec![of_web]),
        ("outbound_http_balancer_queue_latency_seconds_count", vec![of_web, ("backend_name", "web")]),
        ("outbound_http_balancer_queue_gate_timeout_seconds", vec![of_web]),
        ("outbound_tcp_balancer_queue_latency_seconds_count", vec![of_db, ("logical", &text)]),
        ("outbound_tcp_transfer_cost_bytes_total", vec![("op", "Send"), ("zone_locality", "Unknown")]),
        ("outbound_tcp_transfer_cost_bytes_total", vec![("op", "Recv"), ("zone_locality", "Unknown")]),
        ("stack_create_total", stack("http", "balance")),
        ("stack_poll_total", [&stack("http", "endpoint")[..], &[("ready", "true")]].concat()),
        ("stack_poll_total", [&stack("opaq", "balance")[..], &[("ready", "true")]].concat()),
        ("control_request_total", vec![control]),
        ("control_response_latency_ms_count", vec![control]),
        ("control_policy_balancer_endpoints", vec![control, ("endpoint_state", "ready")]),
        ("control_policy_balancer_p2c_endpoints", vec![control]),
        ("control_policy_balancer_p2c_updates_total", vec![control, ("op", "Reset")]),
        ("control_policy_balancer_queue_latency_seconds_count", vec![control]),
        ("control_policy_balancer_queue_gate_timeout_seconds", vec![control]),
        ("control_destination_balancer_queue_requests_total", vec![control]),
        ("control_identity_balancer_queue_requests_total", vec![control]),
    ];
    check(&out, &expected);

    let (meshed, unmeshed) = (("parent_port", port.to_string()), ("srv_port", outside.to_string()));
    let (meshed, unmeshed) = ((meshed.0, meshed.1.as_str()), (unmeshed.0, unmeshed.1.as_str()));
    let expected: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("inbound_http_request_frame_size_bytes_count", vec![meshed, ("route_name", "default")]),
        ("inbound_http_response_frame_size_bytes_count", vec![meshed, ("route_name", "default")]),
        ("inbound_http_request_duration_seconds_count", vec![meshed]),
        ("inbound_http_response_duration_seconds_count", vec![meshed]),
        (
            "inbound_tcp_transport_header_connections_total",
            vec![("session_protocol", "http/2"), ("target_port", meshed.1), ("target_name", ""), ("client_id", CLIENT_ID)],
        ),
        ("inbound_tcp_transport_header_connections_total", vec![("session_protocol", ""), ("client_id", CLIENT_ID)]),
        ("inbound_tcp_detect_http_results_total", vec![("result", "http/1"), ("srv_kind", "default"), unmeshed]),
        ("inbound_tcp_detect_http_duration_seconds_count", vec![unmeshed]),
        ("stack_create_total", vec![("direction", "inbound"), ("protocol", "http"), ("name", "logical")]),
        ("homarus_tls_handshakes_total", vec![("direction", "inbound"), ("kind", "full")]),
    ];
    check(&mesh.server_proxy().metrics(), &expected);
}

/// What §7 of proxy-traffic lists and these parts produce, as a scrape declares it.
const BOTH: &[&str] = &[
    "request_total counter",
    "response_latency_ms histogram",
    "response_total counter",
    "control_request_total counter",
    "control_response_latency_ms histogram",
    "control_response_total counter",
    "tcp_open_total counter",
    "tcp_open_connections gauge",
    "tcp_read_bytes_total counter",
    "tcp_write_bytes_total counter",
    "tcp_close_total counter",
    "stack_create_total counter",
    "stack_drop_total counter",
    "stack_poll_total counter",
    "stack_poll_total_ms counter",
    "proxy_build_info gauge",
    "rustls_info gauge",
    "process_start_time_seconds gauge",
    "process_clock_time_seconds gauge",
    "process_virtual_memory_bytes gauge",
    "process_resident_memory_bytes gauge",
    "process_open_fds gauge",
    "process_max_fds gauge",
    "process_threads gauge",
    "process_uptime_seconds counter",
    "process_cpu_seconds counter",
    "process_network_receive_bytes counter",
    "process_network_transmit_bytes counter",
    "tokio_rt_workers gauge",
    "tokio_rt_injection_queue_depth gauge",
    "tokio_rt_park counter",
    "tokio_rt_busy_seconds counter",
    "control_identity_cert_expiration_timestamp_seconds gauge",
    "control_identity_cert_refresh_timestamp_seconds gauge",
    "control_identity_cert_refreshes counter",
];
const INBOUND: &[&str] = &[
    "inbound_http_authz_allow_total counter",
    "inbound_http_authz_deny_total counter",
    "inbound_http_errors_total counter",
    "inbound_tcp_authz_allow_total counter",
    "inbound_tcp_authz_deny_total counter",
    "inbound_tcp_errors_total counter",
    "inbound_tcp_detect_http_duration_seconds histogram",
    "inbound_tcp_detect_http_results counter",
    "inbound_tcp_transport_header_connections counter",
];
const OUTBOUND: &[&str] = &[
    "outbound_http_errors_total counter",
    "outbound_tcp_errors_total counter",
    "outbound_tcp_protocol_connections counter",
    "outbound_tcp_detect_http_duration_seconds histogram",
    "outbound_tcp_detect_http_results counter",
    "outbound_http_route_request_duration_seconds histogram",
    "outbound_http_route_request_statuses counter",
    "outbound_http_route_request_frame_size_bytes histogram",
    "outbound_http_route_backend_requests counter",
    "outbound_http_route_backend_response_duration_seconds histogram",
    "outbound_http_route_backend_response_statuses counter",
    "outbound_http_route_backend_response_frame_size_bytes histogram",
    "outbound_tcp_route_open counter",
    "outbound_tcp_route_close counter",
    "outbound_tcp_transfer_cost_bytes counter",
];
const OF_PROTOCOL: &[&str] = &[
    "requests counter",
    "request_duration_seconds histogram",
    "response_duration_seconds histogram",
    "request_frame_size_bytes histogram",
    "response_frame_size_bytes histogram",
    "statuses counter",
];
const OF_BALANCER: &[&str] = &[
    "endpoints gauge",
    "p2c_endpoints gauge",
    "p2c_updates counter",
    "queue_length gauge",
    "queue_requests counter",
    "queue_latency_seconds histogram",
    "queue_gate_open counter",
    "queue_gate_shut counter",
    "queue_gate_open_time_seconds gauge",
    "queue_gate_shut_time_seconds gauge",
    "queue_gate_timeout_seconds gauge",
];

#[test]
fn every_family_of_the_list_is_declared() {
    let mesh = mesh();
    let free = mesh.server().listen(0).local_addr().unwrap().port();
    let grpc = serve_h2(mesh.server().listen(0), None, echo_h2);
    let grpc_only = Inbound { protocol: Protocol::Grpc, allow: Allow::Unauthenticated };
    mesh.control.change(|state| _ = state.inbound.insert(grpc, grpc_only));
    let port = mesh.serve(mirror);
    let (web, db) = (mesh.service_at("web", port), mesh.opaque_service_at("db", mesh.serve(echo)));
    let (none, gone) = (mesh.service_at("none", free), mesh.opaque_service_at("gone", free));
    let ask = |to, status| assert_eq!(Http1::new(mesh.client().connect(to).unwrap()).get("/").status(), status);
    let say = |to| {
        let mut tcp = mesh.client().connect(to).unwrap();
        let _ = tcp.write_all(b"x");
        let _ = std::io::Read::read(&mut tcp, &mut [0]);
    };
    ask(web, 200);
    say(db);
    ask(none, 502);
    say(gone);
    // Refused by the machine itself, without a proxy there.
    ask(mesh.service_at("nobody", *UNMESHED.end()), 502);
    say(mesh.opaque_service_at("nobody-opaque", *UNMESHED.end()));
    let unmeshed = mesh.client().connect_unmeshed(mesh.server().at(port)).unwrap();
    assert_eq!(Http1::new(unmeshed).get("/").status(), 200);
    let tcp = mesh.client().connect(mesh.service_at("grpc", grpc)).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let (response, _) = client.send_request(request("POST", "/a.B/C", &[("content-type", "application/grpc")]), true).unwrap();
        collect(response.await.unwrap().into_body()).await.unwrap();
    });
    mesh.control.allow(Allow::Deny);
    wait_for("the denial", || (Http1::new(mesh.client().connect(web).unwrap()).get("/").status() == 403).then_some(()));
    let denied = |proxy: &Proxy| proxy.metrics().sum("inbound_tcp_authz_deny_total", &[]) > 0.0;
    wait_for("connections are denied too", || {
        say(db);
        mesh.proxies().any(denied).then_some(())
    });
    mesh.control.allow(Allow::Unauthenticated);

    let balancers = ["outbound_http_balancer", "outbound_tcp_balancer"];
    let controls = ["control_identity_balancer", "control_destination_balancer", "control_policy_balancer"];
    let set = |prefixes: &[&str], families: &[&str]| -> Vec<String> {
        prefixes.iter().flat_map(|prefix| families.iter().map(move |family| format!("{prefix}_{family}"))).collect()
    };
    let all = |lists: &[&[&str]]| -> Vec<String> { lists.concat().iter().map(ToString::to_string).collect() };
    let out = [all(&[OUTBOUND, BOTH]), set(&balancers, OF_BALANCER), set(&controls, OF_BALANCER)].concat();
    let inbound = [all(&[INBOUND, BOTH]), set(&["inbound_http", "inbound_grpc"], OF_PROTOCOL)].concat();
    for (proxy, declared) in mesh.proxies().zip([out, inbound]) {
        let text = proxy.metrics().0;
        let missing: Vec<_> = declared.iter().filter(|family| !text.contains(&format!("\n# TYPE {family}\n"))).collect();
        assert!(missing.is_empty(), "{missing:?} is missing in\n{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}

fn check(metrics: &homarus_testkit::metrics::Metrics, expected: &[(&str, Vec<(&str, &str)>)]) {
    let missing: Vec<_> = expected.iter().filter(|(name, labels)| metrics.sum(name, labels) <= 0.0).collect();
    let shown: Vec<_> =
        missing.iter().map(|(name, labels)| format!("{name}{labels:?}; there is\n{}", metrics.family(name))).collect();
    assert!(shown.is_empty(), "missing:\n{}", shown.join("\n\n"));
}

#[test]
fn probes_do_not_wait_for_policy() {
    // Nobody listens there, so no policy ever comes.
    let silent = ("POLICY_SVC_ADDR", "127.0.0.1:9".to_owned());
    let mut mesh = Plan { client: None, server_env: vec![silent.clone()], ..Plan::both(PROXY) }.start();
    let fallback = "the default applies until it does";
    let proxy = mesh.server_proxy();
    let begun = Instant::now();
    assert_eq!(proxy.admin("GET", "/live", "").0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!proxy.log().contains(fallback), "neither being ready nor being alive has waited for it");
    assert_eq!(proxy.admin("GET", "/metrics", "").0, 200);
    wait_for("all else waits", || proxy.log().contains(fallback).then_some(()));
    drop(mesh);

    // What the default forbids is forbidden once it applies.
    let meshed_only = ("INBOUND_DEFAULT_POLICY", "all-authenticated".to_owned());
    let mut mesh = Plan { client: None, server_env: vec![silent, meshed_only], ..Plan::both(PROXY) }.start();
    assert_eq!((probe(&mesh), mesh.server_proxy().log().contains(fallback)), (200, false));
    wait_for("the default denies the probe", || (probe(&mesh) == 403).then_some(()));
    wait_for("which is told", || mesh.server_proxy().log().contains(fallback).then_some(()));
    drop(mesh);

    // And what a known policy forbids.
    let mesh = meshed_server();
    assert_eq!(probe(&mesh), 200);
    mesh.control.allow(Allow::Deny);
    wait_for("the probe is denied", || (probe(&mesh) == 403).then_some(()));
}

/// A probe from outside.
fn probe(mesh: &Mesh) -> u16 {
    let tcp = mesh.client().connect_unmeshed(mesh.server().at(ADMIN)).unwrap();
    Http1::new(tcp).get("/live").status()
}
