//! WebSocket frames (RFC 6455), a server's side: bytes in, events out. Messages come in parts of any size, so that
//! nothing is as large as a client says; how a message was fragmented doesn't show.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Control frames are no longer than this.
const MAX_CONTROL: usize = 125;
/// The connection did what it was for.
const NORMAL_CLOSURE: u16 = 1000;

/// What the server answers to the client's `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()).as_ref())
}

/// What isn't a client's WebSocket: the end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// Clients must mask.
    #[error("a frame isn't masked")]
    Unmasked,
    /// An unknown kind, or bits that no extension was agreed for.
    #[error("a frame of unknown kind: {0:#04x}")]
    Kind(u8),
    /// A continuation of nothing, or a message within another.
    #[error("a message begins or goes on where none may")]
    Order,
    /// A control frame that is fragmented or too long.
    #[error("a control frame is fragmented or longer than {MAX_CONTROL} bytes")]
    Control,
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Part of a message.
    Part {
        /// Whether it is the first of its message.
        first: bool,
        /// What it says; perhaps nothing.
        bytes: Bytes,
    },
    /// It wants a [`pong`] with this.
    Ping(Bytes),
    /// It goes.
    Close,
    /// A pong nobody asked for.
    Nothing,
}

/// The frame that is being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    last: bool,
    first: bool,
    left: u64,
    mask: [u8; 4],
    /// Where in the mask its next byte is.
    at: usize,
}

/// Reads what a client sends, in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    frame: Option<Frame>,
    within: bool,
}

impl Decoder {
    /// Where to put bytes that came. Read all events before putting more: that keeps the memory bounded.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next event; `None`: more bytes are needed.
    pub fn event(&mut self) -> Result<Option<Event>, WebSocketError> {
        if self.frame.is_none() {
            self.frame = self.head()?;
        }
        let Some(frame) = self.frame else { return Ok(None) };
        Ok(if frame.kind >= CLOSE { self.control(frame) } else { self.part(frame) })
    }

