//! Connections to clients that are many, late, or silent. The clock is the tests'.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::serve::{
    grpc::{Reply, Status, frame_encoded},
    metrics::Method,
};
use futures::{poll, stream};
use h2::client::SendRequest;
use homarus_daemon::drain::{self, Drained};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::{
    io::{DuplexStream, duplex},
    sync::watch,
    time::advance,
};

/// Tells a number, and counts how often it is asked for one.
struct Numbers {
    latest: watch::Receiver<u8>,
    asked: Arc<AtomicUsize>,
}

impl Service for Numbers {
    fn method(&self, _: &str) -> Option<Method> {
        Some(Method { service: "Numbers", name: "Get", streams: true })
    }

    fn call(&self, _: Method, _: Bytes) -> Result<Reply, Status> {
        let (mut latest, asked) = (self.latest.clone(), self.asked.clone());
        latest.mark_changed();
        let mut numbers = Box::pin(stream::unfold(latest, |mut latest| async move {
            latest.changed().await.ok()?;
            let number = *latest.borrow_and_update();
            Some((frame_encoded(&[number]), latest))
        }));
        let counted = stream::poll_fn(move |cx| {
            asked.fetch_add(1, Relaxed);
            numbers.poll_next_unpin(cx)
        });
        Ok(Reply::Stream(counted.boxed()))
    }
}

fn server(service: Numbers, drain: Drain) -> Server {
    Server {
        service: Arc::new(service),
        calls: Arc::new(Calls::register(&mut Registry::default())),
        drain,
        peer: "127.0.0.1:1".parse().unwrap(),
        _slot: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
    }
}

/// A server of the number 1.
fn one(drain: Drain) -> Server {
    server(Numbers { latest: watch::channel(1).1, asked: Arc::default() }, drain)
}

type Client = h2::client::Connection<DuplexStream, Bytes>;

/// Both ends of a connection that has begun.
async fn connect() -> (Connection<DuplexStream>, SendRequest<Bytes>, Client) {
    let (ours, theirs) = duplex(1 << 20);
    let mut builder = h2::client::Builder::new();
    // It reads streams one after the other, and isn't to suspect a server of small messages meanwhile.
    builder.data_frame_budget(1 << 24);
    let (greeted, shaken) = tokio::join!(greet(ours), builder.handshake(theirs));
    let (send, client) = shaken.unwrap();
    (greeted.unwrap(), send, client)
}

fn call() -> Request<()> {
    Request::post("http://controller/Numbers/Get").body(()).unwrap()
}

/// Whether something took so long, but for the clock's ticks.
fn took(began: Instant, time: Duration) -> bool {
    (time..time + Duration::from_millis(100)).contains(&began.elapsed())
}

/// What it took to tell subscribers of one connection a change.
#[derive(Debug)]
struct Cost {
    /// Turns of the connection's task before the first had heard of it.
    first: usize,
    /// All turns.
    turns: usize,
    /// How often a message was asked for.
    asked: usize,
}

