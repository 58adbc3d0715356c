//! Inbound policies, changed while traffic flows.

use crate::{mesh, meshed_server};
use bytes::Bytes;
use homarus_testkit::{
    client::{Http1, block_on, http2, request},
    control::{Allow, Inbound, Protocol, Service},
    mesh::{CLIENT_ID, Mesh},
    servers::{echo, echo_h2, mirror, read_all, serve_h2},
    wait_for,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

fn status(mesh: &Mesh, to: SocketAddr, outside: bool) -> u16 {
    let tcp = if outside { mesh.client().connect_unmeshed(to) } else { mesh.client().connect(to) };
    Http1::new(tcp.unwrap()).get("/").status()
}

#[test]
fn clients_are_told_apart() {
    let mut mesh = mesh();
    let port = mesh.serve(mirror);
    let (service, direct) = (mesh.service_at("web", port), mesh.server().at(port));
    for (allow, meshed, unmeshed) in [
        (Allow::Unauthenticated, 200, 200),
        (Allow::Authenticated, 200, 403),
        (Allow::Cluster, 200, 200),
        (Allow::Elsewhere, 403, 403),
        (Allow::Audit, 200, 200),
        (Allow::Deny, 403, 403),
    ] {
        mesh.control.allow(allow);
        let both = || (status(&mesh, service, false), status(&mesh, direct, true));
        // Twice: the change may come between one client's request and the other's.
        let settled = || both() == (meshed, unmeshed) && both() == (meshed, unmeshed);
        wait_for(&format!("{allow:?}"), || settled().then_some(()));
    }
    let metrics = mesh.server_proxy().metrics();
    let here =
        [("srv_kind", "default"), ("srv_name", "deny"), ("route_name", "default"), ("tls", "true"), ("client_id", CLIENT_ID)];
    assert!(metrics.sum("inbound_http_authz_deny_total", &here) >= 1.0, "{}", metrics.family("inbound_http_authz_deny_total"));
    let here = [("authz_kind", "default"), ("authz_name", "all-authenticated"), ("client_id", CLIENT_ID)];
    assert!(metrics.sum("inbound_http_authz_allow_total", &here) >= 1.0);
    assert!(mesh.server_proxy().log().contains("Request allowed"), "audited requests are logged");
    assert!(mesh.server_proxy().log().contains("Request denied"));
}

#[test]
fn denials_explain_themselves_to_the_mesh_alone() {
    let mesh = meshed_server();
    let port = mesh.serve(mirror);
    mesh.control.allow(Allow::Deny);
    let direct = mesh.server().at(port);
    wait_for("the denial", || (status(&mesh, direct, true) == 403).then_some(()));
    let mut http = Http1::new(mesh.client().connect(direct).unwrap());
    let reply = http.get("/");
    assert_eq!((reply.status(), reply.header("content-length")), (403, Some("0")));
    assert!(reply.0.headers.iter().all(|(name, _)| !name.starts_with("l5d-")), "{reply:?}");
    // A denial doesn't end the connection.
    assert_eq!(http.get("/").status(), 403);
}

#[test]
fn grpc_is_refused_in_its_own_words() {
    let mesh = mesh();
    let to = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, echo_h2));
    mesh.control.allow(Allow::Deny);
    wait_for("the denial", || (status(&mesh, to, false) == 403).then_some(()));
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let head = request("POST", "/a.B/C", &[("content-type", "application/grpc")]);
        let (response, _) = client.send_request(head, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"7".parse().unwrap()));
        assert_eq!(response.headers()["content-type"], "application/grpc");
    });
}

#[test]
fn open_connections_obey_new_policies() {
    let mut mesh = mesh();
    let tcp_port = mesh.serve(echo);
    let opaque = mesh.opaque_service_at("db", tcp_port);
    let web = mesh.service_at("web", mesh.serve(mirror));
    let mut http = Http1::new(mesh.client().connect(web).unwrap());
    assert_eq!(http.get("/").status(), 200);
    let mut tcp = mesh.client().connect(opaque).unwrap();
    tcp.write_all(b"open").unwrap();
    tcp.read_exact(&mut [0; 4]).unwrap();

    mesh.control.allow(Allow::Authenticated);
    std::thread::sleep(Duration::from_millis(200));
    tcp.write_all(b"open").unwrap();
    tcp.read_exact(&mut [0; 4]).unwrap();

    mesh.control.allow(Allow::Deny);
    assert_eq!(read_all(&mut tcp), b"", "the connection is cut");
    wait_for("requests on the open connection are denied", || (http.get("/").status() == 403).then_some(()));
    let mut again = mesh.client().connect(opaque).unwrap();
    let _ = again.write_all(b"open");
    assert_eq!(read_all(&mut again), b"");
    let here = [("target_port", tcp_port.to_string())];
    let here: Vec<(&str, &str)> = here.iter().map(|(k, v)| (*k, v.as_str())).collect();
    mesh.server_proxy().wait_metric("inbound_tcp_authz_terminate_total", &here, 1.0);
    mesh.server_proxy().wait_metric("inbound_tcp_authz_deny_total", &here, 1.0);

    mesh.control.allow(Allow::Unauthenticated);
    wait_for("requests are allowed again", || (http.get("/").status() == 200).then_some(()));
}

