//! Label groups that several families share (proxy-traffic §7.1). Names and order are those that dashboards rely on.

use super::Labels;
use homarus_model::{Identity, Meta, endpoint::Endpoint, inbound::ClientTls};
use std::net::SocketAddr;

/// `target_addr`, `target_ip`, `target_port`.
pub fn target(labels: Labels, addr: SocketAddr) -> Labels {
    labels.with("target_addr", addr).with("target_ip", addr.ip()).with("target_port", addr.port())
}

/// `tls` and what belongs to it, as a server sees its client.
pub fn client_tls(labels: Labels, tls: &ClientTls) -> Labels {
    match tls {
        ClientTls::Terminated(id) => labels.with("tls", "true").with("client_id", id.as_ref().map_or("", Identity::as_str)),
        ClientTls::Passthru { sni } => labels.with("tls", "opaque").with("sni", sni),
        ClientTls::None(why) => labels.with("tls", "no_identity").with("no_tls_reason", why.as_str()),
    }
}

/// `tls` and what belongs to it, as a client sees an endpoint.
pub fn server_tls(labels: Labels, endpoint: &Endpoint, local: bool) -> Labels {
    match &endpoint.tls {
        _ if local => labels.with("tls", "no_identity").with("no_tls_reason", "loopback"),
        Some(tls) => labels.with("tls", "true").with("server_id", tls.id.as_str()),
        None => labels.with("tls", "no_identity").with("no_tls_reason", "not_provided_by_service_discovery"),
    }
}

/// `srv_*`.
pub fn server(labels: Labels, server: &Meta, port: u16) -> Labels {
    named(labels, "srv", server).with("srv_port", port)
}

/// `<prefix>_group`, `_kind`, `_name`.
pub fn named(labels: Labels, prefix: &str, meta: &Meta) -> Labels {
    labels
        .with(&format!("{prefix}_group"), meta.group())
        .with(&format!("{prefix}_kind"), meta.kind())
        .with(&format!("{prefix}_name"), meta.name())
}

/// `<prefix>_group`, `_kind`, `_namespace`, `_name`.
pub fn namespaced(labels: Labels, prefix: &str, meta: &Meta) -> Labels {
    labels
        .with(&format!("{prefix}_group"), meta.group())
        .with(&format!("{prefix}_kind"), meta.kind())
        .with(&format!("{prefix}_namespace"), meta.namespace())
        .with(&format!("{prefix}_name"), meta.name())
}

/// `<prefix>_*` of a port of an object.
pub fn ported(labels: Labels, prefix: &str, meta: &Meta) -> Labels {
    let port = meta.port().map(|p| p.to_string()).unwrap_or_default();
    namespaced(labels, prefix, meta).with(&format!("{prefix}_port"), port).with(&format!("{prefix}_section_name"), meta.section())
}
