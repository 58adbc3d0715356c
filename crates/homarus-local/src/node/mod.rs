//! The node: pods as processes in namespaces of their own.

mod entry;
mod net;
mod pod;
mod sandbox;
mod sys;

pub use entry::{INIT_ARG, LAUNCH_ARG, run_if_asked};
pub use net::{Network, NetworkConfig, NetworkError};
