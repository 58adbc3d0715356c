//! The proxy: carries connections.
//!
//! # Life of a connection
//!
//! ```text
//! accept → detect → secure → discover → authorize → route → balance → forward
//! ```
//!
//! One folder per stage; [`inbound`] and [`outbound`] are the two scripts that join them, and all branching is there.
//! A listener [`accept`]s a socket with its original destination. What was dialed is looked up ([`discover`]), the
//! client's first bytes say what it speaks ([`detect`]), TLS of the mesh ends or begins ([`secure`]). A server's proxy
//! [`authorize`]s, a client's proxy picks a [`route`] and an endpoint ([`balance`]); [`forward`] connects and copies,
//! bytes or HTTP messages. [`http`] is the only place that knows an HTTP engine, [`net`] the only one that knows
//! sockets and clocks.
//!
//! # Threads
//!
//! Workers carry connections; each is one thread with a runtime and state of its own, and nothing of it is `Send`. The
//! `admin` thread runs what talks to the control plane, and the admin server. They share snapshots (latest value, never
//! a queue), metric cells (written by one thread, read by `admin`), and nothing else.

pub mod accept;
pub mod admin;
pub mod authorize;
pub mod balance;
pub mod buffers;
pub mod config;
pub mod detect;
pub mod discover;
pub mod dns;
pub mod fault;
pub mod forward;
pub mod http;
pub mod inbound;
pub mod io;
pub mod net;
pub mod observe;
pub mod outbound;
pub mod route;
pub mod run;
pub mod secure;
pub mod worker;
