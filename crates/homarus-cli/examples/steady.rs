//! Requests at a constant rate, whatever becomes of them: what a fault costs the clients of a server.
//!
//! `steady HOST:PORT RATE` asks `GET /` of a server until it is told to end (SIGTERM or SIGINT). It is an open loop: when
//! a request is due doesn't depend on the fate of those before it, and each waits for its own answer, on a kept connection
//! if one is free. Nothing is tried again. Every request that got no `200` is a line of JSON with when it was sent and when
//! it failed, in microseconds since 1970; the last line counts all of them, how many each server answered, which servers tell
//! by the first line of their answer, and the seconds in which an answer was slow, with its milliseconds.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use homarus_daemon::drain;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(20);
/// What is told by the second, as nobody should have waited for that long.
const SLOW: Duration = Duration::from_millis(500);
/// How many may be under way; more are lost.
const MAX_UNDER_WAY: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [authority, rate] = &args[..] else { bail!("usage: steady HOST:PORT RATE") };
    let addr = tokio::net::lookup_host(authority).await?.next().with_context(|| format!("{authority} has no address"))?;
    let (idle, seen) = (RefCell::default(), RefCell::default());
    let client = Rc::new(Client { authority: authority.clone(), addr, began: Instant::now(), idle, seen });
    let between = Duration::from_secs(1) / rate.parse()?;
    tokio::task::LocalSet::new().run_until(client.load(between)).await
}

struct Client {
    authority: String,
    addr: SocketAddr,
    began: Instant,
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    failed: usize,
    servers: BTreeMap<String, usize>,
    took: Vec<Duration>,
    /// The longest that an answer took to a request of each second.
    longest: BTreeMap<u64, Duration>,
}

impl Client {
    async fn load(self: Rc<Self>, between: Duration) -> anyhow::Result<()> {
        let mut ends = drain::requests()?;
        let mut under_way = JoinSet::new();
        let mut due = tokio::time::interval(between);
        let mut requests = 0;
        loop {
            let due = tokio::select! {
                _ = ends.next() => break,
                due = due.tick() => due.into_std(),
            };
            while under_way.try_join_next().is_some() {}
            ensure!(under_way.len() < MAX_UNDER_WAY, "{MAX_UNDER_WAY} requests are under way");
            under_way.spawn_local(self.clone().request(due));
            requests += 1;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        while under_way.join_next().await.is_some() {}
        let mut seen = self.seen.take();
        seen.took.sort();
        let at = |part: f64| seen.took.get((seen.took.len() as f64 * part) as usize).or(seen.took.last());
        let ms = |part| at(part).map(|took| took.as_secs_f64() * 1e3);
        let (p50, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
        seen.longest.retain(|_, took| *took >= SLOW);
        let slow: Vec<_> = seen.longest.iter().map(|(second, took)| (second, took.as_millis())).collect();
        let summary = json!({
            "requests": requests, "failed": seen.failed, "seconds": seconds, "servers": seen.servers,
            "p50_ms": p50, "p99_ms": p99, "max_ms": max, "slow_seconds": slow,
        });
        println!("{summary}");
        Ok(())
    }

    /// One request. What it waited before it could be sent counts as well.
    async fn request(self: Rc<Self>, due: Instant) {
        let sent = micros();
        let answer = timeout(LIMIT, self.ask()).await.unwrap_or_else(|_| bail!("no answer within {LIMIT:?}"));
        let mut seen = self.seen.borrow_mut();
        match answer {
            Ok(server) => {
                let took = due.elapsed();
                seen.took.push(took);
                let longest = seen.longest.entry(due.duration_since(self.began).as_secs()).or_default();
                *longest = took.max(*longest);
                *seen.servers.entry(server).or_default() += 1;
            }
            Err(error) => {
                seen.failed += 1;
                println!("{}", json!({"sent": sent, "ended": micros(), "error": format!("{error:#}")}));
            }
        }
    }

    /// One request; who answered it.
    async fn ask(&self) -> anyhow::Result<String> {
        let kept = self.idle.borrow_mut().pop().filter(|connection| !connection.is_closed());
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::get("/").header(header::HOST, &self.authority).body(Empty::new())?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if !head.status.is_success() {
            let said = head.headers.get("l5d-proxy-error").and_then(|said| said.to_str().ok());
            bail!("{}: {}", head.status, said.unwrap_or("no word why"));
        }
        if !connection.is_closed() {
            self.idle.borrow_mut().push(connection);
        }
        Ok(String::from_utf8_lossy(&body).lines().next().unwrap_or_default().to_owned())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.addr).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let (mut send, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        send.ready().await?;
        Ok(send)
    }
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}
