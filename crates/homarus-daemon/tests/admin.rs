//! The admin server, asked over real sockets.
#![cfg(feature = "admin")]
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use homarus_daemon::admin::Admin;
use homarus_daemon::drain::{self, Drained};
use homarus_daemon::{Readiness, metrics::Metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn tells_kubelets_and_prometheus() {
    let readiness = Readiness::default();
    let gate = readiness.gate("issuer");
    let (signal, drain) = drain::channel();
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), Metrics::new(), readiness).await.unwrap();
    let address = admin.local_addr().unwrap();
    let serving = tokio::spawn(admin.serve(drain));

    let check = async |request: &str, status: &str, body: &str| {
        let answer = ask(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.ends_with(body), "{answer}");
    };
    check("GET /ping", "200", "\r\n\r\npong\n").await;
    check("GET /live", "200", "\r\n\r\nlive\n").await;
    check("GET /ready", "500", "\r\n\r\nnot ready\nwaiting for: issuer\n").await;
    gate.open();
    check("GET /ready", "200", "\r\n\r\nok\n").await;
    gate.close();
    check("GET /ready", "500", "waiting for: issuer\n").await;
    check("GET /metrics", "200", "# EOF\n").await;
    check("GET /else", "404", "").await;
    check("POST /ping", "405", "").await;

    // An idle connection must not hold up the end.
    let _idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(signal.finish(Duration::from_secs(5)).await, Drained::Finished);
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
