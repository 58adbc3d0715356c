//! Sample applications, in the shapes that a mesh is usually shown with.
//!
//! They know nothing of the mesh and need no Kubernetes: each is configured by environment variables, speaks plain HTTP
//! or gRPC, and finishes what it serves when it is asked to end. Their faults are deliberate, so that there is something
//! to find.
//!
//! - [`emojivoto`]: a web page that asks two gRPC services, a bot that votes, and one emoji that can't be voted for.
//! - [`steady`]: a server that ends in the way that it is told to, and a client that asks at a steady rate.

pub mod emojivoto;
pub mod serving;
pub mod steady;
