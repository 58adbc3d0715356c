//! The access log: one line on standard error for each inbound request (proxy-wire §10).
//!
//! A thread of its own writes, so that a slow reader of the log slows no request; what it can't keep up with is dropped and
//! counted.

use crate::{config::AccessLog, http::RequestHead};
use homarus_model::Identity;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};
use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

/// Lines that may wait to be written.
const QUEUED: usize = 4096;

static WRITER: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// What one line tells.
#[derive(Debug)]
pub struct Entry {
    form: AccessLog,
    client: SocketAddr,
    client_id: String,
    at: SystemTime,
    method: String,
    uri: String,
    version: String,
    trace_id: String,
    user_agent: String,
    host: String,
    request_bytes: String,
    /// Set when the response's head is there.
    pub status: Option<StatusCode>,
    /// What was passed on of the response.
    pub response_bytes: u64,
    /// Until the response's head was there.
    pub processing: Duration,
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

impl Entry {
    /// Begins with a request's head.
    pub fn begin(form: AccessLog, client: SocketAddr, id: Option<&Identity>, head: &RequestHead) -> Box<Self> {
        let headers = &head.headers;
        let traces = ["x-b3-traceid", "x-request-id", "x-amzn-trace-id"];
        Box::new(Self {
            form,
            client,
            client_id: id.map(ToString::to_string).unwrap_or_default(),
            at: SystemTime::now(),
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            version: format!("{:?}", head.version),
            trace_id: traces.iter().map(|name| text(headers, *name)).find(|id| !id.is_empty()).unwrap_or_default(),
            user_agent: text(headers, header::USER_AGENT),
            host: text(headers, header::HOST),
            request_bytes: text(headers, header::CONTENT_LENGTH),
            status: None,
            response_bytes: 0,
            processing: Duration::ZERO,
        })
    }

    /// Writes the line.
    pub fn end(self, total: Duration) {
        let line = self.line(total);
        let writer = WRITER.get_or_init(start);
        if writer.as_ref().is_none_or(|w| w.try_send(line).is_err()) && DROPPED.fetch_add(1, Relaxed).is_multiple_of(1000) {
            tracing::warn!(dropped = DROPPED.load(Relaxed), "access log is slower than requests; lines were dropped");
        }
    }

    fn line(&self, total: Duration) -> String {
        let at = jiff::Timestamp::try_from(self.at).map(|t| t.to_string()).unwrap_or_default();
        let status = self.status.map(|s| s.as_u16());
        match self.form {
            AccessLog::Apache => {
                let id = if self.client_id.is_empty() { "-" } else { &self.client_id };
                let status = status.map(|s| s.to_string()).unwrap_or_default();
                format!("{} {id} - [{at}] \"{} {} {}\" {status}\n", self.client, self.method, self.uri, self.version)
            }
            AccessLog::Json => {
                let mut fields = Map::new();
                let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
                put("client.addr", self.client.to_string().into());
                put("client.id", self.client_id.clone().into());
                put("timestamp", at.into());
                put("method", self.method.clone().into());
                put("uri", self.uri.clone().into());
                put("version", self.version.clone().into());
                put("trace_id", self.trace_id.clone().into());
                put("request_bytes", self.request_bytes.clone().into());
                if let Some(status) = status {
                    put("status", status.into());
                }
                put("response_bytes", self.response_bytes.to_string().into());
                put("total_ns", total.as_nanos().to_string().into());
                put("processing_ns", self.processing.as_nanos().to_string().into());
                put("user_agent", self.user_agent.clone().into());
                put("host", self.host.clone().into());
                let mut line = Value::Object(fields).to_string();
                line.push('\n');
                line
            }
        }
    }
}

/// The thread that writes; none if there can't be one.
fn start() -> Option<SyncSender<String>> {
    let (sender, receiver) = sync_channel::<String>(QUEUED);
    let write = move || {
        for line in receiver {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    };
    std::thread::Builder::new().name("access-log".into()).spawn(write).ok().map(|_| sender)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(form: AccessLog) -> Box<Entry> {
        let mut head = http::Request::get("/path?q=1").body(()).unwrap().into_parts().0;
        head.headers.insert("x-request-id", "abc".parse().unwrap());
        head.headers.insert("host", "web".parse().unwrap());
        let id: Identity = "client.ns".parse().unwrap();
        let mut entry = Entry::begin(form, "10.0.0.1:5".parse().unwrap(), Some(&id), &head);
        entry.at = SystemTime::UNIX_EPOCH;
        entry.status = Some(StatusCode::OK);
        entry
    }

    #[test]
    fn lines_have_their_form() {
        let apache = entry(AccessLog::Apache).line(Duration::ZERO);
        assert_eq!(apache, "10.0.0.1:5 client.ns - [1970-01-01T00:00:00Z] \"GET /path?q=1 HTTP/1.1\" 200\n");
        let json: Value = serde_json::from_str(&entry(AccessLog::Json).line(Duration::from_nanos(7))).unwrap();
        assert_eq!(json["trace_id"], "abc");
        assert_eq!(json["total_ns"], "7");
        assert_eq!(json["status"], 200);
        assert_eq!(json["uri"], "/path?q=1");
    }
}
