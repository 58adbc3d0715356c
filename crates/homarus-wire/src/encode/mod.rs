//! The model into messages of the API: what a controller tells.
//!
//! Each message is made whole from a view and keeps nothing back, so that [`crate::decode`] gets the view again.
//! Exceptions are the API's: authorizations and metadata belong to a route there and to each of its rules here
//! (rules of one route share them), and inbound routes can't carry changes of response headers.

mod endpoint;
mod inbound;
mod outbound;
mod route;
#[cfg(test)]
mod tests;

pub use endpoint::{endpoint_update, endpoints_added, profile};
pub use inbound::server;
pub use outbound::client_policy;

use crate::api::{meta, net};
use homarus_model::Meta;
use ipnet::IpNet;
use std::time::Duration;

/// Names what decided.
pub fn metadata(from: &Meta) -> meta::Metadata {
    let kind = match from {
        Meta::Default { name } => meta::metadata::Kind::Default(name.to_string()),
        Meta::Resource(r) => meta::metadata::Kind::Resource(meta::Resource {
            group: r.group.to_string(),
            kind: r.kind.to_string(),
            name: r.name.to_string(),
            namespace: r.namespace.to_string(),
            section: r.section.to_string(),
            port: r.port.map_or(0, u32::from),
        }),
    };
    meta::Metadata { kind: Some(kind) }
}

fn network(from: IpNet) -> net::IpNetwork {
    from.into()
}

/// The longest duration that the API can carry is far beyond any that is meant: what doesn't fit becomes it.
fn duration(from: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(from.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(from.subsec_nanos()).unwrap_or_default() }
}
