//! A connection with what was read ahead and what is still to be written.

use super::{
    Invalid, MAX_HEAD_BYTES, Put,
    framing::{Decoder, Encoder, Framing, Part},
};
use crate::{
    buffers::Buffer,
    http::{Body, BodyError, Frame, Tally},
    io::Io,
};
use bytes::{Bytes, BytesMut};
use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

/// Data up to this size is copied behind what is to be written; larger data is written from where it is.
const COPY: usize = 8 * 1024;
/// Data longer than this is read straight into memory of its own.
const DIRECT: u64 = 16 * 1024;

/// One connection.
pub(super) struct Conn {
    pub io: Io,
    /// Bytes that were read and not used. Held only while there are any.
    input: Option<Buffer>,
    /// Bytes that wait to be written.
    output: Option<Buffer>,
    /// Large data behind `output`.
    tail: Bytes,
    /// What ends that data's chunk.
    after: &'static [u8],
}

/// The output buffer as something to write a head to. What doesn't fit is noticed.
pub(super) struct Out<'a> {
    buffer: &'a mut Buffer,
    pub overflow: bool,
}

impl Conn {
    pub fn new(io: Io) -> Self {
        Self { io, input: None, output: None, tail: Bytes::new(), after: b"" }
    }

    /// What was read and not used.
    pub fn input(&self) -> &[u8] {
        self.input.as_deref().unwrap_or_default()
    }

    /// Lets go of used bytes.
    pub fn consume(&mut self, n: usize) {
        if let Some(input) = &mut self.input {
            input.consume(n);
            if input.is_empty() {
                self.input = None;
            }
        }
    }

    /// The connection without its buffers: unread bytes go back.
    pub fn into_io(mut self) -> Io {
        if let Some(input) = self.input.take() {
            self.io.unread(Bytes::copy_from_slice(&input));
        }
        self.io
    }

    /// Reads once. Zero: the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_none() {
            ready!(self.io.poll_readable(cx));
        }
        let mut input = self.input.take().unwrap_or_else(Buffer::take);
        if input.room() == 0 {
            input.compact();
        }
        let polled = if input.room() == 0 {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Invalid::TooLarge)))
        } else {
            self.io.poll_read_into(cx, input.space())
        };
        if let Poll::Ready(Ok(n)) = &polled {
            input.filled(*n);
        }
        if !input.is_empty() {
            self.input = Some(input);
        }
        polled
    }

    /// The next head that `parse` finds, reading as needed; none: the connection ended before its first byte.
    pub fn poll_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Invalid>,
    ) -> Poll<Result<Option<T>, BodyError>> {
        loop {
            let input = self.input();
            if !input.is_empty()
                && let Some((head, taken)) = parse(input)?
            {
                self.consume(taken);
                return Poll::Ready(Ok(Some(head)));
            }
            if input.len() >= MAX_HEAD_BYTES {
                return Poll::Ready(Err(Invalid::TooLarge.into()));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let nothing = self.input.is_none();
                return Poll::Ready(if nothing { Ok(None) } else { Err(Invalid::Truncated.into()) });
            }
        }
    }

    /// The next part of a body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, decoder: &mut Decoder) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            if self.input.is_none() && decoder.contiguous() > DIRECT {
                return self.poll_direct(cx, decoder);
            }
            match decoder.decode(self.input())? {
                Part::Data { skip, len } => {
                    let data = Bytes::copy_from_slice(&self.input()[skip..skip + len]);
                    self.consume(skip + len);
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Part::End { skip, trailers } => {
                    self.consume(skip);
                    return Poll::Ready(trailers.map(|t| Ok(Frame::Trailers(t))));
                }
                Part::More { skip } => self.consume(skip),
            }
            if ready!(self.poll_fill(cx))? == 0 {
                decoder.end_of_input()?;
                return Poll::Ready(None);
            }
        }
    }

    /// Reads a large part straight into memory of its own.
    fn poll_direct(&mut self, cx: &mut Context<'_>, decoder: &mut Decoder) -> Poll<Option<Result<Frame, BodyError>>> {
        ready!(self.io.poll_readable(cx));
        let size = decoder.contiguous().min(crate::buffers::SIZE as u64) as usize;
        let mut memory = BytesMut::zeroed(size);
        let n = ready!(self.io.poll_read_into(cx, &mut memory))?;
        if n == 0 {
            decoder.end_of_input()?;
            return Poll::Ready(None);
        }
        decoder.advance(n as u64);
        memory.truncate(n);
        Poll::Ready(Some(Ok(Frame::Data(memory.freeze()))))
    }

    /// Writes a head behind what is to be written.
    pub fn put_head(&mut self, write: impl FnOnce(&mut Out<'_>)) -> Result<(), Invalid> {
        let buffer = self.output.get_or_insert_with(Buffer::take);
        let mut out = Out { buffer, overflow: false };
        write(&mut out);
        if out.overflow { Err(Invalid::TooLarge) } else { Ok(()) }
    }

    /// Takes data to be written. Ready only when there is room for it.
    pub fn poll_put_data(&mut self, cx: &mut Context<'_>, data: &mut Bytes, encoder: &mut Encoder) -> Poll<Result<(), BodyError>> {
        if data.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let room = self.output.as_ref().map_or(crate::buffers::SIZE, Buffer::room);
        if !self.tail.is_empty() || !self.after.is_empty() || room < COPY + 64 {
            ready!(self.poll_flush(cx))?;
        }
        let data = std::mem::take(data);
        let buffer = self.output.get_or_insert_with(Buffer::take);
        let mut out = Out { buffer, overflow: false };
        encoder.before(&mut out, data.len())?;
        if data.len() <= COPY {
            out.put(&data);
            out.put(encoder.after());
            return Poll::Ready(Ok(()));
        }
        (self.tail, self.after) = (data, encoder.after());
        Poll::Ready(Ok(()))
    }

    /// Writes everything that was taken.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_output() {
            let head = self.output.as_deref().unwrap_or_default();
            let pieces = [IoSlice::new(head), IoSlice::new(&self.tail), IoSlice::new(self.after)];
            let first = usize::from(head.is_empty());
            let last = if self.tail.is_empty() && self.after.is_empty() { 1 } else { 3 };
            let mut n = ready!(self.io.poll_write_from(cx, &pieces[first..last]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(output) = &mut self.output {
                let of_head = n.min(output.len());
                output.consume(of_head);
                n -= of_head;
            }
            let of_tail = n.min(self.tail.len());
            bytes::Buf::advance(&mut self.tail, of_tail);
            self.after = &self.after[n - of_tail..];
        }
        self.output = None;
        self.io.poll_flush_out(cx)
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        self.output.as_ref().is_some_and(|o| !o.is_empty()) || !self.tail.is_empty() || !self.after.is_empty()
    }
}

