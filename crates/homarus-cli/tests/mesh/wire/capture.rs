//! Reading what tcpdump wrote: pcap, Ethernet, IPv4, TCP, and the first records of TLS.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

const ETHERNET: u32 = 1;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const TLS_1_3: u16 = 0x0304;
const X25519_MLKEM_768: u16 = 0x11ec;
/// What a ServerHello has for its random when it is a HelloRetryRequest (RFC 8446, 4.1.3).
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// One direction of a connection.
pub type Flow = (SocketAddrV4, SocketAddrV4);

/// All that a capture has of TCP, put together.
#[derive(Debug)]
pub struct Capture {
    pub packets: usize,
    raw: Vec<u8>,
    flows: BTreeMap<Flow, Vec<u8>>,
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Stream<'a> {
    client: SocketAddrV4,
    server: SocketAddrV4,
    sent: &'a [u8],
    answered: &'a [u8],
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A segment: its flow, its first byte's number, whether it opens the connection, its bytes.
struct Segment<'a> {
    flow: Flow,
    number: u32,
    opens: bool,
    bytes: &'a [u8],
}

impl<'a> Segment<'a> {
    fn read(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(14..).filter(|_| be16(frame, 12) == Some(0x0800))?;
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let tcp = packet.get(header..usize::from(be16(packet, 2)?)).filter(|_| packet[9] == 6)?;
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let flow = (SocketAddrV4::new(address(12)?, be16(tcp, 0)?), SocketAddrV4::new(address(16)?, be16(tcp, 2)?));
        let number = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
        let bytes = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
        Some(Self { flow, number, opens: tcp[13] & 2 != 0, bytes })
    }
}

impl Capture {
    /// Reads a file that tcpdump may still be writing.
    pub fn read(path: &Path) -> Option<Self> {
        let raw = std::fs::read(path).ok()?;
        assert_eq!((le32(&raw, 0)?, le32(&raw, 20)?), (0xa1b2_c3d4, ETHERNET), "no capture of ours");
        let (mut packets, mut at) = (0, 24);
        let mut begun: BTreeMap<Flow, (u32, BTreeMap<u32, &[u8]>)> = BTreeMap::new();
        while let Some(frame) = le32(&raw, at + 8).and_then(|length| raw.get(at + 16..at + 16 + length as usize)) {
            at += 16 + frame.len();
            packets += 1;
            let Some(segment) = Segment::read(frame) else { continue };
            if segment.opens {
                begun.insert(segment.flow, (segment.number.wrapping_add(1), BTreeMap::new()));
            } else if let Some((first, parts)) = begun.get_mut(&segment.flow)
                && !segment.bytes.is_empty()
            {
                parts.insert(segment.number.wrapping_sub(*first), segment.bytes);
            }
        }
        let flows = begun.iter().map(|(flow, (_, parts))| (*flow, joined(parts))).collect();
        Some(Self { packets, flows, raw })
    }

    /// Who said something to whom, in a packet or over several.
    pub fn mentions(&self, what: &[u8]) -> Option<String> {
        let has = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        let flow = self.flows.iter().find(|(_, bytes)| has(bytes)).map(|((from, to), _)| format!("{from} to {to}"));
        flow.or_else(|| has(&self.raw).then(|| "a packet".to_owned()))
    }

    /// Every direction of every connection.
    pub fn connections(&self) -> Vec<Flow> {
        self.flows.keys().copied().collect()
    }

    /// The connections of one address to another on which both spoke.
    pub fn between(&self, client: Ipv4Addr, server: Ipv4Addr) -> Vec<Stream<'_>> {
        let ours = self.flows.iter().filter(|((from, to), sent)| *from.ip() == client && *to.ip() == server && !sent.is_empty());
        ours.filter_map(|((from, to), sent)| {
            let answered = self.flows.get(&(*to, *from)).filter(|answered| !answered.is_empty())?;
            Some(Stream { client: *from, server: *to, sent, answered })
        })
        .collect()
    }
}

/// Segments in order, without what was sent twice.
fn joined(parts: &BTreeMap<u32, &[u8]>) -> Vec<u8> {
    let mut whole: Vec<u8> = Vec::new();
    for (at, bytes) in parts {
        let known = whole.len().saturating_sub(*at as usize);
        whole.extend(bytes.get(known..).unwrap_or_default());
    }
    whole
}

