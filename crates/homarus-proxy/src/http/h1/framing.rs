//! Where a body ends (RFC 9112 §6 and §7): without I/O.

use super::{Invalid, MAX_HEAD_BYTES, MAX_HEADERS, Put};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// When the connection ends.
    UntilEnd,
}

impl Framing {
    /// How long a request's body is.
    pub fn of_request(version: Version, headers: &HeaderMap) -> Result<Self, Invalid> {
        match (is_chunked(version, headers)?, content_length(headers)?) {
            // Both together are how requests are smuggled (RFC 9112 §6.1).
            (true, Some(_)) => Err(Invalid::Length),
            (true, None) => Ok(Self::Chunked),
            (false, Some(0) | None) => Ok(Self::None),
            (false, Some(n)) => Ok(Self::Length(n)),
        }
    }

    /// How long a response's body is.
    pub fn of_response(version: Version, status: StatusCode, method: &Method, headers: &mut HeaderMap) -> Result<Self, Invalid> {
        if method == Method::CONNECT && status.is_success() {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::TRANSFER_ENCODING);
            return Ok(Self::None);
        }
        if method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
        {
            return Ok(Self::None);
        }
        match (is_chunked(version, headers)?, content_length(headers)?) {
            (true, Some(_)) => Err(Invalid::Length),
            (true, None) => Ok(Self::Chunked),
            (false, Some(0)) => Ok(Self::None),
            (false, Some(n)) => Ok(Self::Length(n)),
            (false, None) => Ok(Self::UntilEnd),
        }
    }

    /// Whether a `content-length` of the message must not be passed on.
    pub(super) fn replaces_length(self) -> bool {
        matches!(self, Self::Chunked | Self::UntilEnd)
    }
}

fn is_chunked(version: Version, headers: &HeaderMap) -> Result<bool, Invalid> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if version != Version::HTTP_10 && value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Invalid::Length),
    }
}

/// The announced length. Several equal ones are one (RFC 9110 §8.6); signs, spaces inside and differing ones are refused.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for item in value.to_str().map_err(|_| Invalid::Length)?.split(',') {
            let item = item.trim_matches([' ', '\t']);
            if item.is_empty() || !item.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Invalid::Length);
            }
            let n = item.parse().map_err(|_| Invalid::Length)?;
            if length.is_some_and(|before| before != n) {
                return Err(Invalid::Length);
            }
            length = Some(n);
        }
    }
    Ok(length)
}

/// Finds the parts of a body in its bytes.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Done,
    Length(u64),
    UntilEnd,
    /// Before a chunk's size line.
    Size,
    /// In a chunk, with so many bytes to come.
    Chunk(u64),
    /// Before the line end after a chunk.
    ChunkEnd,
    /// In the trailers.
    Trailers,
}

/// What the next bytes of a body are.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Skip `skip` bytes; then `len` bytes are data.
    Data {
        /// Framing before the data.
        skip: usize,
        /// The data.
        len: usize,
    },
    /// More bytes are needed; `skip` of those that are there are done with.
    More {
        /// Framing to let go of.
        skip: usize,
    },
    /// The body is complete; `skip` bytes belong to it.
    End {
        /// Framing to let go of.
        skip: usize,
        /// The trailers, if there are any.
        trailers: Option<Box<HeaderMap>>,
    },
}

impl Decoder {
    /// A decoder of a body with this framing.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size,
            Framing::UntilEnd => State::UntilEnd,
        })
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How many bytes of data will come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Done => Some(0),
            State::Length(n) => Some(n),
            _ => None,
        }
    }

    /// How many bytes of data may be read in one go without looking at them.
    pub fn contiguous(&self) -> u64 {
        match self.0 {
            State::Length(n) | State::Chunk(n) => n,
            State::UntilEnd => u64::MAX,
            _ => 0,
        }
    }

    /// So many bytes of data were read without looking at them.
    pub fn advance(&mut self, n: u64) {
        match &mut self.0 {
            State::Length(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.0 = State::Done;
                }
            }
            State::Chunk(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.0 = State::ChunkEnd;
                }
            }
            _ => {}
        }
    }

    /// The connection has ended: is that the end of the body?
    pub fn end_of_input(&mut self) -> Result<(), Invalid> {
        match self.0 {
            State::Done | State::UntilEnd => {
                self.0 = State::Done;
                Ok(())
            }
            _ => Err(Invalid::Truncated),
        }
    }

    /// Says what the bytes at the front of `buf` are. The caller lets go of what is named before it asks again.
    pub fn decode(&mut self, buf: &[u8]) -> Result<Part, Invalid> {
        let mut skip = 0;
        loop {
            let rest = &buf[skip..];
            match self.0 {
                State::Done => return Ok(Part::End { skip, trailers: None }),
                State::Length(_) | State::UntilEnd | State::Chunk(_) => {
                    let len = rest.len().min(usize::try_from(self.contiguous()).unwrap_or(usize::MAX));
                    if len == 0 {
                        return Ok(Part::More { skip });
                    }
                    self.advance(len as u64);
                    return Ok(Part::Data { skip, len });
                }
                State::Size => match chunk_size(rest)? {
                    None => return Ok(Part::More { skip }),
                    Some((0, taken)) => (self.0, skip) = (State::Trailers, skip + taken),
                    Some((n, taken)) => (self.0, skip) = (State::Chunk(n), skip + taken),
                },
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => (self.0, skip) = (State::Size, skip + 2),
                    [] | [b'\r'] => return Ok(Part::More { skip }),
                    _ => return Err(Invalid::Chunk),
                },
                State::Trailers => match trailers(rest)? {
                    None => return Ok(Part::More { skip }),
                    Some((trailers, taken)) => {
                        self.0 = State::Done;
                        return Ok(Part::End { skip: skip + taken, trailers });
                    }
                },
            }
        }
    }
}

