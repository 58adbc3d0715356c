//! The mesh of one machine, put together: state that outlives it, and who may touch it.

mod state;

pub use state::{State, StateError, holder, kubeconfig, log_file, running};