impl Stream<'_> {
    /// That it is TLS 1.3 from end to end, and that its keys were agreed on by X25519MLKEM768.
    pub fn assert_mesh_tls(&self) {
        let what = format!("{} > {}", self.client, self.server);
        for bytes in [self.sent, self.answered] {
            let strange = records(bytes).find(|record| !is_tls(record));
            assert_eq!(strange, None, "{what}: not a record of TLS");
        }
        let offer = Hello::of_client(self.sent).unwrap_or_else(|| panic!("{what}: no ClientHello"));
        let versions: Vec<_> = offer.extension(SUPPORTED_VERSIONS).map(|list| pairs(&list[1..])).unwrap_or_default();
        assert_eq!(versions, [TLS_1_3], "{what}: offered");
        let shares = offer.extension(KEY_SHARE).map(|list| groups(&list[2..])).unwrap_or_default();
        assert!(shares.contains(&X25519_MLKEM_768), "{what}: offered {shares:x?}");

        let choice = Hello::of_server(self.answered).unwrap_or_else(|| panic!("{what}: no ServerHello"));
        assert_ne!(choice.random[..4], RETRY, "{what}: a second attempt");
        let chosen = |extension| choice.extension(extension).and_then(|value| be16(value, 0));
        assert_eq!(chosen(SUPPORTED_VERSIONS), Some(TLS_1_3), "{what}");
        assert_eq!(chosen(KEY_SHARE), Some(X25519_MLKEM_768), "{what}");
    }
}

/// What should be the records of TLS; the last may be cut off.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = bytes.get(..5)?;
        let length = 5 + usize::from(be16(header, 3)?);
        let (record, rest) = bytes.split_at(length.min(bytes.len()));
        bytes = rest;
        Some(record)
    })
}

/// ChangeCipherSpec, alert, handshake or data, of a version that TLS 1.3 writes, no longer than it may be.
fn is_tls(record: &[u8]) -> bool {
    const LONGEST: u16 = (1 << 14) + 256;
    matches!(record[0], 20..=23) && matches!(be16(record, 1), Some(0x0301 | 0x0303)) && be16(record, 3) <= Some(LONGEST)
}

/// A ClientHello or a ServerHello.
struct Hello<'a> {
    random: &'a [u8],
    extensions: BTreeMap<u16, &'a [u8]>,
}

impl<'a> Hello<'a> {
    fn of_client(bytes: &'a [u8]) -> Option<Self> {
        Self::read(bytes, 1, |rest| {
            let suites = 2 + usize::from(be16(rest, 0)?);
            Some(suites + 1 + usize::from(*rest.get(suites)?))
        })
    }

    fn of_server(bytes: &'a [u8]) -> Option<Self> {
        Self::read(bytes, 2, |_| Some(3))
    }

    /// `middle`: how long that is which stands between the session's id and the extensions.
    fn read(bytes: &'a [u8], kind: u8, middle: impl Fn(&[u8]) -> Option<usize>) -> Option<Self> {
        let record = records(bytes).next().filter(|record| record[0] == 22)?;
        let message = record.get(9..).filter(|_| record[5] == kind)?;
        let random = message.get(2..34)?;
        let rest = message.get(35 + usize::from(*message.get(34)?)..)?;
        let rest = rest.get(middle(rest)?..)?;
        let mut list = rest.get(2..2 + usize::from(be16(rest, 0)?))?;
        let mut extensions = BTreeMap::new();
        while !list.is_empty() {
            let end = 4 + usize::from(be16(list, 2)?);
            extensions.insert(be16(list, 0)?, list.get(4..end)?);
            list = &list[end..];
        }
        Some(Self { random, extensions })
    }

    fn extension(&self, number: u16) -> Option<&'a [u8]> {
        self.extensions.get(&number).copied()
    }
}

fn pairs(list: &[u8]) -> Vec<u16> {
    list.chunks_exact(2).filter_map(|pair| be16(pair, 0)).collect()
}

/// The groups of a client's key shares.
fn groups(mut list: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while let (Some(group), Some(length)) = (be16(list, 0), be16(list, 2)) {
        found.push(group);
        list = list.get(4 + usize::from(length)..).unwrap_or_default();
    }
    found
}
