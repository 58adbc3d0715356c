//! Header blocks: names and values, compressed by zlib with one history per direction and connection (SPDY/3, 2.6.10).
//!
//! What peers send is inflated with every bound in place. What we send are stored blocks, which any inflater reads: our
//! headers are empty, and there is nothing to gain.

use std::collections::BTreeMap;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::dictionary::dictionary;

/// Names and values; names are in lower case, several values are separated by NUL.
pub type Headers = BTreeMap<String, String>;

/// How far back a deflate stream may refer (RFC 1951).
const HISTORY: usize = 32 << 10;
/// A longer block, inflated, ends the connection.
const MAX_BLOCK: usize = 64 << 10;
/// More headers on one stream end the connection.
const MAX_HEADERS: usize = 64;
/// CMF and FLG of zlib's header (RFC 1950): deflate, no dictionary.
const PLAIN: [u8; 2] = [0x78, 0x01];
/// The bit of FLG that says a dictionary was used.
const WITH_DICTIONARY: u8 = 0x20;

/// What isn't a header block: the peer's fault, and the end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not zlib, or not with SPDY's dictionary.
    #[error("a header block doesn't begin as zlib with SPDY's dictionary does")]
    NotZlib,
    /// The compressed bytes make no sense.
    #[error("a header block can't be inflated")]
    Corrupt,
    /// Larger than anyone needs.
    #[error("a header block is longer than {MAX_BLOCK} bytes or has more than {MAX_HEADERS} headers")]
    TooLong,
    /// Inflated, but not names and values.
    #[error("a header block is cut off, names something twice, or isn't text")]
    Malformed,
}

/// Reads the blocks of one direction, which share a history.
pub struct Reader {
    state: Box<DecompressorOxide>,
    history: Box<[u8]>,
    at: usize,
    begun: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Reader { state: Box::default(), history: vec![0; HISTORY].into(), at: 0, begun: false }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Reader {
    /// Inflates and parses the next block.
    pub fn read(&mut self, compressed: &[u8]) -> Result<Headers, BlockError> {
        let compressed = if self.begun { compressed } else { self.begin(compressed)? };
        parse(&self.inflate(compressed)?)
    }

    fn begin<'a>(&mut self, compressed: &'a [u8]) -> Result<&'a [u8], BlockError> {
        let [method, flags, rest @ ..] = compressed else { return Err(BlockError::NotZlib) };
        let checked = u16::from_be_bytes([*method, *flags]) % 31 == 0;
        if method & 0x0f != 8 || !checked {
            return Err(BlockError::NotZlib);
        }
        self.begun = true;
        if flags & WITH_DICTIONARY == 0 {
            return Ok(rest);
        }
        let dictionary = dictionary();
        let (named, rest) = rest.split_first_chunk().ok_or(BlockError::NotZlib)?;
        if u32::from_be_bytes(*named) != adler(&dictionary) {
            return Err(BlockError::NotZlib);
        }
        self.history[..dictionary.len()].copy_from_slice(&dictionary);
        self.at = dictionary.len();
        Ok(rest)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, BlockError> {
        let mut block = Vec::new();
        loop {
            let (status, read, written) =
                decompress(&mut self.state, compressed, &mut self.history, self.at, TINFL_FLAG_HAS_MORE_INPUT);
            block.extend_from_slice(&self.history[self.at..self.at + written]);
            if block.len() > MAX_BLOCK {
                return Err(BlockError::TooLong);
            }
            compressed = &compressed[read..];
            self.at = (self.at + written) % HISTORY;
            match status {
                TINFLStatus::NeedsMoreInput => return Ok(block),
                TINFLStatus::HasMoreOutput if read + written > 0 => {}
                // Even the regular end of the stream: more blocks would have to follow.
                _ => return Err(BlockError::Corrupt),
            }
        }
    }
}

/// Adler-32 (RFC 1950), which names the dictionary.
fn adler(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65521;
    let (low, high) = bytes.iter().fold((1, 0), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % MODULUS;
        (low, (high + low) % MODULUS)
    });
    high << 16 | low
}

fn parse(block: &[u8]) -> Result<Headers, BlockError> {
    let (count, mut rest) = number(block)?;
    if count > MAX_HEADERS {
        return Err(BlockError::TooLong);
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, after) = text(rest)?;
        let (value, after) = text(after)?;
        rest = after;
        if headers.insert(name, value).is_some() {
            return Err(BlockError::Malformed);
        }
    }
    if rest.is_empty() { Ok(headers) } else { Err(BlockError::Malformed) }
}

fn number(bytes: &[u8]) -> Result<(usize, &[u8]), BlockError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(BlockError::Malformed)?;
    let number = usize::try_from(u32::from_be_bytes(*number)).map_err(|_| BlockError::TooLong)?;
    Ok((number, rest))
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), BlockError> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(BlockError::Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| BlockError::Malformed)?;
    Ok((text.to_owned(), rest))
}

/// Writes the blocks of one direction.
#[derive(Debug, Default)]
pub struct Writer {
    begun: bool,
}

impl Writer {
    /// The next block; what doesn't fit into one stored block is left out (no header of ours comes near).
    pub fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        let size = u16::try_from(block.len()).unwrap_or(u16::MAX);
        block.truncate(usize::from(size));
        let mut compressed = Vec::with_capacity(block.len() + 16);
        if !self.begun {
            compressed.extend_from_slice(&PLAIN);
            self.begun = true;
        }
        compressed.push(0);
        compressed.extend_from_slice(&size.to_le_bytes());
        compressed.extend_from_slice(&(!size).to_le_bytes());
        compressed.extend_from_slice(&block);
        // An empty stored block makes inflaters hand out what they have.
        compressed.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        compressed
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}
