//! Views out to those who asked for them.
//!
//! - `hub`: keeps the views that somebody is subscribed to, and publishes their changes;
//! - `told`: views as messages, encoded once for all subscribers;
//! - `feed`: one subscriber's stream: always the latest, as a change of what it was sent last;
//! - [`grpc`]: streams on the wire;
//! - `census`, [`metrics`]: what is counted;
//! - [`destination`], [`policy`]: the calls.
//!
//! A subscriber costs a stream's state, a receiver, and a reference to the view it was sent last; messages are shared.
//! It is asked for its next message only when the connection takes more, so that a slow one queues nothing: it misses
//! the states in between.

mod census;
pub mod destination;
mod feed;
pub mod grpc;
mod hub;
pub mod metrics;
pub mod policy;
mod told;

pub use census::Census;
pub use feed::feed;
pub use hub::{Hub, Subscription};
pub use told::Told;
