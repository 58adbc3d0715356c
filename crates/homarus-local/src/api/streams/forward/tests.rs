#![allow(clippy::unwrap_used)]

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::DuplexStream;

use super::super::spdy::block::{Headers, Writer};
use super::super::spdy::frame::{self, Decoder, Event};
use super::*;
use crate::api::node::{CommandOptions, LogOptions, LogStream, NodeError, Running};

/// A pod that sends everything back on port 7, and listens on no other.
struct Echo;

impl NodeBackend for Echo {
    fn log(&self, _: PodRef, _: LogOptions) -> BoxFuture<'static, Result<LogStream, NodeError>> {
        std::future::ready(Err(NodeError::Failed("no log".into()))).boxed()
    }

    fn connect(&self, _: PodRef, port: u16) -> BoxFuture<'static, Result<Box<dyn PodStream>, NodeError>> {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
        let answer: Result<Box<dyn PodStream>, _> = match port {
            7 => Ok(Box::new(near)),
            port => Err(NodeError::Failed(format!("port {port}: connection refused"))),
        };
        std::future::ready(answer).boxed()
    }

    fn run(&self, _: PodRef, _: CommandOptions) -> BoxFuture<'static, Result<Running, NodeError>> {
        std::future::ready(Err(NodeError::Failed("no commands".into()))).boxed()
    }
}

fn source() -> Source {
    Source { node: Arc::new(Echo), pod: PodRef { namespace: "a".into(), name: "b".into(), uid: "c".into() } }
}

/// A client's end of a SPDY connection.
struct Client {
    io: DuplexStream,
    decoder: Decoder,
    blocks: Writer,
}

impl Client {
    fn start() -> Client {
        let (io, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(over_spdy(far, source()));
        Client { io, decoder: Decoder::default(), blocks: Writer::default() }
    }

    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers: Headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &self.blocks.write(&headers)].concat();
        let length = u32::try_from(payload.len()).unwrap();
        self.send(&[&[0x80, 3, 0, 1][..], &length.to_be_bytes(), &payload].concat()).await;
    }

    async fn pair(&mut self, first: u32, port: &str) {
        let request = first.to_string();
        self.open(first, &[("port", port), ("requestid", &request), ("streamtype", "error")]).await;
        self.open(first + 2, &[("port", port), ("requestid", &request), ("streamtype", "data")]).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next event but replies.
    async fn next(&mut self) -> Event {
        loop {
            match self.decoder.event().unwrap() {
                Some(Event::Nothing) => {}
                Some(event) => return event,
                None => assert!(super::super::fill(&mut self.io, self.decoder.buffer()).await, "the connection ended"),
            }
        }
    }

    /// What a stream says to its end, when no other says anything.
    async fn all(&mut self, wanted: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Event::Data { stream, bytes, fin } if stream == wanted => {
                    all.extend_from_slice(&bytes);
                    if fin {
                        return all;
                    }
                }
                Event::Data { fin: true, .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn data_goes_both_ways_and_ends() {
    let mut client = Client::start();
    client.pair(1, "7").await;
    client.send(&frame::data(3, b"hello, ", false)).await;
    client.send(&frame::data(3, b"pod", true)).await;
    assert_eq!(client.all(3).await, b"hello, pod");
    assert_eq!(client.all(1).await, b"");
}

#[tokio::test]
async fn connections_do_not_mix() {
    let mut client = Client::start();
    client.pair(1, "7").await;
    client.pair(5, "7").await;
    client.send(&frame::data(3, b"one", false)).await;
    client.send(&frame::data(7, b"two", true)).await;
    assert_eq!(client.next().await, Event::Data { stream: 3, bytes: "one".into(), fin: false });
    assert_eq!(client.all(7).await, b"two");
    // One is cancelled: it ends at once, though the pod would go on.
    client.send(&frame::reset(3, frame::Reset::Cancel)).await;
    assert_eq!(client.all(3).await, b"");
}

#[tokio::test]
async fn what_went_wrong_is_said_on_the_error_stream() {
    let mut client = Client::start();
    client.pair(1, "80").await;
    let said = String::from_utf8(client.all(1).await).unwrap();
    assert_eq!(said, "error forwarding port 80 to pod b, uid c: port 80: connection refused");
    client.send(&frame::ping(9)).await;
    assert_eq!(client.next().await, Event::Ping(9));
}

#[tokio::test]
async fn streams_that_make_no_sense_are_refused_and_the_rest_goes_on() {
    let mut client = Client::start();
    for (stream, headers) in [
        (1, &[][..]),
        (3, &[("port", "0"), ("streamtype", "data")]),
        (5, &[("port", "70000"), ("streamtype", "data")]),
        (7, &[("port", "7"), ("streamtype", "nonsense")]),
    ] {
        client.open(stream, headers).await;
        assert_eq!(client.next().await, Event::Reset(stream));
    }
    // A number of the server's, and one that was before.
    client.open(2, &[("port", "7"), ("streamtype", "data")]).await;
    assert_eq!(client.next().await, Event::Reset(2));
    client.open(5, &[("port", "7"), ("streamtype", "data")]).await;
    assert_eq!(client.next().await, Event::Reset(5));
    // Old clients number no requests.
    client.open(9, &[("port", "7"), ("streamtype", "error")]).await;
    client.open(11, &[("port", "7"), ("streamtype", "data")]).await;
    client.send(&frame::data(11, b"still here", true)).await;
    assert_eq!(client.all(11).await, b"still here");
}

#[tokio::test]
async fn halves_without_another_are_bounded() {
    let mut client = Client::start();
    let mut refused = 0;
    for n in 0..u32::try_from(MAX_HALVES).unwrap() + 10 {
        client.open(2 * n + 1, &[("port", "7"), ("requestid", &n.to_string()), ("streamtype", "data")]).await;
    }
    while refused < 10 {
        assert!(matches!(client.next().await, Event::Reset(_)));
        refused += 1;
    }
    client.send(&frame::ping(1)).await;
    assert_eq!(client.next().await, Event::Ping(1));
}

#[test]
fn ports_are_numbers() {
    assert_eq!(ports("ports=80&ports=81,82").unwrap(), [80, 81, 82]);
    assert!(ports("").is_err() && ports("ports=0").is_err() && ports("ports=x").is_err());
}
