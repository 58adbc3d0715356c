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

/// What `WatchPort` says, as ABORTED, when everything of a pod but its proxy has ended for good, and nothing else will end the proxy:
/// the work of a Job without native sidecars. A proxy of ours takes it as a request to end; others ask again, and go on as ever.
pub const WORKLOAD_OVER: &str = "the workload has ended: nothing is left for its proxy to do";