    fn head(&mut self) -> Result<Option<Frame>, WebSocketError> {
        let mut bytes = &self.bytes[..];
        let Ok(head) = bytes.try_get_u16() else { return Ok(None) };
        let [a, b] = head.to_be_bytes();
        if b & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (last, kind) = (a & 0x80 != 0, a & 0x7f);
        let length = match b & 0x7f {
            126 => bytes.try_get_u16().map(u64::from),
            127 => bytes.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let (Ok(left), Ok(mask)) = (length, bytes.try_get_u32()) else { return Ok(None) };
        let first = kind != CONTINUATION;
        match kind {
            CLOSE | PING | PONG if !last || left > MAX_CONTROL as u64 => return Err(WebSocketError::Control),
            CLOSE | PING | PONG => {}
            CONTINUATION | TEXT | BINARY if first == self.within => return Err(WebSocketError::Order),
            CONTINUATION | TEXT | BINARY => self.within = true,
            unknown => return Err(WebSocketError::Kind(unknown)),
        }
        let read = self.bytes.len() - bytes.len();
        self.bytes.advance(read);
        Ok(Some(Frame { kind, last, first, left, mask: mask.to_be_bytes(), at: 0 }))
    }

    fn control(&mut self, frame: Frame) -> Option<Event> {
        let length = usize::try_from(frame.left).ok().filter(|l| *l <= self.bytes.len())?;
        let mut payload = self.bytes.split_to(length);
        unmask(&mut payload, frame);
        self.frame = None;
        Some(match frame.kind {
            CLOSE => Event::Close,
            PING => Event::Ping(payload.freeze()),
            _ => Event::Nothing,
        })
    }

    fn part(&mut self, frame: Frame) -> Option<Event> {
        let there = self.bytes.len();
        let length = usize::try_from(frame.left).unwrap_or(there).min(there);
        if length == 0 && frame.left > 0 {
            return None;
        }
        let mut part = self.bytes.split_to(length);
        unmask(&mut part, frame);
        let left = frame.left - length as u64;
        self.frame = (left > 0).then_some(Frame { first: false, left, at: (frame.at + length) % 4, ..frame });
        if left == 0 && frame.last {
            self.within = false;
        }
        Some(Event::Part { first: frame.first, bytes: part.freeze() })
    }
}

fn unmask(bytes: &mut [u8], frame: Frame) {
    let mask = frame.mask.iter().cycle().skip(frame.at);
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// A binary message of two pieces, which spares putting them together before.
pub fn message(head: &[u8], rest: &[u8]) -> Bytes {
    frame(BINARY, head, rest)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(PONG, payload, &[])
}

/// The polite end.
pub fn close() -> Bytes {
    frame(CLOSE, &NORMAL_CLOSURE.to_be_bytes(), &[])
}

/// A whole, unmasked frame, as servers send them.
fn frame(kind: u8, head: &[u8], rest: &[u8]) -> Bytes {
    let length = head.len() + rest.len();
    let mut frame = BytesMut::with_capacity(length + 10);
    frame.put_u8(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => frame.put_u8(short),
        (_, Ok(medium)) => {
            frame.put_u8(126);
            frame.put_u16(medium);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    frame.put_slice(head);
    frame.put_slice(rest);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A client's frame.
    fn masked(kind: u8, last: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = frame(kind, payload, &[]).to_vec();
        bytes[0] = kind | if last { 0x80 } else { 0 };
        bytes[1] |= 0x80;
        let head = bytes.len() - payload.len();
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [bytes[..head].to_vec(), mask.to_vec(), masked.collect()].concat()
    }

    /// All events of bytes that come in pieces.
    fn events(bytes: &[u8], piece: usize) -> Result<Vec<Event>, WebSocketError> {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(event) = decoder.event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// The messages among them, put together.
    fn messages(events: &[Event]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for event in events {
            let Event::Part { first, bytes } = event else { continue };
            if *first {
                messages.push(Vec::new());
            }
            messages.last_mut().unwrap().extend_from_slice(bytes);
        }
        messages
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6455, 1.3 and 5.7: a key; a masked "Hello".
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(messages(&events(&hello, 1).unwrap()), [b"Hello"]);
        assert_eq!(&message(&[], b"Hello")[..], [0x82, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(message(&[1], &[0; 299])[..4], [0x82, 126, 1, 44]);
        assert_eq!(message(&[], &[0; 65536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_no_client_may_send() {
        let check = |bytes: &[u8], error| assert_eq!(events(bytes, 1).unwrap_err(), error, "{bytes:x?}");
        check(&message(&[], b"x"), WebSocketError::Unmasked);
        check(&masked(3, true, b"", [0; 4]), WebSocketError::Kind(3));
        check(&masked(CONTINUATION, true, b"x", [0; 4]), WebSocketError::Order);
        check(&[masked(BINARY, false, b"x", [0; 4]), masked(BINARY, true, b"x", [0; 4])].concat(), WebSocketError::Order);
        check(&masked(PING, false, b"", [0; 4]), WebSocketError::Control);
        check(&masked(PING, true, &[0; 126], [0; 4]), WebSocketError::Control);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn messages_arrive_however_they_are_cut(
            sent in vec((vec(any::<u8>(), 0..300), 0_usize..200), 0..4), mask: [u8; 4], piece in 1_usize..400,
        ) {
            let mut bytes = Vec::new();
            for (message, cut) in &sent {
                let cut = (*cut).min(message.len());
                bytes.extend(masked(BINARY, false, &message[..cut], mask));
                bytes.extend(masked(PING, true, b"in between", mask));
                bytes.extend(masked(CONTINUATION, true, &message[cut..], mask));
            }
            let events = events(&bytes, piece).unwrap();
            prop_assert_eq!(messages(&events), sent.iter().map(|(m, _)| m.clone()).collect::<Vec<_>>());
            let pings = events.iter().filter(|e| matches!(e, Event::Ping(b) if &b[..] == b"in between")).count();
            prop_assert_eq!(pings, sent.len());
        }

        #[test]
        fn hostile_bytes_cost_no_more_than_they_are(bytes in vec(any::<u8>(), 0..2000), piece in 1_usize..500) {
            let said = events(&bytes, piece).unwrap_or_default();
            prop_assert!(messages(&said).concat().len() <= bytes.len());
        }
    }
}
