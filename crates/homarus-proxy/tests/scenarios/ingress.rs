//! Ingress mode: requests that say by name where they go, and what is not to be had that way.

use crate::{PROXY, mesh};
use homarus_testkit::{
    client::{Http1, Reply, block_on, collect, http2},
    control::Service,
    mesh::{Mesh, Plan, SERVER_ID},
    servers::{banner, echo, echo_h2, http1, respond, serve, serve_h2},
    wait_for,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long the proxy waits for somebody to speak, unless the environment says otherwise.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client is an ingress controller.
fn ingress() -> Mesh {
    Plan { client_env: vec![("INGRESS_MODE", "true".into())], ..Plan::both(PROXY) }.start()
}

/// An application that answers with its name and the headers it got.
fn app(name: &'static str) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |tcp| {
        http1(tcp, |seen, out| {
            let headers: String = seen.headers.iter().map(|(k, v)| format!("{k}: {v}\n")).collect();
            out.write_all(&respond("200 OK", &[("x-app", name)], headers.as_bytes())).is_ok()
        });
    }
}

fn name(service: &str) -> String {
    format!("{service}.test.svc.cluster.local")
}

fn get(http: &mut Http1, host: &str, to: &[&str]) -> Reply {
    let fields: String = to.iter().map(|to| format!("l5d-dst-override: {to}\r\n")).collect();
    http.write(format!("GET / HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n")).response()
}

fn get_once(mesh: &Mesh, dialed: SocketAddr, to: &[&str]) -> Reply {
    get(&mut Http1::new(mesh.client().connect(dialed).unwrap()), "shop.example", to)
}

/// An address where nobody is.
fn nowhere() -> SocketAddr {
    SocketAddr::new([10, 98, 7, 6].into(), 8080)
}

#[test]
fn requests_choose_their_service() {
    let mut mesh = ingress();
    let web = mesh.service_at("web", mesh.serve(app("web")));
    mesh.service_at("api", mesh.serve(app("api")));
    let api = name("api");
    let mut http = Http1::new(mesh.client().connect(web).unwrap());
    // One after the other, on one connection.
    for to in [&*api, &format!("{api}:80"), &format!("{}.:80", api.to_uppercase()), &api] {
        let reply = get(&mut http, "shop.example", &[to]);
        assert_eq!((reply.status(), reply.header("x-app")), (200, Some("api")), "{to}");
        let text = reply.text();
        assert!(text.contains("host: shop.example\n"), "it stays what the client asked for: {text}");
        assert!(!text.contains("l5d-dst-override"), "{text}");
        let reply = get(&mut http, "shop.example", &[]);
        assert_eq!((reply.status(), reply.header("x-app")), (200, Some("web")), "without a name, it goes where it was going");
    }
    // What was dialed does not matter to requests that choose.
    for dialed in [nowhere(), mesh.server().at(9)] {
        let reply = get_once(&mesh, dialed, &[&api]);
        assert_eq!((reply.status(), reply.header("x-app")), (200, Some("api")), "{dialed}");
    }
    let metrics = mesh.client_proxy().metrics();
    for (service, count) in [("api", 6.0), ("web", 4.0)] {
        let authority = format!("{}:80", name(service));
        let labels = [("direction", "outbound"), ("tls", "true"), ("server_id", SERVER_ID), ("authority", &authority)];
        assert_eq!(metrics.sum("request_total", &labels), count, "{service}");
    }
}

#[test]
fn tunnels_choose_too() {
    let mesh = ingress();
    let port = mesh.serve(|tcp| {
        let mut tunnel = tcp.try_clone().unwrap();
        http1(tcp, |_, out| {
            let _ = out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
            false
        });
        let _ = std::io::copy(&mut tunnel.try_clone().unwrap(), &mut tunnel);
    });
    mesh.service_at("ws", port);
    let mut http = Http1::new(mesh.client().connect(nowhere()).unwrap());
    let ask = format!(
        "GET / HTTP/1.1\r\nhost: w\r\nconnection: upgrade\r\nupgrade: websocket\r\nl5d-dst-override: {}\r\n\r\n",
        name("ws")
    );
    assert_eq!(http.write(ask).head().status(), 101);
    http.write("through");
    let mut back = [0; 7];
    http.reader().read_exact(&mut back).unwrap();
    assert_eq!(&back, b"through");
}

