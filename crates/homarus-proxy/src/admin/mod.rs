//! The admin server's answers: probes, metrics, log level, environment, shutdown (proxy-wire §3).
//!
//! Pure: a request and the address it came from in, a response out. Whoever serves it enforces the inbound policy of the
//! admin port before.

mod env;
#[cfg(test)]
mod tests;

use crate::{
    config,
    observe::{Registry, process::Process},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use homarus_daemon::logs::{Filter, LogError};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::sync::Notify;

/// The largest request body that is worth reading: a log filter.
pub const MAX_BODY_BYTES: usize = homarus_daemon::logs::MAX_FILTER_BYTES;

/// What the admin server speaks of.
#[derive(Debug)]
pub struct Admin {
    ready: AtomicBool,
    shutdown_enabled: bool,
    /// Notified when somebody asks the proxy to end.
    shutdown: Notify,
    registry: Registry,
    /// How long a series stays after its last change.
    retain_idle: Duration,
    process: Process,
    /// None if logging is off.
    log: Option<Filter>,
    /// All variables of the process, as text.
    env: BTreeMap<String, String>,
}

impl Admin {
    /// A proxy that isn't ready yet.
    pub fn new(config: &config::Process, registry: Registry, process: Process, log: Option<Filter>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        };
        let env = std::env::vars_os().map(text).collect();
        let (ready, shutdown) = (AtomicBool::new(false), Notify::new());
        let (retain_idle, shutdown_enabled) = (config.metrics_retain_idle, config.shutdown_endpoint);
        Self { ready, shutdown_enabled, shutdown, registry, retain_idle, process, log, env }
    }

    /// The first certificate is there: ready, for good.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Resolves when somebody has asked the proxy to end.
    pub async fn shutdown_requested(&self) {
        self.shutdown.notified().await;
    }

    /// All metrics as text. Series that nobody uses any longer are dropped first: what isn't read needs no expiry, as it is
    /// bounded anyway.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        self.registry.expire(self.retain_idle);
        self.registry.render(&mut text);
        let dropped = "homarus_metrics_dropped";
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "# HELP {dropped} Series that were not kept because their family was full.\n# TYPE {dropped} counter\n\
             {dropped}_total {}\n",
            self.registry.dropped()
        );
        self.process.render(&mut text);
        text.push_str("# EOF\n");
        text
    }
}

/// Whether a path is one of the probes, which somebody may wait for who doesn't wait long.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/ready" | "/live")
}

/// Answers a request.
pub fn respond(admin: &Admin, request: &Request<Bytes>, client: SocketAddr) -> Response<Bytes> {
    match request.uri().path() {
        "/ready" if admin.ready.load(Ordering::Acquire) => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/live" => text(StatusCode::OK, "live\n"),
        "/metrics" => metrics(admin, request),
        "/proxy-log-level" => local(client, || log_level(admin, request)),
        "/env.json" => env::respond(&admin.env, request),
        "/shutdown" => shutdown(admin, request.method(), client),
        _ => empty(StatusCode::NOT_FOUND),
    }
}

fn metrics(admin: &Admin, request: &Request<Bytes>) -> Response<Bytes> {
    let text_plain = HeaderValue::from_static("text/plain");
    let body = admin.metrics();
    let accepted = request.headers().get_all(header::ACCEPT_ENCODING);
    let gzip = accepted.iter().any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("gzip")));
    if let Some(packed) = gzip.then(|| pack(&body)).flatten() {
        let mut response = with_type(StatusCode::OK, packed.into(), text_plain);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return response;
    }
    with_type(StatusCode::OK, body.into(), text_plain)
}

fn pack(text: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).ok()?;
    encoder.finish().ok()
}

fn log_level(admin: &Admin, request: &Request<Bytes>) -> Response<Bytes> {
    let Some(filter) = &admin.log else { return empty(StatusCode::NOT_FOUND) };
    match *request.method() {
        Method::GET => text(StatusCode::OK, filter.current()),
        Method::PUT => {
            let directives = std::str::from_utf8(request.body()).map_err(|e| format!("the filter is not UTF-8: {e}"));
            let set = directives.and_then(|d| filter.set(d.trim()).map_err(|e: LogError| e.to_string()));
            match set {
                Ok(()) => empty(StatusCode::NO_CONTENT),
                Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
            }
        }
        _ => not_allowed("GET, PUT"),
    }
}

fn shutdown(admin: &Admin, method: &Method, client: SocketAddr) -> Response<Bytes> {
    if method != Method::POST {
        return not_allowed("POST");
    }
    if !admin.shutdown_enabled {
        return text(StatusCode::NOT_FOUND, "shutdown endpoint is not enabled\n");
    }
    local(client, || {
        tracing::info!("shutdown requested over the admin server");
        admin.shutdown.notify_one();
        text(StatusCode::OK, "shutdown\n")
    })
}

/// Only for the machine itself.
fn local(client: SocketAddr, answer: impl FnOnce() -> Response<Bytes>) -> Response<Bytes> {
    if client.ip().to_canonical().is_loopback() {
        answer()
    } else {
        text(StatusCode::FORBIDDEN, "Requests are only permitted from localhost.")
    }
}

fn not_allowed(methods: &'static str) -> Response<Bytes> {
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    with_type(status, body.into(), HeaderValue::from_static("text/plain"))
}

fn with_type(status: StatusCode, body: Bytes, content_type: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
