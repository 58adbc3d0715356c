//! Certificates: renewal, resumption, and what a peer can't do.

use crate::{PROXY, mesh};
use homarus_testkit::{
    client::Http1,
    mesh::{Mesh, Plan},
    servers::{echo, mirror},
    wait_within,
};
use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

fn exchange(mesh: &Mesh, to: SocketAddr) {
    let mut tcp = mesh.client().connect(to).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn traffic_survives_the_end_of_leaves() {
    let lifetime = Duration::from_secs(4);
    let env = || vec![("IDENTITY_MIN_REFRESH", "1s".to_owned())];
    let mut mesh = Plan { leaf_lifetime: Some(lifetime), client_env: env(), server_env: env(), ..Plan::both(PROXY) }.start();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    let web = mesh.service_at("web", mesh.serve(mirror));
    let mut kept = Http1::new(mesh.client().connect(web).unwrap());
    let until = Instant::now() + lifetime * 2 + Duration::from_secs(1);
    while Instant::now() < until {
        exchange(&mesh, opaque);
        assert_eq!(kept.get("/").status(), 200);
        assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let metrics = mesh.client_proxy().metrics();
    let renewed = metrics.sum("control_identity_cert_refreshes_total", &[]);
    assert!(renewed >= 2.0, "{}", metrics.family("control_identity"));
}

#[test]
fn an_open_connection_does_not_outlive_its_peers_leaf() {
    let lifetime = Duration::from_secs(4);
    let mesh = Plan { leaf_lifetime: Some(lifetime), ..Plan::both(PROXY) }.start();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    let mut tcp = mesh.client().connect(opaque).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    tcp.set_read_timeout(Some(lifetime * 2)).unwrap();
    let ended = tcp.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)) && !ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn sessions_of_tagged_connections_are_resumed() {
    let mut mesh = mesh();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    let cpu = |mesh: &mut Mesh, n: u32| {
        let before = mesh.cpu();
        (0..n).for_each(|_| exchange(mesh, opaque));
        (mesh.cpu() - before) / n
    };
    let first = cpu(&mut mesh, 1);
    let later = wait_within(Duration::from_secs(5), "later sessions are cheap", || {
        let each = cpu(&mut mesh, 100);
        (each < first).then_some(each)
    });
    println!("the first session {first:?}, later ones {later:?}");
}
