#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::block::{BlockError, Headers, Reader, Writer};
use super::frame::{self, Decoder, Event, MAX_CONTROL, Reset, SpdyError};

/// Two blocks of one connection as zlib makes them with SPDY's dictionary; the second leans on the first.
const FIRST: &str = "78f9e3c6a7c202253a48f95b044aab4c16064092b308125b99a054cc68004e872545a989b9d0a2863515141100000000ffff";
const SECOND: &str = "224b2ba8944a04000000ffff";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn headers(kind: &str) -> Headers {
    [("port", "80"), ("requestid", "0"), ("streamtype", kind)].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap() | u32::from(flags) << 24;
    [&[0x80, 3][..], &kind.to_be_bytes(), &length.to_be_bytes(), payload].concat()
}

fn syn_stream(stream: u32, block: &[u8]) -> Vec<u8> {
    control(1, 0, &[&stream.to_be_bytes()[..], &[0; 6], block].concat())
}

/// All events of bytes that come in pieces, and the most that was ever kept of them.
fn events(bytes: &[u8], piece: usize) -> (Result<Vec<Event>, SpdyError>, usize) {
    let (mut decoder, mut events, mut kept) = (Decoder::default(), Vec::new(), 0);
    for piece in bytes.chunks(piece.max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (Err(error), kept),
            }
        }
        kept = kept.max(decoder.buffer().len());
    }
    (Ok(events), kept)
}

#[test]
fn blocks_of_a_connection_share_their_history() {
    let mut reader = Reader::default();
    assert_eq!(reader.read(&hex(FIRST)).unwrap(), headers("error"));
    assert_eq!(reader.read(&hex(SECOND)).unwrap(), headers("data"));
    // Without the first, the second makes no sense.
    assert!(Reader::default().read(&hex(SECOND)).is_err());
}

#[test]
fn what_we_write_can_be_read() {
    let (mut writer, mut reader) = (Writer::default(), Reader::default());
    for kind in ["error", "data", ""] {
        assert_eq!(reader.read(&writer.write(&headers(kind))).unwrap(), headers(kind));
    }
    assert_eq!(reader.read(&writer.write(&Headers::new())).unwrap(), Headers::new());
}

#[test]
fn a_small_block_that_inflates_without_end_is_refused() {
    // 40 KiB of zeros deflate to a stored block of their own kind; four of them in one block are too many.
    let mut block = vec![0x78, 0x01];
    for _ in 0..4 {
        let size: u16 = 40 << 10;
        block.push(0);
        block.extend_from_slice(&size.to_le_bytes());
        block.extend_from_slice(&(!size).to_le_bytes());
        block.extend(std::iter::repeat_n(0, usize::from(size)));
    }
    assert_eq!(Reader::default().read(&block), Err(BlockError::TooLong));
    // A reference to nothing but zeros, 258 at a time: a classic bomb.
    let bomb = hex("78daecc1b11100101405b0e768ed6415bf77f6efcca04f92a42519754fa5");
    assert!(Reader::default().read(&[&bomb[..], &[0; 200]].concat()).is_err());
}

#[test]
fn headers_must_be_whole_and_named_once() {
    let check = |block: &[u8], error| {
        let size = u16::try_from(block.len()).unwrap();
        let stored = [&[0x78, 0x01, 0][..], &size.to_le_bytes(), &(!size).to_le_bytes(), block, &[0, 0, 0, 0xff, 0xff]].concat();
        assert_eq!(Reader::default().read(&stored), Err(error), "{block:x?}");
    };
    let one = [&[0, 0, 0, 1][..], b"a", &[0, 0, 0, 1], b"b"].concat();
    check(&[], BlockError::Malformed);
    check(&[&[0, 0, 0, 2], &one[..]].concat(), BlockError::Malformed);
    check(&[&[0, 0, 0, 2], &one[..], &one[..]].concat(), BlockError::Malformed);
    check(&[&[0, 0, 0, 1], &one[..], b"more"].concat(), BlockError::Malformed);
    check(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], BlockError::Malformed);
    check(&[0xff, 0xff, 0xff, 0xff], BlockError::TooLong);
    assert_eq!(Reader::default().read(&[0x78, 0xf9, 0, 0, 0, 0]), Err(BlockError::NotZlib));
    assert_eq!(Reader::default().read(b"GET /"), Err(BlockError::NotZlib));
}

