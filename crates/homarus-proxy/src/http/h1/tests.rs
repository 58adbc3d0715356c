#![allow(clippy::unwrap_used)]
//! The codecs against tables and random bytes; the loops against real sockets.

use super::{
    Invalid,
    client::{Client, Send},
    framing::{Decoder, Encoder, Framing, Part},
    head::{parse_request, parse_response, write_request, write_response},
    pool::Pool,
    server,
};
use crate::{
    http::{Body, Ending, Frame, Handler, Request, RequestHead, Response},
    io::Io,
    net::{TcpListener, TcpStream},
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use proptest::prelude::*;
use std::{future::poll_fn, rc::Rc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a request says of its body and connection, or why it is refused.
fn check(bytes: &str, want: Result<(Framing, bool), Invalid>) {
    let got = parse_request(bytes.as_bytes()).map(|parsed| {
        let (parsed, taken) = parsed.expect("a whole head");
        assert!(taken <= bytes.len());
        (parsed.framing, parsed.keep_alive)
    });
    assert_eq!(got, want, "{bytes:?}");
}

#[test]
fn requests_say_how_long_they_are() {
    check("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Ok((Framing::None, true)));
    check("GET / HTTP/1.0\r\n\r\n", Ok((Framing::None, false)));
    check("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", Ok((Framing::None, true)));
    check("GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x\r\n\r\n", Ok((Framing::None, false)));
    check("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", Ok((Framing::Length(5), true)));
    check("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello", Ok((Framing::Length(5), true)));
    check("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n", Ok((Framing::Chunked, true)));
    check("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", Ok((Framing::None, true)));
    check("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", Ok((Framing::None, true)));
    // As people type it.
    check("GET / HTTP/1.1\nhost: a\n\n", Ok((Framing::None, true)));
}

#[test]
fn ambiguous_requests_are_refused() {
    let post = |headers: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n");
    for headers in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 6",
        "content-length: +5",
        "content-length: 5 5",
        "content-length: 0x5",
        "content-length: ",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        check(&post(headers), Err(Invalid::Length));
    }
    check("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Err(Invalid::Length));
    for head in [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: a\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\ncontent-length: 5\r\n\r\n",
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\n",
        "GET / HTTP/1.1\r\nx: a\rb: c\r\n\r\n",
    ] {
        check(head, Err(Invalid::Head));
    }
    check("CONNECT /path HTTP/1.1\r\nhost: a\r\n\r\n", Err(Invalid::Target));
    check("GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n", Err(Invalid::Target));
    let many: String = (0..200).map(|i| format!("x{i}: y\r\n")).collect();
    check(&format!("GET / HTTP/1.1\r\n{many}\r\n"), Err(Invalid::TooLarge));
}

#[test]
fn responses_say_how_long_they_are() {
    let framing = |method: &Method, head: &str| parse_response(head.as_bytes(), method).map(|p| p.unwrap().0.framing);
    let get = Method::GET;
    assert_eq!(framing(&get, "HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::UntilEnd));
    assert_eq!(framing(&get, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"), Ok(Framing::Length(3)));
    assert_eq!(framing(&get, "HTTP/1.1 204 No Content\r\n\r\n"), Ok(Framing::None));
    assert_eq!(framing(&get, "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n"), Ok(Framing::None));
    assert_eq!(framing(&Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"), Ok(Framing::None));
    assert_eq!(framing(&Method::CONNECT, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"), Ok(Framing::None));
    assert_eq!(framing(&get, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"), Err(Invalid::Length));
}

/// All data of a body that arrives in pieces of these sizes.
fn decode(bytes: &[u8], framing: Framing, cuts: &[usize]) -> Result<(Vec<u8>, usize), Invalid> {
    let (mut decoder, mut data) = (Decoder::new(framing), Vec::new());
    let (mut buffer, mut rest) = (Vec::new(), bytes);
    let mut cuts = cuts.iter().cycle();
    loop {
        match decoder.decode(&buffer)? {
            Part::Data { skip, len } => {
                data.extend_from_slice(&buffer[skip..skip + len]);
                buffer.drain(..skip + len);
            }
            Part::End { skip, trailers } => {
                let trailers = trailers.map_or(0, |t| t.len());
                assert_eq!([&buffer[skip..], rest].concat(), b"next", "what follows is left alone");
                return Ok((data, trailers));
            }
            Part::More { skip } => {
                buffer.drain(..skip);
                if rest.is_empty() {
                    decoder.end_of_input()?;
                    return Ok((data, 0));
                }
                let n = (*cuts.next().unwrap()).clamp(1, rest.len());
                buffer.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
}

proptest! {
    #[test]
    fn chunked_bodies_go_through(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
                                 cuts in proptest::collection::vec(1usize..400, 1..6), trailer in any::<bool>()) {
        let (mut wire, mut encoder) = (Vec::new(), Encoder::new(Framing::Chunked));
        for piece in &pieces {
            encoder.before(&mut wire, piece.len()).unwrap();
            wire.extend_from_slice(piece);
            wire.extend_from_slice(encoder.after());
        }
        let trailers = [(http::header::ETAG, HeaderValue::from_static("x"))].into_iter().collect();
        encoder.finish(&mut wire, trailer.then_some(&trailers)).unwrap();
        wire.extend_from_slice(b"next");
        prop_assert_eq!(decode(&wire, Framing::Chunked, &cuts), Ok((pieces.concat(), usize::from(trailer))));
    }

    #[test]
    fn sized_bodies_go_through(data in proptest::collection::vec(any::<u8>(), 1..500), cuts in proptest::collection::vec(1usize..200, 1..4)) {
        let wire = [&data[..], b"next"].concat();
        prop_assert_eq!(decode(&wire, Framing::Length(data.len() as u64), &cuts), Ok((data, 0)));
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Z]{3,4} /[a-z]{0,4} HTTP/1.[01]\r\n([a-z-]{1,9}: [ -~]{0,9}\r\n){0,4}\r\n") {
        for input in [&bytes[..], text.as_bytes()] {
            let _ = parse_request(input);
            let _ = parse_response(input, &Method::GET);
            let mut decoder = Decoder::new(Framing::Chunked);
            let mut at = 0;
            for _ in 0..300 {
                match decoder.decode(&input[at..]) {
                    Ok(Part::Data { skip, len }) => at += skip + len,
                    _ => break,
                }
            }
        }
    }

    #[test]
    fn heads_mean_the_same_however_they_arrive(
        line in "(GET|POST|CONNECT|X) (/[ -~]{0,6}|a:1|\\*|http://a/) HTTP/1.[019]",
        fields in proptest::collection::vec("([a-z-]{1,9}|host|content-length|transfer-encoding|connection): ?([!-~\t ]{0,9}|5|chunked|close)", 0..6),
        ends in proptest::collection::vec(prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")], 8),
        flip in 0usize..200, to in any::<u8>(), behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let lines = [line].into_iter().chain(fields).chain([String::new()]);
        let mut head: Vec<u8> = lines.zip(ends).flat_map(|(line, end)| [line.as_bytes(), end.as_bytes()].concat()).collect();
        if flip < head.len() {
            head[flip] = to;
        }
        let whole = [&head[..], &behind].concat();
        let told = |parsed: Result<Option<(super::head::ParsedRequest, usize)>, Invalid>| {
            parsed.map(|p| p.map(|(p, taken)| (p.head.method, p.head.uri, p.head.headers, p.framing, p.keep_alive, taken)))
        };
        let answer = told(parse_request(&whole));
        prop_assert_eq!(&answer, &told(parse_request(&whole)));
        let Ok(Some((method, uri, headers, framing, _, taken))) = answer else { return Ok(()) };
        prop_assert!(taken <= whole.len() && headers.len() <= super::MAX_HEADERS);
        // What is behind a head changes nothing, and a part of it is never taken for the whole.
        for cut in 0..taken {
            let part = parse_request(&whole[..cut]);
            prop_assert!(!matches!(part, Ok(Some(_))), "{} of {taken} bytes are a head", cut);
        }
        prop_assert!(matches!(parse_request(&whole[..taken]), Ok(Some((_, n))) if n == taken));
        // What we write is read as what we read: nothing is smuggled past us.
        let mut head = http::Request::new(()).into_parts().0;
        (head.method, head.uri, head.headers) = (method.clone(), uri.clone(), headers);
        let (absolute, mut out) = (head.uri.scheme().is_some(), Vec::new());
        write_request(&mut out, &head, absolute, framing);
        let (again, n) = parse_request(&out).unwrap().expect("a whole head");
        prop_assert_eq!((again.head.method, again.head.uri, again.framing, n), (method, uri, framing, out.len()));
    }

    #[test]
    fn responses_mean_the_same_however_they_arrive(
        code in 0u16..1000, fields in proptest::collection::vec("([a-z-]{1,9}|content-length|transfer-encoding): ?([!-~]{0,9}|5|chunked)", 0..6),
        flip in 0usize..150, to in any::<u8>(),
    ) {
        let mut bytes = format!("HTTP/1.1 {code:03} Reason\r\n{}\r\n", fields.iter().map(|f| format!("{f}\r\n")).collect::<String>()).into_bytes();
        if flip < bytes.len() {
            bytes[flip] = to;
        }
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let told = |bytes: &[u8]| parse_response(bytes, &method).map(|p| p.map(|(p, taken)| (p.head.status, p.head.headers, p.framing, p.keep_alive, taken)));
            let answer = told(&bytes);
            let more = [&bytes[..], b"more"].concat();
            if let Ok(Some((_, headers, .., taken))) = &answer {
                prop_assert_eq!(&answer, &told(&more));
                prop_assert!(*taken <= bytes.len() && headers.len() <= super::MAX_HEADERS);
                prop_assert!((0..*taken).all(|cut| !matches!(parse_response(&bytes[..cut], &method), Ok(Some(_)))));
            }
        }
    }

    #[test]
    fn what_is_parsed_can_be_written(path in "/[a-z0-9/]{0,20}", value in "[!-~]([ -~]{0,18}[!-~])?") {
        let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-y: {value}\r\n\r\n");
        let (parsed, taken) = parse_request(text.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(taken, text.len());
        let mut out = Vec::new();
        write_request(&mut out, &parsed.head, false, parsed.framing);
        prop_assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

#[test]
fn broken_chunks_are_refused() {
    for wire in [
        "x\r\n",
        "\r\n",
        "5\nhello",
        "5\r\nhelloX",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "5 5\r\n",
        "0\r\ncontent-length: 5\r\n\r\n",
        "0\r\n bad\r\n\r\n",
    ] {
        let result = decode(wire.as_bytes(), Framing::Chunked, &[100]);
        assert_eq!(result, Err(Invalid::Chunk), "{wire:?}");
    }
    assert_eq!(decode(b"5\r\nhel", Framing::Chunked, &[100]), Err(Invalid::Truncated));
    assert_eq!(decode(b"hel", Framing::Length(5), &[100]), Err(Invalid::Truncated));
    assert_eq!(decode(b"hel", Framing::UntilEnd, &[2]), Ok((b"hel".to_vec(), 0)));
}

#[test]
fn lengths_are_kept() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Framing::Length(3));
    assert_eq!(encoder.before(&mut out, 4), Err(Invalid::WrongLength));
    encoder.before(&mut out, 2).unwrap();
    assert_eq!(encoder.finish(&mut out, None), Err(Invalid::WrongLength));
    let response = Response::empty(StatusCode::OK, ());
    write_response(&mut out, &response.head, Version::HTTP_11, Framing::Length(7), true);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\n");
}

/// Sends back what it gets, chunked if there was no length; `/early` answers without
/// reading, `/whole` only after.
struct Echo;

impl Handler for Echo {
    type Tally = ();

    async fn handle(&self, request: Request) -> Response<()> {
        let mut response = Response::empty(StatusCode::OK, ());
        response.body = match request.head.uri.path() {
            "/early" => Body::full(Bytes::from_static(b"no thanks")),
            "/whole" => Body::full(request.body.collect(1 << 20).await.unwrap()),
            _ => request.body,
        };
        response
    }
}

async fn serve_echo() -> (std::net::SocketAddr, impl Drop) {
    struct Ends(Option<homarus_daemon::drain::Signal>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.take();
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (signal, drain) = homarus_daemon::drain::channel();
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let drain = drain.clone();
            let io = Io::from(tcp);
            let ending = Ending::new(drain, &io);
            tokio::task::spawn_local(async move { server::serve(io, &Echo, ending).await });
        }
    });
    (addr, Ends(Some(signal)))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = std::time::Duration::from_secs(20);
    tokio::task::LocalSet::new().block_on(&runtime, async { tokio::time::timeout(limit, test).await.expect("in time") });
}

/// Everything the server says to these bytes.
async fn talk(addr: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_connection_carries_requests_one_after_the_other() {
    run(async {
        let (addr, _server) = serve_echo().await;
        let two = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiPOST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n";
        let want = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n";
        assert_eq!(talk(addr, two).await, want);
        let continued = talk(addr, b"POST /whole HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi").await;
        assert_eq!(continued, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        // A body that nobody reads stands before the next request all the same.
        let early = talk(addr, b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET / HTTP/1.0\r\n\r\n").await;
        assert_eq!(
            early,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nno thanksHTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    });
}

#[test]
fn broken_requests_get_an_answer_and_an_end() {
    run(async {
        let (addr, _server) = serve_echo().await;
        for bytes in ["nonsense\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"] {
            let answer = talk(addr, bytes.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{answer}");
        }
        let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        let answer = talk(addr, huge.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    });
}

#[test]
fn heads_that_never_end_are_cut_off_in_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (addr, _server) = serve_echo().await;
        let begun = tokio::time::Instant::now();
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await.unwrap();
        // A byte now and then is no excuse.
        let mut answer = Vec::new();
        for _ in 0..20 {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            if tcp.write_all(b"y").await.is_err() {
                break;
            }
        }
        let _ = tcp.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
        assert!(begun.elapsed() >= std::time::Duration::from_secs(60));
    });
}

fn head(method: Method) -> RequestHead {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = method;
    head.headers.insert(http::header::HOST, HeaderValue::from_static("a"));
    head
}

async fn collect(mut body: Body) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        if let Frame::Data(data) = frame.unwrap() {
            all.extend_from_slice(&data);
        }
    }
    all
}

#[test]
fn a_client_connection_goes_back_to_its_pool() {
    run(async {
        let (addr, _server) = serve_echo().await;
        let pool = Pool::new(10, std::time::Duration::from_secs(3));
        for size in [0usize, 10, 20_000, 300_000] {
            let client = match pool.take() {
                Some(client) => client,
                None if size == 0 => Client::new(Io::from(TcpStream::connect(addr).await.unwrap())),
                None => panic!("the connection did not come back before {size}"),
            };
            let (head, data) = (head(Method::POST), Bytes::from(vec![7; size]));
            let send = Send {
                head: &head,
                body: Body::full(data.clone()),
                absolute: false,
                wants_upgrade: false,
                pool: Some(Rc::downgrade(&pool)),
            };
            let got = client.send(send).await.unwrap();
            assert_eq!(got.head.status, StatusCode::OK);
            assert_eq!(collect(got.body).await, data);
        }
    });
}

#[test]
fn a_kept_connection_that_dies_is_replaced_for_what_may_be_asked_twice() {
    run(async {
        let addr = serve_requests(1).await;
        let pool = Pool::new(10, std::time::Duration::from_secs(3));
        let (get, post) = (head(Method::GET), head(Method::POST));
        let connect = async || Client::new(Io::from(TcpStream::connect(addr).await.unwrap()));
        connect().await.send(without_body(&get, &pool)).await.unwrap();
        let error = pool.take().unwrap().send(without_body(&get, &pool)).await.err().unwrap();
        assert!(error.may_repeat, "{:?}", error.error);
        // The server has read it: whether it did what it was asked, nobody knows.
        connect().await.send(without_body(&get, &pool)).await.unwrap();
        let error = pool.take().unwrap().send(without_body(&post, &pool)).await.err().unwrap();
        assert!(!error.may_repeat, "{:?}", error.error);
    });
}

#[test]
fn what_a_fresh_connection_was_asked_may_have_been_done() {
    run(async {
        let addr = serve_requests(0).await;
        let fresh = Client::new(Io::from(TcpStream::connect(addr).await.unwrap()));
        let pool = Pool::new(10, std::time::Duration::from_secs(3));
        assert!(!fresh.send(without_body(&head(Method::GET), &pool)).await.err().unwrap().may_repeat);
    });
}

/// Answers so many requests on each connection, reads one more, and closes it without a word.
async fn serve_requests(answers: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut buf = [0; 1024];
            for _ in 0..answers {
                let _ = tcp.read(&mut buf).await;
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
            let _ = tcp.read(&mut buf).await;
        }
    });
    addr
}

fn without_body<'a>(head: &'a RequestHead, pool: &Rc<Pool>) -> Send<'a> {
    Send { head, body: Body::empty(), absolute: false, wants_upgrade: false, pool: Some(Rc::downgrade(pool)) }
}