/// Bytes of a chunk's size line, extensions included, at most.
const MAX_SIZE_LINE: usize = 1024;

/// A chunk's size line: the size, and how many bytes the line took. Extensions are dropped; a bare LF is refused.
fn chunk_size(buf: &[u8]) -> Result<Option<(u64, usize)>, Invalid> {
    let Some(end) = buf.iter().take(MAX_SIZE_LINE).position(|b| *b == b'\n') else {
        return if buf.len() >= MAX_SIZE_LINE { Err(Invalid::Chunk) } else { Ok(None) };
    };
    let line = buf[..end].strip_suffix(b"\r").ok_or(Invalid::Chunk)?;
    let (size, extension) = match line.iter().position(|b| *b == b';') {
        Some(semicolon) => line.split_at(semicolon),
        None => (line, &[][..]),
    };
    let size = size.trim_ascii_end();
    if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) || extension.contains(&b'\r') {
        return Err(Invalid::Chunk);
    }
    let size = size.iter().fold(0, |n, digit| n << 4 | u64::from((*digit as char).to_digit(16).unwrap_or(0)));
    Ok(Some((size, end + 1)))
}

/// Trailers and how many bytes they took.
type Trailers = (Option<Box<HeaderMap>>, usize);

/// The fields after the last chunk, up to the empty line.
fn trailers(buf: &[u8]) -> Result<Option<Trailers>, Invalid> {
    if let [b'\r', b'\n', ..] = buf {
        return Ok(Some((None, 2)));
    }
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(buf, &mut slots) {
        Ok(httparse::Status::Complete((taken, fields))) => {
            let mut map = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid::Chunk)?;
                // Framing must not be smuggled in at the end (RFC 9110 §6.5.1).
                if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING || name == header::HOST {
                    return Err(Invalid::Chunk);
                }
                map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Invalid::Chunk)?);
            }
            Ok(Some((Some(Box::new(map)), taken)))
        }
        Ok(httparse::Status::Partial) if buf.len() < MAX_HEAD_BYTES / 2 => Ok(None),
        _ => Err(Invalid::Chunk),
    }
}

/// Puts a body into the form that was announced.
#[derive(Debug)]
pub struct Encoder(Framing);

impl Encoder {
    /// An encoder of a body with this framing.
    pub fn new(framing: Framing) -> Self {
        Self(framing)
    }

    /// What stands before `len` bytes of data: a chunk's size line. Fails if more comes than was announced.
    pub fn before(&mut self, out: &mut impl Put, len: usize) -> Result<(), Invalid> {
        match &mut self.0 {
            Framing::Chunked => {
                let mut line = [0; 18];
                let start = hex_line(len, &mut line);
                out.put(&line[start..]);
                Ok(())
            }
            Framing::Length(left) => {
                *left = left.checked_sub(len as u64).ok_or(Invalid::WrongLength)?;
                Ok(())
            }
            Framing::UntilEnd => Ok(()),
            Framing::None => Err(Invalid::WrongLength),
        }
    }

    /// What stands behind data.
    pub fn after(&self) -> &'static [u8] {
        if self.0 == Framing::Chunked { b"\r\n" } else { b"" }
    }

    /// What stands at the end. Fails if less came than was announced.
    pub fn finish(self, out: &mut impl Put, trailers: Option<&HeaderMap>) -> Result<(), Invalid> {
        match self.0 {
            Framing::Chunked => {
                out.put(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    out.put(name.as_str().as_bytes());
                    out.put(b": ");
                    out.put(value.as_bytes());
                    out.put(b"\r\n");
                }
                out.put(b"\r\n");
                Ok(())
            }
            Framing::Length(1..) => Err(Invalid::WrongLength),
            _ => Ok(()),
        }
    }
}

/// `len` in hexadecimal and a line end, at the end of `line`; returns where it starts.
fn hex_line(mut len: usize, line: &mut [u8; 18]) -> usize {
    line[16..].copy_from_slice(b"\r\n");
    let mut at = 16;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[len & 15];
        len >>= 4;
        if len == 0 {
            return at;
        }
    }
}
