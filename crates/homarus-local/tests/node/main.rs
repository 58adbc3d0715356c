//! The node, for real: namespaces, processes, rules and DNS of this machine. Needs root, and says so without it.
#![allow(clippy::unwrap_used)]

mod cluster;
mod containers;
mod contents;
mod images;
mod network;
mod vanishing;