#[test]
fn http2_requests_choose_too() {
    let mesh = ingress();
    mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, echo_h2));
    let tcp = mesh.client().connect(nowhere()).unwrap();
    let ask = |service| {
        let request = http::Request::post("http://shop.example/a.B/C").header("content-type", "application/grpc");
        request.header("l5d-dst-override", name(service)).body(()).unwrap()
    };
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let response = client.send_request(ask("grpc"), true).unwrap().0.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().get("l5d-dst-override")), (200, None));
        let (_, trailers) = collect(response.into_body()).await.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        // A name that nobody has.
        let response = client.send_request(ask("nobody"), true).unwrap().0.await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"13".parse().unwrap()));
    });
}

#[test]
fn elsewhere_the_header_means_nothing() {
    let mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(app("web")));
    mesh.service_at("api", mesh.serve(app("api")));
    for to in [&name("api"), &name("nobody"), "10.0.0.1:80", "no name"] {
        let reply = get_once(&mesh, web, &[to]);
        assert_eq!((reply.status(), reply.header("x-app")), (200, Some("web")), "{to}");
        assert!(reply.text().contains(&format!("l5d-dst-override: {to}\n")), "it is the application's: {}", reply.text());
    }
}

/// Scenario 33.
#[test]
fn names_are_no_way_out_of_the_cluster() {
    let mut mesh = ingress();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    // Outside the mesh, and not a Service: whoever knows its address may dial it, but no request gets there by header.
    serve(mesh.server().listen(7007), move |tcp| {
        count.fetch_add(1, Relaxed);
        app("outside")(tcp);
    });
    let web = mesh.service_at("web", mesh.serve(app("web")));
    let outside = mesh.server().at(7007);
    let (there, known) = (outside.to_string(), name("web"));
    let refused: [&[&str]; 12] = [
        &[&there],
        &["[::1]:7007"],
        &["127.0.0.1:4191"],
        &["localhost:4191"],
        &["www.example.com"],
        &[&name("nobody")],
        &[&format!("{known}:81")],
        &[""],
        &["web test"],
        &["http://web"],
        &[&known, &known],
        &[&known, &there],
    ];
    for to in refused {
        for dialed in [web, outside] {
            refuses(&mesh, dialed, to);
        }
    }
    assert_eq!(reached.load(Relaxed), 0);
    let reply = get_once(&mesh, outside, &[]);
    assert_eq!((reply.status(), reply.header("x-app")), (200, Some("outside")), "it is there");
    let errors = [("error", "unexpected")];
    assert_eq!(mesh.client_proxy().metrics().sum("outbound_http_errors_total", &errors), 24.0);
    assert_eq!(get_once(&mesh, web, &[&known]).status(), 200);
}

fn refuses(mesh: &Mesh, dialed: SocketAddr, to: &[&str]) {
    let mut http = Http1::new(mesh.client().connect(dialed).unwrap());
    let reply = get(&mut http, "shop.example", to);
    assert_eq!(reply.status(), 500, "{to:?} at {dialed}: {reply:?}");
    // Whoever is in front of an ingress controller is no business of ours.
    assert_eq!(reply.header("l5d-proxy-error"), None);
    assert_eq!(http.rest(), b"", "{to:?}");
}

/// Scenario 33, the port itself: it is on loopback, and says nothing to those who come from outside.
#[test]
fn the_outbound_port_is_not_open() {
    let mesh = ingress();
    mesh.service_at("web", mesh.serve(app("web")));
    let port = SocketAddr::new(mesh.client().ip.into(), homarus_testkit::ground::OUTBOUND);
    let Ok(tcp) = mesh.server().connect_unmeshed(port) else { return };
    let mut http = Http1::new(tcp);
    let _ = write!(http.tcp(), "GET / HTTP/1.1\r\nhost: w\r\nl5d-dst-override: {}\r\n\r\n", name("web"));
    let reply = http.try_response();
    assert!(reply.as_ref().is_none_or(|reply| reply.header("x-app").is_none()), "{reply:?}");
}

#[test]
fn a_name_may_come_to_be_and_go() {
    let mesh = ingress();
    let late = name("late");
    assert_eq!(get_once(&mesh, nowhere(), &[&late]).status(), 500);
    mesh.service_at("late", mesh.serve(app("late")));
    // Asked for all the time, as a busy ingress controller would.
    wait_for("the new Service", || (get_once(&mesh, nowhere(), &[&late]).status() == 200).then_some(()));
    mesh.control.change(|state| state.services.clear());
    wait_for("its end", || (get_once(&mesh, nowhere(), &[&late]).status() >= 500).then_some(()));
}

