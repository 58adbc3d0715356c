//! The worker's pool of I/O buffers.
//!
//! A connection holds a buffer only while bytes are in it. Idle connections hold none, so memory goes with the traffic
//! and not with the number of connections.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Bytes of one buffer: four full TLS records fit, or one large read.
pub const SIZE: usize = 64 * 1024 + 512;

/// Buffers kept for reuse by each worker; what comes back beyond that is freed.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with bytes from `start` to `end`; goes back to the pool when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Takes a buffer from the pool; it is empty.
    pub fn take() -> Self {
        let bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into());
        Self { bytes, start: 0, end: 0 }
    }

    /// Free space behind the bytes; what is filled there is claimed with [`Buffer::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Claims `n` bytes of the space.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Lets go of the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves the bytes to the front, so that all free space is behind them.
    pub fn compact(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Appends as much as fits; returns how much.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.bytes.len() - self.end);
        self.bytes[self.end..self.end + n].copy_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    /// How many bytes fit behind those that are there.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.end
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // At the end of a thread the pool may be gone already; then the buffer is just freed.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_out_in_order() {
        let mut buffer = Buffer::take();
        assert_eq!(buffer.append(b"hello world"), 11);
        buffer.consume(6);
        buffer.compact();
        buffer.space()[..1].copy_from_slice(b"!");
        buffer.filled(1);
        assert_eq!(&*buffer, b"world!");
        buffer.consume(100);
        assert_eq!((buffer.len(), buffer.room()), (0, SIZE));
        assert_eq!(buffer.append(&[1; SIZE + 1]), SIZE);
    }
}
