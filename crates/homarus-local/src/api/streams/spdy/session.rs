//! A connection: reads frames, answers what concerns the connection, hands out its streams.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::block::{Headers, Writer};
use super::frame::{self, Decoder, Event, Reset};
use crate::api::streams::{Cancelled, DRAIN, Feed, IN_QUEUE, Input, OUT_QUEUE, Output, fill, write};

/// More streams at once are refused, one by one.
const MAX_STREAMS: usize = 1024;

/// A stream that the client opened.
#[derive(Debug)]
pub struct Opened {
    /// Its number.
    pub number: u32,
    /// What it is for.
    pub headers: Headers,
    /// What comes on it.
    pub input: Input,
    /// What goes on it.
    pub output: Output,
}

/// Carries streams until the client goes or `work` is done. `opened` takes every new one, or refuses it.
pub async fn serve<S>(io: S, opened: impl FnMut(Opened) -> bool, work: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(OUT_QUEUE);
    let mut writing = std::pin::pin!(write(writer, frames, frame::go_away(0)));
    let session = Session { out, decoder: Decoder::default(), blocks: Writer::default(), streams: HashMap::new(), last: 0, opened };
    tokio::select! {
        () = session.read(reader) => return,
        () = &mut writing => return,
        () = work => {}
    }
    let _ = tokio::time::timeout(DRAIN, writing).await;
}

struct Session<F> {
    out: mpsc::Sender<Bytes>,
    decoder: Decoder,
    blocks: Writer,
    /// Those on which the client may still send.
    streams: HashMap<u32, Feed>,
    /// The last that was opened.
    last: u32,
    opened: F,
}

impl<F: FnMut(Opened) -> bool> Session<F> {
    async fn read(mut self, mut reader: impl AsyncRead + Unpin) {
        while fill(&mut reader, self.decoder.buffer()).await {
            loop {
                match self.decoder.event() {
                    Ok(Some(Event::GoAway)) => return,
                    Ok(Some(event)) => self.take(event).await,
                    Ok(None) => break,
                    Err(error) => return tracing::debug!(%error, "a SPDY connection ended"),
                }
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Open { stream, headers, fin } => self.open(stream, headers, fin).await,
            Event::Data { stream, bytes, fin } => {
                if let Some(feed) = self.streams.get(&stream)
                    && (bytes.is_empty() || feed.send(Ok(bytes)).await.is_ok())
                    && !fin
                {
                    return;
                }
                // Its end, or nobody listens any more.
                self.streams.remove(&stream);
            }
            Event::Reset(stream) => {
                if let Some(feed) = self.streams.remove(&stream) {
                    let _ = feed.send(Err(Cancelled)).await;
                }
            }
            Event::Ping(id) => self.send(frame::ping(id)).await,
            Event::GoAway | Event::Nothing => {}
        }
    }

    async fn open(&mut self, number: u32, headers: Headers, fin: bool) {
        // A client's streams are odd, and each is above the one before.
        if number.is_multiple_of(2) || number <= self.last {
            return self.send(frame::reset(number, Reset::Protocol)).await;
        }
        self.last = number;
        if self.streams.len() >= MAX_STREAMS {
            self.streams.retain(|_, feed| !feed.is_closed());
        }
        if self.streams.len() >= MAX_STREAMS {
            return self.send(frame::reset(number, Reset::Refused)).await;
        }
        let (feed, input) = mpsc::channel(IN_QUEUE);
        if !fin {
            self.streams.insert(number, feed);
        }
        let output = Output::stream(self.out.clone(), number);
        // The answer goes first: what is done with the stream may send at once.
        let reply = frame::reply(&mut self.blocks, number);
        self.send(reply).await;
        if !(self.opened)(Opened { number, headers, input, output }) {
            self.streams.remove(&number);
            self.send(frame::reset(number, Reset::Refused)).await;
        }
    }

    async fn send(&self, frame: Bytes) {
        let _ = self.out.send(frame).await;
    }
}
