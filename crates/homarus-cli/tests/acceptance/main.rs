//! Scenarios of a whole mesh, the same on the embedded cluster and on a real one. Numbers in names are those of the list of
//! acceptance scenarios, which the suites of the reference fix.
//!
//! ```text
//! cargo xtask image --test                                             for a real cluster, after a build
//! xtask/sandbox   target/.../acceptance                                 on the embedded one (needs root)
//! xtask/on-cluster target/.../acceptance                                on a real one
//! ```
//!
//! All run at once in one mesh, whose applications (`apps.yml`) and policies (`policies.yml`) are applied at the start; a
//! scenario waits for what it needs. Scripts run in clients' pods ([`cluster::Shell`]).
//!
//! What is not here, and why: the second half of 34 wants an outbound listener that others reach; 45 wants a dual-stack cluster (`e2e/dual-stack`); 46 is heard
//! from a server of our own here, from RabbitMQ itself in `mesh`; 224 and 249 want policies of routes; 237-246 egress
//! policies; 247 and 248 rate limits; 251 circuit breaking. All of these belong to later parts of the mesh.
//!
//! 1 to 19 are about installing, which the embedded cluster doesn't need: they are in `lifecycle`, `e2e/book` and `inject`'s own tests.
//!
//! With `LINKERD2_PROXY_BIN` a linkerd2-proxy takes the place of our proxy on either side, on a real cluster: [`interop`].
#![allow(clippy::unwrap_used)]

mod cluster;
mod discovery;
mod ingress;
mod injection;
mod interop;
mod network_policy;
mod outside;
mod paths;
mod policy;
mod protocols;
mod workloads;

use cluster::Shell;

/// The clients of all scenarios.
pub struct Clients {
    /// Meshed, of ServiceAccount `friend`.
    pub friend: Shell,
    /// The same account, host names in its metrics.
    pub hosts: Shell,
    /// Meshed, of another account and namespace.
    pub stranger: Shell,
    /// Unmeshed.
    pub plain: Shell,
}

/// All clients.
pub fn clients() -> Clients {
    let shell = |namespace, pod| Shell::of(cluster::cluster(), namespace, pod);
    Clients {
        friend: shell("clients", "friend"),
        hosts: shell("clients", "hosts"),
        stranger: shell("strangers", "stranger"),
        plain: shell("clients", "plain"),
    }
}
