//! Frames (SPDY/3, 2.2): bytes in, events out; and the few frames that a server sends.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::block::{BlockError, Headers, Reader, Writer};

const CONTROL: u8 = 0x80;
const VERSION: u16 = 3;
const HEAD: usize = 8;
/// The longest control frame that is read; data frames are handed on as they come, whatever their length.
pub const MAX_CONTROL: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;

/// A stream's number is 31 bits.
const NUMBER: u32 = u32::MAX >> 1;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The stream is of no use.
    Protocol = 1,
    /// There are too many, or nobody wants it.
    Refused = 3,
    /// It isn't needed any more.
    Cancel = 5,
}

/// What isn't SPDY: the peer's fault, and the end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another version, or another protocol altogether.
    #[error("not SPDY/3: version {0}")]
    Version(u16),
    /// A control frame without end.
    #[error("a control frame of {0} bytes is too long (at most {MAX_CONTROL})")]
    TooLong(usize),
    /// A control frame of an impossible length.
    #[error("a control frame of type {0} is cut off")]
    CutOff(u16),
    /// Its headers.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// What a peer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It opens a stream.
    Open {
        /// The stream's number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// The peer won't send on it.
        fin: bool,
    },
    /// It sends on a stream: part of a data frame, or all of it.
    Data {
        /// The stream's number.
        stream: u32,
        /// What is sent.
        bytes: Bytes,
        /// There won't be more.
        fin: bool,
    },
    /// It wants no more of a stream.
    Reset(u32),
    /// It wants the same frame back.
    Ping(u32),
    /// It goes.
    GoAway,
    /// What servers of Kubernetes don't act on: replies, settings, and windows, which no client of theirs keeps.
    Nothing,
}

/// Reads what a peer sends, in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    data: Option<Data>,
    blocks: Reader,
}

/// The data frame that is being read.
#[derive(Debug, Clone, Copy)]
struct Data {
    stream: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// Where to put bytes that came. Read all events before putting more: that keeps the memory bounded.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next event; `None`: more bytes are needed.
    pub fn event(&mut self) -> Result<Option<Event>, SpdyError> {
        if let Some(data) = self.data {
            return Ok(self.data(data));
        }
        let Some(head) = self.bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, flags, length @ ..] = *head;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if a & CONTROL == 0 {
            self.bytes.advance(HEAD);
            let data = Data { stream: u32::from_be_bytes([a, b, c, d]), fin: flags & FIN != 0, left: length };
            return Ok(self.data(data));
        }
        let version = u16::from_be_bytes([a & !CONTROL, b]);
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(SpdyError::TooLong(length));
        }
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        let payload = self.bytes.split_to(length).freeze();
        self.control(u16::from_be_bytes([c, d]), flags, &payload).map(Some)
    }

    /// As much of a data frame as is there.
    fn data(&mut self, data: Data) -> Option<Event> {
        let Data { stream, fin, left } = data;
        let bytes = self.bytes.split_to(left.min(self.bytes.len())).freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some(Data { left, ..data });
        (left == 0 || !bytes.is_empty()).then_some(Event::Data { stream, bytes, fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Event, SpdyError> {
        let mut number = || payload.try_get_u32().map(|n| n & NUMBER).map_err(|_| SpdyError::CutOff(kind));
        match kind {
            SYN_STREAM => {
                let (stream, _associated) = (number()?, number()?);
                let (_priority, block) = payload.split_at_checked(2).ok_or(SpdyError::CutOff(kind))?;
                let headers = self.blocks.read(block)?;
                Ok(Event::Open { stream, headers, fin: flags & FIN != 0 })
            }
            SYN_REPLY | HEADERS => {
                let stream = number()?;
                // Read in any case, for later blocks refer to it.
                self.blocks.read(payload)?;
                Ok(match flags & FIN != 0 {
                    true => Event::Data { stream, bytes: Bytes::new(), fin: true },
                    false => Event::Nothing,
                })
            }
            RST_STREAM => Ok(Event::Reset(number()?)),
            PING => Ok(Event::Ping(payload.try_get_u32().map_err(|_| SpdyError::CutOff(kind))?)),
            GOAWAY => Ok(Event::GoAway),
            SETTINGS | WINDOW_UPDATE => Ok(Event::Nothing),
            // "If an endpoint receives a frame type it doesn't recognize, it MUST ignore it."
            _ => Ok(Event::Nothing),
        }
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + payload.len());
    frame.put_u16(u16::from(CONTROL) << 8 | VERSION);
    frame.put_u16(kind);
    put_length(&mut frame, flags, payload.len());
    frame.put_slice(payload);
    frame.freeze()
}

fn put_length(frame: &mut BytesMut, flags: u8, length: usize) {
    const LONGEST: u32 = 0xff_ffff;
    let length = u32::try_from(length).unwrap_or(LONGEST).min(LONGEST);
    frame.put_u32(u32::from(flags) << 24 | length);
}

/// The answer to an opened stream. A direction's replies come from one `blocks`, in the order they are sent.
pub fn reply(blocks: &mut Writer, stream: u32) -> Bytes {
    let payload = [&stream.to_be_bytes()[..], &blocks.write(&Headers::new())].concat();
    control(SYN_REPLY, 0, &payload)
}

/// Data, at most 16 MiB of it.
pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(stream & NUMBER);
    put_length(&mut frame, if fin { FIN } else { 0 }, bytes.len());
    frame.put_slice(bytes);
    frame.freeze()
}

/// The sudden end of a stream.
pub fn reset(stream: u32, why: Reset) -> Bytes {
    control(RST_STREAM, 0, &[stream.to_be_bytes(), (why as u32).to_be_bytes()].concat())
}

/// A ping's answer: the same.
pub fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

/// The end of the connection; `last`: the last stream that was opened. Status OK.
pub fn go_away(last: u32) -> Bytes {
    control(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat())
}
