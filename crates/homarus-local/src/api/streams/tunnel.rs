//! A byte stream through WebSocket messages (KEP-4006): where messages begin and end means nothing.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::websocket::{self, Decoder, Event};
use super::{CHUNK, DRAIN, OUT_QUEUE, fill, write};

/// How much may be on its way within this process.
const PIPE: usize = 64 << 10;

/// Has someone speak through the tunnel, until either side ends.
pub async fn through<F>(io: impl AsyncRead + AsyncWrite, speak: impl FnOnce(DuplexStream) -> F)
where
    F: Future<Output = ()>,
{
    let (near, far) = tokio::io::duplex(PIPE);
    let mut carrying = std::pin::pin!(carry(io, far));
    tokio::select! {
        () = &mut carrying => return,
        () = speak(near) => {}
    }
    // What was said last is still on its way.
    let _ = tokio::time::timeout(DRAIN, carrying).await;
}

async fn carry(io: impl AsyncRead + AsyncWrite, far: DuplexStream) {
    let (mut reader, writer) = tokio::io::split(io);
    let (mut from, mut to) = tokio::io::split(far);
    let (out, frames) = mpsc::channel(OUT_QUEUE);
    let pongs = out.clone();
    let inwards = async move {
        let mut decoder = Decoder::default();
        while fill(&mut reader, decoder.buffer()).await {
            loop {
                match decoder.event() {
                    Ok(Some(Event::Part { bytes, .. })) if to.write_all(&bytes).await.is_ok() => {}
                    Ok(Some(Event::Ping(payload))) => drop(pongs.send(websocket::pong(&payload)).await),
                    Ok(Some(Event::Nothing)) => {}
                    Ok(None) => break,
                    Ok(Some(Event::Part { .. } | Event::Close)) => return,
                    Err(error) => return tracing::debug!(%error, "a WebSocket ended"),
                }
            }
        }
    };
    let outwards = async move {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            if out.send(websocket::message(&chunk[..read], &[])).await.is_err() {
                return;
            }
        }
    };
    let both = async move {
        tokio::select! {
            () = inwards => {}
            () = outwards => {}
        }
    };
    // The writer goes on until all that had something to say are gone.
    tokio::join!(both, write(writer, frames, websocket::close()));
}
