//! Carrying on: connections to endpoints and applications, and the bytes between two connections.

pub mod connect;
pub mod copy;
pub mod metrics;
