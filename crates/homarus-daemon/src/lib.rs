//! What every long-running program of Homarus has.
//!
//! - [`logs`]: lines on standard output, plain or JSON, with a filter that can be changed while running;
//! - [`drain`]: how a program learns that it should end, and how it waits for what is under way;
//! - [`args`]: command lines as charts write them;
//! - [`watch_files`]: mounted files that change while the program runs;
//! - `admin` (feature `admin`): the HTTP server that kubelets, Prometheus and people ask, with [`Readiness`];
//! - `metrics` (feature `admin`): the registry behind `/metrics`, with the facts of the process itself.
//!
//! The proxy uses only what needs no feature: it has an admin server under its own policies and metrics that no
//! library could keep fast enough, so the rest is behind a feature that keeps hyper and the registry out.

pub mod args;
pub mod drain;
pub mod logs;
pub mod watch_files;

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "admin")]
pub mod metrics;
#[cfg(feature = "admin")]
mod readiness;

#[cfg(feature = "admin")]
pub use readiness::{Gate, Readiness};
