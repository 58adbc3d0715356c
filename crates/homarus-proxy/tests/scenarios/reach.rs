//! Other addresses, more threads.

use crate::{PROXY, mesh};
use homarus_testkit::{
    client::Http1,
    control::Service,
    mesh::{CLIENT_ID, Plan},
    servers::{banner, echo, mirror},
};
use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

#[test]
fn ipv6_is_carried_both_ways() {
    let mesh = mesh();
    let proxies: Vec<_> = mesh.proxies().collect();
    let (web_port, echo_port, banner_port) = (mesh.serve(mirror), mesh.serve(echo), mesh.serve(banner));
    let service = |name: &str, host: u16, port: u16, opaque: bool| {
        let mut service = Service::new(name, Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, host), 80);
        (service.opaque, service.endpoints) = (opaque, vec![mesh.endpoint6(port)]);
        mesh.service(service)
    };
    let (web, db, smtp) =
        (service("web", 1, web_port, false), service("db", 2, echo_port, true), service("smtp", 3, banner_port, false));
    let get = |to: SocketAddr, outside: bool| {
        let tcp = if outside { mesh.client().connect_unmeshed(to) } else { mesh.client().connect(to) };
        let reply = Http1::new(tcp.unwrap()).get("/");
        assert_eq!(reply.status(), 200, "{to}: {reply:?}");
        reply.text()
    };
    let from_us = format!("l5d-client-id: {CLIENT_ID}\n");
    assert!(get(web, false).contains(&from_us), "a Service");
    assert!(get(mesh.server().at6(web_port), false).contains(&from_us), "an endpoint itself");
    assert!(!get(mesh.server().at6(web_port), true).contains("l5d-client-id"), "from outside the mesh");
    let mut tcp = mesh.client().connect(db).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    let mut line = [0; 11];
    mesh.client().connect(smtp).unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"220 ready\r\n");
    let target = mesh.server().at6(web_port);
    let labels = [("target_addr", target.to_string()), ("target_ip", target.ip().to_string())];
    let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert!(proxies[0].metrics().sum("request_total", &[&labels[..], &[("tls", "true")]].concat()) >= 2.0);
    assert_eq!(proxies[1].metrics().sum("request_total", &labels), 3.0);
    // A Service of one family may have endpoints of the other.
    mesh.control.endpoints("web", vec![mesh.endpoint(web_port)]);
    homarus_testkit::wait_for("the other family", || {
        get(web, false);
        let there = mesh.server().at(web_port).to_string();
        (proxies[0].metrics().sum("request_total", &[("target_addr", &there)]) > 0.0).then_some(())
    });
}

#[test]
fn connections_are_shared_out_among_workers() {
    const CONNECTIONS: usize = 40;
    const REQUESTS: usize = 25;
    let workers = thread::available_parallelism().unwrap().get().min(2);
    let env = || vec![("CORES", "2".to_owned())];
    let mut mesh = Plan { client_env: env(), server_env: env(), ..Plan::both(PROXY) }.start();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let db = mesh.opaque_service_at("db", mesh.serve(echo));
    let before: Vec<_> = mesh.proxies().map(|proxy| proxy.cpu_of_threads("worker-")).collect();
    let mut open: Vec<_> = (0..CONNECTIONS).map(|_| Http1::new(mesh.client().connect(web).unwrap())).collect();
    let mut raw: Vec<_> = (0..CONNECTIONS).map(|_| mesh.client().connect(db).unwrap()).collect();
    thread::scope(|scope| {
        for http in &mut open {
            scope.spawn(|| (0..REQUESTS).for_each(|_| assert_eq!(http.get("/").status(), 200)));
        }
        for tcp in &mut raw {
            scope.spawn(|| {
                tcp.write_all(b"hello").unwrap();
                tcp.read_exact(&mut [0; 5]).unwrap();
            });
        }
    });
    for (proxy, before) in mesh.proxies().zip(before) {
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("tokio_rt_workers", &[]), workers as f64);
        assert_eq!(
            metrics.sum("request_total", &[("tls", "true")]),
            (CONNECTIONS * REQUESTS) as f64,
            "{}",
            metrics.family("request_total")
        );
        assert!(metrics.sum("tcp_open_connections", &[("peer", "src")]) >= CONNECTIONS as f64);
        let spent: Vec<Duration> =
            proxy.cpu_of_threads("worker-").iter().zip(&before).map(|(now, before)| *now - *before).collect();
        assert_eq!(spent.len(), workers);
        assert!(spent.iter().all(|spent| *spent > Duration::from_millis(1)), "each worker does its part: {spent:?}");
    }
    // All of them drain.
    mesh.client_proxy().terminate();
    mesh.server_proxy().terminate();
    drop(raw);
    assert!(open.iter_mut().all(|http| http.rest().is_empty()));
    assert_eq!(mesh.client_proxy().wait_exit().code(), Some(0));
    assert_eq!(mesh.server_proxy().wait_exit().code(), Some(0));
}
