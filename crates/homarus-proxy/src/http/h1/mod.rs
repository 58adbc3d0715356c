//! HTTP/1.x (RFC 9112).
//!
//! [`head`] and [`framing`] are codecs without I/O; [`server`] and [`client`] are the loops around them. Messages that two
//! parties could read differently are refused, never repaired: that is what request smuggling lives on.

pub mod client;
mod conn;
pub mod framing;
pub mod head;
pub mod pool;
pub mod server;
#[cfg(test)]
mod tests;

/// Headers of one message, at most.
pub const MAX_HEADERS: usize = 100;
/// Bytes of one head, at most; also the room for a chunk's size line and for trailers.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Why bytes are not a message that we pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not HTTP/1.
    #[error("malformed message head")]
    Head,
    /// Larger than [`MAX_HEAD_BYTES`] or more than [`MAX_HEADERS`] headers.
    #[error("message head too large")]
    TooLarge,
    /// The target isn't one.
    #[error("malformed request target")]
    Target,
    /// Content-Length and Transfer-Encoding disagree, repeat, or are not understood.
    #[error("ambiguous or unsupported message length")]
    Length,
    /// A chunk is malformed.
    #[error("malformed chunk")]
    Chunk,
    /// The connection ended in the middle of a message.
    #[error("connection ended in the middle of a message")]
    Truncated,
    /// The sender gave more or fewer bytes than it announced.
    #[error("body does not have the announced length")]
    WrongLength,
}

/// Something that heads are written to.
pub trait Put {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