#[test]
fn an_unreadable_outbound_policy_is_told_to_requests() {
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let grpc = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, echo_h2));
    let db = mesh.opaque_service_at("db", mesh.serve(echo));
    let mut open = Http1::new(mesh.client().connect(web).unwrap());
    assert_eq!(open.get("/").status(), 200);
    ["web", "grpc", "db"].into_iter().for_each(|name| mesh.control.unreadable(name, true));

    let mut http = wait_for("a policy that can't be read denies", || {
        let mut http = Http1::new(mesh.client().connect(web).unwrap());
        (http.get("/").status() == 500).then(|| Http1::new(mesh.client().connect(web).unwrap()))
    });
    let reply = http.get("/");
    assert_eq!((reply.status(), reply.header("content-length"), reply.header("connection")), (500, Some("0"), Some("close")));
    let told = reply.header("l5d-proxy-error").unwrap();
    for words in ["unreadable policy", &web.to_string(), "look at the Service"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert_eq!(open.get("/").status(), 500, "on connections that were open too");
    let tcp = mesh.client().connect(grpc).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let head = request("POST", "/a.B/C", &[("content-type", "application/grpc")]);
        let (response, _) = client.send_request(head, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"13".parse().unwrap()));
        assert!(response.headers()["grpc-message"].to_str().unwrap().contains("unreadable policy"));
    });
    // What isn't HTTP is closed without a byte; an opaque port at once, as nothing has to be found out.
    for (to, words) in [(web, &b"\0\x01 not a request\r\n\r\n"[..]), (db, b"")] {
        let begun = Instant::now();
        let mut tcp = mesh.client().connect(to).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        tcp.write_all(words).unwrap();
        match tcp.read(&mut [0; 1]) {
            Ok(n) => assert_eq!((n, to), (0, to)),
            Err(error) => assert_eq!((error.kind(), to), (ErrorKind::ConnectionReset, to)),
        }
        assert!(to != db || begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert!(mesh.client_proxy().metrics().sum("outbound_http_errors_total", &[("error", "unexpected")]) >= 3.0);

    ["web", "grpc", "db"].into_iter().for_each(|name| mesh.control.unreadable(name, false));
    wait_for("one that can be read allows", || (status(&mesh, web, false) == 200).then_some(()));
}

#[test]
fn protocols_of_policies_are_obeyed() {
    let mesh = mesh();
    let (echo_port, web_port) = (mesh.serve(echo), mesh.serve(mirror));
    let h2_port = serve_h2(mesh.server().listen(0), None, echo_h2);
    mesh.control.change(|state| {
        for (port, protocol) in [(echo_port, Protocol::Opaque), (web_port, Protocol::Http1), (h2_port, Protocol::Http2)] {
            state.inbound.insert(port, Inbound { protocol, allow: Allow::Unauthenticated });
        }
    });
    // From outside, where nothing but the policy says what is spoken.
    let mut tcp = mesh.client().connect_unmeshed(mesh.server().at(echo_port)).unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut tcp), b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(status(&mesh, mesh.server().at(web_port), true), 200);
    let ask = |tcp| {
        block_on(async {
            let mut client = http2(tcp).await.ready().await.unwrap();
            let (response, mut send) = client.send_request(request("POST", "/", &[]), false).unwrap();
            send.send_data(Bytes::from_static(b"x"), true).unwrap();
            assert_eq!(response.await.unwrap().headers()["x-echo"], "1");
        });
    };
    ask(mesh.client().connect_unmeshed(mesh.server().at(h2_port)).unwrap());
    // And from the mesh.
    for (name, port, host) in [("web", web_port, 1), ("h2", h2_port, 2)] {
        let mut service = Service::new(name, [10, 99, 3, host], 80);
        service.endpoints = vec![mesh.endpoint(port)];
        let to = mesh.service(service);
        match name {
            "web" => assert_eq!(status(&mesh, to, false), 200),
            _ => ask(mesh.client().connect(to).unwrap()),
        }
    }
}
