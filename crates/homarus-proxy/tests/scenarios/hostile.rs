//! Input that nobody means well.

use crate::{PROXY, mesh, meshed_server};
use homarus_testkit::{
    client::Http1,
    ground::{ADMIN, INBOUND, UNMESHED},
    mesh::{Mesh, Plan},
    servers::{echo, mirror, read_all},
    wait_for,
};
use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

fn still_serves(mesh: &mut Mesh, to: SocketAddr) {
    assert_eq!(Http1::new(mesh.client().connect(to).unwrap()).get("/").status(), 200);
    for proxy in [mesh.client_proxy().is_running(), mesh.server_proxy().is_running()] {
        assert!(proxy, "the proxy died");
    }
}

#[test]
fn garbage_on_every_port_harms_nobody() {
    let mut mesh = mesh();
    let port = mesh.serve(mirror);
    let web = mesh.service_at("web", port);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let header = b"\x05\x00\x00\x00\x00\x00\x00";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\xff\xff\xff\xff\xff\xff";
    let long = vec![b'A'; 200_000];
    let words: [&[u8]; 8] =
        [b"\0", b"\xff\xfe\xfd", hello, header, preface, b"GET / HTTP/9.9\r\n\r\n", &long, b"\x16\x03\x03\xff\xff"];
    let server = mesh.server().ip;
    for bytes in words {
        let targets = [
            web,
            SocketAddr::new(server.into(), port),
            SocketAddr::new(server.into(), INBOUND),
            SocketAddr::new(server.into(), ADMIN),
        ];
        for to in targets {
            for outside in [false, true] {
                let tcp = if outside { mesh.client().connect_unmeshed(to) } else { mesh.client().connect(to) };
                let Ok(mut tcp) = tcp else { continue };
                let _ = tcp.write_all(bytes);
                let _ = tcp.shutdown(std::net::Shutdown::Write);
                let _ = tcp.set_read_timeout(Some(Duration::from_millis(300)));
                let _ = read_all(&mut tcp);
            }
        }
    }
    still_serves(&mut mesh, web);
}

#[test]
fn ambiguous_requests_are_refused() {
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    for smuggled in [
        "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: w\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: w\r\n x: folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : w\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: w\r\n\r\n",
        "GET w:80 HTTP/1.1\r\nhost: w\r\n\r\n",
    ] {
        let mut http = Http1::new(mesh.client().connect(web).unwrap());
        // A good one first, so that the connection is known to be HTTP.
        assert_eq!(http.get("/").status(), 200);
        let reply = http.write(smuggled).try_response();
        assert_eq!(reply.as_ref().map(homarus_testkit::client::Reply::status), Some(400), "{smuggled:?}: {reply:?}");
        assert_eq!(http.rest(), b"", "{smuggled:?}");
    }
    still_serves(&mut mesh, web);
}

#[test]
fn floods_of_headers_are_cut_off() {
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    for flood in [many, long] {
        let mut http = Http1::new(mesh.client().connect(web).unwrap());
        assert_eq!(http.get("/").status(), 200);
        let _ = http.tcp().write_all(format!("GET / HTTP/1.1\r\nhost: w\r\n{flood}\r\n").as_bytes());
        assert_eq!(http.try_response().map(|r| r.status()), Some(431));
    }
    // A hundred clients that never finish their heads hold nobody up.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut tcp = mesh.client().connect(web).unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\nhost: w\r\nx").unwrap();
            tcp
        })
        .collect();
    still_serves(&mut mesh, web);
    drop(slow);
}

#[test]
fn idle_connections_cost_little() {
    const CONNECTIONS: usize = 1000;
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let dial = |_| {
        let mut http = Http1::new(mesh.ground.client.connect(web).unwrap());
        assert_eq!(http.get("/").status(), 200);
        http
    };
    let warm: Vec<_> = (0..50).map(dial).collect();
    let before = mesh.resident_kib();
    let idle: Vec<_> = (0..CONNECTIONS).map(dial).collect();
    let grown = mesh.resident_kib() - before;
    let each = grown as f64 / CONNECTIONS as f64;
    assert!(each < 16.0, "an idle meshed connection costs {each:.1} KiB in both proxies together");
    still_serves(&mut mesh, web);
    drop((warm, idle));
}

#[test]
fn exhausted_descriptors_pass() {
    let mut mesh = Plan { max_files: Some(96), ..Plan::both(PROXY) }.start();
    let web = mesh.service_at("web", mesh.serve(mirror));
    still_serves(&mut mesh, web);
    let many: Vec<_> = (0..150).filter_map(|_| mesh.client().connect(web).ok()).collect();
    std::thread::sleep(Duration::from_millis(200));
    assert!(mesh.client_proxy().is_running());
    drop(many);
    wait_for("it serves again", || {
        let mut http = Http1::new(mesh.client().connect(web).ok()?);
        http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n").try_response().filter(|r| r.status() == 200)
    });
    assert!(mesh.client_proxy().is_running());
}

#[test]
fn the_outside_reaches_only_what_it_may() {
    let mesh = meshed_server();
    let skipped = *UNMESHED.start();
    homarus_testkit::servers::serve(mesh.server().listen(skipped), echo);
    // Straight to the inbound port, without TLS and header: closed without a byte.
    let mut tcp = mesh.client().connect(mesh.server().at(INBOUND)).unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: w\r\n\r\n").unwrap();
    assert_eq!(read_all(&mut tcp), b"");
    // Admin: what changes something is for this very pod.
    for (ask, want) in
        [("PUT /proxy-log-level", 403), ("POST /shutdown", 404), ("GET /metrics", 200), ("GET /ready", 200), ("GET /x", 404)]
    {
        let mut http = Http1::new(mesh.client().connect(mesh.server().at(ADMIN)).unwrap());
        let reply = http.write(format!("{ask} HTTP/1.1\r\nhost: w\r\ncontent-length: 0\r\n\r\n")).response();
        assert_eq!(reply.status(), want, "{ask}");
    }
}
