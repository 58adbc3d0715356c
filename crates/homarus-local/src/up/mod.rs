//! The mesh of one machine, put together: a network, an API, the controllers and a node ([`Machine`]), and the folder
//! that keeps what they must remember ([`State`]).
//!
//! What runs on it is applied through its API as on any cluster; nothing here knows of a control plane.

mod machine;
mod state;

pub use machine::{Machine, Setup, UpError};
pub use state::{State, StateError, holder, kubeconfig, log_file, running};
