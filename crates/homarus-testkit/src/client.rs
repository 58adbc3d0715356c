//! Clients: HTTP/1 by the byte, HTTP/2 by the frame.

use crate::servers::{Seen, read_body, read_head};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    io::{BufReader, Write},
    net::TcpStream,
};

/// One HTTP/1 connection.
pub struct Http1 {
    reader: BufReader<TcpStream>,
}

impl Http1 {
    /// On a connection.
    pub fn new(tcp: TcpStream) -> Self {
        Self { reader: BufReader::new(tcp) }
    }

    /// The socket.
    pub fn tcp(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.tcp().write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Reads a whole response with a length or chunks; panics if there is none.
    pub fn response(&mut self) -> Reply {
        self.try_response().expect("a response")
    }

    /// Reads a whole response; none: the connection ended.
    pub fn try_response(&mut self) -> Option<Reply> {
        let mut seen = read_head(&mut self.reader)?;
        read_body(&mut self.reader, &mut seen)?;
        Some(Reply(seen))
    }

    /// Reads the head of a response.
    pub fn head(&mut self) -> Reply {
        Reply(read_head(&mut self.reader).expect("a response"))
    }

    /// Sends a `GET` and reads the response.
    pub fn get(&mut self, path: &str) -> Reply {
        self.write(format!("GET {path} HTTP/1.1\r\nhost: web.test\r\n\r\n"));
        self.response()
    }

    /// What comes until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut self.reader, &mut all);
        all
    }

    /// The reader.
    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.reader
    }
}

/// A response.
#[derive(Debug)]
pub struct Reply(pub Seen);

impl Reply {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.0.line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.body).into_owned()
    }
}

/// Runs asynchronous work of a test.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(std::time::Duration::from_secs(30), work).await };
    runtime.block_on(limited).expect("within 30 s")
}

/// Begins HTTP/2 on a connection; its work runs on the test's runtime.
pub async fn http2(tcp: TcpStream) -> h2::client::SendRequest<Bytes> {
    tcp.set_nonblocking(true).unwrap();
    let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    send
}

/// A request's head.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
    let mut builder = http::Request::builder().method(method).uri(format!("http://web.test{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// Reads a body to its end: data and trailers.
pub async fn collect(mut body: h2::RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?.unwrap_or_default()))
}
