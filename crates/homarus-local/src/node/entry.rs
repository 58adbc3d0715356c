//! The hidden entries of the program: process 1 of a pod, and what becomes a container.
//!
//! A program that starts a node calls [`run_if_asked`] first thing in `main`, before any thread exists.

use super::sandbox::{init, launch};

pub use super::sandbox::wire::{INIT_ARG, LAUNCH_ARG};

/// Becomes a pod's process if that is what this process was started for; returns at once otherwise.
pub fn run_if_asked() {
    let code = match std::env::args_os().nth(1) {
        Some(arg) if arg == INIT_ARG => init::run(),
        Some(arg) if arg == LAUNCH_ARG => launch::run(),
        _ => return,
    };
    std::process::exit(code);
}
