//! Cluster facts into what each proxy must know; and the side doors: certificates, pod patches, validation.

pub mod destination;
mod events;
pub mod external;
pub mod index;
pub mod inject;
pub mod issue;
pub mod policy;
mod run;
pub mod serve;
pub mod watch;
