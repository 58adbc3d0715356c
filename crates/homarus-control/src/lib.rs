//! Cluster facts into what each proxy must know; and the side doors: certificates, pod patches, validation.

mod events;
pub mod index;
pub mod inject;
pub mod issue;
pub mod serve;
pub mod destination;
pub mod policy;
mod run;
pub mod watch;
