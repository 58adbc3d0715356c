//! Input that nobody means well.

use crate::{PROXY, mesh, meshed_server};
use homarus_testkit::{
    client::Http1,
    ground::{ADMIN, INBOUND, OUTBOUND, UNMESHED},
    mesh::{Mesh, Plan},
    servers::{echo, http1, mirror, read_all, respond},
    wait_for,
};
use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
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
            // The outbound port itself, as if there were no redirection.
            SocketAddr::new([127, 0, 0, 1].into(), OUTBOUND),
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
        "GET / HTTP/1.1\r\nhost: w\r\nx: y\r\n z: folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: w\r\nx: y\ncontent-length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: w\r\nx: a\0b\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: w\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: w\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: w\r\nhost: v\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: w\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
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
fn ambiguous_responses_are_refused() {
    let mut mesh = mesh();
    let port = mesh.serve(|tcp| {
        http1(tcp, |seen, out| {
            let head = match seen.path() {
                "/both" => "content-length: 5\r\ntransfer-encoding: chunked",
                "/two" => "content-length: 5\r\ncontent-length: 6",
                "/lines" => "x: y\ncontent-length: 5",
                "/nul" => "x: \0\r\ncontent-length: 5",
                _ => "content-length: 5",
            };
            out.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello").as_bytes()).is_ok()
        });
    });
    let web = mesh.service_at("web", port);
    for (path, status) in [("/", 200), ("/both", 502), ("/two", 502), ("/lines", 502), ("/nul", 502), ("/", 200)] {
        assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get(path).status(), status, "{path}");
    }
    still_serves(&mut mesh, web);
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn floods_of_streams_are_cut_off() {
    const STREAMS: u32 = 20_000;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // GET http://w/, in the static table of HPACK (RFC 7541 appendix A).
    let get = [&[0x82, 0x86, 0x84, 0x01, 1][..], b"w"].concat();
    let mut mesh = mesh();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = mesh.serve(move |tcp| {
        http1(tcp, |_, out| {
            count.fetch_add(1, Relaxed);
            out.write_all(&respond("200 OK", &[], b"")).is_ok()
        });
    });
    let web = mesh.service_at("web", port);
    still_serves(&mut mesh, web);
    let opening = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let resets = (0..STREAMS).flat_map(|n| [frame(1, 5, 2 * n + 1, &get), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
    let rapid_resets: Vec<u8> = opening.iter().copied().chain(resets).collect();
    let continuations = (0..STREAMS).flat_map(|_| frame(9, 0, 1, &[0x00, 1, b'x', 1, b'y']));
    let endless_head: Vec<u8> = opening.iter().copied().chain(frame(1, 1, 1, &get)).chain(continuations).collect();
    let empties = (0..STREAMS).flat_map(|_| frame(0, 0, 1, &[]));
    let empty_data: Vec<u8> = opening.iter().copied().chain(frame(1, 4, 1, &get)).chain(empties).collect();
    let settings = (0..STREAMS).flat_map(|_| frame(4, 0, 0, &[]));
    let settings: Vec<u8> = opening.iter().copied().chain(settings).collect();
    for flood in [rapid_resets, endless_head, empty_data, settings] {
        for to in [web, mesh.server().at(port), mesh.server().at(ADMIN)] {
            let mut tcp = mesh.client().connect(to).unwrap();
            let mut reader = tcp.try_clone().unwrap();
            let _ = reader.set_read_timeout(Some(Duration::from_secs(2)));
            // What comes back is read meanwhile, so that nobody waits for us.
            let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
            let _ = tcp.write_all(&flood);
            let _ = tcp.shutdown(std::net::Shutdown::Write);
            let _ = reading.join();
        }
        still_serves(&mut mesh, web);
    }
    for proxy in mesh.proxies() {
        assert!(proxy.resident_kib() < 64 * 1024, "{} KiB", proxy.resident_kib());
    }
    // Every second thing that a flood says takes something back.
    assert!(asked.load(Relaxed) < STREAMS as usize, "the application was asked {} times", asked.load(Relaxed));
}

#[test]
fn slow_senders_hold_nobody_up() {
    const SLOW: usize = 60;
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let post = b"POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 20\r\n\r\n";
    let mut slow: Vec<Http1> = (0..SLOW).map(|_| Http1::new(mesh.client().connect(web).unwrap())).collect();
    // Heads a few bytes at a time, then bodies byte by byte.
    let pieces = post.chunks(7).chain([b"x"; 20].iter().map(|byte| &byte[..]));
    for piece in pieces {
        slow.iter_mut().for_each(|http| _ = http.write(piece));
        let begun = std::time::Instant::now();
        assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "others wait {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(slow.iter_mut().all(|http| http.response().text().contains("body 20\n")));
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

/// Lets this process, and the programs that it starts, have as many open files as it may; says how many.
fn raise_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) }).unwrap();
    maximum
}

