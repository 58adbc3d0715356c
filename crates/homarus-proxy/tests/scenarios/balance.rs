//! Endpoints that come, go, refuse, and die.

use crate::{mesh, meshed_client};
use homarus_testkit::{
    client::Http1,
    control::{Endpoint, Service},
    mesh::{Mesh, SERVER_ID},
    servers::{self, http1, respond},
    wait_for, wait_within,
};
use std::{
    collections::BTreeSet,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// An application that answers with its name.
fn named(mesh: &Mesh, name: &'static str) -> u16 {
    mesh.serve(move |tcp| http1(tcp, |_, out| out.write_all(&respond("200 OK", &[], name.as_bytes())).is_ok()))
}

fn get(mesh: &Mesh, to: SocketAddr) -> (u16, String) {
    let reply = Http1::new(mesh.client().connect(to).unwrap()).get("/");
    (reply.status(), reply.text())
}

#[test]
fn endpoints_that_refuse_are_replaced() {
    let mut mesh = meshed_client();
    let good = named(&mesh, "good");
    let free = mesh.server().listen(0).local_addr().unwrap().port();
    let mut service = Service::new("web", [10, 99, 0, 1], 80);
    service.endpoints = [good, free].map(|port| mesh.endpoint(port)).into();
    let to = mesh.service(service);
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    for _ in 0..50 {
        assert_eq!(http.get("/").text(), "good");
    }
    let opaque = mesh.client().connect(to).unwrap();
    drop(opaque);
    let metrics = mesh.client_proxy().metrics();
    assert_eq!(
        metrics.sum("response_total", &[("direction", "outbound"), ("classification", "failure")]),
        0.0,
        "{}",
        metrics.family("response_total")
    );
}

#[test]
fn a_refusal_by_the_application_is_replaced_through_the_mesh() {
    let mesh = mesh();
    let good = named(&mesh, "good");
    let free = mesh.server().listen(0).local_addr().unwrap().port();
    let mut service = Service::new("web", [10, 99, 0, 1], 80);
    service.endpoints = [good, free].map(|port| mesh.endpoint(port)).into();
    let to = mesh.service(service);
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    for n in 0..30 {
        assert_eq!(http.get("/").text(), "good", "request {n}");
        let body = "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(http.write(body).response().text(), "good", "request {n} with a body");
    }
}

#[test]
fn connections_that_died_while_idle_cost_no_request() {
    let mesh = meshed_client();
    // Closes each connection after one answer, without a word.
    let closed = Arc::new(AtomicUsize::new(0));
    let closing = closed.clone();
    let port = mesh.serve(move |tcp| {
        http1(tcp, |_, out| out.write_all(&respond("200 OK", &[], b"one")).is_err());
        closing.fetch_add(1, Relaxed);
    });
    let to = mesh.service_at("web", port);
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    for _ in 0..40 {
        assert_eq!(http.get("/").status(), 200);
    }
    let post = "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\n\r\nhello";
    for n in 40..60 {
        // What isn't idempotent is never sent twice; so nothing is sent on a connection that is known to be closed.
        wait_for("the end of the connection", || (closed.load(Relaxed) >= n).then_some(()));
        assert_eq!(http.write(post).response().status(), 200);
    }
}

#[test]
fn a_request_that_may_have_been_processed_is_not_repeated() {
    let mesh = mesh();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let port = mesh.serve(move |tcp| {
        let mut reader = std::io::BufReader::new(tcp);
        if servers::read_head(&mut reader).is_some() {
            counted.fetch_add(1, Relaxed);
        }
    });
    let to = mesh.service_at("web", port);
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    assert_eq!(http.get("/").status(), 502);
    assert_eq!(count.load(Relaxed), 1);
}

#[test]
fn a_service_without_endpoints_fails_fast_and_recovers() {
    let mesh = mesh();
    let to = mesh.service(Service::new("empty", [10, 99, 0, 9], 80));
    let begun = Instant::now();
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    let reply = http.get("/");
    let took = begun.elapsed();
    assert_eq!(reply.status(), 504);
    assert!(reply.header("l5d-proxy-error").unwrap().contains("fail-fast"), "{reply:?}");
    assert_eq!((reply.header("connection"), reply.header("content-length")), (Some("close"), Some("0")));
    assert!(took > Duration::from_millis(2800) && took < Duration::from_millis(4500), "{took:?}");
    let begun = Instant::now();
    let (status, _) = get(&mesh, to);
    assert!(status == 503 && begun.elapsed() < Duration::from_millis(500), "{status} after {:?}", begun.elapsed());
    let port = named(&mesh, "back");
    mesh.control.endpoints("empty", vec![mesh.endpoint(port)]);
    wait_within(Duration::from_secs(2), "the service recovers", || (get(&mesh, to).0 == 200).then_some(()));
}

#[test]
fn requests_wait_for_the_first_endpoint() {
    let mesh = mesh();
    let to = mesh.service(Service::new("late", [10, 99, 0, 9], 80));
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n");
    std::thread::sleep(Duration::from_millis(300));
    let port = named(&mesh, "at last");
    mesh.control.endpoints("late", vec![mesh.endpoint(port)]);
    assert_eq!(http.response().text(), "at last");
}

#[test]
fn endpoints_come_and_go() {
    let mesh = mesh();
    let [a, b] = ["a", "b"].map(|name| named(&mesh, name));
    let mut service = Service::new("web", [10, 99, 0, 1], 80);
    service.endpoints = vec![mesh.endpoint(a)];
    let to = mesh.service(service);
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    assert_eq!(http.get("/").text(), "a");
    mesh.control.endpoints("web", vec![mesh.endpoint(a), mesh.endpoint(b)]);
    wait_for("both are used", || {
        let seen: BTreeSet<String> = (0..20).map(|_| http.get("/").text()).collect();
        (seen.len() == 2).then_some(())
    });
    mesh.control.endpoints("web", vec![mesh.endpoint(b)]);
    wait_for("only the second is used", || (0..20).all(|_| http.get("/").text() == "b").then_some(()));
}

#[test]
fn a_wrong_identity_is_never_talked_to() {
    let mesh = mesh();
    let port = named(&mesh, "not you");
    let mut service = Service::new("web", [10, 99, 0, 1], 80);
    let other = "other.test.serviceaccount.identity.linkerd.cluster.local";
    service.endpoints = vec![Endpoint::meshed(mesh.server().at(port), other)];
    let to = mesh.service(service);
    let (status, text) = get(&mesh, to);
    assert!(status >= 500 && text.is_empty(), "{status} {text}");
    mesh.control.endpoints("web", vec![Endpoint::meshed(mesh.server().at(port), SERVER_ID)]);
    wait_for("the right one is", || (get(&mesh, to).0 == 200).then_some(()));
}

#[test]
fn traffic_goes_on_without_a_control_plane() {
    let mut mesh = mesh();
    let to = mesh.service_at("web", named(&mesh, "here"));
    assert_eq!(get(&mesh, to), (200, "here".into()));
    (mesh.client_control, mesh.server_control) = (None, None);
    for _ in 0..20 {
        assert_eq!(get(&mesh, to), (200, "here".into()));
        std::thread::sleep(Duration::from_millis(20));
    }
    mesh.client_control = Some(mesh.control.serve(mesh.client()));
    mesh.server_control = Some(mesh.control.serve(mesh.server()));
    let port = named(&mesh, "there");
    mesh.control.endpoints("web", vec![mesh.endpoint(port)]);
    wait_for("what has changed meanwhile is learned", || (get(&mesh, to).1 == "there").then_some(()));
}

#[test]
fn a_control_plane_that_talks_nonsense_changes_nothing() {
    use homarus_testkit::control::Mood;
    let mut mesh = mesh();
    let to = mesh.service_at("web", named(&mesh, "here"));
    assert_eq!(get(&mesh, to).0, 200);
    mesh.control.change(|state| state.mood = Mood::Nonsense);
    std::thread::sleep(Duration::from_millis(300));
    assert!(mesh.client_proxy().is_running() && mesh.server_proxy().is_running());
    // Doubt denies: an unreadable policy lets nobody in, an unreadable route leads nowhere.
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    let refused = http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n").try_response().map(|reply| reply.status());
    assert!([None, Some(403), Some(500)].contains(&refused), "{refused:?}");
    mesh.control.change(|state| state.mood = Mood::Slow(Duration::from_millis(100)));
    wait_for("it comes to its senses", || {
        let mut http = Http1::new(mesh.client().connect(to).ok()?);
        let reply = http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n").try_response()?;
        (reply.status() == 200).then_some(())
    });
}
