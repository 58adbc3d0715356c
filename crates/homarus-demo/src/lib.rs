//! Sample applications, in the shapes that a mesh is usually shown with.
//!
//! They know nothing of the mesh and need no Kubernetes: each is configured by environment variables, speaks plain HTTP
//! or gRPC, and finishes what it serves when it is asked to end. Their faults are deliberate, so that there is something
//! to find.
//!
//! - [`emojivoto`]: a web page that asks two gRPC services, a bot that votes, and one emoji that can't be voted for.

pub mod emojivoto;
pub mod serving;
