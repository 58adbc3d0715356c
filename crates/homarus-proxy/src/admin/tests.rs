#![allow(clippy::unwrap_used)]
use super::*;
use http::Method;
use std::io::Read;

const LOCAL: &str = "127.0.0.1:5000";
const REMOTE: &str = "10.0.0.9:5000";

fn admin(shutdown_enabled: bool) -> Admin {
    let config = config::Process {
        admin_addr: ([127, 0, 0, 1], 4191).into(),
        metrics_retain_idle: Duration::from_millis(1),
        shutdown_grace: Duration::ZERO,
        shutdown_endpoint: shutdown_enabled,
        ingress_mode: false,
        access_log: None,
        cores: Default::default(),
        dns_ttl: (None, None),
    };
    let mut admin = Admin::new(&config, Registry::default(), Process::started_now(Vec::new(), None), None);
    admin.env = [("A", "1"), ("B", "x\"\n\u{1}é")].map(|(k, v)| (k.into(), v.into())).into();
    admin
}

fn ask(admin: &Admin, method: Method, uri: &str, client: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(uri).body(Bytes::new()).unwrap();
    respond(admin, &request, client.parse().unwrap())
}

fn body(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

/// Asks and checks status and body.
fn check(admin: &Admin, method: Method, uri: &str, client: &str, status: u16, want: &str) {
    let response = ask(admin, method, uri, client);
    assert_eq!((response.status().as_u16(), body(&response)), (status, want), "{uri}");
}

#[test]
fn probes() {
    let admin = admin(false);
    check(&admin, Method::GET, "/live", REMOTE, 200, "live\n");
    check(&admin, Method::GET, "/ready", REMOTE, 503, "not ready\n");
    admin.set_ready();
    check(&admin, Method::GET, "/ready", REMOTE, 200, "ready\n");
    check(&admin, Method::GET, "/", REMOTE, 404, "");
    check(&admin, Method::GET, "/ready/", REMOTE, 404, "");
}

#[test]
fn metrics_are_packed_for_whoever_likes() {
    let admin = admin(false);
    let plain = ask(&admin, Method::GET, "/metrics", REMOTE);
    assert_eq!(plain.headers()[header::CONTENT_TYPE], "text/plain");
    assert!(body(&plain).contains("\nprocess_start_time_seconds ") && body(&plain).ends_with("# EOF\n"));
    assert!(body(&plain).contains("\nhomarus_metrics_dropped_total 0\n"));
    let request = Request::get("/metrics").header("accept-encoding", "deflate, GZIP;q=1").body(Bytes::new()).unwrap();
    let packed = respond(&admin, &request, REMOTE.parse().unwrap());
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body()[..]).read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_log_level_is_for_the_machine_itself() {
    let admin = admin(false);
    check(&admin, Method::GET, "/proxy-log-level", REMOTE, 403, "Requests are only permitted from localhost.");
    check(&admin, Method::GET, "/proxy-log-level", "[::ffff:10.0.0.9]:1", 403, "Requests are only permitted from localhost.");
    // Logging is off.
    check(&admin, Method::GET, "/proxy-log-level", LOCAL, 404, "");
}

#[test]
fn the_log_level_changes() {
    let filter = homarus_daemon::logs::init("warn", homarus_daemon::logs::Format::Plain).unwrap();
    let admin = Admin { log: filter, ..admin(false) };
    check(&admin, Method::GET, "/proxy-log-level", LOCAL, 200, "warn");
    let put = |filter: &'static str| {
        let request = Request::put("/proxy-log-level").body(Bytes::from(filter)).unwrap();
        respond(&admin, &request, "[::ffff:127.0.0.1]:1".parse().unwrap()).status().as_u16()
    };
    assert_eq!((put("linkerd=debug\n"), put("linkerd=loud"), put("")), (204, 400, 204));
    check(&admin, Method::DELETE, "/proxy-log-level", LOCAL, 405, "");
}

#[test]
fn the_environment() {
    let admin = admin(false);
    check(&admin, Method::GET, "/env.json", REMOTE, 200, "{\"A\":\"1\",\"B\":\"x\\\"\\n\\u0001é\"}");
    check(&admin, Method::GET, "/env.json?C&A", REMOTE, 200, "{\"C\":null,\"A\":\"1\"}");
    assert_eq!(ask(&admin, Method::GET, "/env.json?A=1", REMOTE).status(), 400);
    check(&admin, Method::POST, "/env.json", REMOTE, 405, "");
    let accepts = |value: &str| {
        let request = Request::get("/env.json").header("accept", value).body(Bytes::new()).unwrap();
        respond(&admin, &request, REMOTE.parse().unwrap()).status().as_u16()
    };
    assert_eq!((accepts("text/html"), accepts("text/html, */*;q=0.8"), accepts("application/json")), (406, 200, 200));
}

#[tokio::test]
async fn shutdown_is_for_the_machine_itself() {
    let off = admin(false);
    check(&off, Method::POST, "/shutdown", LOCAL, 404, "shutdown endpoint is not enabled\n");
    let admin = admin(true);
    check(&admin, Method::GET, "/shutdown", LOCAL, 405, "");
    check(&admin, Method::POST, "/shutdown", REMOTE, 403, "Requests are only permitted from localhost.");
    check(&admin, Method::POST, "/shutdown", LOCAL, 200, "shutdown\n");
    admin.shutdown_requested().await;
}
