//! Every byte between our processes.
//!
//! The control plane's API is the published `linkerd2-proxy-api` ([`api`]); [`decode`] turns its messages into the model,
//! [`encode`] the model into messages. What that API lacks is a service of our own ([`trust`]). Between proxies runs the
//! transport header ([`transport`]). Protobuf types go no further inward than here.

pub mod decode;
pub mod encode;
pub mod transport;
pub mod trust;

pub use linkerd2_proxy_api as api;
