//! Sockets, HTTP and waiting: what both directions have, with their own names and defaults.

use super::vars::{Vars, boolean, jitter, parsed, time, time_or_none};
use crate::net::SocketOptions;
use std::time::Duration;

/// What both directions have.
#[derive(Debug, Clone)]
pub struct Direction {
    /// How long to wait for the first bytes of a connection.
    pub detect_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long to wait before connecting again.
    pub connect_backoff: Backoff,
    /// Options of accepted sockets.
    pub accept_socket: SocketOptions,
    /// Options of connected sockets.
    pub connect_socket: SocketOptions,
    /// Connections that may wait to be accepted; none: as many as we think fit.
    pub backlog: Option<u32>,
    /// Idle HTTP/1 connections that are kept for one endpoint.
    pub max_idle_conns: usize,
    /// How long they are kept.
    pub idle_timeout: Duration,
    /// HTTP requests at once; more are refused with 503.
    pub max_in_flight: usize,
    /// Requests that may wait for an endpoint; more are refused.
    pub queue_capacity: usize,
    /// How long they wait.
    pub failfast: Duration,
    /// How long what discovery told is kept after its last use.
    pub discovery_idle: Duration,
    /// HTTP/2 toward clients.
    pub http2_server: Http2Server,
    /// HTTP/2 toward servers.
    pub http2_client: Http2Client,
}

/// Exponential back-off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// What is added at random, as a share of the wait.
    pub jitter: f64,
}

/// HTTP/2 toward clients; none: the library's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http2Server {
    /// Ping while silent, and how long to wait for the answer.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Let windows grow with what the network carries.
    pub adaptive_flow_control: bool,
    /// Windows of streams and of connections, in bytes.
    pub windows: (u32, u32),
    /// Streams at once.
    pub max_concurrent_streams: Option<u32>,
    /// Bytes of a frame.
    pub max_frame_size: Option<u32>,
    /// Bytes of all headers of a message.
    pub max_header_list_size: Option<u32>,
    /// Streams that were reset before we took them.
    pub max_pending_accept_reset_streams: Option<usize>,
    /// Bytes that wait to be sent on one stream.
    pub max_send_buf_size: Option<usize>,
}

/// HTTP/2 toward servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Client {
    /// Window of a stream, in bytes.
    pub stream_window: u32,
    /// Window of a connection, in bytes.
    pub connection_window: u32,
}

/// The HTTP/2 windows that both ends have unless told otherwise.
const WINDOWS: (u32, u32) = (65_535, 1_048_576);

/// Where the directions differ.
pub(super) struct Defaults {
    name: &'static str,
    /// One name never got its prefix.
    max_idle_conns: &'static str,
    connect_timeout: Duration,
    connect_backoff_max: Duration,
    failfast: Duration,
    discovery_idle: Duration,
}

pub(super) const INBOUND: Defaults = Defaults {
    name: "INBOUND",
    max_idle_conns: "MAX_IDLE_CONNS_PER_ENDPOINT",
    connect_timeout: Duration::from_millis(300),
    connect_backoff_max: Duration::from_secs(10),
    failfast: Duration::from_secs(1),
    discovery_idle: Duration::from_secs(90),
};

pub(super) const OUTBOUND: Defaults = Defaults {
    name: "OUTBOUND",
    max_idle_conns: "OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT",
    connect_timeout: Duration::from_secs(1),
    connect_backoff_max: Duration::from_secs(60),
    failfast: Duration::from_secs(3),
    discovery_idle: Duration::from_secs(5),
};

