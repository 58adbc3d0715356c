//! The same traffic with every pair of proxies: ours with ours, and, if `LINKERD2_PROXY_BIN` names one, with a
//! linkerd2-proxy on either side.

use crate::PROXY;
use bytes::Bytes;
use homarus_testkit::{
    client::{Http1, block_on, collect, http2, request},
    control::{Endpoint, Service},
    mesh::{CLIENT_ID, Mesh, Plan, SERVER_ID},
    servers::{banner, echo, echo_h2, mirror, read_all, serve_h2},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    path::PathBuf,
};

#[test]
fn every_pair_carries_everything() {
    let ours = PathBuf::from(PROXY);
    let mut pairs = vec![(ours.clone(), ours.clone())];
    if let Some(theirs) = std::env::var_os("LINKERD2_PROXY_BIN").map(PathBuf::from) {
        pairs.extend([(ours.clone(), theirs.clone()), (theirs.clone(), ours), (theirs.clone(), theirs)]);
    }
    for (client, server) in pairs {
        let pair = format!("{} > {}", client.display(), server.display());
        let mesh = Plan { client: Some(client), server: Some(server), ..Plan::default() }.start();
        for tagged in [true, false] {
            println!("{pair}, tagged {tagged}");
            everything(&mesh, tagged);
        }
        for proxy in mesh.proxies() {
            let metrics = proxy.metrics();
            assert!(metrics.sum("request_total", &[("tls", "true")]) >= 10.0, "{pair}");
            assert!(metrics.sum("tcp_open_total", &[("tls", "true")]) >= 4.0, "{pair}");
        }
    }
}

fn everything(mesh: &Mesh, tagged: bool) {
    let service = |name: &str, port: u16, opaque: bool, h2: bool| {
        let addr = mesh.server().at(port);
        let endpoint = if tagged { Endpoint::meshed(addr, SERVER_ID) } else { Endpoint::transparent(addr, SERVER_ID) };
        let mut service = Service::new(name, [10, if tagged { 99 } else { 98 }, (port >> 8) as u8, port as u8], 80);
        (service.opaque, service.endpoints) = (opaque, vec![Endpoint { h2, ..endpoint }]);
        mesh.service(service)
    };
    let web = mesh.serve(mirror);
    http1(mesh, service("upgraded", web, false, true));
    http1(mesh, service("plain", mesh.serve(mirror), false, false));
    grpc(mesh, service("grpc", serve_h2(mesh.server().listen(0), None, echo_h2), false, true));
    opaque(mesh, service("db", mesh.serve(echo), true, true));
    opaque(mesh, service("detected", mesh.serve(echo), false, true));
    server_first(mesh, service("smtp", mesh.serve(banner), true, true));
}

fn http1(mesh: &Mesh, to: SocketAddr) {
    let mut http = Http1::new(mesh.client().connect(to).unwrap());
    for ask in [
        "GET /x HTTP/1.1\r\nhost: w\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let reply = http.write(ask).response();
        let text = reply.text();
        assert!(reply.status() == 200 && text.contains(&format!("l5d-client-id: {CLIENT_ID}\n")), "{to}: {reply:?}");
        assert!(text.lines().next().unwrap().ends_with("/x HTTP/1.1") && !text.contains("orig-proto"), "{text}");
        assert_eq!(text.contains("body 5\n"), ask.starts_with("POST"));
        assert!(reply.0.headers.iter().all(|(name, _)| !name.starts_with("l5d")), "{reply:?}");
    }
}

fn grpc(mesh: &Mesh, to: SocketAddr) {
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await;
        for n in 0..5 {
            client = client.ready().await.unwrap();
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let (response, mut send) = client.send_request(request("POST", "/a.B/C", &headers), false).unwrap();
            send.send_data(Bytes::from(vec![n; 100_000]), true).unwrap();
            let (body, trailers) = collect(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!((body.len(), &trailers["grpc-status"]), (100_000, &"0".parse().unwrap()));
        }
    });
}

fn opaque(mesh: &Mesh, to: SocketAddr) {
    for _ in 0..3 {
        let mut tcp = mesh.client().connect(to).unwrap();
        let words = vec![0xab; 70_000];
        tcp.write_all(&words).unwrap();
        let mut back = vec![0; words.len()];
        tcp.read_exact(&mut back).unwrap();
        assert!(back == words);
        tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut tcp), b"");
    }
}

fn server_first(mesh: &Mesh, to: SocketAddr) {
    let mut tcp = mesh.client().connect(to).unwrap();
    let mut line = [0; 11];
    tcp.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"220 ready\r\n");
}