#[test]
fn idle_connections_cost_little() {
    // Each has two ends in this test's process, beside those of the tests that run at the same time.
    let files = raise_files();
    let connections = 10_000.min((files as usize).saturating_sub(5_000));
    assert!(connections >= 1_000, "{files} open files are too few");
    let mut mesh = Plan { max_files: Some(files as u32), ..Plan::both(PROXY) }.start();
    let port = mesh.serve(mirror);
    let web = mesh.service_at("web", port);
    let dial = |_| {
        let mut http = Http1::new(mesh.ground.client.connect(web).unwrap());
        assert_eq!(http.get("/").status(), 200);
        http
    };
    let warm: Vec<_> = (0..50).map(dial).collect();
    let before = mesh.resident_kib();
    let idle: Vec<_> = (0..connections).map(dial).collect();
    let grown = mesh.resident_kib() - before;
    let each = grown as f64 / connections as f64;
    assert!(each < 16.0, "an idle meshed connection costs {each:.1} KiB in both proxies together");
    still_serves(&mut mesh, web);
    // Some that never say a word, at every port of a server's proxy.
    let ports = [port, INBOUND, ADMIN].map(|port| mesh.server().at(port));
    let silent: Vec<_> = (0..900).map(|n| mesh.ground.client.connect_unmeshed(ports[n % 3]).unwrap()).collect();
    still_serves(&mut mesh, web);
    drop((warm, idle, silent));
    let open = [("direction", "outbound"), ("peer", "src")];
    wait_for("they are let go", || (mesh.client_proxy().metrics().sum("tcp_open_connections", &open) < 10.0).then_some(()));
    still_serves(&mut mesh, web);
}

#[test]
fn exhausted_descriptors_are_told_and_pass() {
    let mut mesh = Plan { max_files: Some(96), ..Plan::both(PROXY) }.start();
    let web = mesh.service_at("web", mesh.serve(mirror));
    still_serves(&mut mesh, web);
    // A destination that is known, and whose connections have ended by now.
    let unmeshed = *UNMESHED.start() + 1;
    homarus_testkit::servers::serve(mesh.server().listen(unmeshed), mirror);
    let other = mesh.service_at("other", unmeshed);
    let mut kept = Http1::new(mesh.client().connect(other).unwrap());
    let mut through = Http1::new(mesh.client().connect(web).unwrap());
    assert_eq!((kept.get("/").status(), through.get("/").status()), (200, 200));
    let address = mesh.server().at(unmeshed).to_string();
    let there = [("peer", "dst"), ("target_addr", address.as_str())];
    wait_for("the pool is empty", || (mesh.client_proxy().metrics().sum("tcp_open_connections", &there) == 0.0).then_some(()));

    let many: Vec<_> = (0..150).filter_map(|_| mesh.client().connect(web).ok()).collect();
    wait_for("the log says so", || mesh.client_proxy().log().contains("raise the limit of open files").then_some(()));
    // What needs no new connection goes on; what does is told why.
    assert_eq!(through.get("/").status(), 200);
    let reply = kept.get("/");
    let told = reply.header("l5d-proxy-error").unwrap_or_default();
    assert!(reply.status() == 502 && told.contains("open files"), "{reply:?}");
    assert!(mesh.client_proxy().is_running());
    drop(many);
    wait_for("it serves again", || {
        let mut http = Http1::new(mesh.client().connect(other).ok()?);
        http.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n").try_response().filter(|r| r.status() == 200)
    });
    still_serves(&mut mesh, web);
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
