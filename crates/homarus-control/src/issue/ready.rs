//! Waiting for the controller of the same pod: what a `postStart` hook runs, so that kubelet starts the proxy's container, whose
//! environment comes from a ConfigMap that this controller makes, when that is there. Without it, kubelet would fail to, and
//! come back after ten seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use homarus_daemon::args::Listen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How often is asked.
const LOOK: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// After so long the proxy is started all the same: kubelet tries it again and again, and a hook that fails ends the controller.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is read of an answer.
const STATUS_LINE: usize = 12;

/// Waits until the controller is ready, within bounds.
pub(super) async fn wait(admin: Listen) -> anyhow::Result<()> {
    let Some(port) = admin.candidates().first().map(SocketAddr::port) else { bail!("no admin address") };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            if timeout(ANSWER, is_ready(SocketAddr::new(ip, port))).await.is_ok_and(|ready| ready) {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut status = [0; STATUS_LINE];
        stream.read_exact(&mut status).await?;
        Ok::<_, std::io::Error>(status.ends_with(b" 200"))
    };
    ask.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn only_a_good_answer_is_good() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            for answer in ["HTTP/1.1 503 no\r\n\r\n", "", "HTTP/1.1 200 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 256]).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert!(!is_ready(address).await && !is_ready(address).await && is_ready(address).await);
        serving.await.unwrap();
        assert!(!is_ready(address).await, "nobody listens any more");
    }
}
