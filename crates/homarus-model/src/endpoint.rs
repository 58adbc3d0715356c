//! Endpoints: one ready address and port of a backend, and how to talk to it.

use crate::{Authority, DnsName, Identity};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// One ready address of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the workload listens.
    pub addr: SocketAddr,
    /// Relative weight; carried, and not used for the choice (proxy-traffic §1.1).
    pub weight: u32,
    /// Whom to expect there; none: no mTLS.
    pub tls: Option<ServerTls>,
    /// What the endpoint's proxy understands.
    pub hint: ProtocolHint,
    /// The inbound proxy port that takes connections with a transport header, if it is to be used.
    pub tagged_transport_port: Option<u16>,
    /// The authority that requests carry instead of their own (a gateway's endpoint).
    pub authority_override: Option<Authority>,
    /// Parameters of HTTP/2 connections to it.
    pub http2: Http2Params,
    /// Labels for metrics and tap, like `pod` and `zone`.
    pub labels: Arc<BTreeMap<String, String>>,
}

/// The weight of an endpoint that is like all others.
pub const DEFAULT_WEIGHT: u32 = 10_000;

/// Whom to expect at the other end of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerTls {
    /// The identity that its certificate must prove.
    pub id: Identity,
    /// The name that is sent as SNI.
    pub server_name: DnsName,
}

/// What the proxy at an endpoint understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolHint {
    /// Nothing is known: send what the client sent.
    #[default]
    Unknown,
    /// HTTP/2: HTTP/1 requests may be upgraded on the way.
    Http2,
    /// The port is opaque: never parse.
    Opaque,
}

/// HTTP/2 parameters of the client side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Params {
    /// Keep-alive pings.
    pub keep_alive: Option<KeepAlive>,
    /// Initial window of a connection, in bytes.
    pub initial_connection_window: Option<u32>,
    /// Initial window of a stream, in bytes.
    pub initial_stream_window: Option<u32>,
}

/// HTTP/2 keep-alive pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time between pings.
    pub interval: Duration,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// Ping also while there is no stream.
    pub while_idle: bool,
}

impl Endpoint {
    /// A plain endpoint without a mesh around it.
    pub fn plain(addr: SocketAddr) -> Self {
        Self {
            addr,
            weight: DEFAULT_WEIGHT,
            tls: None,
            hint: ProtocolHint::Unknown,
            tagged_transport_port: None,
            authority_override: None,
            http2: Http2Params::default(),
            labels: Arc::default(),
        }
    }
}

/// A change of the set of endpoints of a backend, as discovery streams it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointUpdate {
    /// These are there, or have changed.
    Add {
        /// Labels of the whole set, like `service` and `namespace`.
        set_labels: Arc<BTreeMap<String, String>>,
        /// The endpoints.
        endpoints: Vec<Endpoint>,
    },
    /// These are gone.
    Remove(Vec<SocketAddr>),
    /// There are none now; whether the service exists at all.
    NoEndpoints {
        /// False: nothing of that name is known.
        exists: bool,
    },
}
