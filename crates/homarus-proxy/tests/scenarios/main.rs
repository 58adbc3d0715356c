//! Scenarios with real sockets, real redirection and the real program. They make network namespaces, so they need root.
//!
//! With `LINKERD2_PROXY_BIN` set to a linkerd2-proxy, the matrix in [`interop`] runs with it on either side as well.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod balance;
mod foreign;
mod hostile;
mod http1;
mod http2;
mod identity;
mod ingress;
mod interop;
mod opaque;
mod policy;
mod process;
mod reach;

use homarus_testkit::mesh::{Mesh, Plan};

/// The program under test.
const PROXY: &str = env!("CARGO_BIN_EXE_homarus-proxy");

/// Client and server meshed, with our proxy.
fn mesh() -> Mesh {
    Plan::both(PROXY).start()
}

/// Only the client is meshed.
fn meshed_client() -> Mesh {
    Plan { server: None, ..Plan::both(PROXY) }.start()
}

/// Only the server is meshed.
fn meshed_server() -> Mesh {
    Plan { client: None, ..Plan::both(PROXY) }.start()
}
