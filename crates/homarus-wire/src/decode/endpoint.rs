//! Endpoints and profiles: `io.linkerd.proxy.destination`.

use super::{
    error::{At, DecodeError, Problem, Required, invalid},
    meta,
};
use crate::api::destination as api;
use homarus_model::{
    Authority, Identity,
    endpoint::{Endpoint, EndpointUpdate, Http2Params, KeepAlive, ProtocolHint, ServerTls},
    profile::Profile,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The port of an authority that names none.
const DEFAULT_PORT: u16 = 80;

/// A change of a set of endpoints, and what of it could not be read.
#[derive(Debug)]
pub struct Endpoints {
    /// The change.
    pub update: EndpointUpdate,
    /// Endpoints that were left out: they are not used, rather than used without what they were meant to have.
    pub unreadable: Vec<DecodeError>,
}

/// Reads a change of a set of endpoints.
pub fn endpoint_update(message: api::Update) -> Result<Endpoints, DecodeError> {
    use api::update::Update;
    let mut unreadable = Vec::new();
    let update = match message.update.required().at("update")? {
        Update::Add(set) => {
            let mut endpoints = Vec::with_capacity(set.addrs.len());
            for (i, addr) in set.addrs.into_iter().enumerate() {
                match endpoint(addr).at_item("add.addrs", i) {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(error) => unreadable.push(error),
                }
            }
            EndpointUpdate::Add { set_labels: labels(set.metric_labels), endpoints }
        }
        Update::Remove(set) => {
            let mut addrs = Vec::with_capacity(set.addrs.len());
            for (i, addr) in set.addrs.into_iter().enumerate() {
                match socket_addr(Some(addr)).at_item("remove.addrs", i) {
                    Ok(addr) => addrs.push(addr),
                    Err(error) => unreadable.push(error),
                }
            }
            EndpointUpdate::Remove(addrs)
        }
        Update::NoEndpoints(none) => EndpointUpdate::NoEndpoints { exists: none.exists },
    };
    Ok(Endpoints { update, unreadable })
}

/// Reads one endpoint.
///
/// An identity that can't be read is an error, never an endpoint without TLS.
pub fn endpoint(message: api::WeightedAddr) -> Result<Endpoint, DecodeError> {
    let hint = message.protocol_hint.unwrap_or_default();
    let tagged_port = hint.opaque_transport.map(|t| t.inbound_port);
    Ok(Endpoint {
        addr: socket_addr(message.addr).at("addr")?,
        weight: message.weight,
        tls: message.tls_identity.map(server_tls).transpose().at("tls_identity")?,
        hint: match hint.protocol {
            None => ProtocolHint::Unknown,
            Some(api::protocol_hint::Protocol::H2(_)) => ProtocolHint::Http2,
            Some(api::protocol_hint::Protocol::Opaque(_)) => ProtocolHint::Opaque,
        },
        // 0 and 65535 mean none, as in the reference.
        tagged_transport_port: tagged_port.and_then(|p| u16::try_from(p).ok()).filter(|p| (1..u16::MAX).contains(p)),
        authority_override: message.authority_override.map(authority).transpose().at("authority_override")?.flatten(),
        http2: message.http2.map(http2_params).transpose().at("http2")?.unwrap_or_default(),
        labels: labels(message.metric_labels),
    })
}

/// Reads what is known of an address or a name.
pub fn profile(message: api::DestinationProfile) -> Result<Profile, DecodeError> {
    Ok(Profile {
        fqn: (!message.fully_qualified_name.is_empty()).then(|| message.fully_qualified_name.into()),
        opaque_protocol: message.opaque_protocol,
        endpoint: message.endpoint.map(endpoint).transpose().at("endpoint")?,
        parent: message.parent_ref.map(|m| meta::meta(Some(m))).transpose().at("parent_ref")?,
        profile: message.profile_ref.map(|m| meta::meta(Some(m))).transpose().at("profile_ref")?,
    })
}

fn socket_addr(message: Option<crate::api::net::TcpAddress>) -> Result<SocketAddr, DecodeError> {
    let addr = message.required()?;
    let ip: IpAddr = addr.ip.required().at("ip")?.try_into().map_err(invalid).at("ip")?;
    let port = meta::port_or_none(addr.port).and_then(Required::required).at("port")?;
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

fn server_tls(message: api::TlsIdentity) -> Result<ServerTls, DecodeError> {
    use api::tls_identity::Strategy;
    let id = match message.strategy.required().at("strategy")? {
        Strategy::DnsLikeIdentity(dns) => Identity::Dns(dns.name.parse().map_err(invalid).at("dns_like_identity")?),
        Strategy::UriLikeIdentity(uri) => match uri.uri.parse().map_err(invalid).at("uri_like_identity")? {
            id @ Identity::Uri(_) => id,
            Identity::Dns(_) => return Err(invalid("not a spiffe:// URI")).at("uri_like_identity"),
        },
    };
    let server_name = match (message.server_name, &id) {
        (Some(name), _) => name.name.parse().map_err(invalid).at("server_name")?,
        (None, Identity::Dns(name)) => name.clone(),
        (None, Identity::Uri(_)) => return Err(Problem::Missing.into()).at("server_name"),
    };
    Ok(ServerTls { id, server_name })
}

fn authority(message: api::AuthorityOverride) -> Result<Option<Authority>, DecodeError> {
    let text = message.authority_override;
    if text.is_empty() {
        return Ok(None);
    }
    Authority::parse(&text, DEFAULT_PORT).map(Some).map_err(invalid)
}

fn http2_params(message: api::Http2ClientParams) -> Result<Http2Params, DecodeError> {
    let flow = message.flow_control.unwrap_or_default();
    let window = |bytes: u32| (bytes != 0).then_some(bytes);
    let ping = message.keep_alive.unwrap_or_default();
    let keep_alive = match (ping.interval, ping.timeout) {
        (Some(interval), Some(timeout)) => Some(KeepAlive {
            interval: meta::duration(interval).at("keep_alive.interval")?,
            timeout: meta::duration(timeout).at("keep_alive.timeout")?,
            while_idle: ping.while_idle,
        }),
        _ => None,
    };
    Ok(Http2Params {
        keep_alive,
        initial_connection_window: window(flow.initial_connection_window_size),
        initial_stream_window: window(flow.initial_stream_window_size),
    })
}

fn labels(message: HashMap<String, String>) -> Arc<BTreeMap<String, String>> {
    Arc::new(message.into_iter().collect())
}
