//! Bytes between two connections, both ways, each direction ending on its own.

use crate::{buffers::Buffer, io::Io};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

/// One direction.
struct Way {
    /// Read and not yet written; held only while there is something in it.
    buffer: Option<Buffer>,
    state: State,
    /// Bytes were written that TLS may hold back.
    unflushed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended: flush, then end the writer.
    Ending,
    Done,
}

impl Way {
    const fn new() -> Self {
        Self { buffer: None, state: State::Open, unflushed: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<io::Result<()>> {
        while self.state == State::Open {
            if let Some(buffer) = &mut self.buffer
                && !buffer.is_empty()
            {
                let n = ready!(to.poll_write_from(cx, &[IoSlice::new(buffer)]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                buffer.consume(n);
                self.unflushed = true;
                continue;
            }
            match self.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => self.state = State::Ending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(to.poll_flush_out(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.state == State::Ending {
            ready!(to.poll_finish(cx))?;
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut Io) -> Poll<io::Result<usize>> {
        self.buffer = None;
        // Wait without a buffer; readiness may be stale, then the read waits again.
        ready!(from.poll_readable(cx));
        let mut buffer = Buffer::take();
        let n = ready!(from.poll_read_into(cx, buffer.space()))?;
        buffer.filled(n);
        self.buffer = Some(buffer);
        Poll::Ready(Ok(n))
    }
}

/// Copies until both directions have ended, one fails, or a peer is no longer believed; then both connections are gone.
pub fn both(a: Io, b: Io) -> Both {
    Both { a, b, there: Way::new(), back: Way::new() }
}

/// Bytes on their way between two connections. A future by hand: an idle connection is little more than this.
pub struct Both {
    a: Io,
    b: Io,
    there: Way,
    back: Way,
}

impl Future for Both {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { a, b, there, back } = &mut *self;
        if a.is_lost() || b.is_lost() {
            return Poll::Ready(Ok(()));
        }
        let one = there.poll(cx, a, b)?;
        let other = back.poll(cx, b, a)?;
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