#[test]
fn a_conversation_is_read_however_it_is_cut() {
    let stream = 1;
    let bytes = [
        syn_stream(1, &hex(FIRST)),
        syn_stream(3, &hex(SECOND)),
        frame::data(stream, b"hello", false).to_vec(),
        control(4, 0, &[0, 0, 0, 0]),
        control(9, 0, &[0; 8]),
        control(4711, 0, b"whatever"),
        frame::ping(7).to_vec(),
        frame::data(stream, b"", true).to_vec(),
        frame::reset(3, Reset::Cancel).to_vec(),
        frame::go_away(3).to_vec(),
    ]
    .concat();
    for piece in [1, 2, 3, 7, 64, 4096] {
        let events = events(&bytes, piece).0.unwrap();
        let said: Vec<u8> = events
            .iter()
            .filter_map(|e| match e {
                Event::Data { stream: 1, bytes, .. } => Some(bytes.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(said, b"hello", "in pieces of {piece}");
        assert_eq!(events[0], Event::Open { stream: 1, headers: headers("error"), fin: false });
        assert_eq!(events[1], Event::Open { stream: 3, headers: headers("data"), fin: false });
        let rest: Vec<_> = events.iter().filter(|e| !matches!(e, Event::Open { .. } | Event::Data { fin: false, .. })).collect();
        let fin = Event::Data { stream: 1, bytes: bytes::Bytes::new(), fin: true };
        let wanted = [&Event::Nothing, &Event::Nothing, &Event::Nothing, &Event::Ping(7), &fin, &Event::Reset(3), &Event::GoAway];
        assert_eq!(rest, wanted, "in pieces of {piece}");
    }
}

#[test]
fn what_is_no_spdy_is_named() {
    let check = |bytes: &[u8], error| assert_eq!(events(bytes, 4096).0, Err(error), "{bytes:x?}");
    check(&[0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Version(2));
    check(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::TooLong(0xff_ffff));
    check(&control(3, 0, &[0; 3]), SpdyError::CutOff(3));
    check(&control(1, 0, &[0; 9]), SpdyError::CutOff(1));
    check(&syn_stream(1, b"GET / HTTP/1.1"), SpdyError::Block(BlockError::NotZlib));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_cost_no_more_than_they_are(bytes in vec(any::<u8>(), 0..4000), piece in 1_usize..1000) {
        let (_, kept) = events(&bytes, piece);
        prop_assert!(kept <= MAX_CONTROL + 8 + piece);
    }

    #[test]
    fn hostile_frames_are_read_or_refused(
        frames in vec((any::<u16>(), any::<u8>(), vec(any::<u8>(), 0..200)), 0..20), piece in 1_usize..200,
    ) {
        // Kinds that exist, mostly.
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, payload)| control(kind % 12, *flags, payload)).collect();
        let _ = events(&bytes, piece);
    }

    #[test]
    fn a_damaged_block_is_read_or_refused(at in 0_usize..50, byte: u8, cut in 0_usize..60) {
        let mut block = hex(FIRST);
        if let Some(place) = block.get_mut(at) {
            *place = byte;
        }
        block.truncate(cut.max(1));
        let _ = Reader::default().read(&block);
    }

    #[test]
    fn data_arrives_however_it_is_cut(sent in vec(vec(any::<u8>(), 0..500), 0..6), piece in 1_usize..700) {
        let bytes: Vec<u8> = sent.iter().flat_map(|s| frame::data(5, s, false).to_vec()).collect();
        let said: Vec<u8> = events(&bytes, piece).0.unwrap().into_iter().filter_map(|e| match e {
            Event::Data { stream: 5, bytes, fin: false } => Some(bytes.to_vec()),
            _ => None,
        }).flatten().collect();
        prop_assert_eq!(said, sent.concat());
    }
}
