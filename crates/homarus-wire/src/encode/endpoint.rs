//! Endpoints and profiles (control-plane §2.5, §3).

use super::{duration, metadata};
use crate::api::{destination as api, net};
use homarus_model::{
    DnsName, Identity, Meta,
    endpoint::{Endpoint, EndpointUpdate, Http2Params, ProtocolHint, ServerTls},
    profile::Profile,
};
use prost::Message;
use std::{collections::BTreeMap, collections::HashMap, time::Duration};

/// The field of `Update` that adds endpoints.
const UPDATE_ADD: u32 = 1;
/// A field's tag and length.
const MAX_FIELD_HEAD: usize = 16;

/// The retry budget that applies where no profile sets one: a fifth of the requests, and ten a second.
const RETRY_RATIO: f32 = 0.2;
const RETRIES_PER_SECOND: u32 = 10;
const RETRY_TTL: Duration = Duration::from_secs(10);

/// A change of a set of endpoints.
pub fn endpoint_update(from: &EndpointUpdate) -> api::Update {
    use api::update::Update;
    let update = match from {
        EndpointUpdate::Add { set_labels, endpoints } => {
            Update::Add(api::WeightedAddrSet { addrs: endpoints.iter().map(endpoint).collect(), metric_labels: labels(set_labels) })
        }
        EndpointUpdate::Remove(addrs) => {
            Update::Remove(api::AddrSet { addrs: addrs.iter().map(|a| net::TcpAddress::from(*a)).collect() })
        }
        EndpointUpdate::NoEndpoints { exists } => Update::NoEndpoints(api::NoEndpoints { exists: *exists }),
    };
    api::Update { update: Some(update) }
}

/// The bytes of an update that adds endpoints, as [`endpoint_update`] has it: made one by one, as the messages of a big
/// Service together take many times what they say.
pub fn endpoints_added<'a>(set_labels: &BTreeMap<String, String>, endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<u8> {
    // Fields of a message may come in any order and place: sets of one endpoint each, joined, are the set of all.
    let mut set = api::WeightedAddrSet { addrs: Vec::new(), metric_labels: labels(set_labels) }.encode_to_vec();
    for from in endpoints {
        let one = api::WeightedAddrSet { addrs: vec![endpoint(from)], metric_labels: HashMap::new() };
        set.extend(one.encode_to_vec());
    }
    let mut update = Vec::with_capacity(set.len() + MAX_FIELD_HEAD);
    prost::encoding::bytes::encode(UPDATE_ADD, &set, &mut update);
    update
}

/// What is known of an address that a client dialed. A profile of nothing is an empty message.
pub fn profile(from: &Profile) -> api::DestinationProfile {
    let known = from.endpoint.is_some() || from.parent.is_some();
    api::DestinationProfile {
        fully_qualified_name: from.fqn.as_deref().unwrap_or_default().to_owned(),
        opaque_protocol: from.opaque_protocol,
        routes: Vec::new(),
        retry_budget: known.then(|| api::RetryBudget {
            retry_ratio: RETRY_RATIO,
            min_retries_per_second: RETRIES_PER_SECOND,
            ttl: Some(duration(RETRY_TTL)),
        }),
        dst_overrides: Vec::new(),
        endpoint: from.endpoint.as_ref().map(endpoint),
        parent_ref: from.parent.as_ref().map(metadata),
        profile_ref: from.profile.as_ref().map(metadata).or_else(|| from.parent.as_ref().map(|_| no_profile())),
    }
}

/// The default profile of a Service names an object without a name.
fn no_profile() -> crate::api::meta::Metadata {
    metadata(&Meta::Resource(homarus_model::meta::Resource {
        group: "linkerd.io".into(),
        kind: "".into(),
        namespace: "".into(),
        name: "".into(),
        section: "".into(),
        port: None,
    }))
}

/// One endpoint.
pub(super) fn endpoint(from: &Endpoint) -> api::WeightedAddr {
    api::WeightedAddr {
        addr: Some(from.addr.into()),
        weight: from.weight,
        metric_labels: labels(&from.labels),
        tls_identity: from.tls.as_ref().map(tls_identity),
        protocol_hint: protocol_hint(from),
        authority_override: from
            .authority_override
            .as_ref()
            .map(|authority| api::AuthorityOverride { authority_override: authority.to_string() }),
        http2: http2(&from.http2),
        resource_ref: None,
    }
}

fn labels(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn tls_identity(from: &ServerTls) -> api::TlsIdentity {
    use api::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
    let dns = |name: &DnsName| DnsLikeIdentity { name: name.as_str().to_owned() };
    let strategy = match &from.id {
        Identity::Dns(name) => Strategy::DnsLikeIdentity(dns(name)),
        Identity::Uri(uri) => Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.to_string() }),
    };
    api::TlsIdentity { strategy: Some(strategy), server_name: Some(dns(&from.server_name)) }
}

fn protocol_hint(from: &Endpoint) -> Option<api::ProtocolHint> {
    use api::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
    let protocol = match from.hint {
        ProtocolHint::Unknown => None,
        ProtocolHint::Http2 => Some(Protocol::H2(H2 {})),
        ProtocolHint::Opaque => Some(Protocol::Opaque(Opaque {})),
    };
    let opaque_transport = from.tagged_transport_port.map(|port| OpaqueTransport { inbound_port: port.into() });
    (protocol.is_some() || opaque_transport.is_some()).then_some(api::ProtocolHint { protocol, opaque_transport })
}

fn http2(from: &Http2Params) -> Option<api::Http2ClientParams> {
    use api::http2_client_params::{FlowControl, KeepAlive};
    if *from == Http2Params::default() {
        return None;
    }
    let windows = (from.initial_connection_window, from.initial_stream_window);
    let flow_control = (windows != (None, None)).then(|| FlowControl {
        initial_connection_window_size: windows.0.unwrap_or_default(),
        initial_stream_window_size: windows.1.unwrap_or_default(),
        adaptive_flow_control: false,
    });
    let keep_alive = from.keep_alive.map(|k| KeepAlive {
        interval: Some(duration(k.interval)),
        timeout: Some(duration(k.timeout)),
        while_idle: k.while_idle,
    });
    Some(api::Http2ClientParams { flow_control, keep_alive, internals: None })
}
