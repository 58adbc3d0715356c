//! gRPC over HTTP/2, as far as controllers speak it: one request message; one answer, or a stream of them.
//!
//! Not tonic's server, for the sake of its memory: there every subscriber's message is copied into a buffer of its own,
//! and stays there while the client is slow; and every stream is a task beside its connection's. Here messages are framed
//! once, shared, and handed to HTTP/2 as they are; a stream is asked for the next one only when the client's window is
//! open; and one task carries a connection with all its streams, so that a change costs a connection one wake-up, or a few if
//! it has more streams than a task's budget allows to tell at once, and a subscriber no task of its own.
//!
//! - `connection`: accepts, pings and drains connections;
//! - `exchange`: one call, from its request to its trailers.

mod connection;
mod exchange;

#[cfg(test)]
mod tests;

use super::metrics::Method;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use prost::Message;

pub use connection::serve;
pub use tonic::{Code, Status};

/// Compression flag and length.
const PREFIX_BYTES: usize = 5;

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    /// The method of this path, if it exists.
    fn method(&self, path: &str) -> Option<Method>;

    /// Answers a call. Nothing here waits: a view is there or it isn't.
    fn call(&self, method: Method, message: Bytes) -> Result<Reply, Status>;
}

/// The answer to a call, framed.
pub enum Reply {
    /// One message.
    One(Bytes),
    /// Messages for as long as the client listens.
    Stream(BoxStream<'static, Bytes>),
}

/// A message with its prefix, ready to be sent.
pub fn frame(message: &impl Message) -> Bytes {
    frame_encoded(&message.encode_to_vec())
}

/// As [`frame`], for a message that is encoded already.
pub fn frame_encoded(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put(message);
    bytes.freeze()
}

/// The one message that a whole request carries.
fn unframe(mut request: Bytes) -> Result<Bytes, Status> {
    let prefix = (request.len() >= PREFIX_BYTES).then(|| request.split_to(PREFIX_BYTES));
    match prefix.as_deref() {
        Some([0, a, b, c, d]) if request.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize => Ok(request),
        Some([1, ..]) => Err(Status::unimplemented("compressed requests are not supported")),
        _ => Err(Status::internal("the request is not one message")),
    }
}

/// Reads the message of a call.
pub fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::invalid_argument(format!("the request can't be decoded: {error}")))
}
