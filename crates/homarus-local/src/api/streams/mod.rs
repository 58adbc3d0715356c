//! Connections that leave HTTP behind: port-forwarding, exec, attach.
//!
//! # The path of an upgrade
//! [`upgrade`] answers it by what the client offers → one of three carriers begins: [`spdy::session`] on the bare
//! connection (kubectl up to 1.29, and as a fallback), the same through a [`tunnel`] of WebSocket messages (KEP-4006:
//! port-forwarding since kubectl 1.31), or numbered [`channels`] in WebSocket messages (exec since kubectl 1.31; kube-rs)
//! → all three give [`Input`]s and [`Output`]s to [`forward`] or [`command`], which don't know which it was.
//!
//! # Invariants
//! - A connection has one reader and one writer; when it ends, so does all that was done for it.
//! - Queues are short and block: who doesn't read holds up who writes, in both directions.

pub mod channels;
pub mod command;
pub mod forward;
pub mod spdy;
pub mod tunnel;
pub mod upgrade;
pub mod websocket;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use spdy::frame;

/// So much is read at once.
const CHUNK: usize = 32 << 10;
/// Frames that wait for the writer.
const OUT_QUEUE: usize = 16;
/// Pieces that wait on a stream for whom they are for.
const IN_QUEUE: usize = 32;
/// What was said is still written for so long after the end.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The client wants no more of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// What a client sends on a stream; it ends when the client is done with it.
pub type Input = mpsc::Receiver<Result<Bytes, Cancelled>>;
type Feed = mpsc::Sender<Result<Bytes, Cancelled>>;

/// What is sent to the client on a stream.
#[derive(Debug, Clone)]
pub struct Output {
    frames: mpsc::Sender<Bytes>,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Stream(u32),
    Channel(u8),
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

impl Output {
    fn stream(frames: mpsc::Sender<Bytes>, number: u32) -> Output {
        Output { frames, way: Way::Stream(number) }
    }

    fn channel(frames: mpsc::Sender<Bytes>, number: u8) -> Output {
        Output { frames, way: Way::Channel(number) }
    }

    /// Sends; waits while the client doesn't read.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        let frame = match self.way {
            Way::Stream(number) => frame::data(number, bytes, false),
            Way::Channel(number) => websocket::message(&[number], bytes),
        };
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Says that there won't be more, where that can be said: a channel ends with its connection.
    pub async fn finish(&self) {
        if let Way::Stream(number) = self.way {
            let _ = self.frames.send(frame::data(number, &[], true)).await;
        }
    }
}

/// Reads into a decoder's buffer; false at the end.
async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> bool {
    buffer.reserve(CHUNK);
    let mut limited = bytes::BufMut::limit(buffer, CHUNK);
    matches!(reader.read_buf(&mut limited).await, Ok(read) if read > 0)
}

/// Writes frames until no one has any, or the client is gone; then the last words.
async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Bytes>, last_words: Bytes) {
    while let Some(frame) = frames.recv().await {
        let flush = frames.is_empty();
        if writer.write_all(&frame).await.is_err() || flush && writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.write_all(&last_words).await;
    let _ = writer.shutdown().await;
}
