//! Waits for the proxy before an application starts, and ends the proxy when the application has ended.
//!
//! Both ask the proxy's admin server on this machine's loopback addresses, in HTTP/1.1, one connection per question. The
//! name `localhost` isn't resolved: images may be empty, and a static program has no resolver to rely on.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long one question may take.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// A status line is about 20 bytes long.
const MAX_STATUS_LINE_LEN: usize = 1024;
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The proxy didn't become ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linkerd-proxy failed to become ready within {timeout:?} timeout (port {port}: {last_answer})")]
pub struct NotReady {
    /// The time it had.
    pub timeout: Duration,
    /// Its admin port.
    pub port: u16,
    /// What the last question brought.
    pub last_answer: String,
}

/// Asks `/ready` until the answer is a success, waiting `backoff` between questions. Without a timeout, forever.
pub fn await_ready(port: u16, backoff: Duration, timeout: Option<Duration>) -> Result<(), NotReady> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let last_answer = match ask(port, "GET /ready", question_time(deadline)) {
            Ok(status) if (200..300).contains(&status) => return Ok(()),
            Ok(status) => format!("status {status}"),
            Err(error) => error.to_string(),
        };
        let left = time_left(deadline);
        if left.is_zero() {
            return Err(NotReady { timeout: timeout.unwrap_or_default(), port, last_answer });
        }
        thread::sleep(backoff.min(left));
    }
}

/// Asks the proxy to end. It refuses unless `proxy.enableShutdownEndpoint` is set.
pub fn shut_down(port: u16) -> io::Result<u16> {
    ask(port, "POST /shutdown", QUESTION_TIMEOUT)
}

fn time_left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
}

/// Never zero, which sockets take for an error.
fn question_time(deadline: Option<Instant>) -> Duration {
    time_left(deadline).clamp(Duration::from_millis(1), QUESTION_TIMEOUT)
}

/// Asks on the first loopback address where somebody listens; gives the status code.
fn ask(port: u16, question: &str, time: Duration) -> io::Result<u16> {
    let deadline = Instant::now() + time;
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in LOOPBACK {
        outcome = ask_at(SocketAddr::new(address, port), question, deadline);
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => break,
        }
    }
    outcome
}

fn ask_at(address: SocketAddr, question: &str, deadline: Instant) -> io::Result<u16> {
    let mut connection = TcpStream::connect_timeout(&address, question_time(Some(deadline)))?;
    let port = address.port();
    let request = format!("{question} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    connection.set_write_timeout(Some(question_time(Some(deadline))))?;
    connection.write_all(request.as_bytes())?;
    let line = read_line(&mut connection, deadline)?;
    status_of(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer isn't HTTP"))
}

fn read_line(connection: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 256];
    while line.len() < MAX_STATUS_LINE_LEN {
        if time_left(Some(deadline)).is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(question_time(Some(deadline))))?;
        let read = match connection.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            read => read?,
        };
        let received = chunk.get(..read).unwrap_or_default();
        let end = received.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(received.get(..end.unwrap_or(read)).unwrap_or_default());
        if end.is_some() || read == 0 {
            return Ok(line);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the status line is too long"))
}

/// The code in `HTTP/1.1 200 OK`.
fn status_of(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (version, rest) = line.split_once(' ')?;
    let code = rest.split(' ').next()?;
    (version.starts_with("HTTP/1.") && code.len() == 3).then(|| code.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_lines_and_nothing_else() {
        for (line, status) in [
            ("HTTP/1.1 200 OK\r", Some(200)),
            ("HTTP/1.0 503", Some(503)),
            ("HTTP/1.1 204 \r", Some(204)),
            ("HTTP/2 200", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 2000 OK", None),
            ("SSH-2.0-OpenSSH", None),
            ("", None),
        ] {
            assert_eq!(status_of(line.as_bytes()), status, "{line:?}");
        }
    }
}
