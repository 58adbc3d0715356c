//! HTTP/2 and gRPC through both proxies.

use crate::{mesh, meshed_client};
use bytes::Bytes;
use homarus_testkit::{
    client::{block_on, collect, http2, request},
    mesh::Mesh,
    servers::{Asked, echo_h2, mirror, send_all, serve_h2},
};
use http::{HeaderMap, HeaderValue, Response};
use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

fn echo_service(mesh: &Mesh) -> SocketAddr {
    mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, echo_h2))
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

#[test]
fn grpc_streams_both_ways_with_trailers() {
    let mut mesh = mesh();
    let to = echo_service(&mesh);
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let (response, mut send) = client.send_request(request("POST", "/a.B/C", GRPC), false).unwrap();
        send.send_data(Bytes::from_static(b"one"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["te"], "trailers");
        let mut body = response.into_body();
        for word in ["one", "two", "three"] {
            if word != "one" {
                send.send_data(Bytes::from(word), false).unwrap();
            }
            assert_eq!(body.data().await.unwrap().unwrap(), word);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("yes"));
        send.send_trailers(trailers).unwrap();
        let (rest, trailers) = collect(body).await.unwrap();
        assert_eq!(
            (rest.len(), &trailers["grpc-status"], &trailers["x-end"]),
            (0, &HeaderValue::from_static("0"), &HeaderValue::from_static("yes"))
        );
    });
    let done = [("direction", "outbound"), ("classification", "success"), ("grpc_status", "0"), ("tls", "true")];
    mesh.client_proxy().wait_metric("response_total", &done, 1.0);
    let done = [("direction", "inbound"), ("classification", "success"), ("grpc_status", "0"), ("tls", "true")];
    mesh.server_proxy().wait_metric("response_total", &done, 1.0);
}

#[test]
fn large_bodies_and_slow_readers() {
    const SIZE: usize = 16 * 1024 * 1024;
    let mut mesh = mesh();
    let to = echo_service(&mesh);
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let (response, mut send) = client.send_request(request("POST", "/", &[]), false).unwrap();
        let sending = tokio::spawn(async move {
            send_all(&mut send, vec![7; SIZE].into()).await.unwrap();
            send.send_data(Bytes::new(), true).unwrap();
        });
        let response = response.await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (body, _) = collect(response.into_body()).await.unwrap();
        assert!(body.len() == SIZE && body.iter().all(|b| *b == 7));
        sending.await.unwrap();
    });
    assert!(mesh.client_proxy().resident_kib() < 40 * 1024 && mesh.server_proxy().resident_kib() < 40 * 1024);
}

/// Sends `streams` requests at once on one connection to a server that takes `limit` at a time; gives the most that it had.
fn crowd(limit: u32, streams: usize) -> usize {
    let mesh = mesh();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = most.clone();
    let busy = move |asked: Asked| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, Relaxed);
            echo_h2(asked).await;
        }
    };
    let to = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), Some(limit), busy));
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let client = http2(tcp).await;
        let ask = |n: usize| {
            let client = client.clone();
            async move {
                let mut client = client.ready().await.unwrap();
                let (response, mut send) = client.send_request(request("POST", "/", GRPC), false).unwrap();
                send.send_data(Bytes::from(n.to_string()), true).unwrap();
                collect(response.await.unwrap().into_body()).await.unwrap().0
            }
        };
        let all: Vec<_> = (0..streams).map(|n| tokio::spawn(ask(n))).collect();
        for (n, one) in all.into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), n.to_string().as_bytes());
        }
    });
    highest.load(Relaxed)
}

#[test]
fn more_streams_than_the_server_takes_wait() {
    assert!(crowd(3, 100) <= 3);
    let most = crowd(100, 400);
    assert!((50..=100).contains(&most), "{most}");
}

#[test]
fn resets_and_trailers_only_pass() {
    let mesh = mesh();
    let (told, mut reset) = tokio::sync::mpsc::unbounded_channel();
    let answer = move |asked: Asked| {
        let told = told.clone();
        async move {
            let Asked { request, mut respond, .. } = asked;
            match request.uri().path() {
                "/only" => {
                    let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
                    respond.send_response(head.body(()).unwrap(), true).unwrap();
                }
                "/reset" => {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    send.send_data(Bytes::from_static(b"x"), false).unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                }
                _ => {
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    told.send(reason.unwrap()).unwrap();
                }
            }
        }
    };
    let to = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, answer));
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await.ready().await.unwrap();
        let (response, _) = client.send_request(request("POST", "/only", GRPC), true).unwrap();
        assert_eq!(response.await.unwrap().headers()["grpc-status"], "5");
        let (response, _) = client.send_request(request("POST", "/reset", &[]), true).unwrap();
        let error = collect(response.await.unwrap().into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
        let (response, mut send) = client.send_request(request("POST", "/wait", &[]), true).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_reset(h2::Reason::CANCEL);
        drop(response);
        assert_eq!(reset.recv().await.unwrap(), h2::Reason::CANCEL);
    });
}

#[test]
fn a_server_that_goes_away_loses_nothing() {
    let mesh = meshed_client();
    // Every connection takes five requests and then says that it goes.
    let count = Arc::new(AtomicUsize::new(0));
    let leaving = move |asked: Asked| {
        if count.fetch_add(1, Relaxed) % 5 == 4 {
            asked.go_away.send(()).unwrap();
        }
        echo_h2(asked)
    };
    let to = mesh.service_at("grpc", serve_h2(mesh.server().listen(0), None, leaving));
    let tcp = mesh.client().connect(to).unwrap();
    block_on(async {
        let mut client = http2(tcp).await;
        for n in 0..60 {
            client = client.ready().await.unwrap();
            let (response, _) = client.send_request(request("POST", "/", GRPC), true).unwrap();
            let (_, trailers) = collect(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!(trailers["grpc-status"], "0", "request {n}");
        }
    });
}

#[test]
fn programs_in_use_work() {
    let mesh = mesh();
    let grpc = echo_service(&mesh);
    let web = mesh.service_at("web", mesh.serve(mirror));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "10", "--http2-prior-knowledge", "-d", "body", "-w", "%{http_version} %{http_code}"]);
    let output = mesh.client().run(curl.arg(format!("http://{grpc}/")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "body2 200", "{}", String::from_utf8_lossy(&output.stderr));
    let mut load = Command::new("h2load");
    let output = mesh.client().run(load.args(["-n", "2000", "-c", "4", "-m", "20"]).arg(format!("http://{grpc}/")));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    let mut load = Command::new("h2load");
    let output = mesh.client().run(load.args(["--h1", "-n", "2000", "-c", "4"]).arg(format!("http://{web}/")));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
}