#[test]
fn a_profile_is_enough() {
    let mesh = ingress();
    let mut service = Service::new("old", [10, 99, 0, 1], 80);
    (service.policy, service.endpoints) = (false, vec![mesh.endpoint(mesh.serve(app("old")))]);
    mesh.service(service);
    let reply = get_once(&mesh, nowhere(), &[&name("old")]);
    assert_eq!((reply.status(), reply.header("x-app")), (200, Some("old")));
}

#[test]
fn what_is_not_http_goes_where_it_was_going() {
    let mut mesh = ingress();
    let (echo_port, smtp_port) = (mesh.serve(echo), mesh.serve(banner));
    for to in [mesh.service_at("echo", echo_port), mesh.opaque_service_at("db", echo_port)] {
        let mut tcp = mesh.client().connect(to).unwrap();
        tcp.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        let mut back = [0; 14];
        tcp.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"*1\r\n$4\r\nPING\r\n", "{to}");
    }
    for to in [mesh.service_at("smtp", smtp_port), mesh.opaque_service_at("smtp-opaque", smtp_port)] {
        let begun = Instant::now();
        let mut line = [0; 11];
        mesh.client().connect(to).unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"220 ready\r\n");
        assert!(begun.elapsed() < DETECT_TIMEOUT, "it is not waited for: {:?}", begun.elapsed());
    }
    // What is detected is counted as elsewhere.
    let metrics = mesh.client_proxy().metrics();
    let sum = |family: &str, labels: &[(&str, &str)]| metrics.sum(family, labels);
    assert!(sum("outbound_tcp_protocol_connections_total", &[("protocol", "detect")]) >= 2.0);
    assert!(sum("outbound_tcp_detect_http_results_total", &[("result", "not_http")]) >= 2.0);
}

#[test]
fn requests_reach_opaque_services_as_bytes() {
    let mut mesh = ingress();
    let web = mesh.opaque_service_at("web", mesh.serve(app("web")));
    let there = format!("{}:6000", name("web"));
    for to in [vec![there.as_str()], vec![]] {
        let reply = get_once(&mesh, web, &to);
        assert_eq!((reply.status(), reply.header("x-app")), (200, Some("web")), "{to:?}");
        assert!(!reply.text().contains("l5d-"), "the server's proxy passes bytes on: {}", reply.text());
    }
    let tls = [("direction", "outbound"), ("tls", "true"), ("server_id", SERVER_ID)];
    assert_eq!(mesh.client_proxy().metrics().sum("request_total", &tls), 2.0);
}

#[test]
fn names_that_are_known_outlive_the_control_plane() {
    let mut mesh = ingress();
    let web = mesh.service_at("web", mesh.serve(app("web")));
    mesh.service_at("api", mesh.serve(app("api")));
    let api = name("api");
    let mut http = Http1::new(mesh.client().connect(web).unwrap());
    for to in [&[&*api][..], &[]] {
        assert_eq!(get(&mut http, "w", to).status(), 200);
    }
    drop(mesh.client_control.take());
    let begun = Instant::now();
    let waits = std::thread::scope(|scope| {
        let new = scope.spawn(|| (get_once(&mesh, web, &[&name("web")]).status(), begun.elapsed()));
        while !new.is_finished() {
            assert_eq!(get(&mut http, "w", &[&api]).header("x-app"), Some("api"));
            assert_eq!(get(&mut http, "w", &[]).header("x-app"), Some("web"));
        }
        new.join().unwrap()
    });
    assert_eq!(waits.0, 504, "a name that nobody can tell of fails in time: {waits:?}");
    assert!(waits.1.as_secs() >= 3, "it is waited for: {waits:?}");
}

#[test]
fn a_client_that_is_slow_to_speak_is_heard_without_the_control_plane() {
    let mut mesh = ingress();
    let web = mesh.service_at("web", mesh.serve(app("web")));
    assert_eq!(get_once(&mesh, web, &[&name("web")]).status(), 200);
    drop(mesh.client_control.take());
    // Nobody can tell of the address that is dialed.
    let mut http = Http1::new(mesh.client().connect(nowhere()).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(get(&mut http, "w", &[&name("web")]).header("x-app"), Some("web"));
}
