//! Letting go of code that nobody runs.
//!
//! Code and constants are mapped when they are first used, sixteen pages at a time, and stay mapped: what parses the
//! configuration, makes a key, shakes hands or carries a burst counts as memory of a proxy that has been idle for months.
//! So a proxy that has nothing to do unmaps its program. What it goes on using comes back from the page cache at its next
//! use: a hundred minor faults of a microsecond at most, once, and nothing is read from disk. The rest is the kernel's to
//! reclaim.

#![allow(unsafe_code, reason = "madvise is unsafe in general, as it may discard data; here there is nothing to discard")]

use crate::net;
use rustix::mm::{Advice, madvise};
use std::{ffi::c_void, time::Duration};

/// What is unmapped ends at a multiple of this: the largest page of any machine.
const PAGE: usize = 64 * 1024;

/// How often it is looked whether there is something to do.
const LOOK: Duration = Duration::from_secs(15);

/// Less CPU than this meanwhile is nothing to do: timers, a probe, a scrape of the metrics.
const QUIET: Duration = Duration::from_millis(15);

unsafe extern "C" {
    /// The first byte of the program, where its constants begin; the linker defines both.
    static __executable_start: u8;
    /// The byte behind its code. What can be written follows.
    static etext: u8;
}

/// Unmaps the program whenever the process is quiet.
pub async fn release_when_quiet() {
    loop {
        let before = net::cpu_time();
        net::sleep(LOOK).await;
        if net::cpu_time().saturating_sub(before) < QUIET {
            release_program();
        }
    }
}

/// Unmaps code and constants.
fn release_program() {
    let start = (&raw const __executable_start).cast_mut().cast::<c_void>();
    let bytes = (&raw const etext).addr().saturating_sub(start.addr()) / PAGE * PAGE;
    // SAFETY: the linker begins the program at a page, and puts nothing between the two symbols but segments that are mapped
    // privately from its file and are never written: relocations and data stand behind them. Discarding such a page changes
    // nothing that can be observed, as its next use maps the same bytes again.
    if let Err(error) = unsafe { madvise(start, bytes, Advice::LinuxDontNeed) } {
        tracing::debug!(%error, "the program stays mapped");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on_without_its_pages() {
        let words = || ["constants", "and code"].map(str::to_uppercase);
        let before = words();
        super::release_program();
        assert_eq!(words(), before);
    }
}
