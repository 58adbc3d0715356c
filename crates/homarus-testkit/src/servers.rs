//! Applications in threads. They end with the test's process.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

/// Handles each connection in a thread of its own; gives the port.
pub fn serve(listener: TcpListener, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let handle = handle.clone();
            let _ = connection.set_nodelay(true);
            thread::spawn(move || handle(connection));
        }
    });
    port
}

/// Sends everything back until the client ends, then ends.
pub fn echo(mut tcp: TcpStream) {
    let mut back = tcp.try_clone().unwrap();
    let _ = std::io::copy(&mut tcp, &mut back);
    let _ = back.shutdown(std::net::Shutdown::Write);
}

/// Speaks first, as SMTP and MySQL servers do, then echoes.
pub fn banner(mut tcp: TcpStream) {
    let _ = tcp.write_all(b"220 ready\r\n");
    echo(tcp);
}

/// A request as an HTTP/1 server saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The first line.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Trailers after the chunks.
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The path of the first line.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// One HTTP/1 connection, requests one after the other: `answer` writes each whole response, and says whether to go on.
pub fn http1(tcp: TcpStream, answer: impl Fn(&Seen, &mut TcpStream) -> bool) {
    let mut writer = tcp.try_clone().unwrap();
    let mut reader = BufReader::new(tcp);
    while let Some(seen) = read_request(&mut reader, &mut writer) {
        if !answer(&seen, &mut writer) {
            return;
        }
    }
}

/// Reads a whole request; none: the client has ended. Answers `100-continue`.
pub fn read_request(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> Option<Seen> {
    let mut seen = read_head(reader)?;
    if seen.header("expect").is_some() {
        let _ = writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    read_body(reader, &mut seen)?;
    Some(seen)
}

/// Reads first line and headers.
pub fn read_head(reader: &mut impl BufRead) -> Option<Seen> {
    let line = read_line(reader)?;
    Some(Seen { line, headers: read_fields(reader)?, ..Seen::default() })
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
}

fn read_fields(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { return Some(fields) };
        fields.push((name.to_lowercase(), value.trim().to_owned()));
    }
}

/// Reads a body by its length or its chunks.
pub fn read_body(reader: &mut impl BufRead, seen: &mut Seen) -> Option<()> {
    if seen.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(read_line(reader)?.split(';').next()?, 16).ok()?;
            if size == 0 {
                seen.trailers = read_fields(reader)?;
                return Some(());
            }
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            seen.body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = seen.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body).ok()
}

/// An HTTP/1 application that tells what it saw: `200` with first line, headers and the body's length and end.
pub fn mirror(tcp: TcpStream) {
    http1(tcp, |seen, out| {
        let body = format!("{}\n{}", seen.line, describe(seen));
        out.write_all(&respond("200 OK", &[], body.as_bytes())).is_ok()
    });
}

fn describe(seen: &Seen) -> String {
    let fields = |fields: &[(String, String)]| fields.iter().map(|(k, v)| format!("{k}: {v}\n")).collect::<String>();
    format!("{}body {}\n{}", fields(&seen.headers), seen.body.len(), fields(&seen.trailers))
}

/// A response with a length.
pub fn respond(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: String = headers.iter().map(|(k, v)| format!("{k}: {v}\r\n")).collect();
    let mut all = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n", body.len()).into_bytes();
    all.extend_from_slice(body);
    all
}

/// One HTTP/2 request that came in.
pub struct Asked {
    /// Its head, and its body as it comes.
    pub request: Request<h2::RecvStream>,
    /// Where the response goes.
    pub respond: h2::server::SendResponse<Bytes>,
    /// Ends the connection politely.
    pub go_away: tokio::sync::mpsc::UnboundedSender<()>,
}

/// An HTTP/2 application without TLS: `handle` answers each request. Gives the port.
pub fn serve_h2<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    max_streams: Option<u32>,
    handle: impl Fn(Asked) -> F + Send + Sync + 'static,
) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                let _ = tcp.set_nodelay(true);
                tokio::spawn(serve_h2_connection(tcp, max_streams, handle.clone()));
            }
        });
    });
    port
}

async fn serve_h2_connection<F: Future<Output = ()> + Send + 'static>(
    tcp: tokio::net::TcpStream,
    max_streams: Option<u32>,
    handle: Arc<impl Fn(Asked) -> F + Send + Sync + 'static>,
) {
    let mut builder = h2::server::Builder::new();
    if let Some(n) = max_streams {
        builder.max_concurrent_streams(n);
    }
    let Ok(mut connection) = builder.handshake(tcp).await else { return };
    let (go_away, mut leaving) = tokio::sync::mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                tokio::spawn(handle(Asked { request, respond, go_away: go_away.clone() }));
            }
            _ = leaving.recv() => connection.graceful_shutdown(),
        }
    }
}

/// Sends a request's body back as it comes, and its trailers, with `x-echo: 1` and the request's headers beside.
pub async fn echo_h2(asked: Asked) {
    let Asked { request, mut respond, .. } = asked;
    let (head, mut body) = request.into_parts();
    let mut response = Response::new(());
    for (name, value) in &head.headers {
        response.headers_mut().append(name, value.clone());
    }
    response.headers_mut().remove("content-length");
    response.headers_mut().insert("x-echo", http::HeaderValue::from_static("1"));
    let Ok(mut send) = respond.send_response(response, false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send_all(&mut send, data).await.is_err() {
            return;
        }
    }
    let mut trailers = body.trailers().await.ok().flatten().unwrap_or_else(HeaderMap::new);
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let _ = send.send_trailers(trailers);
}

/// Sends data as the peer's window allows.
pub async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(n)) => send.send_data(data.split_to(n.min(data.len())), false)?,
            Some(Err(error)) => return Err(error),
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// Reads to the end; what was read stays if there is an error.
pub fn read_all(tcp: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = tcp.read_to_end(&mut all);
    all
}
