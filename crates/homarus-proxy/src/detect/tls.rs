//! Is it TLS, and for whom? Reads a ClientHello (RFC 8446 §4.1.2) without I/O and without taking it.

use homarus_wire::transport;

/// A ClientHello must stand within so many bytes (proxy-wire §5).
pub const MAX_HELLO_BYTES: usize = 8192;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello begins, but does not end here.
    Incomplete,
    /// Not TLS, or no name is asked for.
    None,
    /// A ClientHello.
    For {
        /// The name that is asked for, lower case.
        sni: String,
        /// The client is one of our own proxies: sessions may be resumed.
        resumes: bool,
    },
}

/// Looks at the first bytes.
pub fn hello(bytes: &[u8]) -> Hello {
    match parse(bytes) {
        Ok(Some((sni, resumes))) => Hello::For { sni, resumes },
        Ok(None) | Err(End::Broken) => Hello::None,
        Err(End::Short) if bytes.len() < MAX_HELLO_BYTES => Hello::Incomplete,
        Err(End::Short) => Hello::None,
    }
}

/// Why a field could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The record goes on beyond what is there.
    Short,
    /// It isn't a ClientHello.
    Broken,
}

/// A reader of the fields of a message.
struct Fields<'a> {
    bytes: &'a [u8],
    /// What it means when they run out.
    end: End,
}

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], End> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(self.end)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Result<usize, End> {
        Ok(self.take(width)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// A field behind its own length.
    fn sized(&mut self, width: usize) -> Result<Fields<'a>, End> {
        let n = self.number(width)?;
        Ok(Fields { bytes: self.take(n)?, end: End::Broken })
    }
}

/// The name and whether our own ALPN is offered; none if no name is asked for.
fn parse(bytes: &[u8]) -> Result<Option<(String, bool)>, End> {
    let mut record = Fields { bytes, end: End::Short };
    if record.number(1)? != 22 || !matches!(record.number(2)?, 0x0301 | 0x0303) {
        return Err(End::Broken);
    }
    let length = record.number(2)?;
    let whole = record.bytes.len() >= length;
    let body = &record.bytes[..length.min(record.bytes.len())];
    let mut message = Fields { bytes: body, end: if whole { End::Broken } else { End::Short } };
    if message.number(1)? != 1 {
        return Err(End::Broken);
    }
    message.number(3)?;
    if !whole {
        return Err(End::Short);
    }
    message.take(2 + 32)?; // legacy version, random
    message.sized(1)?; // legacy session id
    message.sized(2)?; // cipher suites
    message.sized(1)?; // compression methods
    let mut extensions = message.sized(2)?;
    let (mut sni, mut resumes) = (None, false);
    while !extensions.bytes.is_empty() {
        let kind = extensions.number(2)?;
        let mut data = extensions.sized(2)?;
        match kind {
            0 => sni = server_name(&mut data)?,
            16 => resumes = offers_ours(&mut data)?,
            _ => {}
        }
    }
    Ok(sni.map(|sni| (sni, resumes)))
}

/// RFC 6066 §3: the first host name.
fn server_name(data: &mut Fields<'_>) -> Result<Option<String>, End> {
    let mut list = data.sized(2)?;
    while !list.bytes.is_empty() {
        let kind = list.number(1)?;
        let name = list.sized(2)?.bytes;
        if kind == 0 {
            let valid =
                !name.is_empty() && name.len() <= 253 && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
            return Ok(valid.then(|| String::from_utf8_lossy(name).to_ascii_lowercase()));
        }
    }
    Ok(None)
}

/// RFC 7301 §3.1.
fn offers_ours(data: &mut Fields<'_>) -> Result<bool, End> {
    let mut list = data.sized(2)?;
    let mut found = false;
    while !list.bytes.is_empty() {
        found |= list.sized(1)?.bytes == transport::ALPN_RESUMING;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_hello(sni: Option<&[u8]>, alpn: &[&[u8]]) -> Vec<u8> {
        let sized = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[8 - width..], bytes].concat();
        let mut extensions = Vec::new();
        if let Some(name) = sni {
            let entry = [&[0][..], &sized(2, name)].concat();
            extensions.extend([&[0, 0][..], &sized(2, &sized(2, &entry))].concat());
        }
        if !alpn.is_empty() {
            let list: Vec<u8> = alpn.iter().flat_map(|p| sized(1, p)).collect();
            extensions.extend([&[0, 16][..], &sized(2, &sized(2, &list))].concat());
        }
        let body = [&[3, 3][..], &[7; 32], &sized(1, &[]), &sized(2, &[0x13, 1]), &sized(1, &[0]), &sized(2, &extensions)].concat();
        let message = [&[1][..], &sized(3, &body)].concat();
        [&[22, 3, 1][..], &sized(2, &message)].concat()
    }

    #[test]
    fn reads_name_and_alpn() {
        let bytes = client_hello(Some(b"Web.Example"), &[transport::ALPN]);
        assert_eq!(hello(&bytes), Hello::For { sni: "web.example".into(), resumes: false });
        for cut in 0..bytes.len() {
            assert_eq!(hello(&bytes[..cut]), Hello::Incomplete, "{cut}");
        }
        let bytes = client_hello(Some(b"web"), &[transport::ALPN_RESUMING, transport::ALPN]);
        assert_eq!(hello(&bytes), Hello::For { sni: "web".into(), resumes: true });
    }

    #[test]
    fn everything_else_is_none() {
        assert_eq!(hello(&client_hello(None, &[])), Hello::None);
        assert_eq!(hello(&client_hello(Some(b"a b"), &[])), Hello::None);
        assert_eq!(hello(b"GET / HTTP/1.1\r\n"), Hello::None);
        assert_eq!(hello(&[22, 3, 2, 0, 1, 1]), Hello::None);
        let endless = [&[22, 3, 1, 0xff, 0xff, 1][..], &vec![0; MAX_HELLO_BYTES]].concat();
        assert_eq!(hello(&endless), Hello::None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in 0usize..200, to in any::<u8>()) {
            let _ = hello(&bytes);
            let mut mutated = client_hello(Some(b"web"), &[transport::ALPN]);
            let at = flip % mutated.len();
            mutated[at] = to;
            let _ = hello(&mutated);
        }
    }
}
