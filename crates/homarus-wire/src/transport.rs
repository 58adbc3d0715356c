//! The transport header: what a proxy says first on a connection to another's inbound port (proxy-wire §6.3).
//!
//! `transport.l5d.io/v1\r\n\r\n`, a big-endian length of 32 bits, and a protobuf message. The codec has no I/O.

use bytes::{BufMut, Bytes, BytesMut};
use homarus_model::DnsName;
use prost::Message;

/// The ALPN by which both sides know that a transport header follows.
pub const ALPN: &[u8] = b"transport.l5d.io/v1";

/// The ALPN between our own proxies: the same header, and sessions may be resumed.
pub const ALPN_RESUMING: &[u8] = b"transport.homarus.io/1";

/// What stands before the length.
const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";

/// A message longer than this is refused.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Where a tunnelled connection goes, and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The target port.
    pub port: u16,
    /// The target's name; none: a port of this very workload.
    pub name: Option<DnsName>,
    /// The protocol, if it need not be detected.
    pub session: Option<Session>,
}

/// A protocol that need not be detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why bytes are not a transport header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// The first bytes are something else.
    #[error("the connection does not begin with a transport header")]
    Preface,
    /// The length is above the limit.
    #[error("the transport header is {0} bytes long; at most {MAX_MESSAGE_BYTES} are accepted")]
    TooLong(usize),
    /// Not a protobuf message of the kind.
    #[error("the transport header is not a valid message: {0}")]
    Message(#[from] prost::DecodeError),
    /// Not a port.
    #[error("the transport header names port {0}; expected 1 to 65535")]
    Port(i32),
    /// Not a name.
    #[error("the transport header names {0:?}, which is not a DNS name")]
    Name(String),
}

/// What reading a header has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The header, and how many bytes it took.
    Done(Header, usize),
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    session: Option<WireSession>,
}

#[derive(Clone, PartialEq, Message)]
struct WireSession {
    #[prost(oneof = "WireKind", tags = "1, 2")]
    kind: Option<WireKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireKind {
    #[prost(message, tag = "1")]
    Http1(Empty),
    #[prost(message, tag = "2")]
    Http2(Empty),
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

impl Header {
    /// The header as bytes.
    pub fn encode(&self) -> Bytes {
        let kind = self.session.map(|s| match s {
            Session::Http1 => WireKind::Http1(Empty {}),
            Session::Http2 => WireKind::Http2(Empty {}),
        });
        let message = Wire {
            port: self.port.into(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            session: kind.map(|kind| WireSession { kind: Some(kind) }),
        };
        let mut out = BytesMut::with_capacity(PREFACE.len() + 4 + message.encoded_len());
        out.put_slice(PREFACE);
        // A port, a DNS name and a kind are far below the limit.
        out.put_u32(message.encoded_len() as u32);
        out.put_slice(&message.encode_to_vec());
        out.freeze()
    }

    /// Reads a header from the first bytes of a connection. What comes behind it belongs to the connection.
    pub fn decode(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
        let begun = bytes.len().min(PREFACE.len());
        if bytes[..begun] != PREFACE[..begun] {
            return Err(InvalidHeader::Preface);
        }
        let Some(length) = bytes.get(PREFACE.len()..PREFACE.len() + 4) else {
            return Ok(Progress::Incomplete);
        };
        let length = length.iter().fold(0, |n, b| (n << 8) | usize::from(*b));
        if length > MAX_MESSAGE_BYTES {
            return Err(InvalidHeader::TooLong(length));
        }
        let start = PREFACE.len() + 4;
        let Some(message) = bytes.get(start..start + length) else {
            return Ok(Progress::Incomplete);
        };
        let Wire { port, name, session } = Wire::decode(message)?;
        let header = Header {
            port: u16::try_from(port).ok().filter(|p| *p != 0).ok_or(InvalidHeader::Port(port))?,
            name: if name.is_empty() { None } else { Some(name.parse().map_err(|_| InvalidHeader::Name(name))?) },
            session: session.and_then(|s| s.kind).map(|kind| match kind {
                WireKind::Http1(_) => Session::Http1,
                WireKind::Http2(_) => Session::Http2,
            }),
        };
        Ok(Progress::Done(header, start + length))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Header> {
        let session = prop_oneof![Just(None), Just(Some(Session::Http1)), Just(Some(Session::Http2))];
        (1u16.., proptest::option::of("[a-z]{1,9}(\\.[a-z0-9_-]{1,9}){0,3}"), session).prop_map(|(port, name, session)| Header {
            port,
            name: name.map(|n| n.parse().unwrap()),
            session,
        })
    }

    proptest! {
        #[test]
        fn goes_through(header in headers(), more in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = header.encode().to_vec();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(Header::decode(&bytes[..cut]).unwrap(), Progress::Incomplete);
            }
            bytes.extend(more);
            prop_assert_eq!(Header::decode(&bytes).unwrap(), Progress::Done(header, length));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Header::decode(&bytes);
            let mut framed = PREFACE.to_vec();
            framed.extend((bytes.len() as u32).to_be_bytes());
            framed.extend(&bytes);
            let _ = Header::decode(&framed);
        }
    }

    #[test]
    fn equals_what_the_reference_sends() {
        // Port 4321 with HTTP/2, as another implementation encodes it.
        let bytes = b"transport.l5d.io/v1\r\n\r\n\x00\x00\x00\x07\x08\xe1\x21\x1a\x02\x12\x00";
        let header = Header { port: 4321, name: None, session: Some(Session::Http2) };
        assert_eq!(&*header.encode(), bytes);
        assert_eq!(Header::decode(bytes).unwrap(), Progress::Done(header, bytes.len()));
    }

    #[test]
    fn refuses_nonsense() {
        let framed = |message: &[u8]| [PREFACE, &(message.len() as u32).to_be_bytes(), message].concat();
        assert_eq!(Header::decode(b"GET / HTTP/1.1"), Err(InvalidHeader::Preface));
        assert_eq!(Header::decode(&[PREFACE, &[0, 1, 0, 1]].concat()), Err(InvalidHeader::TooLong(65537)));
        assert_eq!(Header::decode(&framed(b"")), Err(InvalidHeader::Port(0)));
        assert!(matches!(Header::decode(&framed(b"\x08\x80\x80\x04")), Err(InvalidHeader::Port(65536))));
        assert!(matches!(Header::decode(&framed(b"\x08\x01\x12\x03a b")), Err(InvalidHeader::Name(_))));
        assert!(matches!(Header::decode(&framed(b"\xff")), Err(InvalidHeader::Message(_))));
    }
}
