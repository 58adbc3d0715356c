//! Scenarios for tests that need root: real sockets, real redirection, real proxies, and a control plane that can be told
//! anything.
//!
//! - [`ground`]: two network namespaces joined by a veth pair, redirected as pods are; they vanish with the value;
//! - [`control`]: a control plane inside the test's process, in each namespace on its loopback: services, endpoints and
//!   policies change live; it can be stopped, be slow, or talk nonsense;
//! - [`proxy`]: the proxy's real program with the environment that the injector sets, its admin port, its log, its metrics;
//! - [`servers`], [`client`]: applications and clients in threads, HTTP/1 by the byte, HTTP/2 by the frame;
//! - [`mesh`]: all of that put together.
//!
//! Test code: whatever fails panics and says what.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

pub mod client;
pub mod control;
pub mod ground;
pub mod mesh;
pub mod metrics;
pub mod proxy;
pub mod servers;

use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Polls until there is an answer; panics with `what` if there is none in time.
pub fn wait_for<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, poll)
}

/// Polls until there is an answer, for as long as is said.
pub fn wait_within<T>(limit: Duration, what: &str, poll: impl FnMut() -> Option<T>) -> T {
    poll_every(Duration::from_millis(5), limit, what, poll)
}

/// As [`wait_within`], where each look costs something: this often.
pub fn poll_every<T>(period: Duration, limit: Duration, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(period);
    }
}
