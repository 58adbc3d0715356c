//! Port-forwarding. Each connection has two streams or channels: one for its data, one to say what went wrong.
//!
//! Over SPDY (`portforward.k8s.io`) the client opens a pair of streams for each connection that it takes, told by the
//! headers `port`, `streamtype` and `requestid`. Over channels (`v4.channel.k8s.io`) the ports stand in the request: for
//! the n-th, channel 2n carries data and 2n+1 errors, and each begins with the port's number.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::channels::Channels;
use super::spdy::session::{self, Opened};
use super::upgrade::{Carrier, Upgrade};
use super::{CHUNK, Input, Output, tunnel};
use crate::api::node::{NodeBackend, PodRef, PodStream};
use crate::api::refusal::{Answer, Refusal};
use crate::api::serve::target::Query;

/// More ports in one request are refused.
const MAX_PORTS: usize = 32;
/// More connections at once are refused.
const MAX_CONNECTIONS: usize = 512;
/// More streams that wait for their other half are refused.
const MAX_HALVES: usize = 64;
/// When the client has sent all, the pod's answer may pause for so long. (Old kubectls say no more when theirs is gone.)
const LINGER: Duration = Duration::from_secs(30);

/// Whose ports are forwarded.
#[derive(Clone)]
pub struct Source {
    /// Who runs it.
    pub node: Arc<dyn NodeBackend>,
    /// Which it is.
    pub pod: PodRef,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("pod", &self.pod).finish_non_exhaustive()
    }
}

/// The ports of a query, for channels.
pub fn ports(query: &str) -> Answer<Vec<u16>> {
    let bad = || Refusal::bad_request("query parameter \"ports\" must be numbers from 1 to 65535");
    let lists = Query::all(query, "ports");
    let ports = lists.iter().flat_map(|list| list.split(','));
    let ports = ports.map(|port| port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad));
    let ports: Vec<u16> = ports.collect::<Answer<_>>()?;
    if ports.is_empty() || ports.len() > MAX_PORTS { Err(bad()) } else { Ok(ports) }
}

/// Forwards until the client goes, or has nothing left to forward.
pub async fn serve(carrier: Carrier, io: Upgrade, source: Source, ports: Vec<u16>) {
    match carrier {
        Carrier::Spdy => over_spdy(io, source).await,
        Carrier::Tunnel => tunnel::through(io, |near| over_spdy(near, source)).await,
        Carrier::Channels => over_channels(io, source, ports).await,
    }
}

/// Forwards over channels, until all connections ended.
async fn over_channels(io: impl AsyncRead + AsyncWrite, source: Source, ports: Vec<u16>) {
    let mut channels = Channels::default();
    let mut connections = JoinSet::new();
    for (n, port) in (0_u8..).zip(ports) {
        let input = channels.input(2 * n);
        let (data, errors) = (channels.output(2 * n), channels.output(2 * n + 1));
        let source = source.clone();
        connections.spawn(async move {
            for channel in [&data, &errors] {
                let _ = channel.send(&port.to_le_bytes()).await;
            }
            forward(&source, port, input, &data, &errors).await;
        });
    }
    channels.serve(io, async move { while connections.join_next().await.is_some() {} }).await;
}

/// Forwards over SPDY, until the client goes.
async fn over_spdy(io: impl AsyncRead + AsyncWrite, source: Source) {
    let (pairs, paired) = mpsc::channel(MAX_CONNECTIONS);
    let mut halves = HashMap::new();
    let opened = move |opened: Opened| match pair(&mut halves, opened) {
        Some(Paired::Whole(connection)) => pairs.try_send(*connection).is_ok(),
        Some(Paired::Half) => true,
        None => false,
    };
    session::serve(io, opened, connections(source, paired)).await;
}

async fn connections(source: Source, mut paired: mpsc::Receiver<Connection>) {
    let mut running = JoinSet::new();
    loop {
        let room = running.len() < MAX_CONNECTIONS;
        tokio::select! {
            connection = paired.recv(), if room => match connection {
                Some(Connection { port, input, data, errors }) => {
                    let source = source.clone();
                    running.spawn(async move { forward(&source, port, input, &data, &errors).await });
                }
                None => return,
            },
            Some(_) = running.join_next() => {}
        }
    }
}

/// A connection of the client's.
struct Connection {
    port: u16,
    input: Input,
    data: Output,
    errors: Output,
}

enum Paired {
    Half,
    Whole(Box<Connection>),
}

/// Puts a stream to its other half; `None`: it makes no sense, or too many wait.
fn pair(halves: &mut HashMap<String, Opened>, opened: Opened) -> Option<Paired> {
    let header = |opened: &Opened, name: &str| opened.headers.get(name).cloned();
    let port = |opened: &Opened| header(opened, "port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0);
    let kind = header(&opened, "streamtype")?;
    port(&opened)?;
    // Before there were request numbers, a connection's streams followed each other, the one for errors first.
    let by_number = match kind.as_str() {
        "error" => opened.number,
        "data" => opened.number.saturating_sub(2),
        _ => return None,
    };
    let request = header(&opened, "requestid").unwrap_or_else(|| format!("stream {by_number}"));
    let Some(other) = halves.remove(&request) else {
        if halves.len() >= MAX_HALVES {
            halves.retain(|_, half| !half.input.is_closed());
        }
        if halves.len() >= MAX_HALVES {
            return None;
        }
        halves.insert(request, opened);
        return Some(Paired::Half);
    };
    let (data, errors) = match (kind.as_str(), header(&other, "streamtype").as_deref()) {
        ("data", Some("error")) => (opened, other),
        ("error", Some("data")) => (other, opened),
        _ => return None,
    };
    let port = port(&data)?;
    Some(Paired::Whole(Box::new(Connection { port, input: data.input, data: data.output, errors: errors.output })))
}

/// One connection: from the client's stream to the pod's port.
async fn forward(source: &Source, port: u16, input: Input, data: &Output, errors: &Output) {
    match source.node.connect(source.pod.clone(), port).await {
        Ok(stream) => copy(stream, input, data).await,
        Err(error) => {
            let PodRef { name, uid, .. } = &source.pod;
            let said = format!("error forwarding port {port} to pod {name}, uid {uid}: {error}");
            let _ = errors.send(said.as_bytes()).await;
        }
    }
    data.finish().await;
    errors.finish().await;
}

/// Carries bytes both ways until the pod has sent all, the client wants no more, or it has sent all and nothing comes.
async fn copy(stream: Box<dyn PodStream>, mut input: Input, data: &Output) {
    let (mut from_pod, mut to_pod) = tokio::io::split(stream);
    let heard = Mutex::new(Instant::now());
    let outwards = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from_pod.read(&mut chunk).await {
            if data.send(&chunk[..read]).await.is_err() {
                return;
            }
            *heard.lock() = Instant::now();
        }
    };
    let inwards = async {
        let mut open = true;
        while let Some(piece) = input.recv().await {
            let Ok(bytes) = piece else { return };
            // A pod that closed its side for reading may still answer.
            open = open && to_pod.write_all(&bytes).await.is_ok() && to_pod.flush().await.is_ok();
        }
        let _ = to_pod.shutdown().await;
        *heard.lock() = Instant::now();
        loop {
            let silent_at = *heard.lock() + LINGER;
            if silent_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(silent_at).await;
        }
    };
    tokio::select! {
        () = outwards => {}
        () = inwards => {}
    }
}

#[cfg(test)]
mod tests;
