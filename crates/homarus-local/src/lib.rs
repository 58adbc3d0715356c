//! The mesh of one machine: an embedded Kubernetes API, a node that runs pods, and the controllers between them.
//!
//! Nothing here links the planes: control plane, proxies and redirection run as ordinary programs in ordinary pods.

pub mod api;
pub mod controllers;
pub mod node;
pub mod schedule;
pub mod up;
