//! Emojivoto: people vote for emoji; one emoji can't be voted for.
//!
//! ```text
//! vote-bot ── HTTP ──> web ── gRPC ──> emoji    which emoji there are
//!                          └─ gRPC ──> voting   who leads; votes for the doughnut fail
//! ```
//!
//! Environment variables, service and method names, JSON and metrics are those of the well-known sample application,
//! so each program here can stand in for one of its containers and the other way round.

pub mod catalog;
pub mod emoji;
pub mod proto;
mod rpc;
mod scrape;
pub mod vote_bot;
pub mod voting;
pub mod web;

#[cfg(test)]
mod tests;
