//! Heads of messages: bytes in, heads out, and back.

use super::{Invalid, MAX_HEADERS, Put, framing::Framing};
use crate::http::{RequestHead, ResponseHead, headers};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use std::mem::MaybeUninit;

/// The head of a request, and what it says of its connection.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The head.
    pub head: RequestHead,
    /// How long its body is.
    pub framing: Framing,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The client wants another protocol on this connection, or a tunnel.
    pub wants_upgrade: bool,
}

/// The head of a response, and what it says of its connection.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The head.
    pub head: ResponseHead,
    /// How long its body is.
    pub framing: Framing,
    /// The connection may carry another request.
    pub keep_alive: bool,
}

/// Parses a request's head from the first bytes of `buf`; none: more bytes are needed. Also says how many it took.
pub fn parse_request(buf: &[u8]) -> Result<Option<(ParsedRequest, usize)>, Invalid> {
    let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let taken = match parsed.parse_with_uninit_headers(buf, &mut slots) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid::TooLarge),
        Err(_) => return Err(Invalid::Head),
    };
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Invalid::Head);
    };
    check_lines(&buf[..taken])?;
    let bytes = Bytes::copy_from_slice(&buf[..taken]);
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Invalid::Head)?;
    let uri = Uri::from_maybe_shared(slice(&bytes, buf, path.as_bytes())).map_err(|_| Invalid::Target)?;
    check_target(&method, &uri)?;
    let headers = take_headers(&bytes, buf, parsed.headers)?;

    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Invalid::Head);
    }
    let wants_upgrade = version == Version::HTTP_11
        && (method == Method::CONNECT
            || (headers.contains_key(header::UPGRADE) && !headers::has_token(&headers, &header::UPGRADE, "h2c")));
    let framing = Framing::of_request(version, &headers)?;
    let mut head = http::Request::new(()).into_parts().0;
    (head.method, head.uri, head.version) = (method, uri, version);
    let keep_alive = persistent(version, &headers);
    let expects_continue = version == Version::HTTP_11 && headers::has_token(&headers, &header::EXPECT, "100-continue");
    head.headers = headers;
    Ok(Some((ParsedRequest { head, framing, keep_alive, expects_continue, wants_upgrade }, taken)))
}

/// Parses a response's head. `method` is that of the request: it decides what a length means.
pub fn parse_response(buf: &[u8], method: &Method) -> Result<Option<(ParsedResponse, usize)>, Invalid> {
    let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let taken = match parser.parse_response_with_uninit_headers(&mut parsed, buf, &mut slots) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid::TooLarge),
        Err(_) => return Err(Invalid::Head),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else { return Err(Invalid::Head) };
    check_lines(&buf[..taken])?;
    let bytes = Bytes::copy_from_slice(&buf[..taken]);
    let mut headers = take_headers(&bytes, buf, parsed.headers)?;
    let mut head = http::Response::new(()).into_parts().0;
    head.status = StatusCode::from_u16(code).map_err(|_| Invalid::Head)?;
    head.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let framing = Framing::of_response(head.version, head.status, method, &mut headers)?;
    let keep_alive = persistent(head.version, &headers) && framing != Framing::UntilEnd;
    head.headers = headers;
    Ok(Some((ParsedResponse { head, framing, keep_alive }, taken)))
}

/// The part of `bytes` (a copy of the start of `buf`) that is where `part` is in `buf`.
fn slice(bytes: &Bytes, buf: &[u8], part: &[u8]) -> Bytes {
    let start = part.as_ptr() as usize - buf.as_ptr() as usize;
    bytes.slice(start..start + part.len())
}

fn take_headers(bytes: &Bytes, buf: &[u8], parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Invalid> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + 2);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid::Head)?;
        let value = if field.value.is_empty() { Bytes::new() } else { slice(bytes, buf, field.value) };
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| Invalid::Head)?);
    }
    Ok(headers)
}

/// A line feed alone may end a line (RFC 9112 §2.2), as people type it; but where lines end in two ways, somebody before us may
/// have seen other lines than we do.
fn check_lines(head: &[u8]) -> Result<(), Invalid> {
    let mut proper = memchr::memchr_iter(b'\n', head).map(|at| at > 0 && head[at - 1] == b'\r');
    let first = proper.next();
    if proper.all(|end| Some(end) == first) { Ok(()) } else { Err(Invalid::Head) }
}

/// CONNECT has an authority as its target, everything else a path, `*` or a whole URI (proxy-wire §6.4).
fn check_target(method: &Method, uri: &Uri) -> Result<(), Invalid> {
    let authority_form = uri.scheme().is_none() && uri.authority().is_some();
    if authority_form == (method == Method::CONNECT) { Ok(()) } else { Err(Invalid::Target) }
}

fn persistent(version: Version, headers: &HeaderMap) -> bool {
    if version == Version::HTTP_10 {
        return headers::has_token(headers, &header::CONNECTION, "keep-alive");
    }
    match headers.get(header::CONNECTION) {
        None => true,
        Some(_) => !headers::has_token(headers, &header::CONNECTION, "close"),
    }
}

/// Writes a request's head. The target is in absolute form if the URI has a scheme and `absolute` is set.
pub fn write_request(out: &mut impl Put, head: &RequestHead, absolute: bool, framing: Framing) {
    out.put(head.method.as_str().as_bytes());
    out.put(b" ");
    let uri = &head.uri;
    if head.method == Method::CONNECT {
        out.put(uri.authority().map_or("", |a| a.as_str()).as_bytes());
    } else {
        if let (true, Some(scheme), Some(authority)) = (absolute, uri.scheme_str(), uri.authority()) {
            out.put(scheme.as_bytes());
            out.put(b"://");
            out.put(authority.as_str().as_bytes());
        }
        out.put(uri.path_and_query().map_or("/", |p| p.as_str()).as_bytes());
    }
    out.put(if head.version == Version::HTTP_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    if !head.headers.contains_key(header::HOST)
        && let Some(authority) = uri.authority()
    {
        write_header(out, b"host", authority.as_str().as_bytes());
    }
    write_headers(out, &head.headers, framing);
}

/// Writes a response's head.
pub fn write_response(out: &mut impl Put, head: &ResponseHead, version: Version, framing: Framing, close: bool) {
    out.put(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put(head.status.as_str().as_bytes());
    out.put(b" ");
    out.put(head.status.canonical_reason().unwrap_or("").as_bytes());
    out.put(b"\r\n");
    if close {
        write_header(out, b"connection", b"close");
    } else if version == Version::HTTP_10 {
        write_header(out, b"connection", b"keep-alive");
    }
    write_headers(out, &head.headers, framing);
}

fn write_headers(out: &mut impl Put, headers: &HeaderMap, framing: Framing) {
    for (name, value) in headers {
        // What describes the length on our own connection is ours to say.
        if name == header::TRANSFER_ENCODING || (name == header::CONTENT_LENGTH && framing.replaces_length()) {
            continue;
        }
        write_header(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        Framing::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        Framing::Length(n) if !headers.contains_key(header::CONTENT_LENGTH) => {
            write_header(out, b"content-length", n.to_string().as_bytes());
        }
        _ => {}
    }
    out.put(b"\r\n");
}

fn write_header(out: &mut impl Put, name: &[u8], value: &[u8]) {
    out.put(name);
    out.put(b": ");
    out.put(value);
    out.put(b"\r\n");
}