async fn cost(subscribers: usize) -> Cost {
    let (number, latest) = watch::channel(1);
    let (asked, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (_signal, drain) = drain::channel();
    let (connection, mut send, client) = connect().await;
    tokio::spawn(client);
    let mut carried = Box::pin(server(Numbers { latest, asked: asked.clone() }, drain).carry(connection));
    let counted = turns.clone();
    tokio::spawn(future::poll_fn(move |cx| {
        counted.fetch_add(1, Relaxed);
        carried.as_mut().poll(cx)
    }));
    let mut streams = Vec::new();
    for _ in 0..subscribers {
        send = send.ready().await.unwrap();
        let (response, mut request) = send.send_request(call(), false).unwrap();
        request.send_data(frame_encoded(b""), true).unwrap();
        let mut stream = response.await.unwrap().into_body();
        assert_eq!(stream.data().await.unwrap().unwrap(), frame_encoded(&[1]));
        streams.push(stream);
    }
    // A paused clock goes on when nobody has anything to do.
    sleep(Duration::from_millis(1)).await;
    turns.store(0, Relaxed);
    asked.store(0, Relaxed);
    number.send_replace(2);
    let mut told: FuturesUnordered<_> = streams.iter_mut().map(|stream| stream.data()).collect();
    assert_eq!(told.next().await.unwrap().unwrap().unwrap(), frame_encoded(&[2]));
    let first = turns.load(Relaxed);
    while let Some(message) = told.next().await {
        assert_eq!(message.unwrap().unwrap(), frame_encoded(&[2]));
    }
    sleep(Duration::from_millis(1)).await;
    Cost { first, turns: turns.load(Relaxed), asked: asked.load(Relaxed) }
}

#[tokio::test(start_paused = true)]
async fn a_change_for_many_leaves_early_and_is_asked_for_once() {
    const SUBSCRIBERS: usize = 1_000;
    // In a task, whose turn comes as often as the server's.
    let cost = tokio::spawn(cost(SUBSCRIBERS)).await.unwrap();
    assert!(cost.first <= 4, "{cost:?}");
    // A task may do 128 things a turn.
    assert!(cost.turns <= 2 * SUBSCRIBERS / 128, "{cost:?}");
    // For the message, and for the next.
    assert!(cost.asked <= 2 * SUBSCRIBERS + 2 * cost.turns, "{cost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_for_one_is_two_turns() {
    let cost = tokio::spawn(cost(1)).await.unwrap();
    // HTTP/2 wakes the task, which runs already, because there is something to send.
    assert_eq!((cost.turns, cost.asked), (2, 2), "{cost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_one_that_does_not_goes() {
    for answers in [true, false] {
        let (_signal, drain) = drain::channel();
        let (connection, _send, client) = connect().await;
        let client = Box::pin(client);
        let (began, day) = (Instant::now(), Duration::from_secs(24 * 60 * 60));
        let carried = timeout(day, one(drain).carry(connection));
        if answers {
            tokio::spawn(client);
            assert!(carried.await.is_err(), "still there after a day");
        } else {
            carried.await.expect("it ends");
            assert!(took(began, PING_INTERVAL + PING_TIMEOUT), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_process_costs_no_client_that_answered() {
    let (_signal, drain) = drain::channel();
    let (connection, _send, client) = connect().await;
    let (mut carried, mut client) = (pin!(one(drain).carry(connection)), pin!(client));
    for _ in 0..32 {
        for _ in 0..4 {
            assert!(poll!(carried.as_mut()).is_pending());
            assert!(poll!(client.as_mut()).is_pending());
        }
        advance(PING_INTERVAL).await;
        for _ in 0..2 {
            assert!(poll!(carried.as_mut()).is_pending(), "the ping is due, and sent");
        }
        assert!(poll!(client.as_mut()).is_pending(), "and answered");
        advance(2 * PING_TIMEOUT).await;
        assert!(poll!(carried.as_mut()).is_pending(), "the answer is there, and it is too late for one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_has_its_time() {
    let (_signal, drain) = drain::channel();
    let (connection, send, client) = connect().await;
    tokio::spawn(client);
    tokio::spawn(one(drain).carry(connection));
    let began = Instant::now();
    let (response, _request) = send.ready().await.unwrap().send_request(call(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert!(took(began, Duration::from_secs(10)), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_preface_has_its_time() {
    let (ours, _theirs) = duplex(1024);
    let began = Instant::now();
    assert!(greet(ours).await.is_err());
    assert!(took(began, PREFACE_TIMEOUT), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_keeps_no_program_from_its_end() {
    let (signal, drain) = drain::channel();
    let (ours, _theirs) = duplex(1024);
    let server = one(drain);
    let began = Instant::now();
    let (drained, ()) = tokio::join!(signal.finish(PREFACE_TIMEOUT), server.welcome(ours));
    assert_eq!(drained, Drained::Finished);
    assert!(took(began, Duration::ZERO), "{:?}", began.elapsed());
}
