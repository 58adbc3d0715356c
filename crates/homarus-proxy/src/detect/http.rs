//! Is it HTTP, and which? (proxy-wire §6.2)

use crate::http::h1::MAX_HEADERS;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4), as far as they decide.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Fewer bytes than this can't be told apart, unless they already contradict HTTP.
const ENOUGH: usize = H2_PREFACE.len();

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    NotHttp,
    /// It may become HTTP; more bytes are needed.
    Unclear,
}

/// Methods that clients really send. A first word that is none of them, in so few bytes that nothing else can be told, is
/// taken for another protocol at once, so that short greetings of such protocols never wait.
const METHODS: [&[u8]; 9] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"CONNECT ", b"TRACE "];

/// Looks at the first bytes.
pub fn verdict(bytes: &[u8]) -> Verdict {
    if bytes.len() < ENOUGH {
        let begins = |known: &[u8]| {
            let n = known.len().min(bytes.len());
            known[..n] == bytes[..n]
        };
        let unclear = begins(H2_PREFACE) || METHODS.iter().any(|m| begins(m));
        return if unclear { Verdict::Unclear } else { Verdict::NotHttp };
    }
    if bytes.starts_with(H2_PREFACE) {
        return Verdict::Http2;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::Request::new(&mut headers).parse(bytes) {
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Verdict::Http1,
        Err(_) => Verdict::NotHttp,
    }
}

/// Whether these bytes of a server begin with a SETTINGS frame: what an HTTP/2 server says as soon as it is connected
/// (RFC 9113 §3.4), whatever its client is about to say.
pub fn is_server_preface(bytes: &[u8]) -> bool {
    matches!(bytes, [0, high, low, 4, 0, 0, 0, 0, 0, ..] if u16::from_be_bytes([*high, *low]).is_multiple_of(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http2_server_is_told_from_one_that_speaks_first() {
        assert!(is_server_preface(b"\0\0\0\x04\0\0\0\0\0"));
        assert!(is_server_preface(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x60\0\0"));
        for other in [
            &b""[..],
            b"\0\0\0\x04\0\0\0\0",               // not all of it
            b"\0\0\x07\x04\0\0\0\0\0",           // a length that settings never have
            b"\0\0\0\x04\x01\0\0\0\0",           // an acknowledgement
            b"\0\0\x08\x07\0\0\0\0\0",           // another frame
            b"220 ready\r\n",                    // SMTP
            b"J\0\0\0\n5.5.5-10.11.6-MariaDB\0", // MySQL
        ] {
            assert!(!is_server_preface(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn tells_protocols_apart() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Verdict::Http1),
            (b"GET / HTTP/1.1\r\nhost: a", Verdict::Http1),
            (b"BREW /pot HTTP/1.1\r\n", Verdict::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
            (b"PRI * HTT", Verdict::Unclear),
            (b"G", Verdict::Unclear),
            (b"GET /", Verdict::Unclear),
            (b"PING\r\n", Verdict::NotHttp),
            (b"QUIT", Verdict::NotHttp),
            (b"*1\r\n$4\r\nPING\r\n", Verdict::NotHttp),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Verdict::NotHttp),
            (b"EHLO client.example.org\r\n", Verdict::NotHttp),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaa", Verdict::NotHttp),
            (b"\0\0\0\x52\0\x03\0\0user\0postgres\0", Verdict::NotHttp),
        ] {
            assert_eq!(verdict(bytes), want, "{}", bytes.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn more_bytes_never_take_a_verdict_back(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            if verdict(&bytes[..bytes.len().min(13)]) == Verdict::NotHttp && bytes.len() >= 14 {
                proptest::prop_assert_ne!(verdict(&bytes), Verdict::Http2);
            }
        }
    }
}
