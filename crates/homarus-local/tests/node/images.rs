//! Images are rows of a table: programs of the machine under the names that manifests know.

use std::convert::Infallible;
use std::process::Command;

use bytes::Bytes;
use homarus_local::node::{ImageFile, ImageRow};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::cluster::{Cluster, container};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_a_program_at_the_place_its_manifests_expect() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    // By another process: a fork of another test would keep a descriptor of ours open for writing, and the script busy.
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf '#!/bin/sh\\necho $0 \"$@\"\\n' >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(&program);
    assert!(shell.status().unwrap().success());
    let row = ImageRow {
        repository: "acme/tool".into(),
        entrypoint: vec!["/usr/lib/acme/tool".into(), "serve".into()],
        default_args: vec!["--gently".into()],
        files: vec![ImageFile { inside: "/usr/lib/acme/tool".into(), machine: program }],
        user: Some(65534),
    };
    let cluster = Cluster::start_with(|config| config.images.push(row)).await;
    let image = "registry.example:5000/acme/tool:v1";
    cluster
        .run(
            "tool",
            json!({
                "restartPolicy": "Never",
                "containers": [
                    {"name": "plain", "image": image},
                    {"name": "args", "image": image, "args": ["--hard"]},
                    {"name": "command", "image": image, "command": ["/usr/lib/acme/tool", "other"]},
                    {"name": "user", "image": image, "command": ["/usr/bin/id", "-u"]},
                ],
            }),
        )
        .await;
    cluster.until_phase("tool", "Succeeded").await;
    assert_eq!(cluster.log("tool", "plain").await, "/usr/lib/acme/tool serve --gently\n");
    assert_eq!(cluster.log("tool", "args").await, "/usr/lib/acme/tool serve --hard\n");
    assert_eq!(cluster.log("tool", "command").await, "/usr/lib/acme/tool other\n");
    assert_eq!(cluster.log("tool", "user").await, "65534\n");
}

const SERVER: &str = "HOMARUS_TEST_HEALTH";

/// In a pod: a gRPC server that answers the health question as its variable says.
#[tokio::main(flavor = "current_thread")]
async fn answer_health(status: u8) {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:9000").await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = move |request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]));
            Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
        };
        tokio::spawn(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer)).await;
        });
    }
}

#[test]
fn grpc_probes_ask_for_health() {
    match std::env::var(SERVER) {
        Ok(status) => answer_health(status.parse().unwrap()),
        Err(_) => probe_health(),
    }
}

#[tokio::main]
async fn probe_health() {
    let row = ImageRow {
        repository: "health".into(),
        entrypoint: vec!["/test".into()],
        default_args: vec!["--exact".into(), "images::grpc_probes_ask_for_health".into()],
        files: vec![ImageFile { inside: "/test".into(), machine: std::env::current_exe().unwrap() }],
        user: None,
    };
    let cluster = Cluster::start_with(|config| config.images.push(row)).await;
    let probe = json!({"grpc": {"port": 9000, "service": "any"}, "periodSeconds": 1, "failureThreshold": 1});
    for (name, status) in [("serving", "1"), ("not-serving", "2")] {
        let env = json!([{"name": SERVER, "value": status}]);
        cluster.run(name, json!({"containers": [{"name": "c", "image": "health", "env": env, "readinessProbe": probe}]})).await;
    }
    cluster.until_ready("serving").await;
    let told = async || cluster.events("not-serving").await.iter().any(|e| e.contains("not serving"));
    let begun = std::time::Instant::now();
    while !told().await {
        assert!(begun.elapsed() < super::cluster::PATIENCE, "{:?}", cluster.events("not-serving").await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let pod = cluster.pods().get("not-serving").await.unwrap();
    assert!(!container(&pod, "c").ready && container(&pod, "c").restart_count == 0);
}
