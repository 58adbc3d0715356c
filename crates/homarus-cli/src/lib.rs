//! The `homarus` program: what people type, what they read, and the programs that share its file.
//!
//! Reading order: [`command_line`] (what can be asked), [`cluster`] (of whom), then a module for each command. Commands
//! that measure traffic share [`metrics`], [`workloads`], [`resources`] and [`sampler`]; [`reach`] is the one way to a
//! port of a pod.
//!
//! Invariants: what was asked for goes to standard output, everything else to standard error; colour and progress appear on
//! terminals only; exit codes are 0, 1 for what failed or is not well, 2 for what was not understood.

pub mod authz;
pub mod chart;
pub mod check;
pub mod cluster;
pub mod command_line;
pub mod completion;
pub mod controller;
pub mod diagnostics;
pub mod failure;
pub mod identity;
pub mod inject;
pub mod install;
pub mod install_cni;
pub mod metrics;
pub mod profile;
pub mod reach;
pub mod resources;
pub mod sampler;
pub mod selectors;
pub mod stat;
pub mod table;
pub mod terminal;
pub mod top;
pub mod up;
pub mod version;
pub mod workloads;

mod dispatch;

pub use dispatch::main;
