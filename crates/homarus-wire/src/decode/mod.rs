//! Messages of the API into the model: what a proxy is told.
//!
//! Everything is parsed once, here. A message that can't be read whole is an error that names the field; what to do then is
//! the caller's decision, and for a policy it is to deny. Three things are not errors, because the rest still has its
//! meaning: a filter of an unknown kind (the request that meets it fails), an identity that no certificate can prove (it
//! grants nobody anything), and one unreadable endpoint among others (it isn't used, and the caller is told).
//!
//! Deliberately absent: what this version doesn't act on (queues, failure accrual, retries, timeouts, rate limits, routes of
//! service profiles). It is neither parsed nor kept.

mod endpoint;
mod error;
mod inbound;
mod meta;
mod outbound;
mod route;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoints, endpoint, endpoint_update, profile};
pub use error::{DecodeError, Problem};
pub use inbound::server_policy;
pub use outbound::client_policy;
