//! Bytes that are not HTTP.

use crate::{mesh, meshed_client, meshed_server};
use homarus_testkit::{
    control::{Endpoint, Service},
    mesh::{CLIENT_ID, Mesh, SERVER_ID},
    servers::{banner, echo, read_all},
    wait_for,
};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

fn exchange(mut tcp: TcpStream, words: &[u8]) {
    tcp.write_all(words).unwrap();
    let mut back = vec![0; words.len()];
    tcp.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
    tcp.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut tcp), b"");
}

/// How long the first bytes of a server that speaks first take, at best.
fn first_byte(connect: impl Fn() -> TcpStream) -> Duration {
    let once = || {
        let begun = Instant::now();
        let mut tcp = connect();
        let mut line = [0; 11];
        tcp.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"220 ready\r\n");
        begun.elapsed()
    };
    (0..7).map(|_| once()).min().unwrap()
}

#[test]
fn opaque_ports_are_tagged_and_encrypted() {
    let mut mesh = mesh();
    let to = mesh.opaque_service_at("db", mesh.serve(echo));
    exchange(mesh.client().connect(to).unwrap(), b"GET / HTTP/1.1\r\n\r\n");
    exchange(mesh.client().connect(to).unwrap(), b"\x16\x03\x01 not really TLS");
    let there = [("direction", "outbound"), ("peer", "dst"), ("tls", "true"), ("server_id", SERVER_ID)];
    assert_eq!(mesh.client_proxy().metrics().sum("tcp_open_total", &there), 2.0);
    let here = [("direction", "inbound"), ("peer", "src"), ("tls", "true"), ("client_id", CLIENT_ID)];
    assert_eq!(mesh.server_proxy().metrics().sum("tcp_open_total", &here), 2.0);
}

#[test]
fn what_is_not_http_is_detected() {
    let mesh = mesh();
    let to = mesh.service_at("detected", mesh.serve(echo));
    for words in [&b"PING\r\n"[..], b"\0\0\0\x52\0\x03\0\0", b"*1\r\n$4\r\nPING\r\n", b"SSH-2.0-x\r\n", b"G"] {
        exchange_open(&mesh, to, words);
    }
}

/// As [`exchange`], for words that may become HTTP until the client has ended.
fn exchange_open(mesh: &Mesh, to: SocketAddr, words: &[u8]) {
    let mut tcp = mesh.client().connect(to).unwrap();
    tcp.write_all(words).unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut tcp), words, "{}", words.escape_ascii());
}

#[test]
fn servers_may_speak_first() {
    const LATE: Duration = Duration::from_millis(10);
    let mesh = mesh();
    let port = mesh.serve(banner);
    let bare = first_byte(|| {
        mesh.client().connect_unmeshed(SocketAddr::new(mesh.server().at(port).ip(), 7001)).unwrap_or_else(|_| {
            homarus_testkit::servers::serve(mesh.server().listen(7001), banner);
            mesh.client().connect_unmeshed(mesh.server().at(7001)).unwrap()
        })
    });
    let meshed = mesh.service_at("smtp", port);
    let opaque = mesh.opaque_service_at("smtp-opaque", port);
    for (what, to) in [("detected", meshed), ("opaque", opaque)] {
        let took = first_byte(|| mesh.client().connect(to).unwrap());
        assert!(took < bare + LATE * 2, "{what}: {took:?} instead of {bare:?}");
    }
    let unmeshed_client = first_byte(|| mesh.client().connect_unmeshed(mesh.server().at(port)).unwrap());
    assert!(unmeshed_client < bare + LATE, "from outside: {unmeshed_client:?} instead of {bare:?}");
    let outside = mesh.service_at("outside", 7001);
    let unmeshed_server = first_byte(|| mesh.client().connect(outside).unwrap());
    assert!(unmeshed_server < bare + LATE, "to the outside: {unmeshed_server:?} instead of {bare:?}");
}

#[test]
fn transparent_tls_carries_what_has_no_tag() {
    let mut mesh = mesh();
    let port = mesh.serve(echo);
    let mut service = Service::new("plain", [10, 99, 1, 1], 6000);
    service.opaque = true;
    service.endpoints = vec![Endpoint::transparent(mesh.server().at(port), SERVER_ID)];
    let to = mesh.service(service);
    exchange(mesh.client().connect(to).unwrap(), b"hello there");
    let here = [("direction", "inbound"), ("peer", "src"), ("tls", "true"), ("client_id", CLIENT_ID)];
    assert_eq!(mesh.server_proxy().metrics().sum("tcp_open_total", &here), 1.0);
}

#[test]
fn halves_end_on_their_own() {
    for mesh in [mesh(), meshed_client(), meshed_server()] {
        // Reads everything, then answers.
        let port = mesh.serve(|mut tcp| {
            let all = read_all(&mut tcp);
            let _ = tcp.write_all(format!("{} bytes", all.len()).as_bytes());
        });
        let to = mesh.opaque_service_at("sink", port);
        let direct = mesh.server().at(port);
        let mut tcp = mesh.client().connect(if mesh.is_client_meshed() { to } else { direct }).unwrap();
        tcp.write_all(&vec![0; 300_000]).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut tcp), b"300000 bytes");
    }
}

#[test]
fn a_reset_reaches_the_other_side() {
    let mesh = mesh();
    let (told, ended) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let port = mesh.serve(move |mut tcp| {
        read_all(&mut tcp);
        told.lock().unwrap().send(()).unwrap();
    });
    let to = mesh.opaque_service_at("db", port);
    let mut tcp = mesh.client().connect(to).unwrap();
    tcp.write_all(b"something").unwrap();
    drop(tcp);
    ended.recv_timeout(Duration::from_secs(3)).unwrap();
}

#[test]
fn redis_works() {
    let mut mesh = mesh();
    let dir = tempfile::tempdir().unwrap();
    let _redis = mesh.server().spawn(
        Command::new("redis-server")
            .args(["--port", "6379", "--save", "", "--daemonize", "no", "--protected-mode", "no", "--dir"])
            .arg(dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null()),
    );
    wait_for("redis", || mesh.server().connect(SocketAddr::new([127, 0, 0, 1].into(), 6379)).ok());
    for to in [mesh.service_at("redis", 6379), mesh.opaque_service_at("redis-opaque", 6379)] {
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let mut bench = Command::new("redis-benchmark");
        let output = mesh.client().run(bench.args([
            "-h",
            &ip,
            "-p",
            &port,
            "-q",
            "-n",
            "2000",
            "-c",
            "20",
            "-t",
            "set,get,mset",
            "-d",
            "1000",
        ]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("GET:"), "{text}");
        let mut cli = Command::new("redis-cli");
        let output = mesh.client().run(cli.args(["-h", &ip, "-p", &port, "PING"]));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n");
    }
    assert!(mesh.client_proxy().metrics().sum("tcp_open_total", &[("peer", "dst"), ("tls", "true")]) >= 42.0);
}