impl Direction {
    pub(super) fn read(v: &mut Vars, d: &Defaults) -> Self {
        let name = |rest: &str| format!("{}_{rest}", d.name);
        let backoff = Backoff { min: Duration::from_millis(100), max: d.connect_backoff_max, jitter: 0.1 };
        Self {
            detect_timeout: v.or(&name("DETECT_TIMEOUT"), time, Duration::from_secs(10)),
            connect_timeout: v.or(&name("CONNECT_TIMEOUT"), time, d.connect_timeout),
            connect_backoff: Backoff::read(v, &name("CONNECT_EXP_BACKOFF"), backoff),
            accept_socket: SocketOptions {
                keepalive: v.or(&name("ACCEPT_KEEPALIVE"), time_or_none, None),
                user_timeout: v.or(&name("ACCEPT_USER_TIMEOUT"), time_or_none, None),
            },
            connect_socket: SocketOptions {
                keepalive: v.or(&name("CONNECT_KEEPALIVE"), time_or_none, None),
                user_timeout: v.or(&name("CONNECT_USER_TIMEOUT"), time_or_none, None),
            },
            backlog: v.opt(&name("TCP_LISTEN_BACKLOG"), parsed),
            max_idle_conns: v.or(d.max_idle_conns, parsed, 10_000),
            idle_timeout: v.or(&name("HTTP1_CONNECTION_POOL_IDLE_TIMEOUT"), time, Duration::from_secs(3)),
            max_in_flight: v.or(&name("MAX_IN_FLIGHT"), parsed, 100_000),
            queue_capacity: v.or(&name("HTTP_QUEUE_CAPACITY"), parsed, 10_000),
            failfast: v.or(&name("HTTP_FAILFAST_TIMEOUT"), time, d.failfast),
            discovery_idle: v.or(&name("DISCOVERY_IDLE_TIMEOUT"), time, d.discovery_idle),
            http2_server: Http2Server::read(v, d.name),
            http2_client: Http2Client {
                stream_window: v.or("HTTP2_INITIAL_STREAM_WINDOW_SIZE", parsed, WINDOWS.0),
                connection_window: v.or("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", parsed, WINDOWS.1),
            },
        }
    }
}

impl Backoff {
    /// `…_MIN` and `…_MAX` come together; the jitter is then 0 unless it is set.
    fn read(v: &mut Vars, name: &str, default: Self) -> Self {
        let (min_name, max_name) = (format!("{name}_MIN"), format!("{name}_MAX"));
        let (given_min, given_max) = (v.is_set(&min_name), v.is_set(&max_name));
        let (min, max) = (v.opt(&min_name, time), v.opt(&max_name, time));
        let jitter = v.opt(&format!("{name}_JITTER"), jitter);
        if given_min != given_max {
            v.invalid(if given_min { &min_name } else { &max_name }, "the minimum and the maximum must be set together");
        }
        let (Some(min), Some(max)) = (min, max) else {
            return Self { jitter: jitter.unwrap_or(default.jitter), ..default };
        };
        if min > max {
            v.invalid(&min_name, "the minimum is above the maximum");
        } else if max.is_zero() {
            v.invalid(&max_name, "the maximum is 0");
        }
        Self { min, max, jitter: jitter.unwrap_or(0.0) }
    }

    /// The wait before try `attempt` (from 0), given a random number from 0 to 1.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let base = self.min.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(self.max);
        base.saturating_add(base.mul_f64((self.jitter * random).clamp(0.0, 100.0))).min(self.max)
    }
}

impl Http2Server {
    fn read(v: &mut Vars, direction: &str) -> Self {
        let name = |rest: &str| format!("{direction}_SERVER_HTTP2_{rest}");
        let interval = v.opt(&name("KEEP_ALIVE_INTERVAL"), time);
        let timeout = v.opt(&name("KEEP_ALIVE_TIMEOUT"), time);
        let stream = v.opt(&name("INITIAL_STREAM_WINDOW_SIZE"), parsed);
        let connection = v.opt(&name("INITIAL_CONNECTION_WINDOW_SIZE"), parsed);
        Self {
            keep_alive: interval.zip(timeout),
            adaptive_flow_control: v.or(&name("ADAPTIVE_FLOW_CONTROL"), boolean, false),
            // One without the other doesn't count.
            windows: stream.zip(connection).unwrap_or(WINDOWS),
            max_concurrent_streams: v.opt(&name("MAX_CONCURRENT_STREAMS"), parsed),
            max_frame_size: v.opt(&name("MAX_FRAME_SIZE"), parsed),
            max_header_list_size: v.opt(&name("MAX_HEADER_LIST_SIZE"), parsed),
            max_pending_accept_reset_streams: v.opt(&name("MAX_PENDING_ACCEPT_RESET_STREAMS"), parsed),
            max_send_buf_size: v.opt(&name("MAX_SEND_BUF_SIZE"), parsed),
        }
    }
}
