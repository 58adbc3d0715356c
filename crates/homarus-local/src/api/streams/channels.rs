//! Numbered channels in WebSocket messages (`v4.channel.k8s.io`, `v5.channel.k8s.io`): a message's first byte says
//! which. Since v5 a client can close one of its channels by a message on channel 255 that names it.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::websocket::{self, Decoder, Event};
use super::{DRAIN, Feed, IN_QUEUE, Input, OUT_QUEUE, Output, fill, write};

/// The channel on which others are closed.
const CLOSING: u8 = 255;

/// The channels of a connection that hasn't begun.
#[derive(Debug)]
pub struct Channels {
    feeds: HashMap<u8, Feed>,
    out: mpsc::Sender<Bytes>,
    frames: mpsc::Receiver<Bytes>,
}

impl Default for Channels {
    fn default() -> Self {
        let (out, frames) = mpsc::channel(OUT_QUEUE);
        Channels { feeds: HashMap::new(), out, frames }
    }
}

impl Channels {
    /// A channel that the client sends on.
    pub fn input(&mut self, number: u8) -> Input {
        let (feed, input) = mpsc::channel(IN_QUEUE);
        self.feeds.insert(number, feed);
        input
    }

    /// A channel that the client is sent on.
    pub fn output(&self, number: u8) -> Output {
        Output::channel(self.out.clone(), number)
    }

    /// Carries the channels until the client goes or `work` is done.
    pub async fn serve<S>(self, io: S, work: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite,
    {
        let (reader, writer) = tokio::io::split(io);
        let mut writing = std::pin::pin!(write(writer, self.frames, websocket::close()));
        tokio::select! {
            () = read(reader, self.feeds, self.out) => return,
            () = &mut writing => return,
            () = work => {}
        }
        let _ = tokio::time::timeout(DRAIN, writing).await;
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, mut feeds: HashMap<u8, Feed>, out: mpsc::Sender<Bytes>) {
    let mut decoder = Decoder::default();
    let mut channel = None;
    while fill(&mut reader, decoder.buffer()).await {
        loop {
            match decoder.event() {
                Ok(Some(Event::Part { first, mut bytes })) => {
                    if first {
                        channel = None;
                    }
                    if channel.is_none() && !bytes.is_empty() {
                        channel = Some(bytes.get_u8());
                    }
                    take(&mut feeds, channel, bytes).await;
                }
                Ok(Some(Event::Ping(payload))) => drop(out.send(websocket::pong(&payload)).await),
                Ok(Some(Event::Nothing)) => {}
                Ok(None) => break,
                Ok(Some(Event::Close)) => return,
                Err(error) => return tracing::debug!(%error, "a WebSocket ended"),
            }
        }
    }
}

async fn take(feeds: &mut HashMap<u8, Feed>, channel: Option<u8>, bytes: Bytes) {
    match channel {
        Some(CLOSING) => bytes.iter().for_each(|closed| drop(feeds.remove(closed))),
        Some(channel) if !bytes.is_empty() => {
            if let Some(feed) = feeds.get(&channel) {
                // Nobody may listen any more: what comes is for nobody then.
                let _ = feed.send(Ok(bytes)).await;
            }
        }
        _ => {}
    }
}
