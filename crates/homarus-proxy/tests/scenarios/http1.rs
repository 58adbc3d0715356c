//! HTTP/1 through both proxies: the forms of messages that exist.

use crate::{mesh, meshed_client, meshed_server};
use homarus_testkit::{
    client::Http1,
    mesh::{CLIENT_ID, Mesh, SERVER_ID},
    servers::{self, http1, mirror, respond},
    wait_for,
};
use std::{
    io::{Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

fn dial(mesh: &Mesh, to: SocketAddr) -> Http1 {
    Http1::new(mesh.client().connect(to).unwrap())
}

#[test]
fn messages_keep_their_meaning() {
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let mut http = dial(&mesh, web);

    let reply = http.get("/a?b=c");
    assert_eq!(reply.status(), 200);
    let text = reply.text();
    assert!(text.starts_with("GET /a?b=c HTTP/1.1\n"), "{text}");
    assert!(text.contains("host: web.test\n") && text.contains(&format!("l5d-client-id: {CLIENT_ID}\n")), "{text}");
    assert!(!text.contains("l5d-orig-proto"), "{text}");

    http.write("POST /p HTTP/1.1\r\nhost: web.test\r\ncontent-length: 5\r\n\r\nhello");
    assert!(http.response().text().contains("body 5\n"));
    let chunked = "POST /p HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n2;e=f\r\nde\r\n0\r\nx-sum: 7\r\n\r\n";
    let text = http.write(chunked).response().text();
    assert!(text.contains("body 5\n") && text.contains("x-sum: 7\n"), "{text}");
    http.write("POST / HTTP/1.1\r\nhost: w\r\ncontent-length: 0\r\n\r\n");
    assert!(http.response().text().contains("content-length: 0\n"));
    // Two at once, answered in order.
    http.write("GET /1 HTTP/1.1\r\nhost: w\r\n\r\nGET /2 HTTP/1.1\r\nhost: w\r\n\r\n");
    assert!(http.response().text().starts_with("GET /1 "));
    assert!(http.response().text().starts_with("GET /2 "));

    http.write("PUT / HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    assert_eq!(http.head().status(), 100);
    assert!(http.write("abc").response().text().contains("body 3\n"));

    let text = http.write("GET http://other.test/x HTTP/1.1\r\nhost: other.test\r\n\r\n").response().text();
    assert!(text.starts_with("GET http://other.test/x HTTP/1.1\n"), "{text}");

    http.write("GET /last HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n");
    assert_eq!(http.response().header("connection"), Some("close"));
    assert_eq!(http.rest(), b"");

    let mut old = dial(&mesh, web);
    let reply = old.write("GET /old HTTP/1.0\r\n\r\n").response();
    assert!(reply.0.line.starts_with("HTTP/1.0 200") || reply.0.line.starts_with("HTTP/1.1 200"), "{}", reply.0.line);
    assert!(reply.text().starts_with("GET /old HTTP/1.0\n"), "{}", reply.text());
    assert_eq!(old.rest(), b"");

    let tls = [("direction", "outbound"), ("tls", "true"), ("server_id", SERVER_ID)];
    assert!(mesh.client_proxy().metrics().sum("request_total", &tls) >= 9.0);
    let tls = [("direction", "inbound"), ("tls", "true"), ("client_id", CLIENT_ID)];
    assert!(mesh.server_proxy().metrics().sum("request_total", &tls) >= 9.0);
}

#[test]
fn responses_keep_their_framing() {
    let mesh = mesh();
    let port = mesh.serve(|tcp| {
        http1(tcp, |seen, out| {
            let (bytes, go_on): (&[u8], bool) = match seen.path() {
                "/head" => (b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", true),
                "/204" => (b"HTTP/1.1 204 No Content\r\n\r\n", true),
                "/304" => (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: x\r\n\r\n", true),
                "/close" => (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", false),
                "/close-length" => (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc", false),
                "/old" => (b"HTTP/1.0 200 OK\r\n\r\nold", false),
                "/interim" => {
                    (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true)
                }
                "/trailers" => (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n", true),
                "/500" => (b"HTTP/1.1 500 Oops\r\ncontent-length: 3\r\n\r\nbad", true),
                _ => (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            };
            out.write_all(bytes).is_ok() && go_on
        });
    });
    let meshed = mesh.service_at("web", port);
    let mut http = dial(&mesh, meshed);
    http.write("HEAD /head HTTP/1.1\r\nhost: w\r\n\r\n");
    assert_eq!(http.head().header("content-length"), Some("1234"));
    http.write("GET /204 HTTP/1.1\r\nhost: w\r\n\r\n");
    let head = http.head();
    assert_eq!((head.status(), head.header("transfer-encoding")), (204, None));
    http.write("GET /304 HTTP/1.1\r\nhost: w\r\n\r\n");
    let head = http.head();
    assert_eq!((head.status(), head.header("etag")), (304, Some("x")));
    for _ in 0..2 {
        assert_eq!(http.get("/close").text(), "until the end");
        assert_eq!(http.get("/close-length").text(), "abc");
        assert_eq!(http.get("/old").text(), "old");
    }
    assert_eq!(http.get("/interim").text(), "ok");
    let reply = http.get("/trailers");
    assert_eq!((reply.text().as_str(), reply.0.trailers.clone()), ("ab", vec![("x-t".to_owned(), "1".to_owned())]));
    let reply = http.get("/500");
    assert_eq!((reply.status(), reply.text().as_str()), (500, "bad"));
    assert_eq!(http.get("/").0.body, b"");
}

#[test]
fn tunnels_and_upgrades_pass() {
    let mesh = mesh();
    let port = mesh.serve(|tcp| {
        let mut tunnel = tcp.try_clone().unwrap();
        http1(tcp, |seen, out| {
            let answer: &[u8] = match seen.line.as_str() {
                line if line.starts_with("CONNECT ") => b"HTTP/1.1 200 OK\r\n\r\n",
                _ if seen.header("upgrade") == Some("websocket") => {
                    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                }
                _ => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            };
            let _ = out.write_all(answer);
            false
        });
        let mut buf = [0; 64];
        while let Ok(n @ 1..) = tunnel.read(&mut buf) {
            let _ = tunnel.write_all(&buf[..n]);
        }
    });
    let web = mesh.service_at("web", port);
    for ask in [
        "GET /ws HTTP/1.1\r\nhost: w\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "CONNECT web.test:443 HTTP/1.1\r\nhost: web.test:443\r\n\r\n",
    ] {
        let mut http = dial(&mesh, web);
        let head = http.write(ask).head();
        assert!([101, 200].contains(&head.status()), "{ask}: {}", head.0.line);
        http.write("through the tunnel");
        let mut back = [0; 18];
        http.reader().read_exact(&mut back).unwrap();
        assert_eq!(&back, b"through the tunnel");
        http.tcp().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(http.rest(), b"");
    }
}

#[test]
fn requests_and_responses_stream_at_the_same_time() {
    let mesh = mesh();
    // Answers each chunk of the request with a chunk of the response, before the next comes.
    let port = mesh.serve(|mut tcp| {
        let mut reader = std::io::BufReader::new(tcp.try_clone().unwrap());
        servers::read_head(&mut reader).unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let mut chunk = [0; 9];
        while reader.read_exact(&mut chunk[..3]).is_ok() && chunk[0] != b'0' {
            reader.read_exact(&mut chunk[3..]).unwrap();
            tcp.write_all(&chunk).unwrap();
        }
        let _ = tcp.write_all(b"0\r\n\r\n");
    });
    let web = mesh.service_at("web", port);
    let mut http = dial(&mesh, web);
    http.write("POST / HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(http.head().status(), 200);
    for _ in 0..50 {
        http.write("4\r\nping\r\n");
        let mut back = [0; 9];
        http.reader().read_exact(&mut back).unwrap();
        assert_eq!(&back, b"4\r\nping\r\n");
    }
    http.write("0\r\n\r\n");
    let mut end = [0; 5];
    http.reader().read_exact(&mut end).unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_ends_the_request_at_the_server() {
    let mesh = mesh();
    let (told, left) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let port = mesh.serve(move |mut tcp| {
        let mut reader = std::io::BufReader::new(tcp.try_clone().unwrap());
        let seen = servers::read_head(&mut reader).unwrap();
        if seen.path() == "/begun" {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").unwrap();
        }
        told.lock().unwrap().send(true).unwrap();
        // The end of the connection is all that can come.
        let _ = tcp.read(&mut [0]);
        told.lock().unwrap().send(false).unwrap();
    });
    let web = mesh.service_at("web", port);
    for path in ["/waiting", "/begun"] {
        let mut http = dial(&mesh, web);
        http.write(format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n"));
        assert!(left.recv_timeout(Duration::from_secs(5)).unwrap(), "{path}: the request arrives");
        drop(http);
        assert!(!left.recv_timeout(Duration::from_secs(5)).expect("the server learns that the client left"), "{path}");
    }
}

#[test]
fn large_bodies_pass_both_ways_without_being_stored() {
    const MIB: usize = 1024 * 1024;
    let mut mesh = mesh();
    let port = mesh.serve(|tcp| {
        http1(tcp, |seen, out| {
            let size = seen.path()[1..].parse().unwrap_or(0);
            out.write_all(&respond("200 OK", &[("x-got", &seen.body.len().to_string())], &vec![b'x'; size])).is_ok()
        });
    });
    let web = mesh.service_at("web", port);
    let mut http = dial(&mesh, web);
    let body = vec![b'y'; 32 * MIB];
    http.write(format!("POST /0 HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n", body.len())).write(&body);
    assert_eq!(http.response().header("x-got"), Some((32 * MIB).to_string().as_str()));
    assert_eq!(http.get(&format!("/{}", 32 * MIB)).0.body.len(), 32 * MIB);
    // A receiver that doesn't read stops the sender: nothing piles up in the proxies.
    http.write(format!("GET /{} HTTP/1.1\r\nhost: w\r\n\r\n", 128 * MIB));
    assert_eq!(http.head().status(), 200);
    std::thread::sleep(Duration::from_millis(300));
    for proxy in [mesh.client_proxy().resident_kib(), mesh.server_proxy().resident_kib()] {
        assert!(proxy < 40 * 1024, "a proxy holds {proxy} KiB");
    }
    let mut rest = vec![0; 128 * MIB];
    http.reader().read_exact(&mut rest).unwrap();
}

#[test]
fn a_refused_upload_still_gets_its_answer() {
    let mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    mesh.control.allow(homarus_testkit::control::Allow::Deny);
    wait_for("the denial", || (dial(&mesh, web).get("/").status() == 403).then_some(()));
    let body = vec![b'y'; 4 * 1024 * 1024];
    for _ in 0..3 {
        let mut http = dial(&mesh, web);
        let _ = write!(http.tcp(), "POST / HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n", body.len());
        // The answer may come while the body is still on its way; it must not get lost then.
        let _ = http.tcp().write_all(&body);
        assert_eq!(http.head().status(), 403);
    }
}

#[test]
fn clients_and_servers_outside_the_mesh_are_served() {
    let mut half = meshed_client();
    let web = half.service_at("web", half.serve(mirror));
    let text = dial(&half, web).get("/x").text();
    assert!(text.starts_with("GET /x HTTP/1.1\n") && !text.contains("l5d-"), "{text}");
    let plain = [("direction", "outbound"), ("tls", "no_identity"), ("no_tls_reason", "not_provided_by_service_discovery")];
    assert_eq!(half.client_proxy().metrics().sum("request_total", &plain), 1.0);

    let mut half = meshed_server();
    let port = half.serve(mirror);
    let mut http = Http1::new(half.client().connect(half.server().at(port)).unwrap());
    let text = http.write("GET /y HTTP/1.1\r\nhost: w\r\nl5d-client-id: forged\r\n\r\n").response().text();
    assert!(text.starts_with("GET /y HTTP/1.1\n") && !text.contains("forged"), "{text}");
    let port = port.to_string();
    let plain = [("direction", "inbound"), ("target_port", port.as_str()), ("no_tls_reason", "no_tls_from_remote")];
    assert_eq!(half.server_proxy().metrics().sum("request_total", &plain), 1.0);
}

#[test]
fn programs_in_use_work() {
    let mesh = mesh();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().display();
    std::fs::write(root.path().join("file"), vec![b'z'; 3_000_000]).unwrap();
    let config = format!(
        "daemon off; pid {dir}/pid; error_log {dir}/error.log; events {{}}\nhttp {{ access_log off; gzip on; gzip_types *; \
         client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};\n\
         server {{ listen 8080; absolute_redirect off; root {dir}; location /old {{ return 301 /file; }} }} }}"
    );
    std::fs::write(root.path().join("nginx.conf"), config).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.arg("-e").arg(root.path().join("error.log")).arg("-c").arg(root.path().join("nginx.conf"));
    nginx.args(["-g", "user root; master_process off;"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _nginx = mesh.server().spawn(&mut nginx);
    wait_for("nginx", || mesh.server().connect(SocketAddr::new([127, 0, 0, 1].into(), 8080)).ok());
    let web = mesh.service_at("web", 8080);
    let curl = |arguments: &str| {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "-m", "10", "-w", "%{http_code} %{size_download}"])
            .args(arguments.split(' '))
            .args(["-o", "/dev/null"]);
        let output = mesh.client().run(&mut command);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let begun = Instant::now();
    assert_eq!(curl(&format!("http://{web}/file")), "200 3000000");
    assert_eq!(curl(&format!("-I http://{web}/file")).split(' ').next(), Some("200"));
    assert_eq!(curl(&format!("-r 0-99 http://{web}/file")), "206 100");
    assert_eq!(curl(&format!("-L http://{web}/old")), "200 3000000");
    assert_eq!(curl(&format!("-0 http://{web}/file")), "200 3000000");
    assert!(curl(&format!("--compressed http://{web}/file")).starts_with("200 "));
    assert_eq!(curl(&format!("http://{web}/none")).split(' ').next(), Some("404"));
    assert_eq!(curl(&format!("-H Connection:close http://{web}/file")), "200 3000000");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
