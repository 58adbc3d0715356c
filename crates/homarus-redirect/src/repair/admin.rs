//! `/live`, `/ready` and `/metrics` of the repair controller: one question per connection, a few at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::Repairer;

/// Connections at a time; others are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// How long one may take.
const CONNECTION_TIME: Duration = Duration::from_secs(2);
/// The longest request that is read.
const MAX_REQUEST_LEN: usize = 8 * 1024;
/// After an error of the listener, such as too many open files.
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves on `address` until the process ends, from threads of its own.
pub fn serve(address: SocketAddr, repairer: Arc<Repairer>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("admin".to_owned()).spawn(move || accept(&listener, &repairer))?;
    Ok(address)
}

fn accept(listener: &TcpListener, repairer: &Arc<Repairer>) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            thread::sleep(BACKOFF);
            continue;
        };
        if open.fetch_add(1, SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, SeqCst);
            continue;
        }
        let (repairer, counted) = (Arc::clone(repairer), Arc::clone(&open));
        let answered = thread::Builder::new().spawn(move || {
            if let Err(error) = answer(connection, &repairer) {
                tracing::debug!(%error, "admin connection failed");
            }
            counted.fetch_sub(1, SeqCst);
        });
        if answered.is_err() {
            open.fetch_sub(1, SeqCst);
        }
    }
}

fn answer(mut connection: TcpStream, repairer: &Repairer) -> io::Result<()> {
    connection.set_write_timeout(Some(CONNECTION_TIME))?;
    let request = read(&mut connection)?;
    let (status, body) = response(&request, repairer);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())
}

/// Everything up to the empty line.
fn read(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + CONNECTION_TIME;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        let read = connection.read(&mut chunk)?;
        request.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if read == 0 || request.len() > MAX_REQUEST_LEN {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(request)
}

fn response(request: &[u8], repairer: &Repairer) -> (&'static str, String) {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path.split('?').next().unwrap_or_default()) {
        ("GET", "/live") => ("200 OK", "live\n".to_owned()),
        ("GET", "/ready") if repairer.metrics.is_ready() => ("200 OK", "ready\n".to_owned()),
        ("GET", "/ready") => ("503 Service Unavailable", "the node's pods aren't known yet\n".to_owned()),
        ("GET", "/metrics") => ("200 OK", repairer.metrics.text()),
        ("GET", _) => ("404 Not Found", String::new()),
        _ => ("405 Method Not Allowed", String::new()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::ApiError;
    use crate::repair::metrics::Metrics;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn probes_and_metrics_are_answered() {
        let nobody = || Err(ApiError::Setup { what: "the API".into(), reason: "nobody asks".into() });
        let repairer =
            Arc::new(Repairer { api: Box::new(nobody), node: "n".into(), instance: "i".into(), metrics: Metrics::default() });
        let address = serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&repairer)).unwrap();
        let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(get("/live").starts_with("HTTP/1.1 200"));
        assert!(get("/ready").starts_with("HTTP/1.1 503"));
        repairer.metrics.set_ready();
        assert!(get("/ready").starts_with("HTTP/1.1 200"));
        assert!(get("/metrics").contains("pods_deleted_total 0"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /live HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }
}
