//! A server that ends in the way that it is told to, and a client that asks at a steady rate and gives each failure its reason:
//! what a rolling update costs is seen with nothing else.
//!
//! Every request has a number. A server tells the client's [`journal`] which numbers it has begun, by a datagram of its own, so
//! that of a request without an answer it is known whether it could have been sent again safely.

pub mod journal;
pub mod load;
pub mod server;

/// The number of a request.
const NUMBER: http::HeaderName = http::HeaderName::from_static("x-request-number");
/// Where the client wants to hear what became of it: an address and a port.
const JOURNAL: http::HeaderName = http::HeaderName::from_static("x-journal");
