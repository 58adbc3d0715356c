//! The vocabulary of the mesh and its pure decisions.
//!
//! Everything that more than one part of Homarus must agree on lives here, once: names and identities, networks and
//! ports, what a server may be asked ([`inbound`]), where a client's request goes ([`outbound`], [`route`]), what an
//! endpoint is ([`endpoint`]). The control plane turns facts into these views, `homarus-wire` carries them, the proxy
//! acts on them.
//!
//! Invariants: no I/O, no clock, no async, no protobuf, no Kubernetes types. A value of these types is valid: whoever
//! parses (the wire, the environment, an object) refuses what isn't, so nothing inward has to ask again.

pub mod duration;
pub mod endpoint;
pub mod facts;
pub mod identity;
pub mod inbound;
pub mod meta;
pub mod name;
pub mod network;
pub mod outbound;
pub mod ports;
pub mod profile;
pub mod route;
pub mod workload;

#[cfg(test)]
mod hostile;

pub use identity::Identity;
pub use meta::Meta;
pub use name::{Authority, DnsName};