impl Put for Out<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.overflow |= self.buffer.append(bytes) < bytes.len();
    }
}

/// A body on its way out.
pub(super) struct Sending {
    body: Body,
    /// None once the end is written.
    encoder: Option<Encoder>,
    /// The message has no body, whatever the sender gives.
    bodiless: bool,
    pending: Bytes,
}

impl Sending {
    pub fn new(body: Body, framing: Framing) -> Self {
        let bodiless = framing == Framing::None;
        Self { body, encoder: Some(Encoder::new(framing)), bodiless, pending: Bytes::new() }
    }

    /// Whether everything was taken.
    pub fn is_done(&self) -> bool {
        self.encoder.is_none()
    }

    /// Writes the body behind what is to be written. While nothing more comes, what is there goes out; at the end the
    /// caller flushes. The connection is not held while the body is asked for more: the body may be read from it.
    pub fn poll(&mut self, conn: &mut impl Access, cx: &mut Context<'_>, tally: &mut impl Tally) -> Poll<Result<(), BodyError>> {
        while let Some(encoder) = &mut self.encoder {
            ready!(conn.with(|conn| conn.poll_put_data(cx, &mut self.pending, encoder)).unwrap_or_else(gone))?;
            let trailers = match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    tally.data(data.len());
                    if !self.bodiless {
                        self.pending = data;
                    }
                    continue;
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => Some(trailers),
                Poll::Ready(None) => None,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if let Some(Poll::Ready(Err(error))) = conn.with(|conn| conn.poll_flush(cx)) {
                        return Poll::Ready(Err(error.into()));
                    }
                    return Poll::Pending;
                }
            };
            if let Some(encoder) = self.encoder.take()
                && !self.bodiless
            {
                let mut finished = Ok(());
                let put = conn.with(|conn| conn.put_head(|out| finished = encoder.finish(out, trailers.as_deref())));
                put.ok_or(BodyError::Canceled)??;
                finished?;
            }
            tally.complete(trailers.as_deref());
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection that is held for a moment at a time.
pub(super) trait Access {
    /// Does something with the connection; none: it is gone.
    fn with<R>(&mut self, f: impl FnOnce(&mut Conn) -> R) -> Option<R>;
}

impl Access for Conn {
    fn with<R>(&mut self, f: impl FnOnce(&mut Conn) -> R) -> Option<R> {
        Some(f(self))
    }
}

fn gone<T>() -> Poll<Result<T, BodyError>> {
    Poll::Ready(Err(BodyError::Canceled))
}
