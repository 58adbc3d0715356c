//! Port-forwarding over WebSockets (`v4.channel.k8s.io`), as kube-rs speaks it: for the n-th port, channel 2n carries
//! data and 2n+1 errors; each begins with the port number. RFC 6455, whose frames are written out here.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::respond::{self, Body};
use super::target::Query;
use crate::api::node::{NodeBackend, PodRef};
use crate::api::refusal::{Answer, Refusal};

const PROTOCOL: &str = "v4.channel.k8s.io";
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// More ports in one request are refused.
const MAX_PORTS: usize = 32;
/// Longer frames end the connection.
const MAX_FRAME: usize = 1 << 20;
const CHUNK: usize = 16 * 1024;
const QUEUE: usize = 16;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Answers the upgrade and carries the channels until either side ends.
pub fn upgrade(mut head: Request<()>, node: Arc<dyn NodeBackend>, pod: PodRef) -> Answer<Response<Body>> {
    let text = |name: header::HeaderName| head.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let websocket = text(header::UPGRADE).eq_ignore_ascii_case("websocket");
    let offered = text(header::SEC_WEBSOCKET_PROTOCOL);
    if !websocket || !offered.split(',').any(|p| p.trim() == PROTOCOL) {
        let message = format!("unable to upgrade: only WebSockets with the protocol {PROTOCOL} are spoken");
        return Err(Refusal::bad_request(message));
    }
    let ports = ports(head.uri().query().unwrap_or_default())?;
    let key = text(header::SEC_WEBSOCKET_KEY);
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()).as_ref());
    let upgraded = hyper::upgrade::on(&mut head);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(stream) => carry(TokioIo::new(stream), ports, node, pod).await,
            Err(error) => tracing::debug!(%error, "port-forward never began"),
        }
    });
    let mut response = Response::new(respond::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(Refusal::internal)?);
    Ok(response)
}

fn ports(query: &str) -> Answer<Vec<u16>> {
    let bad = || Refusal::bad_request("ports must be numbers from 1 to 65535");
    let mut ports = Vec::new();
    for pair in query.split('&').filter(|p| p.starts_with("ports=")) {
        let value = Query::parse(pair);
        for port in value.text("ports").unwrap_or_default().split(',') {
            ports.push(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad)?);
        }
    }
    if ports.is_empty() || ports.len() > MAX_PORTS { Err(bad()) } else { Ok(ports) }
}

/// A frame to be sent: kind and payload.
type Out = (u8, Vec<u8>);

async fn carry(stream: impl AsyncRead + AsyncWrite, ports: Vec<u16>, node: Arc<dyn NodeBackend>, pod: PodRef) {
    let (mut reader, mut writer) = tokio::io::split(Box::pin(stream));
    let (out, mut frames) = mpsc::channel::<Out>(QUEUE);
    let mut inputs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (n, port) in (0_u8..).zip(&ports) {
        let (input, received) = mpsc::channel(QUEUE);
        inputs.push(input);
        tasks.spawn(channel(n, *port, received, out.clone(), node.clone(), pod.clone()));
    }
    let writing = async {
        while let Some((kind, payload)) = frames.recv().await {
            if writer.write_all(&frame(kind, &payload)).await.is_err() || writer.flush().await.is_err() || kind == CLOSE {
                break;
            }
        }
    };
    let reading = async {
        while let Some((kind, payload)) = read_frame(&mut reader).await {
            match kind {
                CLOSE => break,
                PING => {
                    let _ = out.send((PONG, payload)).await;
                }
                _ => {
                    let Some((number, content)) = payload.split_first() else { continue };
                    if number % 2 == 0
                        && let Some(input) = inputs.get(usize::from(number / 2))
                        && input.send(content.to_vec()).await.is_err()
                    {
                        break;
                    }
                }
            }
        }
    };
    let ending = async {
        while tasks.join_next().await.is_some() {}
        let _ = out.send((CLOSE, 1000_u16.to_be_bytes().to_vec())).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = ending => {}
    }
}

/// One port: its data channel and its error channel.
async fn channel(
    n: u8,
    port: u16,
    mut input: mpsc::Receiver<Vec<u8>>,
    out: mpsc::Sender<Out>,
    node: Arc<dyn NodeBackend>,
    pod: PodRef,
) {
    let (data, errors) = (n * 2, n * 2 + 1);
    for channel in [data, errors] {
        let [low, high] = port.to_le_bytes();
        let _ = out.send((BINARY, vec![channel, low, high])).await;
    }
    let stream = match node.connect(pod, port).await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = out.send((BINARY, [&[errors], error.to_string().as_bytes()].concat())).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(stream);
    let receive = async {
        while let Some(content) = input.recv().await {
            if to_pod.write_all(&content).await.is_err() || to_pod.flush().await.is_err() {
                break;
            }
        }
        let _ = to_pod.shutdown().await;
        std::future::pending::<()>().await
    };
    let send = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read) = from_pod.read(&mut buffer).await {
            if read == 0 || out.send((BINARY, [&[data], &buffer[..read]].concat())).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = receive => {}
        () = send => {}
    }
}

/// An unmasked frame, as servers send them.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | kind];
    match payload.len() {
        short @ 0..=125 => frame.push(short as u8),
        medium @ 126..=65535 => {
            frame.push(126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A client's frame; `None` at the end or on nonsense. Continuations carry on as frames of their own: channels are
/// byte streams, but only the first of them names its channel, so fragmented messages are refused.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).await.ok()?;
    let (last, kind, masked) = (head[0] & 0x80 != 0, head[0] & 0x0f, head[1] & 0x80 != 0);
    let length = match head[1] & 0x7f {
        126 => usize::from(reader.read_u16().await.ok()?),
        127 => usize::try_from(reader.read_u64().await.ok()?).ok()?,
        short => usize::from(short),
    };
    if !last || !masked || length > MAX_FRAME {
        return None;
    }
    let mut mask = [0; 4];
    reader.read_exact(&mut mask).await.ok()?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((kind, payload))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_clients_write_them() {
        // RFC 6455, 5.7: a masked "Hello".
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read_frame(&mut &hello[..]).await, Some((1, b"Hello".to_vec())));
        let unmasked = frame(BINARY, b"x");
        assert_eq!(read_frame(&mut &unmasked[..]).await, None);
        assert_eq!(frame(BINARY, &[0; 300])[..4], [0x82, 126, 1, 44]);
    }

    #[test]
    fn ports_are_numbers() {
        assert_eq!(ports("ports=80&ports=81,82").unwrap(), [80, 81, 82]);
        assert!(ports("").is_err() && ports("ports=0").is_err() && ports("ports=x").is_err());
    }
}
